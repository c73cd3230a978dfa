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
from expllm_jax.infer.token_loop import Rows, Turn, advance
from expllm_jax.models import (
    DecodingWeights,
    ExpLLM,
    KVCache,
    ModelDef,
    Params,
    SlotCache,
    attention_mask,
    check_image_tokens,
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
        self._weights = weights_by_slot(graphdef, params) if self._by_slot else None

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
        turn, rows = prefill(
            self._graphdef, self._params, prompts, features, max_new_tokens, pad, by_slot=self._by_slot
        )
        count = len(prompts.tokens_BT)
        rows = rows._replace(
            temperature_B=np.full(count, sampling.temperature, np.float32),
            top_p_B=np.full(count, sampling.top_p, np.float32),
            seed_B=np.full(count, sampling.seed, np.uint32),
        )
        onwards = functools.partial(
            advance, self._graphdef, self._params, self._weights, (), rows, idle=count, eos=eos, pad=pad
        )
        if stop is None:
            turn = onwards(turn=turn, until=max_new_tokens)
        else:
            turn = _with_stops(onwards, turn, stop, max_new_tokens)
        tokens, lengths, ended = map(np.array, (turn.out_BG, turn.made_B, turn.ended_B))
        tokens[np.arange(tokens.shape[1]) >= lengths[:, None]] = pad
        return Generated(tokens, lengths, ~ended)


def generate(
    graphdef: ModelDef, params: Params, prompts: Prompts, features: np.ndarray | jax.Array | None, **settings: Any
) -> Generated:
    """One call of a `Generator` that is not kept; see there."""
    return Generator(graphdef, params)(prompts, features, **settings)


@functools.partial(jax.jit, static_argnames="graphdef")
def weights_by_slot(graphdef: ModelDef, params: Params) -> DecodingWeights:
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
) -> tuple[Turn, Rows]:
    """Runs the prompts: the state before the first generated token, greedy and with room for `max_new_tokens`.

    `by_slot` lays the cache out as `decode_token` wants it, for a loop on CPUs. It is said rather than looked up, so
    that a computer can also compile what another one will run.
    """
    model: ExpLLM = merge(graphdef, params)
    tokens_BT, positions_BT, segments_BT = map(jnp.asarray, prompts)
    B, T = tokens_BT.shape
    last_B = jnp.sum(segments_BT > 0, 1) - 1
    if features_BMND is not None:
        features_BMND = features_BMND.astype(jnp.float32)
    mask_BTT = attention_mask(segments_BT)
    mask_BTS = jnp.pad(mask_BTT, ((0, 0), (0, 0), (0, max_new_tokens)))
    h_BTE, cache = model.decoder(
        model.embed(tokens_BT, features_BMND),
        positions_BT,
        mask_BTS,
        KVCache.zeros(model.config.decoder, B, T + max_new_tokens),
        0,
    )
    h_B1E = jnp.take_along_axis(h_BTE, last_B[:, None, None], 1)
    turn = Turn(
        jnp.int32(0),
        jnp.zeros(B, jnp.int32),
        model.logits(h_B1E)[:, 0],
        jnp.ones(B, bool),
        jnp.zeros(B, bool),
        jnp.full((B, max_new_tokens), pad, jnp.int32),
        (),
        SlotCache.of(cache) if by_slot else cache,
    )
    rows = Rows(
        visible_BP=jnp.take_along_axis(mask_BTT, last_B[:, None, None], 1)[:, 0],
        position_B=jnp.take_along_axis(positions_BT, last_B[:, None], 1)[:, 0],
        room_B=jnp.full(B, max_new_tokens, jnp.int32),
        temperature_B=jnp.zeros(B, jnp.float32),
        top_p_B=jnp.ones(B, jnp.float32),
        seed_B=jnp.zeros(B, jnp.uint32),
        stream_B=jnp.arange(B, dtype=jnp.uint32),
        form_B=jnp.zeros(B, jnp.int32),
    )
    return turn, rows


def _with_stops(onwards: Callable[..., Turn], turn: Turn, stop: Stop, most: int) -> Turn:
    """Advances in stretches, after each of which rows that now hold a stop text are ended where it is complete."""
    looked = 0
    while looked < most and bool(jnp.any(turn.running_B)):
        before = np.asarray(turn.running_B)  # the turn itself is donated
        until = min(most, looked + stop.every)
        turn = onwards(turn=turn, until=until)
        tokens, lengths, running, ended = map(np.array, (turn.out_BG, turn.made_B, turn.running_B, turn.ended_B))
        for row in np.flatnonzero(before):
            end = stop.end(tokens[row, : lengths[row]].tolist(), looked)
            if end is not None:
                lengths[row], running[row], ended[row] = end, False, True
        turn = turn._replace(made_B=jnp.asarray(lengths), running_B=jnp.asarray(running), ended_B=jnp.asarray(ended))
        looked = until
    return turn
