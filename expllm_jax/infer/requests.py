"""What is asked of the model, question by question, and what comes back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.infer.sampling import SamplingConfig
from expllm_jax.records import EncodedRow, RecordEncoder, Round


@dataclasses.dataclass(frozen=True)
class Request:
    """One question about one picture, to be answered with a text."""

    picture: int  # which of the features that are given beside the requests; questions about one picture share its work
    task: str  # "label", "cot", …: a task of the conversation template
    history: tuple[Round, ...] = ()  # rounds that were answered before
    begun: str = ""  # how the answer begins; the model goes on behind it, and the reply holds both
    room: int | None = None  # most new tokens, 1 or more; None: what the predictor's configuration says of the task
    sampling: SamplingConfig | None = None  # None: the predictor's
    stream: int | None = (
        None  # which draws it gets: with the same seed and stream the same; None: its place in the list
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "history", tuple(self.history))
        if self.room is not None and self.room < 1:
            raise ExpllmError(f"a request has room for {self.room} tokens", "use 1 or more")


@dataclasses.dataclass(frozen=True)
class Weighing:
    """One question about one picture, of which it is asked how probable each of these whole answers is."""

    picture: int
    task: str
    answers: tuple[str, ...]  # two or more
    history: tuple[Round, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "answers", tuple(self.answers))
        object.__setattr__(self, "history", tuple(self.history))
        if len(self.answers) < 2:
            raise ExpllmError(f"answers to weigh are {self.answers}", "give two or more")


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the model wrote."""

    text: str  # the answer, from what was begun on
    truncated: bool  # it had not ended when its room was used up
    tokens: tuple[int, ...]  # generated ids, the end token included
    prompt_tokens: int  # read before the first of them: picture, rounds before, question, and what was begun

    @property
    def new_tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.tokens)


def begun_row(encoder: RecordEncoder, request: Request) -> tuple[EncodedRow, list[int]]:
    """(the row that generation starts from, the tokens of what was begun, which end it).

    A space at the end of what was begun is left to the model, whose next token brings its own.
    """
    prompt = encoder.prompt(request.task, history=request.history)
    begun = request.begun.rstrip(" ")
    if not begun:
        return prompt, []
    ids = encoder.answer_tokens(request.task, begun, history=request.history)
    return continued(prompt, ids), ids


def continued(row: EncodedRow, ids: Sequence[int], segment: int | None = None) -> EncodedRow:
    """`row` with more tokens in its last segment (or in `segment`), at the positions behind its last token."""
    count = len(ids)
    last = row.segments[-1] if segment is None else segment
    return EncodedRow(
        np.concatenate([row.tokens, np.asarray(ids, np.int32)]),
        np.concatenate([row.positions, row.positions[-1] + 1 + np.arange(count, dtype=np.int32)]),
        np.concatenate([row.segments, np.full(count, last, np.int32)]),
        np.concatenate([row.loss_weights, np.zeros(count, np.float32)]),
    )
