"""The three-part text: its headings, and how a label is named in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from expllm_jax.cot.words import is_denied

HEADINGS: tuple[str, str, str] = (
    "**Key Observations:**",
    "**Overall Emotional Interpretation:**",
    "**Conclusion:**",
)
"""As in the released texts. A heading, a space and the part's text; parts are separated by one blank line."""

EXPRESSION_WORDS: dict[str, tuple[str, ...]] = {
    "Neutral": ("neutral", "neutrality"),
    "Happiness": ("happiness", "happy"),
    "Sadness": ("sadness", "sad"),
    "Surprise": ("surprise", "surprised"),
    "Fear": ("fear", "fearful"),
    "Disgust": ("disgust", "disgusted"),
    "Anger": ("anger", "angry"),
    "Contempt": ("contempt", "contemptuous"),
}
"""Expression -> the noun and the adjective that name it, in lower case."""


class UnparsableAnswer(ValueError):
    """A model's answer is not what was asked for. No user error: it is counted, and counts as wrong."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Parts(NamedTuple):
    """The texts under the three headings, stripped, and where the first starts in the whole text."""

    observations: str
    interpretation: str
    conclusion: str
    observations_start: int


# A heading opens a paragraph. The released texts put the colon inside the bold or after it, or leave it out.
_HEADING = [
    re.compile(rf"\s*\*\*{re.escape(heading.strip('*:'))}(?::\*\*|\*\*:?)\s*", re.IGNORECASE) for heading in HEADINGS
]
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


def write_parts(observations: str, interpretation: str, conclusion: str) -> str:
    """The text made of three parts."""
    parts = zip(HEADINGS, (observations, interpretation, conclusion), strict=True)
    return "\n\n".join(f"{heading} {part}" for heading, part in parts)


def split_parts(text: str) -> Parts:
    """The three parts of a text.

    Raises:
        UnparsableAnswer: there are not three paragraphs, or one lacks its heading or has nothing after it.
    """
    bounds, start = [], len(text) - len(text.lstrip())
    for gap in _BLANK_LINES.finditer(text.rstrip(), start):
        bounds.append((start, gap.start()))
        start = gap.end()
    bounds.append((start, len(text.rstrip())))
    if len(bounds) != len(HEADINGS):
        raise UnparsableAnswer(f"{len(bounds)} paragraphs instead of {len(HEADINGS)}")
    parts, starts = [], []
    for (start, end), heading, pattern in zip(bounds, HEADINGS, _HEADING, strict=True):
        match = pattern.match(text, start, end)
        if match is None:
            raise UnparsableAnswer(f"no heading {heading} where it belongs")
        if match.end() >= end:
            raise UnparsableAnswer(f"nothing under {heading}")
        parts.append(text[match.end() : end])
        starts.append(match.end())
    return Parts(*parts, observations_start=starts[0])


def named_expressions(text: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """The allowed expressions that a text names, by noun or adjective as whole words, in the order of ``allowed``."""
    return tuple(name for name in allowed if re.search(_naming(name), text, re.IGNORECASE))


def concluded_expression(conclusion: str, allowed: Sequence[str]) -> str:
    """The one expression a conclusion names.

    Raises:
        UnparsableAnswer: it names none or several, or only says which one it is not.
    """
    named = named_expressions(conclusion, allowed)
    if len(named) != 1:
        raise UnparsableAnswer(f"the conclusion names {' and '.join(named) if named else 'no allowed expression'}")
    if all(is_denied(conclusion, match.start()) for match in re.finditer(_naming(named[0]), conclusion, re.IGNORECASE)):
        raise UnparsableAnswer(f"the conclusion denies {named[0]}")
    return named[0]


def _naming(expression: str) -> str:
    return rf"\b(?:{'|'.join(EXPRESSION_WORDS[expression])})\b"


def parse_label(text: str, allowed: Sequence[str]) -> str:
    """The label an answer consists of: one of the allowed words, alone and in its own case.

    Raises:
        UnparsableAnswer: it is anything else.
    """
    label = text.strip()
    if label not in allowed:
        raise UnparsableAnswer(f"{label[:40]!r} is none of the labels")
    return label
