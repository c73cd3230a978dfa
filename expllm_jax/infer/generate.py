"""Text generation with a key/value cache of fixed size: one compiled pass over the prompts, one compiled loop.

Shape letters: B rows, T prompt tokens (padded), G generated tokens at most, S = T + G cache slots, M pictures of a row,
N vision tokens, D vision width, E decoder width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.infer.sampling import GREEDY, SamplingConfig
from expllm_jax.models import (
    DecodingWeights,
    ExpLLM,
    KVCache,
    ModelDef,
    Params,
    SlotCache,
    attention_mask,
    check_image_tokens,
    decode_token,
    decoding_weights,
    merge,
)
from expllm_jax.records import EncodedRow, pad_row


@dataclasses.dataclass(frozen=True)
class Stop:
    """Texts that end an answer, besides the end token. A row ends with the token that completes the first of them; the
    text itself is the caller's to cut off."""

    texts: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]  # token ids of an answer -> its text so far
    every: int = 16  # tokens generated between two looks, each of which waits for the device

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", tuple(self.texts))
        if not self.texts or not all(self.texts):
            raise ExpllmError(f"stop texts are {self.texts}", "give at least one, and none that is empty")
        if self.every < 1:
            raise ExpllmError(f"stop every is {self.every}", "look every 1 or more tokens")

    def end(self, tokens: Sequence[int], first: int) -> int | None:
        """How many of the tokens complete a stop text, looking at prefixes of more than `first` only; None if none."""
        if not any(text in self.decode(tokens) for text in self.texts):
            return None
        for count in range(first + 1, len(tokens) + 1):
            so_far = self.decode(tokens[:count])
            if any(text in so_far for text in self.texts):
                return count
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class Generated:
    """What was generated, as NumPy arrays."""

    tokens: np.ndarray  # int32 [B, G]: generated ids, the end token included; padding behind it
    lengths: np.ndarray  # int32 [B]: tokens of each row, the end token included
    truncated: np.ndarray  # bool [B]: the row had neither end token nor stop text yet when the room was used up


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


class Generator:
    """A model ready to continue prompts.

    On CPUs the decoder's weights are laid out once more for the loop over tokens (see `models.decoding`), here, so
    that many calls share the work. Answers do not depend on which rows are generated together, nor on their order.

    Args:
      graphdef, params: of an ExpLLM.
    """

    def __init__(self, graphdef: ModelDef, params: Params) -> None:
        self._graphdef, self._params = graphdef, params
        self._config = merge(graphdef, params).config
        self._by_slot = jax.default_backend() == "cpu"
        self._weights = _decoding_weights(graphdef, params) if self._by_slot else None

    def __call__(
        self,
        prompts: Prompts,
        features: np.ndarray | jax.Array | None,
        *,
        max_new_tokens: int,
        eos: int,
        pad: int,
        sampling: SamplingConfig = GREEDY,
        stop: Stop | None = None,
    ) -> Generated:
        """Continues every prompt until its end token or a stop text, or for `max_new_tokens`.

        The prompts are run through the model once, all together; then one token per row and turn, until every row has
        ended. A shape of inputs is compiled once.

        Args:
          prompts: rows that end where the answer begins. Lengths may differ.
          features: each row's picture [B, N, D], or pictures [B, M, N, D], tower features as `ExpLLM.encode` gives
            them; None for prompts without pictures.
          max_new_tokens: G, at least 1.
          eos: the end token.
          pad: what fills up rows that ended.
          sampling: greedy by default; with a temperature, row b of the same call draws the same for the same seed.
          stop: texts that end a row as well.

        Raises:
          ExpllmError: no room, or a row whose image tokens are not as many as its pictures fill.
        """
        if max_new_tokens < 1:
            raise ExpllmError(f"max_new_tokens is {max_new_tokens}", "generate at least 1 token")
        if features is not None and features.ndim == 3:
            features = features[:, None]
        shape = (0, 0) if features is None else features.shape[1:3]
        check_image_tokens(self._config, prompts.tokens_BT, *shape, lambda row: f"prompt {row}")
        turn, row = prefill(self._graphdef, self._params, prompts, features, max_new_tokens, pad, by_slot=self._by_slot)
        onwards = functools.partial(
            advance,
            self._graphdef,
            self._params,
            self._weights,
            row,
            seed=jnp.uint32(sampling.seed),
            eos=eos,
            pad=pad,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
        )
        if stop is None:
            turn = onwards(turn=turn, until=max_new_tokens)
        else:
            turn = _with_stops(onwards, turn, stop, max_new_tokens)
        tokens, lengths, ended = map(np.array, (turn.out_BG, turn.lengths_B, turn.ended_B))
        tokens[np.arange(tokens.shape[1]) >= lengths[:, None]] = pad
        return Generated(tokens, lengths, ~ended)


def generate(
    graphdef: ModelDef, params: Params, prompts: Prompts, features: np.ndarray | jax.Array | None, **settings: Any
) -> Generated:
    """One call of a `Generator` that is not kept; see there."""
    return Generator(graphdef, params)(prompts, features, **settings)


class _Row(NamedTuple):
    """What stays the same for a row while it grows."""

    position_B: jax.Array  # of the last prompt token
    segments_BS: jax.Array  # of every slot; those to come carry the segment that will be theirs


class _Turn(NamedTuple):
    """What the loop carries."""

    made: jax.Array  # tokens generated so far
    logits_BV: jax.Array  # scores of the next one
    ended_B: jax.Array
    out_BG: jax.Array
    lengths_B: jax.Array
    cache: KVCache | SlotCache


