"""Whether the three parts are there, in order, headed as they should be, and not empty."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from expllm_jax.cot.finding import Finding
from expllm_jax.cot.grammar import HEADINGS
from expllm_jax.cot.verifier_rules import VerifierRules

_NAMES = tuple(heading.strip("*:") for heading in HEADINGS)
_TH = ("first", "second", "third")

# A heading opens a paragraph. Free texts put it in Markdown's way of headings, leave out the bold, or shorten the name.
_NAME = (
    r"(?P<p0>key +observations?|observations?)|(?P<p1>(?:overall +)?(?:emotional +)?interpretation)|(?P<p2>conclusion)"
)
_HEADING = re.compile(
    rf"(?:#+ *(?:{_NAME.replace('?P<p', '?P<h')}) *:?(?=\s|$)|\*\*(?:{_NAME})(?:s?:\*\*|s?\*\*:?)"
    rf"|(?:{_NAME.replace('?P<p', '?P<q')}):)\s*",
    re.IGNORECASE,
)
_EXACT = tuple(re.compile(rf"\*\*{name}(?::\*\*|\*\*:?)") for name in _NAMES)
_GAP = re.compile(r"\n[^\S\n]*\n\s*")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")


class Part(NamedTuple):
    """Where a paragraph of a text lies."""

    kind: int | None  # 0 observations, 1 interpretation, 2 conclusion; None: it has no heading
    heading_start: int
    start: int  # of what stands under the heading
    end: int


def parts_of(text: str) -> tuple[Part, ...]:
    """The paragraphs of any text with their kinds, read leniently; :func:`split_parts` is the strict reading."""
    return tuple(_part(text, start, end) for start, end in _paragraphs(text))


def check_form(text: str, rules: VerifierRules) -> tuple[list[Finding], dict[int, Part]]:
    """The findings about form, and the parts by their kind (0, 1, 2), as far as they are there."""
    found: list[Finding] = []
    first: dict[int, Part] = {}
    parts = parts_of(text)
    for part in parts:
        if part.kind is None or part.kind in first:
            found.append(_extra(part))
        else:
            first[part.kind] = part
    for kind, heading in enumerate(HEADINGS):
        if kind not in first:
            place = max((part.end for known, part in first.items() if known < kind), default=0)
            reason = f"The {_TH[kind]} part is missing: a paragraph that starts with {heading}"
            found.append(Finding("missing-part", place, place, reason))
        elif first[kind].start >= first[kind].end:
            reason = f"Nothing stands under {_NAMES[kind]}: write it."
            found.append(Finding("empty-part", first[kind].heading_start, first[kind].end, reason))
    found += _order(first)
    if rules.exact_headings:
        found += _exactness(text, first, parts)
    if rules.words is not None:
        found += _length(text, *rules.words)
    return found, first


def _extra(part: Part) -> Finding:
    which = "has no heading" if part.kind is None else f"is a second {_NAMES[part.kind]}"
    return Finding("extra-part", part.heading_start, part.end, f"This paragraph {which}: there are three, one of each.")


def _order(first: dict[int, Part]) -> Iterator[Finding]:
    written = list(first)  # in the order of the text
    for kind, expected in zip(written, sorted(written), strict=True):
        if kind != expected:
            part = first[kind]
            reason = f"{_NAMES[expected]} belongs here; the order is {', '.join(_NAMES)}."
            yield Finding("parts-out-of-order", part.heading_start, part.start, reason)
            return


def _exactness(text: str, first: dict[int, Part], parts: tuple[Part, ...]) -> Iterator[Finding]:
    for kind, part in first.items():
        if not _EXACT[kind].match(text, part.heading_start):
            yield Finding("inexact-heading", part.heading_start, part.start, f"Write this heading as {HEADINGS[kind]}")
    if "**" in text:
        headed = {part.heading_start for part in parts if part.kind is not None}
        for bold in _BOLD.finditer(text):
            if bold.start() not in headed:
                yield Finding(
                    "extra-bold", bold.start(), bold.end(), f"Only headings are bold: write {bold[1]} plainly."
                )


def _length(text: str, fewest: int, most: int) -> Iterator[Finding]:
    words = len(text.split())
    if not fewest <= words <= most:
        change = f"at least {fewest - words} more" if words < fewest else f"at least {words - most} fewer"
        yield Finding("wrong-length", 0, len(text), f"{words} words: {fewest} to {most} are asked for, {change}.")


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    start, stop = len(text) - len(text.lstrip()), len(text.rstrip())
    if start >= stop:
        return
    for gap in _GAP.finditer(text, start, stop):
        yield start, gap.start()
        start = gap.end()
    yield start, stop


def _part(text: str, start: int, end: int) -> Part:
    match = _HEADING.match(text, start, end)
    if match is None:
        return Part(None, start, start, end)
    group = match.lastgroup or ""
    return Part(int(group[1:]), start, match.end(), end)
