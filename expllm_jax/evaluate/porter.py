"""Stems of English words: Porter's algorithm with the changes that NLTK made, on which ROUGE's stemmed scores rest.

Sources: Porter, "An algorithm for suffix stripping", Program 14(3), 1980; of the changes: nltk.stem.porter in its
default mode, which the package rouge-score uses. Rules are written "suffix>replacement".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

_IRREGULAR = {
    "sky": "sky", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie", "news": "news",
    "innings": "inning", "inning": "inning", "outings": "outing", "outing": "outing", "cannings": "canning",
    "canning": "canning", "howe": "howe", "proceed": "proceed", "exceed": "exceed", "succeed": "succeed",
}  # fmt: skip


def _rules(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (rule.split(">") for rule in text.split())
    return tuple((suffix, replacement) for suffix, replacement in pairs)


_PLURALS = _rules("sses>ss ies>i ss>ss s>")
_DOUBLE_SUFFIXES = _rules(
    "ational>ate tional>tion enci>ence anci>ance izer>ize bli>ble alli>al entli>ent eli>e ousli>ous ization>ize "
    "ation>ate ator>ate alism>al iveness>ive fulness>ful ousness>ous aliti>al iviti>ive biliti>ble fulli>ful"
)
_ENDINGS = _rules("icate>ic ative> alize>al iciti>ic ical>ic ful> ness>")
_LAST_SUFFIXES = tuple("al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize".split())


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """The stem of a word in lower case; words of one or two letters stay as they are."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    word = word[:-1] if word.endswith("ies") and len(word) == 4 else _replaced(word, _PLURALS, lambda _: True)
    word = _without_past(word)
    if word.endswith("y") and len(word) > 2 and _consonants(word[:-1])[-1]:
        word = word[:-1] + "i"
    word = _without_double_suffix(word)
    word = _replaced(word, _ENDINGS, _has_measure)
    word = _without_last_suffix(word)
    if word.endswith("e"):
        short = word[:-1]
        if _measure(short) > 1 or (_measure(short) == 1 and not _ends_short(short)):
            word = short
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


def _without_past(word: str) -> str:
    """Without -ed and -ing."""
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _has_measure(word[:-3]) else word
    for suffix in ("ed", "ing"):
        base = word.removesuffix(suffix)
        if base != word and not all(_consonants(base)):
            break
    else:
        return word
    if base.endswith(("at", "bl", "iz")):
        return base + "e"
    if len(base) > 1 and base[-1] == base[-2] and _consonants(base)[-1]:
        return base if base[-1] in "lsz" else base[:-1]
    return base + "e" if _measure(base) == 1 and _ends_short(base) else base


def _without_double_suffix(word: str) -> str:
    if word.endswith("alli") and _has_measure(word[:-4]):
        return _without_double_suffix(word[:-2])
    if word.endswith("logi"):
        return word[:-1] if _has_measure(word[:-3]) else word
    return _replaced(word, _DOUBLE_SUFFIXES, _has_measure)


def _without_last_suffix(word: str) -> str:
    for suffix in _LAST_SUFFIXES:
        if word.endswith(suffix):
            base = word.removesuffix(suffix)
            fits = _measure(base) > 1 and (suffix != "ion" or base[-1] in "st")
            return base if fits else word
    return word


def _replaced(word: str, rules: Sequence[tuple[str, str]], fits: Callable[[str], bool]) -> str:
    """The word by the first rule whose suffix it has, if what stands before fits; later rules are not tried."""
    for suffix, replacement in rules:
        if word.endswith(suffix):
            base = word.removesuffix(suffix)
            return base + replacement if fits(base) else word
    return word


def _consonants(word: str) -> list[bool]:
    """For each letter whether it is a consonant: all but a, e, i, o, u, and y behind a consonant."""
    flags: list[bool] = []
    for letter in word:
        flags.append(letter not in "aeiou" and not (letter == "y" and flags[-1:] == [True]))
    return flags


def _measure(word: str) -> int:
    """How often a vowel is followed by a consonant: Porter's m."""
    flags = _consonants(word)
    return sum(not before and after for before, after in zip(flags, flags[1:], strict=False))


def _has_measure(word: str) -> bool:
    return _measure(word) > 0


def _ends_short(word: str) -> bool:
    """Whether it ends in consonant, vowel, consonant other than w, x or y; or is a vowel and a consonant."""
    flags = _consonants(word)
    if len(word) == 2:
        return flags == [False, True]
    return flags[-3:] == [True, False, True] and word[-1] not in "wxy"
