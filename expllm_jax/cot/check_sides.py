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
_NOUN = r"(?:eyelid|eyebrow|lip corner|eye|brow|lid|lip|corner|side)s?\b"
_DOUBLED = re.compile(
    # "left and left eyes", "(left: 0.3, left: 0.2)", "0.3 for the left and 0.2 for the left"
    r"\b(left|right) (?:and|or) (?:the )?(?P<again>\1)\b"
    rf"|\b(left|right)(?: {_NOUN})?(?::| at| is)? {_NUMBER},? (?:and |while )?(?:the )?(?P<again2>\3)(?: {_NOUN})?"
    rf"(?::| at| is)? {_NUMBER}"
    rf"|{_NUMBER} (?:for the |on the |in the |\()?(left|right)\)?,? (?:and )?{_NUMBER} (?:for the |on the |in the |\()?"
    r"(?P<again3>\5)\b"
    # "the left brow is lowered, while the left brow is raised", "the left eye is more closed than the left"
    rf"|(?<!left and )(?<!right and )\b(left|right) (?P<first>{_NOUN})\b"
    rf"(?:(?!\b(?:left|right)\b)(?:[^.!?\n]|\.(?=\d))){{3,120}}?"
    rf"\b(?P<link>while|whereas|and|mirrored (?:by|on)|compared to|than) (?:the|a [\w ]{{3,20}}?) (?P<again4>\7)\b"
    rf"(?: (?:upper |lower |inner |outer )?(?P<second>{_NOUN}))?",
    re.IGNORECASE,
)
_BETWEEN = re.compile(
    r"[\s(,:=]*(?:(?:is|are|at|of|to|with|by|a|an|value|score|intensity|measuring|registering)\s+){0,4}\(?"
)
_REACH = 40  # characters between a unit and its number


_AGAIN = tuple(name for name in _DOUBLED.groupindex if name.startswith("again"))


def _is_compared(first: str, second: str | None, link: str) -> bool:
    """Whether a part is set against itself; not so in "the left eye is closed, while the left brow is raised"."""
    if second is not None and second.lower().startswith("side"):
        return True
    if link == "and":  # "left brow furrowing and left brow raise" are two movements of one brow
        return False
    return second is None or PARTS.get(first.split()[-1].lower()) == PARTS.get(second.split()[-1].lower())


def check_doubled_sides(text: str, part: Part) -> Iterator[Finding]:
    """Findings where two things that are told apart are both called left, or both right."""
    for match in _DOUBLED.finditer(text, part.start, part.end):
        if match["again4"] and not _is_compared(match["first"], match["second"], match["link"].lower()):
            continue
        start, end = next(match.span(name) for name in _AGAIN if match[name] is not None)
        reason = f"Both are called {text[start:end].lower()} here: one of them is the other side."
        yield Finding("wrong-side", start, end, reason)


_STRONGER = re.compile(
    r"\b(?:particularly|especially|more so|stronger|greater|higher"
    r"|more (?!subdued|subtle|relaxed|muted|gentle|restrained)\w+)(?: \w+){0,2}? (?:on|in|at) the (left|right)\b",
    re.IGNORECASE,
)
_TELLING = 0.02  # sides that differ by less are as strong as each other
_FOLLOWS = 60  # characters between a unit and the side that is said to show it more


def check_stronger_side(
    text: str, part: Part, statements: Sequence[Statement], units: Mapping[str, float], vocabulary: Vocabulary
) -> Iterator[Finding]:
    """Findings where a unit is said to be stronger on the side that shows it less."""
    ordered = sorted(statements, key=lambda statement: statement.end)
    ends = [statement.end for statement in ordered]
    for match in _STRONGER.finditer(text, part.start, part.end):
        last = bisect_right(ends, match.start()) - 1
        if last < 0 or match.start() - ends[last] > _FOLLOWS or "." in text[ends[last] : match.start()]:
            continue
        unit = vocabulary.unit(ordered[last].code)
        if unit.mirror == unit.code:
            continue
        named, other = (unit.code, unit.mirror) if unit.side == match[1].lower() else (unit.mirror, unit.code)
        if units.get(other, 0.0) - units.get(named, 0.0) > _TELLING:
            names = [f"{vocabulary.unit(code).name} is {units.get(code, 0.0):.2f}" for code in (other, named)]
            yield Finding(
                "wrong-side", match.start(), match.end(), f"It is stronger on the other side: {', '.join(names)}."
            )


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
