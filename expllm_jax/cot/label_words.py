"""Where a text names a label: strictly by noun or adjective, or loosely, as free texts do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from expllm_jax.cot.grammar import EXPRESSION_WORDS
from expllm_jax.cot.words import is_denied

LOOSE_EXPRESSION_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Neutral": ("neutrality", "neutrally"),
        "Happiness": ("happier", "happily", "joy", "joyful", "joyfully", "joyfulness", "joyous"),
        "Sadness": ("sadly", "saddened", "sorrow", "sorrowful"),
        "Surprise": ("surprises", "surprising", "surprisingly", "astonishment", "astonished", "astonishing"),
        "Fear": ("fears", "fearfulness"),
        "Disgust": ("disgusting",),
        "Anger": ("angrily", "angered"),
        "Contempt": ("contemptuously",),
    }
)
"""Further words that name an expression in free texts: other forms of its noun, and one near synonym each of happiness,
sadness and surprise. With these words the conclusions of the released texts name their labels in the shares known of
them; without the synonyms only 87 % of those about happiness would."""


class Naming(NamedTuple):
    """One place where a label is named."""

    label: str
    start: int
    end: int
    denied: bool  # the clause says that it is not this one


def namings(text: str, start: int, end: int, allowed: Sequence[str], *, loose: bool) -> tuple[Naming, ...]:
    """The places in ``text[start:end]`` that name one of ``allowed``."""
    found: list[Naming] = []
    for match in _pattern(tuple(allowed), loose).finditer(text, start, end):
        if not loose:
            denied = is_denied(text, match.start(), since=start)
        elif found and found[-1].denied and _LISTED.fullmatch(text, found[-1].end, match.start()):
            denied = True
        else:
            denied = _DENIED.search(text, max(start, match.start() - _DENIAL_REACH), match.start()) is not None
        found.append(Naming(allowed[int((match.lastgroup or "")[1:])], match.start(), match.end(), denied))
    return tuple(found)


# "rather than mere happiness", "no signs of fear", "neither particularly happy"; not "the lack of tension shows joy".
_DENIED = re.compile(
    r"\b(?:no|not|without|lacks?|lacking|absence|neither|nor|rather than|instead of|devoid|free)\b(?! only\b)"
    r"(?:\s+(?!(?:is|are|(?<!such )as|to|but|leads?|points?|portrays?|indicat(?:es?|ing)|suggest(?:s|ing)?"
    r"|convey(?:s|ing)?|signif(?:y|ies|ying)|confirm(?:s|ing)?|reflect(?:s|ing)?|defines?|affirm(?:s|ing)?|shows?)\b)[\w'’-]+){0,6}?[\s'\"‘’“”*]*$",
    re.IGNORECASE,
)
_DENIAL_REACH = 80  # characters
_LISTED = re.compile(r",?\s*(?:or|and|nor)?\s+", re.IGNORECASE)


@cache
def _pattern(allowed: tuple[str, ...], loose: bool) -> re.Pattern[str]:
    groups = []
    for position, label in enumerate(allowed):
        words = (*EXPRESSION_WORDS[label], *(LOOSE_EXPRESSION_WORDS[label] if loose else ()))
        groups.append(f"(?P<l{position}>{'|'.join(words)})")
    return re.compile(rf"\b(?:{'|'.join(groups)})\b", re.IGNORECASE)
