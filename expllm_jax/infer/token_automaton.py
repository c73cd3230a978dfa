"""From the bytes of a language to the tokens of a tokenizer: which token leads where, and how far the end is.

Shape letters: S states, V vocabulary, C classes of tokens that act alike in every state, R tokens left in a part
(from 0; the last column stands for that many or more), P parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from expllm_jax.cot.byte_automaton import DEAD, ByteAutomaton
from expllm_jax.errors import ExpllmError

UNREACHABLE = 2**30
"""Tokens to an end that cannot be reached."""

_STATES_AT_ONCE = 64


class TokenAutomaton(NamedTuple):
    """Where tokens lead. DEAD, and the last state, which is behind the end token, are left by no token."""

    next_SC: np.ndarray  # int32 [S, C]
    class_V: np.ndarray  # int32 [V]
    part_S: np.ndarray  # int32 [S]; -1 for DEAD, P for the last state
    to_end_SR: np.ndarray  # int32 [S, R]: fewest tokens from here through the end token, UNREACHABLE if there is no way
    start: int


def token_automaton(
    language: ByteAutomaton, token_bytes: Sequence[bytes], eos: int, part_tokens: Sequence[int]
) -> TokenAutomaton:
    """The tokens of a language.

    Args:
      language: over bytes.
      token_bytes: of every token; b"" for those that never belong to a text.
      eos: the end token, which is allowed where the language accepts, and only there.
      part_tokens: of every part, the most tokens that may end in it; a token that leads on counts for the part it
        leads to, and the end token for none.

    Raises:
      ExpllmError: there is no way of writing a text of the language with these tokens in these limits.
    """
    states = ended = len(language.next_SB)
    tokens = [(token, content) for token, content in enumerate(token_bytes) if content and token != eos]
    tree = _Tree([content for _, content in tokens])
    kind_of: dict[tuple[int, bytes], int] = {}
    kinds = np.zeros(len(tokens), np.int64)
    for first in range(0, states, _STATES_AT_ONCE):
        columns = np.ascontiguousarray(tree.ends(language.next_SB, slice(first, first + _STATES_AT_ONCE)).T)
        kind_of.clear()
        kinds = np.array(
            [
                kind_of.setdefault((kind, column.tobytes()), len(kind_of))
                for kind, column in zip(kinds.tolist(), columns, strict=True)
            ]
        )
    _, representatives = np.unique(kinds, return_index=True)
    next_SC = np.full((states + 1, len(representatives) + 2), DEAD, np.int32)
    silent, end = len(representatives), len(representatives) + 1
    next_SC[:-1, :silent] = _Tree([tokens[place][1] for place in representatives]).ends(language.next_SB, slice(None))
    next_SC[:-1, end][language.accepting_S] = ended
    class_V = np.full(len(token_bytes), silent, np.int32)
    class_V[[token for token, _ in tokens]] = kinds
    class_V[eos] = end
    part_S = np.append(language.part_S, len(part_tokens)).astype(np.int32)
    to_end_SR = _to_end(next_SC, part_S, part_tokens)
    if to_end_SR[language.start, -1] >= UNREACHABLE:
        raise ExpllmError(
            f"the tokenizer cannot write any answer of the form in parts of {', '.join(map(str, part_tokens))} tokens",
            "give the parts more tokens, or use a tokenizer that has every byte",
        )
    return TokenAutomaton(next_SC, class_V, part_S, to_end_SR, language.start)


class _Tree:
    """The beginnings of byte strings, shorter ones first, each one byte more than another."""

    def __init__(self, contents: Sequence[bytes]) -> None:
        node_of: dict[bytes, int] = {b"": 0}
        levels: list[list[tuple[int, int]]] = []  # by length: (node that it continues, byte)
        by_length: list[set[bytes]] = []
        for content in contents:
            for length in range(1, len(content) + 1):
                if length > len(by_length):
                    by_length.append(set())
                by_length[length - 1].add(content[:length])
        for beginnings in by_length:
            level = []
            for beginning in sorted(beginnings):
                node_of[beginning] = len(node_of)
                level.append((node_of[beginning[:-1]], beginning[-1]))
            levels.append(level)
        self._levels = [np.array(level, np.int64) for level in levels]
        self._end_of = np.array([node_of[content] for content in contents])
        self._nodes = len(node_of)

    def ends(self, next_SB: np.ndarray, states: slice) -> np.ndarray:
        """Int32 [states, strings]: the state that each string leads to from each state."""
        some = np.arange(len(next_SB), dtype=np.int32)[states]
        reached = np.empty((len(some), self._nodes), np.int32)
        reached[:, 0] = some
        first = 1
        for level in self._levels:
            behind, byte = level.T
            reached[:, first : first + len(level)] = next_SB[reached[:, behind], byte]
            first += len(level)
        return reached[:, self._end_of]


def _to_end(next_SC: np.ndarray, part_S: np.ndarray, part_tokens: Sequence[int]) -> np.ndarray:
    """`TokenAutomaton.to_end_SR`, from the last part backwards, and in each from no tokens left to more."""
    last = len(part_tokens)
    entered_S = np.where(part_S == last, 0, UNREACHABLE)  # from a state that the token before has led to
    columns: list[tuple[np.ndarray, list[np.ndarray]]] = []  # of every part: its states, and their distance by R
    for part in reversed(range(last)):
        inside = np.flatnonzero(part_S == part)
        onwards = next_SC[inside]
        stays = part_S[onwards] == part
        leaving = _one_more(np.where(stays, UNREACHABLE, entered_S[onwards]))
        by_rest, distance_S = [leaving], np.full(len(next_SC), UNREACHABLE)
        while len(by_rest) <= part_tokens[part]:
            distance_S[inside] = by_rest[-1]
            staying = np.minimum(leaving, _one_more(np.where(stays, distance_S[onwards], UNREACHABLE)))
            if (staying == by_rest[-1]).all():
                break
            by_rest.append(staying)
        entered_S[inside] = by_rest[min(part_tokens[part] - 1, len(by_rest) - 1)]
        columns.append((inside, by_rest))
    width = max(len(by_rest) for _, by_rest in columns)
    to_end_SR = np.full((len(next_SC), width), UNREACHABLE, np.int32)
    to_end_SR[part_S == last] = 0
    for inside, by_rest in columns:
        to_end_SR[inside] = np.stack(by_rest + by_rest[-1:] * (width - len(by_rest)), 1)
    return to_end_SR


def _one_more(distance_SC: np.ndarray) -> np.ndarray:
    return np.minimum(distance_SC.min(1) + 1, UNREACHABLE)
