"""Constrained decoding: only such tokens are chosen as can still end in an answer of the required form, in time.

`compile_constraint` makes the tables once; `start`, `allowed_tokens` and `after` run inside the jitted loop. What is
chosen among the allowed tokens until the end token is, decoded by `records.decode_answer`, a text of
`cot.label_language` or `cot.cot_language`, so it always parses; and it always ends within its room.

Shape letters: B rows, V vocabulary, and those of `token_automaton`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expllm_jax.cot import cot_language, label_language
from expllm_jax.errors import ExpllmError
from expllm_jax.infer.token_automaton import UNREACHABLE, token_automaton
from expllm_jax.records import Tokenizer

UNLIMITED = 2**20
"""Tokens of a part that has no limit of its own."""

NOT_WRITTEN = UNLIMITED + 1
"""The limit of states in which nothing is written any more."""

_STATES_AT_ONCE = 64


class Constraint(NamedTuple):
    """The tables, shared by all rows; a tree of arrays, which a jitted loop takes as an argument."""

    next_SC: jax.Array  # int32: the state behind a token of each class; 0 where it is not allowed
    class_V: jax.Array  # int32: of every token
    part_S: jax.Array  # int32: of every state; -1 for the dead state, P for the one behind the end token
    limit_S: jax.Array  # int32: the most tokens of the part that a state belongs to
    to_end_SR: jax.Array  # int32: fewest tokens from a state through the end token, by the tokens left in its part
    live_SW: jax.Array  # uint8: the tokens allowed in every state while there is plenty of room, as bits
    plenty: jax.Array  # int32 [2]: tokens left in the part, and in all, from which on there is plenty of room
    start: jax.Array  # int32 []
    eos: jax.Array  # int32 []: the end token


class ConstraintState(NamedTuple):
    """How far every row has come."""

    state_B: jax.Array  # int32
    rest_B: jax.Array  # int32: tokens left in the part that the row is in


def compile_constraint(
    task: Literal["label", "cot"],
    tokenizer: Tokenizer,
    allowed: Sequence[str],
    *,
    part_tokens: Sequence[int] | None = None,
) -> Constraint:
    """The tables of a task for a tokenizer.

    Args:
      task: what is answered.
      tokenizer: the model's.
      allowed: the expressions that may be answered or concluded.
      part_tokens: the most tokens of each of the three parts, headings included; only "cot" has any. A token that ends
        in the next part counts there. Without it, the room of the whole is the only limit.

    Raises:
      ExpllmError: limits that are none, an expression without words, or a tokenizer that cannot write such an answer.
    """
    parts = 3 if task == "cot" else 1
    limits = tuple(part_tokens) if part_tokens is not None else (UNLIMITED,) * parts
    if len(limits) != parts or not all(1 <= limit <= UNLIMITED for limit in limits):
        raise ExpllmError(
            f"part_tokens is {part_tokens} for the task {task!r}", f"give {parts}, each from 1 to {UNLIMITED}"
        )
    language = cot_language(allowed) if task == "cot" else label_language(allowed)
    # An answer follows "ASSISTANT:" behind a space, which is part of its first token; `decode_answer` takes it off.
    automaton = token_automaton(language.behind(" "), tokenizer.token_bytes(), tokenizer.eos, limits)
    distances = automaton.to_end_SR[automaton.to_end_SR < UNREACHABLE]
    constraint = Constraint(
        next_SC=jnp.asarray(automaton.next_SC),
        class_V=jnp.asarray(automaton.class_V),
        part_S=jnp.asarray(automaton.part_S),
        limit_S=jnp.asarray(_limits(automaton.part_S, limits)),
        to_end_SR=jnp.asarray(automaton.to_end_SR),
        live_SW=jnp.zeros((0, 0), jnp.uint8),
        plenty=jnp.array([automaton.to_end_SR.shape[1], distances.max() + 1], jnp.int32),
        start=jnp.int32(automaton.start),
        eos=jnp.int32(tokenizer.eos),
    )
    return _with_live(constraint)


def start(constraint: Constraint, rows: int) -> ConstraintState:
    """The state of rows of which nothing is written yet."""
    state_B = jnp.full(rows, constraint.start, jnp.int32)
    return ConstraintState(state_B, constraint.limit_S[state_B])


def allowed_tokens(constraint: Constraint, state: ConstraintState, left_B: jax.Array) -> jax.Array:
    """Which tokens may come next.

    A row that is behind its end token, that has left the language (by a beginning that was given) or that has too
    little room for any ending (see `fewest_tokens`) may only end.

    Args:
      left_B: tokens of room left, this one and the end token included.

    Returns:
      Bool [B, V]; never all false.
    """
    roomy_B = (state.rest_B >= constraint.plenty[0]) & (left_B >= constraint.plenty[1])
    over_B = constraint.limit_S[state.state_B] == NOT_WRITTEN
    return jax.lax.cond(
        jnp.all(roomy_B | over_B),
        lambda: _unpacked(constraint.live_SW[state.state_B], constraint.class_V.shape[0]),
        lambda: _allowed_exactly(constraint, state, left_B),
    )


def after(constraint: Constraint, state: ConstraintState, token_B: jax.Array) -> ConstraintState:
    """The state behind one more token of every row."""
    next_B = constraint.next_SC[state.state_B, constraint.class_V[token_B]]
    return ConstraintState(next_B, _rest(constraint, state, next_B))


def fewest_tokens(constraint: Constraint, state: ConstraintState) -> jax.Array:
    """Int32 [B]: the room that every row needs at least from here on, its end token included; UNREACHABLE for rows that
    have left the language, 0 behind the end token."""
    return _to_end(constraint, state.state_B, state.rest_B)


def _limits(part_S: np.ndarray, part_tokens: Sequence[int]) -> np.ndarray:
    """`Constraint.limit_S`: nothing is written in the dead state and behind the end."""
    inside_S = (part_S >= 0) & (part_S < len(part_tokens))
    return np.where(inside_S, np.array(part_tokens)[np.where(inside_S, part_S, 0)], NOT_WRITTEN).astype(np.int32)


def _allowed_exactly(constraint: Constraint, state: ConstraintState, left_B: jax.Array) -> jax.Array:
    """`allowed_tokens`, however little room there is: class by class, looking at what every token would lead to."""
    next_BC = constraint.next_SC[state.state_B]
    rest_BC = _rest(constraint, ConstraintState(state.state_B[:, None], state.rest_B[:, None]), next_BC)
    allowed_BC = (rest_BC >= 0) & (_to_end(constraint, next_BC, rest_BC) < left_B[:, None])
    end_C = jnp.arange(next_BC.shape[1]) == constraint.class_V[constraint.eos]
    allowed_BC |= end_C & ~jnp.any(allowed_BC, 1, keepdims=True)
    return allowed_BC[:, constraint.class_V]


def _rest(constraint: Constraint, state: ConstraintState, next_: jax.Array) -> jax.Array:
    """Tokens left in the part that `next_` belongs to, once a token has led there; shaped as it."""
    stays = constraint.part_S[next_] == constraint.part_S[state.state_B]
    return jnp.where(stays, state.rest_B, constraint.limit_S[next_]) - 1


def _to_end(constraint: Constraint, state: jax.Array, rest: jax.Array) -> jax.Array:
    """Fewest tokens from states through the end token, with so many tokens left in their parts."""
    return constraint.to_end_SR[state, jnp.clip(rest, 0, constraint.to_end_SR.shape[1] - 1)]


def _with_live(constraint: Constraint) -> Constraint:
    """The same with `live_SW` filled in."""
    exactly = jax.jit(_allowed_exactly)
    states, rows = constraint.next_SC.shape[0], []
    unlimited_B = jnp.full(_STATES_AT_ONCE, UNLIMITED)
    for first in range(0, states, _STATES_AT_ONCE):
        some_B = jnp.minimum(first + jnp.arange(_STATES_AT_ONCE), states - 1)
        live_BV = exactly(constraint, ConstraintState(some_B, unlimited_B), unlimited_B)
        rows.append(np.packbits(np.asarray(live_BV), axis=1, bitorder="little"))
    return constraint._replace(live_SW=jnp.asarray(np.concatenate(rows)[:states]))


def _unpacked(bits_BW: jax.Array, count: int) -> jax.Array:
    """Bool [B, count] from bytes that hold eight of them each, the first in the lowest bit."""
    bits_BWI = (bits_BW[:, :, None] >> jnp.arange(8, dtype=jnp.uint8)) & 1
    return bits_BWI.reshape(len(bits_BW), -1)[:, :count].astype(bool)
