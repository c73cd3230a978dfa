"""Sentences with alternatives in them: one line of a table stands for hundreds of ways to say the same.

``"[taken|read] together, {names} [point|lead] to {label}"`` has two brackets to choose from and two gaps to fill.
Brackets may stand inside brackets, and an alternative may be empty. A sentence is drawn with a :class:`Chooser`, whose
draws come from one generator, so the same state gives the same words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

import numpy as np

from expllm_jax.errors import ExpllmError

_Item = TypeVar("_Item")
_DRAWN_AT_ONCE = 96  # most texts need no more, and a generator is slow to be asked for single numbers

# What a compiled sentence is made of: text as it stands, a gap (its name), or a choice among sentences.
_Gap = tuple[str]
_Sentence = tuple["str | _Gap | list[_Sentence]", ...]


class Chooser:
    """Draws among wordings. Fast, because it takes its random numbers in large handfuls."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._draws: list[float] = []

    def below(self, count: int) -> int:
        """A whole number from 0 to ``count - 1``."""
        if not self._draws:
            self._draws = self._rng.random(_DRAWN_AT_ONCE).tolist()
        return int(self._draws.pop() * count)

    def one(self, options: Sequence[_Item]) -> _Item:
        """One of the options, all equally likely."""
        return options[self.below(len(options))]

    def happens(self, probability: float) -> bool:
        """True with that probability."""
        if not self._draws:
            self._draws = self._rng.random(_DRAWN_AT_ONCE).tolist()
        return self._draws.pop() < probability

    def shuffled(self, items: Sequence[_Item]) -> list[_Item]:
        """All items, in any order (Fisher and Yates)."""
        mixed = list(items)
        for last in range(len(mixed) - 1, 0, -1):
            other = self.below(last + 1)
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed

    def say(self, sentence: str, **gaps: str) -> str:
        """The sentence with its brackets chosen and its gaps filled.

        Raises:
            ExpllmError: a bracket is left open or closed twice.
            KeyError: a gap has no filling.
        """
        pieces: list[str] = []
        self._say(_compiled(sentence), gaps, pieces)
        return "".join(pieces)

    def _say(self, sentence: _Sentence, gaps: dict[str, str], pieces: list[str]) -> None:
        for piece in sentence:
            if type(piece) is str:
                pieces.append(piece)
            elif type(piece) is tuple:
                pieces.append(gaps[piece[0]])
            else:
                self._say(piece[self.below(len(piece))], gaps, pieces)  # type: ignore[arg-type, index]


def ways(sentence: str) -> int:
    """How many ways a sentence can be said, its gaps aside.

    Raises:
        ExpllmError: a bracket is left open or closed twice.
    """
    return _ways(_compiled(sentence))


def _ways(sentence: _Sentence) -> int:
    product = 1
    for piece in sentence:
        if isinstance(piece, list):
            product *= sum(_ways(option) for option in piece)
    return product


@cache
def _compiled(sentence: str) -> _Sentence:
    tokens = re.findall(r"\{\w+\}|[\[\]|]|[^\[\]|{]+", sentence)
    options, rest = _options(tokens, 0, sentence)
    if len(options) > 1 or rest != len(tokens):
        raise ExpllmError(f"The brackets of {sentence!r} do not match.", "Close every one that is open, and no other.")
    return options[0]


def _options(tokens: Sequence[str], position: int, sentence: str) -> tuple[list[_Sentence], int]:
    """The alternatives from a position up to the bracket that closes them, and where that stands."""
    options: list[list[str | _Gap | list[_Sentence]]] = [[]]
    while position < len(tokens) and tokens[position] != "]":
        token = tokens[position]
        if token == "[":
            inner, position = _options(tokens, position + 1, sentence)
            if position == len(tokens):
                raise ExpllmError(f"A bracket of {sentence!r} is left open.", "Close it.")
            options[-1].append(inner)
        elif token == "|":
            options.append([])
        else:
            options[-1].append((token[1:-1],) if token[0] == "{" else token)
        position += 1
    return [tuple(option) for option in options], position
