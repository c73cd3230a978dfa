"""Finite automata over the bytes of UTF-8 texts: built state by state, and made as small as they can be.

Shape letters: S states, 256 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

DEAD = 0
"""The state from which no text is accepted any more."""

_CODE_POINTS = 0x110000


class ByteAutomaton(NamedTuple):
    """Which texts belong to a language, byte by byte. State DEAD is left by no byte."""

    next_SB: np.ndarray  # int32 [S, 256]: the state behind each byte
    accepting_S: np.ndarray  # bool [S]: the text may end here
    part_S: np.ndarray  # int32 [S]: which part of the text the state belongs to, from 0; -1 for DEAD
    start: int

    def state_after(self, text: str | bytes, state: int | None = None) -> int:
        """The state behind a text that is read from `state` on, by default from the start."""
        state = self.start if state is None else state
        for byte in text.encode() if isinstance(text, str) else text:
            state = int(self.next_SB[state, byte])
        return state

    def accepts(self, text: str) -> bool:
        """Whether the text belongs to the language."""
        return bool(self.accepting_S[self.state_after(text)])

    def behind(self, opening: str) -> ByteAutomaton:
        """The texts of this language, each behind `opening`, which counts as part of their first part."""
        content = opening.encode()
        states, more = len(self.next_SB), len(content)
        way_OB = np.full((more, 256), DEAD, np.int32)
        way_OB[range(more), list(content)] = [*range(states + 1, states + more), self.start]
        return ByteAutomaton(
            np.concatenate([self.next_SB, way_OB]),
            np.append(self.accepting_S, np.zeros(more, bool)),
            np.append(self.part_S, np.full(more, self.part_S[self.start])).astype(np.int32),
            states,
        )


class Builder:
    """An automaton in the making. What no transition is given for is not in the language."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._accepting: list[bool] = []
        self._parts: list[int] = []
        self._blocks: dict[tuple[bytes, int, int], int] = {}
        self.state(-1)  # DEAD

    def state(self, part: int, *, accepting: bool = False) -> int:
        """A new state without transitions."""
        self._rows.append(np.full(256, DEAD, np.int32))
        self._accepting.append(accepting)
        self._parts.append(part)
        return len(self._rows) - 1

    def spell(self, state: int, text: str, target: int) -> None:
        """`text` leads from `state` to `target`; beginnings that another text of the state shares are shared."""
        *before, last = text.encode()
        part = self._parts[state]
        for byte in before:
            if self._rows[state][byte] == DEAD:
                self._rows[state][byte] = self.state(part)
            state = int(self._rows[state][byte])
        self._rows[state][last] = target

    def any_of(self, state: int, allowed_U: np.ndarray, target: int) -> None:
        """Each of the allowed characters leads from `state` to `target`.

        Args:
          allowed_U: bool [0x110000], by code point; no surrogates among them.
        """
        row, part = self._rows[state], self._parts[state]
        row[:128][allowed_U[:128]] = target
        # A leading byte fixes the bits above those of its 1, 2 or 3 continuation bytes, 6 bits each. What is written
        # with fewer bytes must not be written with more.
        for first, count, least in ((0xC0, 1, 0x80), (0xE0, 2, 0x800), (0xF0, 3, 0x10000)):
            width = 64**count
            for lead in range(32 >> (count - 1)):
                low = lead * width
                if low + width <= least or low >= _CODE_POINTS or first + lead > 0xF4:
                    continue
                block = np.zeros(width, bool)
                known = allowed_U[low : low + width]
                block[: len(known)] = known
                block[: max(0, least - low)] = False
                row[first + lead] = self._block(block, part, target)

    def _block(self, allowed: np.ndarray, part: int, target: int) -> int:
        """The state from which exactly the continuation bytes of the allowed characters lead to `target`."""
        if not allowed.any():
            return DEAD
        key = (allowed.tobytes(), part, target)
        if key not in self._blocks:
            targets = (
                np.where(allowed, target, DEAD)
                if len(allowed) == 64
                else [self._block(inner, part, target) for inner in allowed.reshape(64, -1)]
            )
            self._blocks[key] = self.state(part)
            self._rows[self._blocks[key]][0x80:0xC0] = targets
        return self._blocks[key]

    def finished(self, start: int) -> ByteAutomaton:
        """The smallest automaton of the same language (and the same parts)."""
        automaton = ByteAutomaton(
            np.stack(self._rows), np.array(self._accepting), np.array(self._parts, np.int32), start
        )
        return _merged(_without_dead_ends(automaton))


def characters(texts: Iterable[str]) -> np.ndarray:
    """Bool [0x110000]: the characters of some texts, by code point."""
    allowed_U = np.zeros(_CODE_POINTS, bool)
    allowed_U[[ord(character) for text in texts for character in text]] = True
    return allowed_U


def _without_dead_ends(automaton: ByteAutomaton) -> ByteAutomaton:
    """States from which no text is accepted become DEAD."""
    next_SB, alive_S = automaton.next_SB, automaton.accepting_S
    while True:
        reaching_S = alive_S | alive_S[next_SB].any(1)
        if (reaching_S == alive_S).all():
            return automaton._replace(
                next_SB=np.where(alive_S[next_SB], next_SB, DEAD) * alive_S[:, None],
                part_S=np.where(alive_S, automaton.part_S, -1),
            )
        alive_S = reaching_S


def _merged(automaton: ByteAutomaton) -> ByteAutomaton:
    """States that no text tells apart become one (Moore, 1956)."""
    # Bytes that act alike everywhere need to be looked at once.
    columns_SK = automaton.next_SB[:, np.unique(_kinds(automaton.next_SB.T), return_index=True)[1]]
    kind_S, count = (automaton.part_S + 1) * 2 + automaton.accepting_S, 0
    while kind_S.max() >= count:
        count = int(kind_S.max()) + 1
        kind_S = _kinds(np.concatenate([kind_S[:, None], kind_S[columns_SK]], 1))
    first = np.unique(kind_S, return_index=True)[1]
    return ByteAutomaton(
        kind_S[automaton.next_SB[first]].astype(np.int32),
        automaton.accepting_S[first],
        automaton.part_S[first],
        int(kind_S[automaton.start]),
    )


def _kinds(rows: np.ndarray) -> np.ndarray:
    """Int [R]: which rows are equal, numbered from 0 in the order of their first row, so that DEAD stays 0."""
    known: dict[bytes, int] = {}
    return np.array([known.setdefault(row.tobytes(), len(known)) for row in rows])
