"""Whether quoted numbers and codes are those of the face."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from expllm_jax.cot.finding import Finding
from expllm_jax.faces import FEAFA_24, Side, Vocabulary

# "AU12" is the twelfth unit of whichever vocabulary the text is in; FEAFA's codes may also stand in full.
_CODE = re.compile(r"\b(AU|FEAFA)[\s-]?(\d{1,3})\b")
_NUMBER = re.compile(r"(?<![\w.])(?:\d{0,2}\.\d+)(?![\w%]|\.\d)")
_AFTER_CODE = re.compile(r"\b(?:AU|FEAFA)[\s-]?(\d{1,3})\b[\s:=(,]*(?:(?:at|of|is|with|value|intensity|a)\s+){0,3}$")
_BARE = re.compile(
    r"(?<![\w.])\d{1,3}(?:\.\d+)?\s?(?:%|percent\b|(?:/|out of\s)\s?(?:5|10|100)\b)"
    r"|\b(?:intensity|level|strength|score|grade)\s(?:of\s)?\d{1,3}\b(?!\.\d)",
    re.IGNORECASE,
)
_SIDE_BEFORE = re.compile(
    r"(?<!left and )(?<!right and )(?<!left or )(?<!right or )\b(left|right)(?:\s(?!and\b)[a-z]+){0,2}?"
    r"\s?(?:\(|:|,|at|of|is)?\s?$",
    re.IGNORECASE,
)
_SIDE_AFTER = re.compile(r"\)?\s?\(?(?:(?:for|on|in|at)\s)?(?:the\s|its\s)?(left|right)\b(?!\sand\b)", re.IGNORECASE)
_LOOK_BACK = 40
_BINARY = 1e-9  # what decimals lose in binary


class Quoted(NamedTuple):
    """A number that a text quotes."""

    value: float
    code: str | None  # the unit whose code stands right before it
    side: Side  # "both" where none is told
    start: int
    end: int


def quoted_numbers(text: str, vocabulary: Vocabulary) -> tuple[Quoted, ...]:
    """The numbers with a decimal point in a text, percentages left out."""
    found = []
    for match in _NUMBER.finditer(text):
        behind = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        coded = _AFTER_CODE.search(behind)
        code = _code_of(coded[1], vocabulary) if coded else None
        found.append(Quoted(float(match[0]), code, _side_of(text, behind, match), match.start(), match.end()))
    return tuple(found)


def matches_a_value(quoted: Quoted, units: Mapping[str, float], tolerance: float) -> bool:
    """Whether any unit has the value that is quoted."""
    return any(abs(value - quoted.value) <= tolerance + _BINARY for value in units.values())


def check_codes(text: str, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Findings about codes that stand for no unit, and about intensities told in other numbers than 0 to 1."""
    for match in _CODE.finditer(text) if "AU" in text or "FEAFA" in text else ():
        if (match[1] == "FEAFA" and vocabulary != FEAFA_24) or _code_of(match[2], vocabulary) is None:
            reason = f"The units here ({vocabulary.name}) have no {match[0]}: leave it out."
            yield Finding("unknown-unit", match.start(), match.end(), reason)
    for match in _BARE.finditer(text):
        reason = "This number is no value of a unit: use a word for the intensity, or the value from 0 to 1."
        yield Finding("bare-number", match.start(), match.end(), reason)


def check_quoted(text: str, units: Mapping[str, float], vocabulary: Vocabulary, tolerance: float) -> Iterator[Finding]:
    """Findings about quoted numbers that are not the value of the unit, or side, that they stand by."""
    for quoted in quoted_numbers(text, vocabulary):
        if quoted.code is not None:
            value = units.get(quoted.code, 0.0)
            if abs(value - quoted.value) > tolerance + _BINARY:
                reason = f"{quoted.code} is {value:.2f}, not {quoted.value:g}."
                yield Finding("wrong-number", quoted.start, quoted.end, reason)
        elif not matches_a_value(quoted, units, tolerance):
            reason = f"No unit has the value {quoted.value:g}: quote the values as they are given."
            yield Finding("wrong-number", quoted.start, quoted.end, reason)
        elif quoted.side != "both" and not _on_side(quoted, units, vocabulary, tolerance):
            reason = f"{quoted.value:g} is no value of the {quoted.side} side: it belongs to the other."
            yield Finding("wrong-side", quoted.start, quoted.end, reason)


def _code_of(number: str, vocabulary: Vocabulary) -> str | None:
    code = f"{'FEAFA' if vocabulary == FEAFA_24 else 'AU'}{int(number)}"
    return code if code in vocabulary else None


def _side_of(text: str, behind: str, number: re.Match[str]) -> Side:
    after = _SIDE_AFTER.match(text, number.end())
    before = None if after else _SIDE_BEFORE.search(behind)
    side = (after or before)[1].lower() if after or before else ""  # type: ignore[index]
    return "left" if side == "left" else "right" if side == "right" else "both"


def _on_side(quoted: Quoted, units: Mapping[str, float], vocabulary: Vocabulary, tolerance: float) -> bool:
    return any(
        abs(value - quoted.value) <= tolerance + _BINARY and vocabulary.unit(code).side in ("both", quoted.side)
        for code, value in units.items()
    )
