"""Reading a text: which movements it states, on which side, how strong, and which it denies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from expllm_jax.cot.bands import band_of_word
from expllm_jax.cot.grammar import UnparsableAnswer, concluded_expression, split_parts
from expllm_jax.cot.lexicon import phrases_in
from expllm_jax.cot.words import BAND_WORD, clause_before, has_negator, is_denied, is_denied_after
from expllm_jax.faces import BASIC_7, FACS, Side, Vocabulary


@dataclass(frozen=True)
class Statement:
    """One action unit that a text speaks of."""

    code: str
    side: Side  # the side the text names; "both" where it names none
    band: str | None  # the name of the intensity band, None where the text gives no word for it
    negated: bool  # the text says the unit is absent
    start: int  # where the mention lies in the text that was parsed: text[start:end]
    end: int


@dataclass(frozen=True)
class ParsedCot:
    """A text that kept to the form."""

    observations: tuple[Statement, ...]  # in the order of the text; their positions are those of the whole text
    interpretation: str
    conclusion: str
    expression: str  # the one that the conclusion names


@dataclass(frozen=True)
class _Mention:
    codes: tuple[str, ...]
    start: int
    end: int


def parse_cot(text: str, vocabulary: Vocabulary = FACS, allowed: Sequence[str] = BASIC_7) -> ParsedCot:
    """Reads a text strictly.

    Raises:
        UnparsableAnswer: the three parts are not there in order, or the conclusion does not name exactly one of
            ``allowed``.
        ExpllmError: the vocabulary has no words.
    """
    parts = split_parts(text)
    expression = concluded_expression(parts.conclusion, allowed)
    end = parts.observations_start + len(parts.observations)
    statements = find_statements(text, vocabulary, parts.observations_start, end)
    return ParsedCot(statements, parts.interpretation, parts.conclusion, expression)


def stated_units(text: str, vocabulary: Vocabulary = FACS) -> dict[str, str | None]:
    """The units a text states: code -> intensity band (None where no word gives it), in the order of the vocabulary.

    Only the observations count if the text has its three parts; the interpretation argues about units, and repeats them
    without their intensity. Of several statements about one unit the first with an intensity counts. Denied units are
    left out.

    Raises:
        ExpllmError: the vocabulary has no words.
    """
    start, end = 0, len(text)
    try:
        parts = split_parts(text)
        start, end = parts.observations_start, parts.observations_start + len(parts.observations)
    except UnparsableAnswer:
        pass  # a loose sentence is read as observations
    units: dict[str, str | None] = {}
    for statement in find_statements(text, vocabulary, start, end):
        if not statement.negated and units.get(statement.code) is None:
            units[statement.code] = statement.band
    return {code: units[code] for code in vocabulary.codes if code in units}


def find_statements(text: str, vocabulary: Vocabulary, start: int = 0, end: int | None = None) -> tuple[Statement, ...]:
    """Every statement about a unit in ``text[start:end]``, denied ones included; raises like :func:`stated_units`."""
    text = text[:end]
    mentions = _mentions(text, vocabulary, start)
    negated = _negated(text, mentions, start)
    statements = []
    for position, mention in enumerate(mentions):
        since = mentions[position - 1].end if position else start
        until = mentions[position + 1].start if position + 1 < len(mentions) else len(text)
        side = _side(text, mention, since)
        for code in mention.codes:
            unit = vocabulary.unit(code)
            if len(mention.codes) > 1 and side != "both" and unit.side not in ("both", side):
                continue
            band = _band(text, mention, since, until)
            statements.append(Statement(code, side, band, negated[position], mention.start, mention.end))
    return tuple(statements)


def _mentions(text: str, vocabulary: Vocabulary, start: int) -> list[_Mention]:
    """Names and codes in order; a code right after the name of the same unit belongs to that mention."""
    mentions = [_Mention(*phrase) for phrase in phrases_in(text, vocabulary, start)]
    prefix = vocabulary.codes[0].rstrip("0123456789")
    for match in re.compile(rf"\b{prefix}\s?(\d+)\b").finditer(text, start):
        code = prefix + match[1]
        if code in vocabulary:
            mentions.append(_Mention((code,), match.start(), match.end()))
    mentions.sort(key=lambda mention: mention.start)
    merged: list[_Mention] = []
    for mention in mentions:
        last = merged[-1] if merged else None
        if last and set(mention.codes) <= set(last.codes) and text[last.end : mention.start].strip() in ("(", ",", "/"):
            # The name decides what is meant: "brow raise (AU1, AU2)" is one mention, and so is "brow raise (AU1)".
            end = mention.end + 1 if text[mention.end : mention.end + 1] == ")" else mention.end
            merged[-1] = _Mention(last.codes, last.start, end)
        else:
            merged.append(mention)
    return merged


# What may stand between two items of a list of denied units: "no smile, cheek raise or any jaw drop".
_LIST_LINK = re.compile(
    r"\s*(?:\)\s*)?(,)?\s*(or|nor)?\s*(?:any\s+|an?\s+|the\s+)?(?:clear\s+|visible\s+)?\(?", re.IGNORECASE
)


def _negated(text: str, mentions: Sequence[_Mention], start: int) -> list[bool]:
    negated: list[bool] = []
    reach = start  # a denial reaches over earlier mentions of its clause, but one inside a mention ends with it
    for position, mention in enumerate(mentions):
        inside = has_negator(text[mention.start : mention.end])
        before = is_denied(text, mention.start, since=reach, until=mention.end)
        negated.append(inside or before or is_denied_after(text, mention.end))
        if inside or not negated[position]:
            reach = mention.end
    first = 0
    while first < len(mentions):
        first = (_extend_denial(text, mentions, negated, first) if negated[first] else first) + 1
    return negated


def _extend_denial(text: str, mentions: Sequence[_Mention], negated: list[bool], first: int) -> int:
    """Carries a denial over a list with commas, provided that the list ends in an "or" or "nor"; returns its last."""
    last = first
    for position in range(first + 1, len(mentions)):
        link = _LIST_LINK.fullmatch(text, mentions[position - 1].end, mentions[position].start)
        if link is None or not (link[1] or link[2]):
            break
        if link[2]:
            last = position
    negated[first : last + 1] = [True] * (last + 1 - first)
    return last


_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_SIDE_AFTER = re.compile(r"\s*(?:\([^()]*\)\s*)?(?:on|to|of)\s+(?:the|its|their)\s+(left|right)\b", re.IGNORECASE)


def _side(text: str, mention: _Mention, since: int) -> Side:
    # Up to the end of the mention: "left brow lowering", but also "raising of the left brow".
    before = _SIDE.findall(clause_before(text, mention.start, since) + text[mention.start : mention.end])
    sides = {side.lower() for side in before}
    if not sides:
        after = _SIDE_AFTER.match(text, mention.end)
        sides = {after[1].lower()} if after else set()
    return "left" if sides == {"left"} else "right" if sides == {"right"} else "both"


_BAND_AFTER = re.compile(
    rf"[\s,)]*(?:\([^()]*\)\s*)?(?:(?:is|are|was|were|appears?|looks?|remains?|stays?|seems?|of|at|with)\s+|\()"
    rf"(?:an?\s+|only\s+|rather\s+|very\s+)*({BAND_WORD.pattern})",
    re.IGNORECASE,
)


def _band(text: str, mention: _Mention, since: int, until: int) -> str | None:
    """The intensity word inside the mention, else the nearest before it in its clause, else one right after it."""
    inside = BAND_WORD.findall(text[mention.start : mention.end])
    before = BAND_WORD.findall(clause_before(text, mention.start, since))
    after = _BAND_AFTER.match(text, mention.end, until)
    if inside:
        return band_of_word(inside[-1])
    if before:
        return band_of_word(before[-1])
    return band_of_word(after[1]) if after else None
