"""Output head and cross-entropy in one: the scores of the whole vocabulary never exist together.

Shape letters: N tokens, E width, V vocabulary, P parts of it that lie on different devices, C entries of one chunk of a
part.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from expllm_jax.parallel import constrain, shards

# Entries of the vocabulary whose scores exist at a time: for 768 tokens they take 12 MB, which a CPU's cache holds.
_CHUNK = 4096

_LOWEST = -1e30  # below every score


class TokenLosses(NamedTuple):
    """What a model's guess at each token costs; float32 [N] each."""

    nll: jax.Array  # -log probability of the target
    correct: jax.Array  # 1 where no token is more probable than the target, else 0; has no gradient


def head_cross_entropy(h_NE: jax.Array, weight_VE: jax.Array, targets_N: jax.Array) -> TokenLosses:
    """Cross-entropy of `softmax(h @ weight.T)` against the targets.

    One pass over the vocabulary in chunks keeps a running maximum and sum, as attention does that takes the vocabulary
    for keys, and, when differentiated, the running mean of `weight` rows that the gradient by h is made of. Memory is
    N x 4096 scores instead of N x V, and the backward pass needs no second product with the scores. The gradient by
    `weight` is computed only where something asks for it; the scores are then made again.

    Args:
      h_NE: final-normed states, in the compute dtype.
      weight_VE: the output head, one row per vocabulary entry; cast to the dtype of h.
      targets_N: int32 ids; one outside the vocabulary has the loss NaN.
    """
    return TokenLosses(*_losses(h_NE, weight_VE.astype(h_NE.dtype), targets_N))


class _Chunk(NamedTuple):
    """A stretch of every part of the vocabulary."""

    number: jax.Array
    start: jax.Array  # of the stretch within the part; the last one moves back to end with it


class _Scan(NamedTuple):
    """What the pass over the vocabulary carries, float32."""

    top_N: jax.Array  # highest score so far
    sum_N: jax.Array  # sum of exp(score - top)
    gold_N: jax.Array  # score of the target; NaN until it was met
    # Sum of exp(score - top) * weight row over each part of the vocabulary: added up after the pass, so that devices
    # exchange it once and no scores. None if no gradient is wanted.
    mean_PNE: jax.Array | None


