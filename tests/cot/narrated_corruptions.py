"""Narrated texts with one mistake each, made with the words that the narrator writes with."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from expllm_jax.cot import BANDS, EXPRESSION_WORDS, HEADINGS, Band, codes_of_movements, split_parts, write_parts
from expllm_jax.faces import BASIC_7, Vocabulary


class Narrated(NamedTuple):
    """A text and what it was written from."""

    text: str
    units: Mapping[str, float]
    vocabulary: Vocabulary
    expression: str


class Corrupted(NamedTuple):
    """A text with one mistake, and the findings of which one has to be made."""

    kind: str
    text: str
    codes: frozenset[str]


def corruptions(told: Narrated, rng: random.Random) -> Iterator[Corrupted]:
    """One corruption of every kind that the text allows."""
    for kind, (make, codes) in _KINDS.items():
        options = list(make(told, rng))
        if options:
            yield Corrupted(kind, rng.choice(options), frozenset(codes))


_WORDS = {
    word: (number, words)
    for number, band in enumerate(BANDS)
    for words in (band.adjectives, band.adverbs)
    for word in words
}
_BAND_WORD = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b", re.IGNORECASE)


def _observed(told: Narrated, changed: Callable[[str], Iterator[str]]) -> Iterator[str]:
    """The text with its observations changed in each of several ways."""
    parts = split_parts(told.text)
    for observations in changed(parts.observations):
        yield write_parts(observations, parts.interpretation, parts.conclusion)


def _other_side(told: Narrated, rng: random.Random) -> Iterator[str]:
    names = {name: codes for name, codes in codes_of_movements(told.vocabulary).items() if len(codes) == 2}

    def changed(observations: str) -> Iterator[str]:
        for name, codes in names.items():
            values = [told.units.get(code, 0.0) for code in codes]
            for match in re.finditer(rf"\b(left|right) {name}\b", observations):
                said, other = values if match[1] == "left" else values[::-1]
                if other < 0.06 <= said:
                    swapped = "right" if match[1] == "left" else "left"
                    yield observations[: match.start()] + f"{swapped} {name}" + observations[match.end() :]

    return _observed(told, changed)


def _far_band(told: Narrated, rng: random.Random) -> Iterator[str]:
    def changed(observations: str) -> Iterator[str]:
        for match in _BAND_WORD.finditer(observations):
            number, words = _WORDS[match[0].lower()]
            far: list[Band] = [band for at, band in enumerate(BANDS) if abs(at - number) >= 2]
            same_kind = [band.adverbs if match[0].lower() in BANDS[number].adverbs else band.adjectives for band in far]
            word = rng.choice(rng.choice(same_kind))
            word = word.capitalize() if match[0][0].isupper() else word
            yield observations[: match.start()] + word + observations[match.end() :]

    return _observed(told, changed)


def _other_label(told: Narrated, rng: random.Random) -> Iterator[str]:
    parts = split_parts(told.text)
    other = rng.choice([label for label in BASIC_7 if label != told.expression])
    word = "neutral" if other == "Neutral" else other.lower()
    conclusion, count = re.subn(
        rf"\b(?:{'|'.join(EXPRESSION_WORDS[told.expression])})\b", word, parts.conclusion, flags=re.IGNORECASE
    )
    if count:
        yield write_parts(parts.observations, parts.interpretation, conclusion)


def _unseen_unit(told: Narrated, rng: random.Random) -> Iterator[str]:
    def changed(observations: str) -> Iterator[str]:
        for name, codes in codes_of_movements(told.vocabulary).items():
            if all(told.units.get(code, 0.0) < 0.005 for code in codes):
                yield f"{observations} There is {rng.choice(BANDS[rng.randrange(1, 5)].adjectives)} {name}."

    return _observed(told, changed)


def _no_part(told: Narrated, rng: random.Random) -> Iterator[str]:
    paragraphs = told.text.split("\n\n")
    for left_out in range(len(HEADINGS)):
        yield "\n\n".join(paragraph for number, paragraph in enumerate(paragraphs) if number != left_out)


def _other_order(told: Narrated, rng: random.Random) -> Iterator[str]:
    first, second, third = told.text.split("\n\n")
    for order in ((second, first, third), (first, third, second), (third, second, first)):
        yield "\n\n".join(order)


def _denied(told: Narrated, rng: random.Random) -> Iterator[str]:
    def changed(observations: str) -> Iterator[str]:
        for match in _BAND_WORD.finditer(observations):
            adverb = match[0].lower() in BANDS[_WORDS[match[0].lower()][0]].adverbs
            new = "not" if adverb else "No" if match[0][0].isupper() else "no"
            yield observations[: match.start()] + new + observations[match.end() :]

    return _observed(told, changed)


_KINDS: dict[str, tuple[Callable[[Narrated, random.Random], Iterator[str]], tuple[str, ...]]] = {
    "wrong-side": (_other_side, ("wrong-side", "unsupported-unit")),
    "wrong-intensity": (_far_band, ("wrong-intensity", "wrong-side")),
    "wrong-label": (_other_label, ("wrong-conclusion",)),
    "invented-unit": (_unseen_unit, ("unsupported-unit",)),
    "missing-part": (_no_part, ("missing-part",)),
    "swapped-order": (_other_order, ("parts-out-of-order",)),
    "negation": (_denied, ("denied-unit",)),
}
