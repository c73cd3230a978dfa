"""All the ways to name a movement that a text may use, made once from the lexicon's phrases.

A movement has nouns ("brow lowering", "lowering of the brows") and states ("brows", "lowered"). With a side and a band
of intensity they become phrases ("a slight lowering of the left brow", "brow lowering of moderate intensity", "slightly
lowered brows") and clauses ("the left brow appears slightly lowered"). ``cot.find_statements`` reads every one of them
back as what it was made from.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from expllm_jax.cot import MOVEMENTS, band
from expllm_jax.engine.wording import an, be
from expllm_jax.faces import Side


class Named(NamedTuple):
    """A phrase or clause about a movement, in two pieces: the unit's code may stand between them."""

    words: str
    degree: str = ""  # " of moderate intensity" where the words do not say how strong it is
    plural: bool = False


# Adjectives that go with "intensity"; "a subtle lowering" is English, "lowering of subtle intensity" hardly.
_DEGREES = {
    "slight": ("slight", "mild"),
    "moderate": ("moderate",),
    "significant": ("significant", "notable"),
    "strong": ("strong", "marked"),
}
_VERBS = (("is", "are"), ("is", "are"), ("appears", "appear"), ("looks", "look"))
_PAIRED = re.compile(r"of the ((?:inner |outer |upper )?(?:brow|lid|eye|cheek|lip corner))s$")


@cache
def nouns(name: str, side: Side) -> tuple[str, ...]:
    """The nouns of a movement: "brow lowering", or on one side "left brow lowering", "lowering of the left brow"."""
    movement = MOVEMENTS[name]
    if side == "both":
        return movement.nouns
    told = []
    for noun in movement.nouns:
        if _PAIRED.search(noun):
            told.append(_PAIRED.sub(rf"of the {side} \1", noun))
        elif " of the " not in noun:  # "slide of the left jaw" would be wrong
            told.append(f"{side} {noun}")
    return tuple(told)


@cache
def phrases(name: str, side: Side, band_name: str, *, alone: bool) -> tuple[Named, ...]:
    """Noun phrases that tell a movement and how strong it is.

    Args:
        alone: that nothing is told after it in the same clause, which what follows a noun could be taken to belong to.
    """
    words = band(band_name)
    told = [
        Named(phrase)
        for noun in nouns(name, side)
        for adjective in words.adjectives
        for phrase in (f"{adjective} {noun}", an(f"{adjective} {noun}"))
    ]
    if side == "both":
        told += [
            Named(_with_article(f"{adverb} {participle} {part}", part), plural=be(part) == "are")
            for part, participle in MOVEMENTS[name].states
            if " " not in participle
            for adverb in words.adverbs
        ]
    if alone:
        told += [Named(noun, f" of {degree} intensity") for noun in nouns(name, side) for degree in _DEGREES[band_name]]
    return tuple(told)


@cache
def states(name: str, side: Side, band_name: str) -> tuple[Named, ...]:
    """Clauses that tell a movement and how strong it is: "the left brow is slightly lowered"."""
    told = []
    for part, participle in MOVEMENTS[name].states:
        named = part if side == "both" else f"{side} {part.removesuffix('s')}"
        for singular, plural in _VERBS:
            verb = plural if be(named) == "are" else singular
            told += [Named(f"the {named} {verb} {adverb} {participle}") for adverb in band(band_name).adverbs]
    return tuple(told)


def _with_article(phrase: str, part: str) -> str:
    return phrase if be(part) == "are" else an(phrase)
