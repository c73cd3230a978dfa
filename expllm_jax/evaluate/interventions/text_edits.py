"""Changing one observation of a model's own text, to see whether what it writes after it follows.

An edit works on the first part of a text, on items such as "strong cheek raise (AU6)" between two commas: stretches
that state one movement and nothing else. What stands behind the observations is cut off; the model is to write it anew.

| edit | of one item |
|---|---|
| delete | is taken out, with its comma |
| swap | names another movement instead, in words that the model uses for it elsewhere; the intensity stays |
| band | the word of intensity becomes a weak one if it was strong, and the other way round |
| reorder | changes places with its neighbour: the control, for the text says what it said |
| transplant | (of the whole part) all observations become those of a face with another conclusion |

An edit is made only if the changed text reads as it should: a deleted movement is no longer stated, and so on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from expllm_jax.cot import BANDS, ParsedCot, Statement, find_statements, split_parts
from expllm_jax.cot.words import BAND_WORD
from expllm_jax.faces import FACS, PROTOTYPES, Vocabulary

TextEdit = Literal["delete", "swap", "band", "reorder", "transplant"]
TEXT_EDITS: tuple[str, ...] = get_args(TextEdit)
CONTROL_EDIT = "reorder"

# What parts items: a comma or an "and" within a sentence, or the sentence's end. Stops inside numbers are none.
_SEPARATOR = re.compile(r"[,;]\s+(?:and\s+)?|\s+and\s+|\.(?:\s+|$)")
_WEAK, _STRONG = BANDS[1], BANDS[-1]
_STRONG_NAMES = {band.name for band in BANDS[3:]}  # these become weak, the others strong


@dataclass(frozen=True)
class Item:
    """A stretch of the observations that states one movement: a sentence, or text[start:end] between separators."""

    statement: Statement
    start: int
    end: int
    listed: bool  # a comma or an "and" stands before it, and not a sentence's end


@dataclass(frozen=True)
class EditedText:
    """The beginning of a text, up to the blank line behind its changed observations."""

    edit: TextEdit
    code: str  # the unit whose observation is changed; "" where all are
    begun: str  # for `infer.Request.begun`
    instead: str = ""  # of a swap, the unit that is named instead; of a transplant, the expression of its donor


class TextEditor:
    """Edits the texts of one model.

    Args:
      texts: what the model wrote about many faces, parsed; swaps and transplants take their words from these.
      vocabulary: of the units.
    """

    def __init__(self, texts: Sequence[tuple[str, ParsedCot]], vocabulary: Vocabulary = FACS) -> None:
        self._vocabulary = vocabulary
        self._mentions: dict[str, list[str]] = {}
        self._observations: dict[str, list[str]] = {}  # expression -> the observations of texts that conclude it
        for text, parsed in texts:
            self._observations.setdefault(parsed.expression, []).append(split_parts(text).observations)
            for item in observation_items(text, parsed):
                mention = text[item.statement.start : item.statement.end]
                if mention[:1].islower():
                    self._mentions.setdefault(item.statement.code, []).append(mention)

    def edits(self, text: str, parsed: ParsedCot, rng: np.random.Generator) -> list[EditedText]:
        """One edit of every kind that the text allows, in the order of TEXT_EDITS; items and words are drawn."""
        source = _Source(text, parsed)
        makers = {"delete": self._delete, "swap": self._swap, "band": self._band, "reorder": self._reorder}
        found = []
        for make in makers.values():
            for place in rng.permutation(len(source.items)):
                edited = make(source, int(place), rng)
                if edited is not None:
                    found.append(edited)
                    break
        transplant = self._transplant(source, rng)
        return [*found, transplant] if transplant is not None else found

    def _delete(self, source: _Source, place: int, rng: np.random.Generator) -> EditedText | None:
        item, text = source.items[place], source.text
        before, after = text[: item.start], text[item.end :]
        separator = _SEPARATOR.match(after)
        if item.listed:
            before = before[: _last_separator(before)]
        elif separator is not None:
            after = _cased_as(after[separator.end() :], text[item.start])
        code = item.statement.code
        expected = {other: band_ for other, band_ in source.stated.items() if other != code}
        return self._checked(source, "delete", code, (before + after).rstrip(), expected) if expected else None

    def _swap(self, source: _Source, place: int, rng: np.random.Generator) -> EditedText | None:
        statement, text = source.items[place].statement, source.text
        typical = PROTOTYPES.get(source.expression, {})
        others = [code for code in self._vocabulary.codes
                  if code in self._mentions and code not in source.stated and code not in typical]  # fmt: skip
        if not others or not text[statement.start].islower():
            return None
        added = others[int(rng.integers(len(others)))]
        words = self._mentions[added][int(rng.integers(len(self._mentions[added])))]
        changed = text[: statement.start] + words + text[statement.end :]
        expected = {added if code == statement.code else code: band_ for code, band_ in source.stated.items()}
        return self._checked(source, "swap", statement.code, changed, expected, added)

    def _band(self, source: _Source, place: int, rng: np.random.Generator) -> EditedText | None:
        item, text = source.items[place], source.text
        words = list(BAND_WORD.finditer(text, item.start, item.end))
        if item.statement.band is None or len(words) != 1:
            return None
        word, new = words[0], _WEAK if item.statement.band in _STRONG_NAMES else _STRONG
        instead = (new.adverbs if word[0].lower().endswith("ly") else new.adjectives)[0]
        before = re.sub(r"\b(a)n $", r"\1 ", text[: word.start()], flags=re.IGNORECASE)
        changed = before + _cased_as(instead, word[0][0]) + text[word.end() :]
        expected = source.stated | {item.statement.code: new.name}
        return self._checked(source, "band", item.statement.code, changed, expected)

    def _reorder(self, source: _Source, place: int, rng: np.random.Generator) -> EditedText | None:
        if place + 1 == len(source.items):
            return None
        first, second = source.items[place : place + 2]
        text = source.text
        between = text[first.end : second.start]
        if not _SEPARATOR.fullmatch(between):
            return None
        one, two = text[first.start : first.end], text[second.start : second.end]
        exchanged = _cased_as(two, one[0]) + between + _cased_as(one, two[0])
        changed = text[: first.start] + exchanged + text[second.end :]
        return self._checked(source, "reorder", first.statement.code, changed, source.stated)

    def _transplant(self, source: _Source, rng: np.random.Generator) -> EditedText | None:
        others = sorted(self._observations.keys() - {source.expression})
        if not others:
            return None
        expression = others[int(rng.integers(len(others)))]
        donors = self._observations[expression]
        donor = donors[int(rng.integers(len(donors)))]
        return EditedText("transplant", "", source.text[: source.start] + donor + "\n\n", expression)

    def _checked(
        self,
        source: _Source,
        edit: TextEdit,
        code: str,
        changed: str,
        expected: Mapping[str, str | None],
        instead: str = "",
    ) -> EditedText | None:
        """The edit, if the changed beginning of the text states what it is to state."""
        if _stated(find_statements(changed, self._vocabulary, source.start)) != dict(expected):
            return None
        return EditedText(edit, code, changed + "\n\n", instead)


class _Source:
    """A text that is to be edited, up to the end of its observations."""

    def __init__(self, text: str, parsed: ParsedCot) -> None:
        parts = split_parts(text)
        self.start = parts.observations_start
        self.text = text[: self.start + len(parts.observations)]
        self.items = observation_items(text, parsed)
        self.stated = _stated(parsed.observations)
        self.expression = parsed.expression


def observation_items(text: str, parsed: ParsedCot) -> tuple[Item, ...]:
    """The items of a text, in its order.

    Stretches that state several units, or deny one, are none; nor is a unit that the text states twice.
    """
    parts = split_parts(text)
    start, end = parts.observations_start, parts.observations_start + len(parts.observations)
    separators = [match.span() for match in _SEPARATOR.finditer(text, start, end) if not _enclosed(text, start, match)]
    stops = [span for span in separators if "." in text[slice(*span)]]
    items = []
    for statement in parsed.observations:
        twice = sum(other.code == statement.code for other in parsed.observations) > 1
        if statement.negated or twice:
            continue
        for bounds in (stops, separators):  # a whole sentence, if it states nothing else
            first = max((span for span in bounds if span[1] <= statement.start), default=(start, start))
            last = min((span for span in bounds if span[0] >= statement.end), default=(end, end))
            within = [other for other in parsed.observations if other.start < last[0] and other.end > first[1]]
            if len(within) == 1:
                listed = first[0] > start and first not in stops
                items.append(Item(statement, first[1], last[0], listed))
                break
    return tuple(items)


def named_units(parsed: ParsedCot, vocabulary: Vocabulary = FACS) -> frozenset[str]:
    """The units that the interpretation argues with, denied ones left out."""
    statements = find_statements(parsed.interpretation, vocabulary)
    return frozenset(statement.code for statement in statements if not statement.negated)


def _stated(statements: Sequence[Statement]) -> dict[str, str | None]:
    return {statement.code: statement.band for statement in statements if not statement.negated}


def _enclosed(text: str, start: int, separator: re.Match[str]) -> bool:
    """Whether a separator stands in parentheses, as in "brow raise (AU1, AU2)"."""
    return text.count("(", start, separator.start()) > text.count(")", start, separator.start())


def _last_separator(text: str) -> int:
    """Where the separator that ends a text starts."""
    return max(match.start() for match in _SEPARATOR.finditer(text) if match.end() == len(text))


def _cased_as(text: str, example: str) -> str:
    """The text, begun with a capital letter if the example is one, and with a small one if not."""
    first = text[:1].upper() if example.isupper() else text[:1].lower()
    return first + text[1:]
