"""The most rows that a device can take, by the compiler's own answer.

Not every number is tried, only those of `ROWS`: a batch of 17 rows is no one's wish, and every question costs a minute
or two. The answer is exact within this list: the number that is given was compiled and fits, and the next one of the
list was refused.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from expllm_jax.fit.request import Answer

ROWS = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
_BY_LINE = 4  # questions that the line places; where memory grows otherwise, halving ends the search
_FIXED = ("frozen weights", "trained weights", "optimiser")  # categories that do not grow with the rows


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search ended with."""

    rows: int  # 0: not even one
    answers: Mapping[int, Answer]  # of every number that was tried, in that order

    @property
    def best(self) -> Answer:
        """Of `rows`, or of the smallest number if none fits."""
        return self.answers[self.rows] if self.rows else self.answers[min(self.answers)]


def most_rows(compile_rows: Callable[[int], Answer], ladder: Sequence[int] = ROWS) -> Found:
    """The largest number of `ladder`, ascending, that fits.

    Memory grows all but linearly with the rows, so that a line through what is known so far tells where to ask next.
    The first question is the largest number: a program that is far too large is refused within seconds, without being
    compiled, and says what it would have needed.
    """
    answers: dict[int, Answer] = {}
    low, high = -1, len(ladder)  # places of the largest that fits, and of the smallest that does not
    while high - low > 1:
        wanted = bisect.bisect_right(ladder, _predicted_rows(answers)) - 1 if answers else len(ladder) - 1
        place = min(max(wanted, low + 1), high - 1)
        if len(answers) >= _BY_LINE:
            place = (low + high) // 2
        answer = answers[ladder[place]] = compile_rows(ladder[place])
        if answer.fits:
            low = place
        else:
            high = place
    return Found(ladder[low] if low >= 0 else 0, answers)


def _predicted_rows(answers: Mapping[int, Answer]) -> float:
    """How many rows should fill the memory: by the two numbers next to the limit that fit, or else by one of them and
    what does not grow."""
    fitting = sorted((rows for rows, answer in answers.items() if answer.fits), reverse=True)
    near, far = (fitting[0], fitting[1:2]) if fitting else (min(answers), [])
    program = answers[near].largest
    if far:
        fixed_rows, fixed = far[0], answers[far[0]].largest.peak_bytes
    else:
        fixed_rows, fixed = 0, sum(program.categories.get(name, 0) for name in _FIXED)
    slope = (program.peak_bytes - fixed) / (near - fixed_rows)
    return near + program.headroom_bytes / slope if slope > 0 else float("inf")
