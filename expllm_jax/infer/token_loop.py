"""The loop over new tokens: rows at different places in their answers advance together, one token each a turn.

The cache has P slots for prompts and, behind them, a ring of G slots. In one turn all rows write to the same slot, that
of the turn's number modulo G, wherever in its answer a row is: no turn scatters. Of the ring, a row sees what it has
written itself, which is its last `made` slots; rotary positions are the row's own. So a row that has ended can be
replaced by another answer at any turn, and what was there before is never looked at.

Shape letters: B rows, P prompt slots, G ring slots, S = P + G, E decoder width, V vocabulary.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from expllm_jax.infer.constraint import UNLIMITED, Constraint, ConstraintState, after, allowed_tokens, start
from expllm_jax.models import DecodingWeights, ExpLLM, KVCache, ModelDef, Params, SlotCache, decode_token, merge


class Rows(NamedTuple):
    """What stays the same for a row while it grows."""

    visible_BP: jax.Array  # bool: prompt slots that the answer's tokens may look at
    position_B: jax.Array  # int32: of the last prompt token
    room_B: jax.Array  # int32: most tokens, at least 1 and at most G
    temperature_B: jax.Array  # float32: 0 is greedy
    top_p_B: jax.Array  # float32
    seed_B: jax.Array  # uint32
    stream_B: jax.Array  # uint32: a row's draws are a function of seed, stream and token number, and of nothing else
    form_B: jax.Array  # int32: k is held to the constraint k - 1; 0 writes freely


class Turn(NamedTuple):
    """What the loop carries."""

    number: jax.Array  # int32: turns so far
    made_B: jax.Array  # int32: tokens of each row's answer so far
    logits_BV: jax.Array  # float32: scores of the next one
    running_B: jax.Array  # bool: neither ended nor out of room
    ended_B: jax.Array  # bool: with the end token
    out_BG: jax.Array  # int32: each row's answer from column 0 on
    forms: tuple[ConstraintState, ...]  # of every constraint; rows that it does not hold stay at its start
    cache: KVCache | SlotCache


@functools.partial(jax.jit, static_argnames=("graphdef", "eos", "pad"), donate_argnames="turn")
def advance(
    graphdef: ModelDef,
    params: Params,
    weights: DecodingWeights | None,
    constraints: tuple[Constraint, ...],
    rows: Rows,
    turn: Turn,
    *,
    until: jax.Array | int,
    idle: jax.Array | int,
    eos: int,
    pad: int,
) -> Turn:
    """Generates until turn number `until`, or until `idle` rows (or all) no longer run; can be called again to go on.

    `weights` are given if and only if the cache is laid out by slot. `constraints` are those that rows may be held to.
    """
    model: ExpLLM = merge(graphdef, params)
    B, P = rows.visible_BP.shape
    G = turn.out_BG.shape[1]

    def unfinished(turn: Turn) -> jax.Array:
        waiting = jnp.sum(~turn.running_B)
        return (turn.number < until) & (waiting < jnp.minimum(idle, B))

    def next_scores(token_B: jax.Array, turn: Turn) -> tuple[jax.Array, KVCache | SlotCache]:
        place = turn.number % G
        slot, position_B = P + place, rows.position_B + 1 + turn.made_B
        age_G = (place - jnp.arange(G)) % G
        mask_BS = jnp.concatenate([rows.visible_BP, age_G <= turn.made_B[:, None]], 1)
        x_B1E = model.decoder.embed(token_B[:, None])
        if weights is not None:
            return decode_token(model.config.decoder, weights, x_B1E[:, 0], position_B, mask_BS, turn.cache, slot)
        h_B1E, cache = model.decoder(x_B1E, position_B[:, None], mask_BS[:, None], turn.cache, slot)
        return model.logits(h_B1E)[:, 0], cache

    def one_more(turn: Turn) -> Turn:
        allowed_BV = _held(constraints, rows, turn)
        token_B = jnp.where(turn.running_B, choose(allowed_BV, rows, turn.made_B), pad)
        logits_BV, cache = next_scores(token_B, turn)
        column_B = jnp.where(turn.running_B, turn.made_B, G)  # out of range: not written
        made_B = turn.made_B + turn.running_B
        ends_B = turn.running_B & (token_B == eos)
        return Turn(
            turn.number + 1,
            made_B,
            logits_BV,
            turn.running_B & ~ends_B & (made_B < rows.room_B),
            turn.ended_B | ends_B,
            turn.out_BG.at[jnp.arange(B), column_B].set(token_B, mode="drop"),
            _forms_after(constraints, rows, turn, token_B),
            cache,
        )

    return jax.lax.while_loop(unfinished, one_more, turn)


def _held(constraints: tuple[Constraint, ...], rows: Rows, turn: Turn) -> jax.Array:
    """The scores, minus infinity where a row's constraint does not allow the token."""
    logits_BV = turn.logits_BV
    for number, (constraint, form) in enumerate(zip(constraints, turn.forms, strict=True)):
        held_B = turn.running_B & (rows.form_B == number + 1)
        left_B = jnp.where(held_B, rows.room_B - turn.made_B, UNLIMITED)

        def masked(logits_BV: jax.Array, held=held_B, constraint=constraint, form=form, left=left_B) -> jax.Array:
            allowed_BV = allowed_tokens(constraint, form, left)
            unnamed = logits_BV.shape[1] - allowed_BV.shape[1]  # scores of a head that is wider than the vocabulary
            allowed_BV = jnp.pad(allowed_BV, ((0, 0), (0, unnamed)))
            return jnp.where(allowed_BV | ~held[:, None], logits_BV, -jnp.inf)

        logits_BV = jax.lax.cond(jnp.any(held_B), masked, lambda x: x, logits_BV)
    return logits_BV


