"""Text generation with a key/value cache of fixed size, in one compiled loop.

Shape letters: B rows, T prompt tokens (padded), G generated tokens at most, S = T + G cache slots, N image tokens,
D vision width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.models import ExpLLM, KVCache, ModelDef, Params, attention_mask, merge
from expllm_jax.records import EncodedRow, pad_row


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How the next token is chosen."""

    temperature: float = 0.0  # 0: always the most probable token (greedy); above: logits are divided by it
    top_p: float = 1.0  # sample from the most probable tokens that together have this probability, in (0, 1]
    seed: int = 0  # of the sampling; greedy generation has no chance in it

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ExpllmError(f"temperature is {self.temperature}", "use 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ExpllmError(f"top_p is {self.top_p}", "use a share above 0, up to 1")


GREEDY = SamplingConfig()


@dataclasses.dataclass(frozen=True, eq=False)
class Generated:
    """What a call of `generate` gives, as NumPy arrays."""

    tokens: np.ndarray  # int32 [B, G]: generated ids, the end token included; padding behind it
    lengths: np.ndarray  # int32 [B]: tokens of each row, the end token included
    truncated: np.ndarray  # bool [B]: the row had no end token yet when the room was used up


class Prompts(NamedTuple):
    """Right-padded prompts, [B, T] int32 each; padding has segment 0."""

    tokens_BT: np.ndarray
    positions_BT: np.ndarray
    segments_BT: np.ndarray

    @classmethod
    def of(cls, rows: list[EncodedRow], pad_token: int) -> Prompts:
        """Stacks prompts of any lengths (`records.encode_prompt`)."""
        longest = max(len(row) for row in rows)
        padded = [pad_row(row, longest, pad_token) for row in rows]
        return cls(*(np.stack([getattr(row, name) for row in padded]) for name in ("tokens", "positions", "segments")))


def generate(
    graphdef: ModelDef,
    params: Params,
    prompts: Prompts,
    features_BND: np.ndarray | jax.Array,
    *,
    max_new_tokens: int,
    eos: int,
    pad: int,
    sampling: SamplingConfig = GREEDY,
) -> Generated:
    """Continues every prompt until its end token, or for `max_new_tokens`.

    The prompts are run through the model once, all together; then one token per row and turn, until every row has
    ended. A shape of inputs is compiled once.

    Args:
      graphdef, params: of an ExpLLM.
      prompts: rows that end where the answer begins. Lengths may differ.
      features_BND: each row's picture, tower features as `ExpLLM.encode` gives them.
      max_new_tokens: G, at least 1.
      eos: the end token.
      pad: what fills up rows that ended.
      sampling: greedy by default; with a temperature, row b of the same call draws the same for the same seed.
    """
    if max_new_tokens < 1:
        raise ExpllmError(f"max_new_tokens is {max_new_tokens}", "generate at least 1 token")
    tokens, lengths, ended = _generate(
        graphdef, params, prompts, features_BND, jnp.uint32(sampling.seed), max_new_tokens, eos, pad,
        sampling.temperature, sampling.top_p,
    )  # fmt: skip
    return Generated(*map(np.asarray, (tokens, lengths, ~ended)))


class _Turn(NamedTuple):
    """What the loop carries."""

    made: jax.Array  # tokens generated so far
    logits_BV: jax.Array  # scores of the next one
    ended_B: jax.Array
    out_BG: jax.Array
    lengths_B: jax.Array
    cache: KVCache


@functools.partial(jax.jit, static_argnames=("graphdef", "max_new_tokens", "eos", "pad", "temperature", "top_p"))
def _generate(
    graphdef: ModelDef,
    params: Params,
    prompts: Prompts,
    features_BND: jax.Array,
    seed: jax.Array,
    max_new_tokens: int,
    eos: int,
    pad: int,
    temperature: float,
    top_p: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    model: ExpLLM = merge(graphdef, params)
    tokens_BT, positions_BT, segments_BT = map(jnp.asarray, prompts)
    B, T = tokens_BT.shape
    last_B = jnp.sum(segments_BT > 0, 1) - 1
    position_B = jnp.take_along_axis(positions_BT, last_B[:, None], 1)[:, 0]
    segment_B1 = jnp.take_along_axis(segments_BT, last_B[:, None], 1)
    # All rows write their k-th answer token to slot T + k: padding in between is never looked at, and places in the
    # sequence are told by positions, not slots. The slots to come carry the segment that will be theirs.
    segments_BS = jnp.concatenate([segments_BT, jnp.broadcast_to(segment_B1, (B, max_new_tokens))], 1)
    cache = KVCache.zeros(model.config.decoder, B, T + max_new_tokens)
    h_BTE, cache = model.decoder(
        model.embed(tokens_BT, features_BND.astype(jnp.float32)[:, None]),
        positions_BT,
        attention_mask(segments_BS, start=0, queries=T),
        cache,
        0,
    )
    h_B1E = jnp.take_along_axis(h_BTE, last_B[:, None, None], 1)
    # On CPUs a loop over stacked layers would cut each one's weights out of the stack again for every token;
    # accelerators gain nothing from separate layers and would compile longer.
    layers = model.decoder.unstacked() if jax.default_backend() == "cpu" else None

    def unfinished(turn: _Turn) -> jax.Array:
        return (turn.made < max_new_tokens) & ~jnp.all(turn.ended_B)

    def advance(turn: _Turn) -> _Turn:
        key = jax.random.fold_in(jax.random.key(seed), turn.made)
        next_B = jnp.where(turn.ended_B, pad, _choose(turn.logits_BV, key, temperature, top_p))
        slot = T + turn.made
        h_B1E, cache = model.decoder(
            model.decoder.embed(next_B[:, None]),
            (position_B + 1 + turn.made)[:, None],
            attention_mask(segments_BS, start=slot, queries=1),
            turn.cache,
            slot,
            layers=layers,
        )
        return _Turn(
            turn.made + 1,
            model.logits(h_B1E)[:, 0],
            turn.ended_B | (next_B == eos),
            turn.out_BG.at[:, turn.made].set(next_B),
            turn.lengths_B + ~turn.ended_B,
            cache,
        )

    turn = jax.lax.while_loop(
        unfinished,
        advance,
        _Turn(
            jnp.int32(0),
            model.logits(h_B1E)[:, 0],
            jnp.zeros(B, bool),
            jnp.full((B, max_new_tokens), pad, jnp.int32),
            jnp.zeros(B, jnp.int32),
            cache,
        ),
    )
    return turn.out_BG, turn.lengths_B, turn.ended_B


def _choose(logits_BV: jax.Array, key: jax.Array, temperature: float, top_p: float) -> jax.Array:
    """The next token of every row, int32 [B]."""
    if temperature == 0:
        return jnp.argmax(logits_BV, -1).astype(jnp.int32)
    logits_BV = logits_BV / temperature
    if top_p < 1:
        # Nucleus sampling (Holtzman et al., 2020): a token stays if those more probable have less than top_p together.
        order_BV = jnp.argsort(-logits_BV, -1)
        sorted_BV = jax.nn.softmax(jnp.take_along_axis(logits_BV, order_BV, -1))
        kept_BV = jnp.cumsum(sorted_BV, -1) - sorted_BV < top_p
        kept_BV = jnp.put_along_axis(jnp.zeros_like(kept_BV), order_BV, kept_BV, -1, inplace=False)
        logits_BV = jnp.where(kept_BV, logits_BV, -jnp.inf)
    return jax.random.categorical(key, logits_BV).astype(jnp.int32)