@functools.partial(jax.jit, static_argnames="graphdef")
def _decoding_weights(graphdef: ModelDef, params: Params) -> DecodingWeights:
    return decoding_weights(merge(graphdef, params).decoder)


@functools.partial(jax.jit, static_argnames=("graphdef", "max_new_tokens", "pad", "by_slot"))
def prefill(
    graphdef: ModelDef,
    params: Params,
    prompts: Prompts,
    features_BMND: jax.Array | None,
    max_new_tokens: int,
    pad: int,
    *,
    by_slot: bool,
) -> tuple[_Turn, _Row]:
    """Runs the prompts: the state before the first generated token.

    `by_slot` lays the cache out as `decode_token` wants it, for a loop on CPUs. It is said rather than looked up, so
    that a computer can also compile what another one will run.
    """
    model: ExpLLM = merge(graphdef, params)
    tokens_BT, positions_BT, segments_BT = map(jnp.asarray, prompts)
    B, T = tokens_BT.shape
    last_B = jnp.sum(segments_BT > 0, 1) - 1
    # All rows write their k-th answer token to slot T + k: padding in between is never looked at, and places in the
    # sequence are told by positions, not slots.
    segment_B1 = jnp.take_along_axis(segments_BT, last_B[:, None], 1)
    segments_BS = jnp.concatenate([segments_BT, jnp.broadcast_to(segment_B1, (B, max_new_tokens))], 1)
    if features_BMND is not None:
        features_BMND = features_BMND.astype(jnp.float32)
    h_BTE, cache = model.decoder(
        model.embed(tokens_BT, features_BMND),
        positions_BT,
        attention_mask(segments_BS, start=0, queries=T),
        KVCache.zeros(model.config.decoder, B, T + max_new_tokens),
        0,
    )
    h_B1E = jnp.take_along_axis(h_BTE, last_B[:, None, None], 1)
    turn = _Turn(
        jnp.int32(0),
        model.logits(h_B1E)[:, 0],
        jnp.zeros(B, bool),
        jnp.full((B, max_new_tokens), pad, jnp.int32),
        jnp.zeros(B, jnp.int32),
        SlotCache.of(cache) if by_slot else cache,
    )
    return turn, _Row(jnp.take_along_axis(positions_BT, last_B[:, None], 1)[:, 0], segments_BS)


@functools.partial(jax.jit, static_argnames=("graphdef", "eos", "pad", "temperature", "top_p"), donate_argnames="turn")
def advance(
    graphdef: ModelDef,
    params: Params,
    weights: DecodingWeights | None,
    row: _Row,
    turn: _Turn,
    *,
    until: jax.Array | int,
    seed: jax.Array,
    eos: int,
    pad: int,
    temperature: float,
    top_p: float,
) -> _Turn:
    """Generates until every row has ended or `until` tokens are made; can be called again to go on.

    `weights` are given if and only if the cache is laid out by slot.
    """
    model: ExpLLM = merge(graphdef, params)
    prompt_tokens = row.segments_BS.shape[1] - turn.out_BG.shape[1]

    def unfinished(turn: _Turn) -> jax.Array:
        return (turn.made < until) & ~jnp.all(turn.ended_B)

    def next_scores(token_B: jax.Array, turn: _Turn) -> tuple[jax.Array, KVCache | SlotCache]:
        slot, position_B = prompt_tokens + turn.made, row.position_B + 1 + turn.made
        mask_B1S = attention_mask(row.segments_BS, start=slot, queries=1)
        x_B1E = model.decoder.embed(token_B[:, None])
        if weights is not None:
            config = model.config.decoder
            return decode_token(config, weights, x_B1E[:, 0], position_B, mask_B1S[:, 0], turn.cache, slot)
        h_B1E, cache = model.decoder(x_B1E, position_B[:, None], mask_B1S, turn.cache, slot)
        return model.logits(h_B1E)[:, 0], cache

    def one_more(turn: _Turn) -> _Turn:
        key = jax.random.fold_in(jax.random.key(seed), turn.made)
        token_B = jnp.where(turn.ended_B, pad, _choose(turn.logits_BV, key, temperature, top_p))
        logits_BV, cache = next_scores(token_B, turn)
        return _Turn(
            turn.made + 1,
            logits_BV,
            turn.ended_B | (token_B == eos),
            turn.out_BG.at[:, turn.made].set(token_B),
            turn.lengths_B + ~turn.ended_B,
            cache,
        )

    return jax.lax.while_loop(unfinished, one_more, turn)


def _with_stops(onwards: Callable[..., _Turn], turn: _Turn, stop: Stop, most: int) -> _Turn:
    """Advances in stretches, after each of which rows that now hold a stop text are ended where it is complete."""
    looked = 0
    while looked < most and not bool(jnp.all(turn.ended_B)):
        before = np.asarray(turn.ended_B)  # the turn itself is donated
        until = min(most, looked + stop.every)
        turn = onwards(turn=turn, until=until)
        tokens, lengths, ended = map(np.array, (turn.out_BG, turn.lengths_B, turn.ended_B))
        for row in np.flatnonzero(~before):
            end = stop.end(tokens[row, : lengths[row]].tolist(), looked)
            if end is not None:
                lengths[row], ended[row] = end, True
        turn = turn._replace(lengths_B=jnp.asarray(lengths), ended_B=jnp.asarray(ended))
        looked = until
    return turn


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
