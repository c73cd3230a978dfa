"""The answers that a model may be held to, as automata over their bytes.

`label_language`: one of the allowed words. `cot_language`: the three-part text just as `write_parts` writes it, whose
parts have no line ends in them and neither begin nor end with a space, and whose conclusion is one of
`conclusion_language`. Whatever `label_language` accepts is read by `parse_label`, whatever `cot_language` accepts by
`parse_cot`, and the texts of the offline narrator are all among it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np

from expllm_jax.cot.byte_automaton import Builder, ByteAutomaton
from expllm_jax.cot.conclusion_language import ConclusionLanguage, Reading
from expllm_jax.cot.grammar import EXPRESSION_WORDS, HEADINGS
from expllm_jax.errors import ExpllmError

PARTS = len(HEADINGS)


def label_language(allowed: Sequence[str]) -> ByteAutomaton:
    """The allowed words, nothing before or behind them. Raises ExpllmError if there are none."""
    _check(allowed)
    builder = Builder()
    start, end = builder.state(0), builder.state(0, accepting=True)
    for label in allowed:
        builder.spell(start, label, end)
    return builder.finished(start)


def cot_language(allowed: Sequence[str]) -> ByteAutomaton:
    """Three-part texts that conclude one of the allowed expressions.

    A part begins with the blank line before its heading.

    Raises:
      ExpllmError: there are no allowed expressions, or one has no words.
    """
    _check(allowed)
    return _cot_language(tuple(allowed))


@cache
def _cot_language(allowed: tuple[str, ...]) -> ByteAutomaton:
    builder = Builder()
    start = written = builder.state(0)
    for part, heading in enumerate(HEADINGS):
        if part > 0:
            blank = builder.state(part)
            builder.spell(written, "\n", blank)
            written = blank
        opened = builder.state(part)
        builder.spell(written, f"\n{heading} " if part > 0 else f"{heading} ", opened)
        if part < PARTS - 1:
            written = _line(builder, opened, part)
        else:
            _conclusion(builder, opened, part, allowed)
    return builder.finished(start)


def _line(builder: Builder, opened: int, part: int) -> int:
    """Any line of text; returns the state in which it may be over."""
    inside, behind_space = builder.state(part), builder.state(part)
    for state in (opened, inside, behind_space):
        builder.any_of(state, _visible(), inside)
    for state in (inside, behind_space):
        builder.spell(state, " ", behind_space)
    return inside


def _conclusion(builder: Builder, opened: int, part: int, allowed: Sequence[str]) -> None:
    language = ConclusionLanguage(allowed)
    classes = language.character_classes()
    states, pending = {Reading(): opened}, [Reading()]
    while pending:
        reading = pending.pop()
        for alike, after in language.steps(reading, classes):
            if after not in states:
                states[after] = builder.state(part, accepting=language.accepts(after))
                pending.append(after)
            for character in alike:
                builder.spell(states[reading], character, states[after])


@cache
def _visible() -> np.ndarray:
    """Bool [0x110000]: characters that are neither white space nor control characters nor halves of a pair."""
    visible_U = np.ones(0x110000, bool)
    for first, end in ((0x00, 0x20), (0x7F, 0xA0), (0xD800, 0xE000)):
        visible_U[first:end] = False
    # White space as `split_parts` understands it.
    for space in re.findall(r"\s", "".join(map(chr, np.flatnonzero(visible_U)))):
        visible_U[ord(space)] = False
    visible_U.flags.writeable = False
    return visible_U


def _check(allowed: Sequence[str]) -> None:
    unknown = [name for name in allowed if name not in EXPRESSION_WORDS]
    if unknown or not allowed:
        raise ExpllmError(
            f"{unknown[0]!r} is no expression." if unknown else "There are no allowed expressions.",
            f"Give some of {', '.join(EXPRESSION_WORDS)}.",
        )
