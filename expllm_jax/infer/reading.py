"""What is read before an answer: the opening that all prompts share, the picture, the question; each computed once.

A prompt is a prefix (opening and image tokens, the same ids for every picture) and a question behind it, and every
token of it sees all those before it. The prefixes of the pictures that are being asked about lie in a store of C slots;
questions about one picture, and the chains drawn for one question, go on from there.

Shape letters: those of `token_loop`, and C store slots, F prefix tokens, Q question tokens (padded), N vision tokens, D
vision width, W rows that are replaced.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from expllm_jax.infer.constraint import Constraint, ConstraintState, start
from expllm_jax.infer.token_loop import Rows, Turn
from expllm_jax.models import ExpLLM, KVCache, ModelDef, Params, SlotCache, attention_mask, merge


@functools.partial(jax.jit, static_argnames=("graphdef", "slots", "length"))
def empty_store(graphdef: ModelDef, params: Params, *, slots: int, length: int) -> KVCache:
    """C slots for prefixes of this length."""
    return KVCache.zeros(merge(graphdef, params).config.decoder, slots, length)


@functools.partial(jax.jit, static_argnames="graphdef")
def read_opening(graphdef: ModelDef, params: Params, tokens_BO: jax.Array) -> KVCache:
    """Keys and values of the O tokens before the first image token, as one row; all rows of `tokens_BO` are the same
    (more than one only to be shared out over devices)."""
    model: ExpLLM = merge(graphdef, params)
    _, found = _read_on(model, model.decoder.embed(tokens_BO), None, None)
    return jax.tree.map(lambda x: x[:, :1], found)


@functools.partial(jax.jit, static_argnames="graphdef", donate_argnames="store")
def read_pictures(
    graphdef: ModelDef,
    params: Params,
    store: KVCache,
    opening: KVCache,
    tokens_I: jax.Array,
    features_BND: jax.Array,
    slots_B: jax.Array,
) -> KVCache:
    """The store with the prefixes of B pictures in these slots; one that is out of range is not written.

    `tokens_I` are the ids of the prefix from the first image token on.
    """
    model: ExpLLM = merge(graphdef, params)
    B = len(features_BND)
    tokens_BI = jnp.broadcast_to(tokens_I, (B, len(tokens_I)))
    x_BIE = model.embed(tokens_BI, features_BND.astype(jnp.float32)[:, None])
    before = jax.tree.map(lambda x: jnp.broadcast_to(x, (x.shape[0], B, *x.shape[2:])), opening)
    _, found = _read_on(model, x_BIE, before, None)
    return jax.tree.map(lambda kept, new: kept.at[:, slots_B].set(new, mode="drop"), store, found)


@functools.partial(jax.jit, static_argnames="graphdef")
def read_questions(
    graphdef: ModelDef,
    params: Params,
    store: KVCache,
    slots_B: jax.Array,
    tokens_BQ: jax.Array,
    lengths_B: jax.Array,
) -> tuple[KVCache, jax.Array]:
    """(keys and values of prefix and question, scores of the answer's first token (B, V)).

    Behind a question's own length there is padding, which nothing that counts has looked at.
    """
    model: ExpLLM = merge(graphdef, params)
    before = jax.tree.map(lambda x: x[:, slots_B], store)
    h_BQE, found = _read_on(model, model.decoder.embed(tokens_BQ), before, None)
    h_B1E = jnp.take_along_axis(h_BQE, lengths_B[:, None, None] - 1, 1)
    return found, model.logits(h_B1E)[:, 0]


@functools.partial(jax.jit, static_argnames="graphdef")
def weigh_branches(
    graphdef: ModelDef,
    params: Params,
    store: KVCache,
    slots_B: jax.Array,
    tokens_BQ: jax.Array,
    positions_BQ: jax.Array,
    segments_BQ: jax.Array,
    before_BA: jax.Array,
    targets_BA: jax.Array,
) -> jax.Array:
    """-log probability of each target behind the token at that place of the row (from the question on), [B, A].

    The question is segment 1, which all branches behind it see; they do not see each other.
    """
    model: ExpLLM = merge(graphdef, params)
    kept = jax.tree.map(lambda x: x[:, slots_B], store)
    places = (positions_BQ, attention_mask(segments_BQ))
    h_BQE, _ = _read_on(model, model.decoder.embed(tokens_BQ), kept, places)
    h_BAE = jnp.take_along_axis(h_BQE, before_BA[..., None], 1)
    return model.token_losses(h_BAE, targets_BA).nll


def _read_on(
    model: ExpLLM, x_BTE: jax.Array, before: KVCache | None, places: tuple[jax.Array, jax.Array] | None
) -> tuple[jax.Array, KVCache]:
    """(final-normed states of T tokens behind those in the cache, the cache with them in it).

    `places` are their positions, counted from 0 at the start of the row, and who of them sees whom; None: in order,
    each seeing those before it.
    """
    B, T, _ = x_BTE.shape
    read = 0 if before is None else before.k_LBSKh.shape[2]
    cache = KVCache.zeros(model.config.decoder, B, read + T)
    if before is not None:
        cache = jax.tree.map(lambda whole, x: whole.at[:, :, :read].set(x), cache, before)
    if places is None:
        positions_BT = jnp.broadcast_to(read + jnp.arange(T), (B, T))
        mask_BTT = jnp.broadcast_to(jnp.tril(jnp.ones((T, T), bool)), (B, T, T))
    else:
        positions_BT, mask_BTT = places
    mask_BTS = jnp.concatenate([jnp.ones((B, T, read), bool), mask_BTT], 2)
    return model.decoder(x_BTE, positions_BT, mask_BTS, cache, read)


@functools.partial(jax.jit, donate_argnames=("turn", "rows"))
def admit(
    rows: Rows,
    turn: Turn,
    found: KVCache,
    logits_BV: jax.Array,
    lengths_B: jax.Array,
    source_W: jax.Array,
    target_W: jax.Array,
    room_W: jax.Array,
    draws: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    form_W: jax.Array,
    forms: tuple[ConstraintState, ...],
) -> tuple[Rows, Turn]:
    """Row target_W of the loop begins the answer to prompt source_W; a target out of range is left out.

    Args:
      rows, turn: of the loop.
      found, logits_BV: of `read_questions`.
      lengths_B: tokens of every prompt, its prefix included.
      source_W, target_W: see above.
      room_W: most tokens of the answer.
      draws: temperature, top_p, seed and stream of each, [W].
      form_W: `Rows.form_B` of each.
      forms: of every constraint, where each answer begins in it, [W].
    """
    S, P = found.k_LBSKh.shape[2], rows.visible_BP.shape[1]
    length_W = lengths_B[source_W]

    def put(kept: jax.Array, new: jax.Array) -> jax.Array:
        return kept.at[target_W].set(new, mode="drop")

    rows = Rows(
        put(rows.visible_BP, jnp.arange(P) < length_W[:, None]),
        put(rows.position_B, length_W - 1),
        put(rows.room_B, room_W),
        *(put(kept, new) for kept, new in zip(rows[3:], (*draws, form_W), strict=True)),
    )
    if isinstance(turn.cache, SlotCache):
        new = SlotCache.of(jax.tree.map(lambda x: x[:, source_W], found))
        cache = SlotCache(
            tuple(kept.at[target_W, :, :, :S].set(k, mode="drop") for kept, k in zip(turn.cache.k, new.k, strict=True)),
            tuple(kept.at[target_W, :, :S].set(v, mode="drop") for kept, v in zip(turn.cache.v, new.v, strict=True)),
        )
    else:
        cache = jax.tree.map(
            lambda kept, new: kept.at[:, target_W, :S].set(new[:, source_W], mode="drop"), turn.cache, found
        )
    return rows, turn._replace(
        made_B=put(turn.made_B, jnp.zeros_like(room_W)),
        logits_BV=put(turn.logits_BV, logits_BV[source_W]),
        running_B=put(turn.running_B, jnp.ones_like(room_W, bool)),
        ended_B=put(turn.ended_B, jnp.zeros_like(room_W, bool)),
        forms=jax.tree.map(put, turn.forms, forms),
        cache=cache,
    )


@functools.partial(jax.jit, static_argnames=("graphdef", "count", "prompt", "ring", "pad", "by_slot"))
def idle_rows(
    graphdef: ModelDef,
    params: Params,
    constraints: tuple[Constraint, ...],
    *,
    count: int,
    prompt: int,
    ring: int,
    pad: int,
    by_slot: bool,
) -> tuple[Rows, Turn]:
    """`count` rows that wait for something to answer."""
    config = merge(graphdef, params).config.decoder
    cache = KVCache.zeros(config, count, prompt + ring)
    numbers = jnp.zeros(count, jnp.int32)
    rows = Rows(
        jnp.zeros((count, prompt), bool),
        numbers,
        numbers,
        jnp.zeros(count, jnp.float32),
        jnp.ones(count, jnp.float32),
        numbers.astype(jnp.uint32),
        numbers.astype(jnp.uint32),
        numbers,
    )
    never = jnp.zeros(count, bool)
    turn = Turn(
        jnp.int32(0),
        numbers,
        jnp.zeros((count, config.vocab), jnp.float32),
        never,
        never,
        jnp.full((count, ring), pad, jnp.int32),
        tuple(start(constraint, count) for constraint in constraints),
        SlotCache.of(cache) if by_slot else cache,
    )
    return rows, turn


@functools.partial(jax.jit, static_argnames="more")
def widen(rows: Rows, turn: Turn, more: int) -> tuple[Rows, Turn]:
    """The same rows with `more` prompt slots."""
    P = rows.visible_BP.shape[1]

    def insert(x: jax.Array, axis: int) -> jax.Array:
        prompt, ring = jnp.split(x, [P], axis)
        shape = (*x.shape[:axis], more, *x.shape[axis + 1 :])
        return jnp.concatenate([prompt, jnp.zeros(shape, x.dtype), ring], axis)

    if isinstance(turn.cache, SlotCache):
        cache = SlotCache(tuple(insert(k, 3) for k in turn.cache.k), tuple(insert(v, 2) for v in turn.cache.v))
    else:
        cache = jax.tree.map(lambda x: insert(x, 2), turn.cache)
    return rows._replace(visible_BP=jnp.pad(rows.visible_BP, ((0, 0), (0, more)))), turn._replace(cache=cache)