def _forms_after(
    constraints: tuple[Constraint, ...], rows: Rows, turn: Turn, token_B: jax.Array
) -> tuple[ConstraintState, ...]:
    forms = []
    for number, (constraint, form) in enumerate(zip(constraints, turn.forms, strict=True)):
        held_B = turn.running_B & (rows.form_B == number + 1)
        moved = after(constraint, form, token_B)
        forms.append(ConstraintState(*(jnp.where(held_B, new, old) for new, old in zip(moved, form, strict=True))))
    return tuple(forms)


@jax.jit
def form_behind(constraint: Constraint, tokens_BK: jax.Array, lengths_B: jax.Array) -> ConstraintState:
    """The state of rows of which the first tokens are given."""

    def one_more(form: ConstraintState, token: tuple[jax.Array, jax.Array]) -> tuple[ConstraintState, None]:
        number, token_B = token
        moved = after(constraint, form, token_B)
        kept = (jnp.where(number < lengths_B, new, old) for new, old in zip(moved, form, strict=True))
        return ConstraintState(*kept), None

    B, K = tokens_BK.shape
    return jax.lax.scan(one_more, start(constraint, B), (jnp.arange(K), tokens_BK.T))[0]


def choose(logits_BV: jax.Array, rows: Rows, made_B: jax.Array) -> jax.Array:
    """The next token of every row, int32 [B]."""
    greedy_B = jnp.argmax(logits_BV, -1).astype(jnp.int32)

    def drawn() -> jax.Array:
        warm_B = rows.temperature_B > 0
        scaled_BV = logits_BV / jnp.where(warm_B, rows.temperature_B, 1.0)[:, None]
        scaled_BV = jax.lax.cond(jnp.any(rows.top_p_B < 1), _nucleus, lambda x, _: x, scaled_BV, rows.top_p_B)
        token_B = jax.vmap(_draw)(rows.seed_B, rows.stream_B, made_B, scaled_BV)
        return jnp.where(warm_B, token_B, greedy_B)

    return jax.lax.cond(jnp.any(rows.temperature_B > 0), drawn, lambda: greedy_B)


def _draw(seed: jax.Array, stream: jax.Array, number: jax.Array, logits_V: jax.Array) -> jax.Array:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), number)
    return jax.random.categorical(key, logits_V).astype(jnp.int32)


def _nucleus(logits_BV: jax.Array, top_p_B: jax.Array) -> jax.Array:
    """Nucleus sampling (Holtzman et al., 2020): a token stays if those more probable have less than top_p together."""
    order_BV = jnp.argsort(-logits_BV, -1)
    sorted_BV = jax.nn.softmax(jnp.take_along_axis(logits_BV, order_BV, -1))
    kept_BV = jnp.cumsum(sorted_BV, -1) - sorted_BV < top_p_B[:, None]
    kept_BV = jnp.put_along_axis(jnp.zeros_like(kept_BV), order_BV, kept_BV, -1, inplace=False)
    return jnp.where(kept_BV, logits_BV, -jnp.inf)
