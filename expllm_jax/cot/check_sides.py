"""Whether left and right are used consistently: told apart where they are compared, and each with its own numbers."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence

from expllm_jax.cot.check_form import Part
from expllm_jax.cot.check_numbers import quoted_numbers
from expllm_jax.cot.finding import Finding
from expllm_jax.cot.free_english import PARTS
from expllm_jax.cot.statements import Statement
from expllm_jax.faces import Vocabulary

_NUMBER = r"\(?[01]?\.\d+\)?"
_NOUN = r"(?:eye|brow|eyebrow|eyelid|lid|lip|corner|lip corner|side)s?"
_DOUBLED = re.compile(
    # "left and left eyes", "(left: 0.3, left: 0.2)", "0.3 for the left and 0.2 for the left"
    r"\b(left|right) (?:and|or) (?:the )?(?P<again>\1)\b"
    rf"|\b(left|right)(?: {_NOUN})?(?::| at| is)? {_NUMBER},? (?:and |while )?(?:the )?(?P<again2>\3)(?: {_NOUN})?"
    rf"(?::| at| is)? {_NUMBER}"
    rf"|{_NUMBER} (?:for the |on the |in the |\()?(left|right)\)?,? (?:and )?{_NUMBER} (?:for the |on the |in the |\()?"
    r"(?P<again3>\5)\b"
    # "the left brow is lowered, while the left brow is raised"
    rf"|\bthe (left|right) (?P<first>{_NOUN})\b(?:(?!\b(?:left|right)\b)[^.!?\n]){{3,120}}?"
    rf"\b(?:while|whereas|mirrored (?:by|on)|compared to|than) the (?P<again4>\7) (?P<second>{_NOUN})\b",
    re.IGNORECASE,
)
_BETWEEN = re.compile(
    r"[\s(,:=]*(?:(?:is|are|at|of|to|with|by|a|an|value|score|intensity|measuring|registering)\s+){0,4}\(?"
)
_REACH = 40  # characters between a unit and its number


_AGAIN = tuple(name for name in _DOUBLED.groupindex if name.startswith("again"))


def _same_part(first: str, second: str) -> bool:
    first, second = first.split()[-1].lower(), second.split()[-1].lower()
    return second.startswith("side") or PARTS.get(first) == PARTS.get(second)


def check_doubled_sides(text: str, part: Part) -> Iterator[Finding]:
    """Findings where two things that are told apart are both called left, or both right."""
    for match in _DOUBLED.finditer(text, part.start, part.end):
        if match["second"] and not _same_part(match["first"], match["second"]):
            continue  # "the left eye is closed, while the left brow is raised"
        start, end = next(match.span(name) for name in _AGAIN if match[name] is not None)
        reason = f"Both are called {text[start:end].lower()} here: one of them is the other side."
        yield Finding("wrong-side", start, end, reason)


def check_sided_numbers(
    text: str,
    part: Part,
    statements: Sequence[Statement],
    units: Mapping[str, float],
    vocabulary: Vocabulary,
    tolerance: float,
) -> Iterator[Finding]:
    """Findings where the number right after a unit of one side is the value of the other side."""
    ends = sorted((s.end, s.code, s.start) for s in statements if s.side != "both")
    for quoted in quoted_numbers(text[part.start : part.end], vocabulary):
        start = part.start + quoted.start
        before = bisect_right(ends, (start, "\uffff", 0)) - 1
        if before < 0 or _BETWEEN.fullmatch(text, max(ends[before][0], start - _REACH), start) is None:
            continue
        if start - ends[before][0] > _REACH:
            continue
        unit = vocabulary.unit(ends[before][1])
        value, other = units.get(unit.code, 0.0), units.get(unit.mirror, 0.0)
        if abs(value - quoted.value) > tolerance >= abs(other - quoted.value):
            reason = (
                f"{quoted.value:g} is the value of {vocabulary.unit(unit.mirror).name}; {unit.name} is {value:.2f}."
            )
            yield Finding("wrong-side", ends[before][2], ends[before][0], reason)