class _Vocabulary:
    """The head's rows in chunks. With the vocabulary split over devices, a chunk takes as much from every device."""

    def __init__(self, weight_VE: jax.Array):
        V, E = weight_VE.shape
        parts = shards("vocab", V)
        self.part = V // parts
        count = -(-self.part // max(1, _CHUNK // parts))
        self.size = -(-self.part // count)
        self.weight_PVE = weight_VE.reshape(parts, self.part, E)
        numbers = jnp.arange(count)
        self.chunks = _Chunk(numbers, jnp.minimum(numbers * self.size, self.part - self.size))

    def scores(self, h_NE: jax.Array, chunk: _Chunk) -> tuple[jax.Array, jax.Array]:
        """(s_NPC float32, rows_PCE); an entry that an earlier chunk counted already scores lowest."""
        rows_PCE = lax.dynamic_slice_in_dim(self.weight_PVE, chunk.start, self.size, 1)
        s_NPC = jnp.einsum("ne,pce->npc", h_NE, rows_PCE, preferred_element_type=jnp.float32)
        if self.part % self.size:
            s_NPC = jnp.where(chunk.start + jnp.arange(self.size) >= chunk.number * self.size, s_NPC, _LOWEST)
        return constrain(s_NPC, "scores_NPC"), rows_PCE

    def column(self, targets_N: jax.Array, chunk: _Chunk) -> tuple[jax.Array, jax.Array]:
        """(where in the chunk each part would hold the target, whether it is the one that does); [N, P] each."""
        column_NP = targets_N[:, None] - jnp.arange(len(self.weight_PVE)) * self.part - chunk.start
        first = chunk.number * self.size - chunk.start
        return jnp.clip(column_NP, 0, self.size - 1), (column_NP >= first) & (column_NP < self.size)


def _pass(h_NE: jax.Array, weight_VE: jax.Array, targets_N: jax.Array, *, gradient: bool) -> _Scan:
    vocabulary = _Vocabulary(weight_VE)

    def step(carry: _Scan, chunk: _Chunk) -> tuple[_Scan, None]:
        s_NPC, rows_PCE = vocabulary.scores(h_NE, chunk)
        top_N = jnp.maximum(carry.top_N, s_NPC.max((1, 2)))
        shrink_N = jnp.exp(carry.top_N - top_N)
        e_NPC = jnp.exp(s_NPC - top_N[:, None, None])
        column_NP, here_NP = vocabulary.column(targets_N, chunk)
        gold_NP = jnp.take_along_axis(s_NPC, column_NP[..., None], 2)[..., 0]
        gold_N = jnp.where(here_NP.any(1), jnp.sum(jnp.where(here_NP, gold_NP, 0.0), 1), carry.gold_N)
        mean_PNE = None
        if gradient:
            e_NPC_cast = e_NPC.astype(rows_PCE.dtype)
            more_PNE = jnp.einsum("npc,pce->pne", e_NPC_cast, rows_PCE, preferred_element_type=jnp.float32)
            mean_PNE = constrain(carry.mean_PNE * shrink_N[:, None] + more_PNE, "mean_PNE")
        return _Scan(top_N, carry.sum_N * shrink_N + e_NPC.sum((1, 2)), gold_N, mean_PNE), None

    N, E = h_NE.shape
    mean_PNE = constrain(jnp.zeros((len(vocabulary.weight_PVE), N, E)), "mean_PNE") if gradient else None
    empty = _Scan(jnp.full(N, _LOWEST), jnp.zeros(N), jnp.full(N, jnp.nan), mean_PNE)
    return lax.scan(step, empty, vocabulary.chunks)[0]


def _outcome(scan: _Scan) -> tuple[jax.Array, jax.Array]:
    nll_N = scan.top_N + jnp.log(scan.sum_N) - scan.gold_N
    return nll_N, (scan.gold_N >= scan.top_N).astype(jnp.float32)


@jax.custom_vjp
def _losses(h_NE: jax.Array, weight_VE: jax.Array, targets_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _outcome(_pass(h_NE, weight_VE, targets_N, gradient=False))


class _Saved(NamedTuple):
    by_h_NE: jax.Array  # derivative of each token's loss by its state
    head: tuple[jax.Array, jax.Array, jax.Array, jax.Array] | None  # h, weight, targets, log-sum; None: it is frozen


def _forward(h, weight, targets):  # each a CustomVJPPrimal: its value, and whether it is differentiated
    h_NE, weight_VE, targets_N = h.value, weight.value, targets.value
    scan = _pass(h_NE, weight_VE, targets_N, gradient=True)
    gold_NE = jnp.take(weight_VE, targets_N, axis=0, mode="fill", fill_value=jnp.nan).astype(jnp.float32)
    by_h_NE = (scan.mean_PNE.sum(0) / scan.sum_N[:, None] - gold_NE).astype(h_NE.dtype)
    head = (h_NE, weight_VE, targets_N, scan.top_N + jnp.log(scan.sum_N)) if weight.perturbed else None
    return _outcome(scan), _Saved(by_h_NE, head)


def _backward(saved: _Saved, cotangents: tuple[jax.Array | SymbolicZero, jax.Array | SymbolicZero]):
    by_nll_N = cotangents[0]
    if isinstance(by_nll_N, SymbolicZero):
        by_nll_N = jnp.zeros(by_nll_N.shape, by_nll_N.dtype)
    # `where`, and not only a factor of 0: the loss that nobody asks for may be NaN, of a padding token for example.
    by_h_NE = jnp.where(by_nll_N[:, None] == 0, 0.0, by_nll_N[:, None] * saved.by_h_NE.astype(jnp.float32))
    by_h_NE = by_h_NE.astype(saved.by_h_NE.dtype)
    return by_h_NE, None if saved.head is None else _by_weight(by_nll_N, *saved.head), None


def _by_weight(
    by_nll_N: jax.Array, h_NE: jax.Array, weight_VE: jax.Array, targets_N: jax.Array, logsum_N: jax.Array
) -> jax.Array:
    """Gradient by the head, [V, E] in its dtype."""
    vocabulary = _Vocabulary(weight_VE)

    def step(total_PVE: jax.Array, chunk: _Chunk) -> tuple[jax.Array, None]:
        s_NPC, _ = vocabulary.scores(h_NE, chunk)
        column_NP, here_NP = vocabulary.column(targets_N, chunk)
        gold_NPC = here_NP[..., None] & (jnp.arange(vocabulary.size) == column_NP[..., None])
        by_s_NPC = by_nll_N[:, None, None] * (jnp.exp(s_NPC - logsum_N[:, None, None]) - gold_NPC)
        more_PCE = jnp.einsum("npc,ne->pce", by_s_NPC.astype(h_NE.dtype), h_NE, preferred_element_type=jnp.float32)
        before_PCE = lax.dynamic_slice_in_dim(total_PVE, chunk.start, vocabulary.size, 1)
        return lax.dynamic_update_slice_in_dim(total_PVE, before_PCE + more_PCE, chunk.start, 1), None

    total_PVE, _ = lax.scan(step, jnp.zeros(vocabulary.weight_PVE.shape, jnp.float32), vocabulary.chunks)
    return total_PVE.reshape(weight_VE.shape).astype(weight_VE.dtype)


_losses.defvjp(_forward, _backward, symbolic_zeros=True)
