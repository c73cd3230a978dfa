"""One update, and one measurement, as pure functions of their arguments.

Shape letters: B rows, T tokens, S supervised positions of a row (static, padded), E decoder width, N image
tokens, D vision width, A micro-batches.

A batch is what `records.batches` yields: `tokens positions segments` int32 [B, T], `loss_weights` float32 [B, T], and
either `features` [B, N, D], `pixels` [B, H, W, 3], or `pictures` uint8 [B, H, W, 3] with the `draws` [B, K] of their
augmentation; of rows with M pictures each, all of these have an axis M behind B. Other keys are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from expllm_jax.errors import ExpllmError
from expllm_jax.models import ExpLLM, ModelDef, Params, merge
from expllm_jax.parallel import activation_spec, automatic, reshaped, taken
from expllm_jax.train.augmentation import augment
from expllm_jax.train.optimizer import Optimizer
from expllm_jax.train.state import TrainState

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Params, Batch, jax.Array], tuple[TrainState, Metrics]]
EvalStep = Callable[[Params, Params, Batch], Metrics]

MODEL_INPUTS = ("tokens", "positions", "segments", "loss_weights", "features", "pixels", "pictures", "draws")


class _Sums(NamedTuple):
    """Sums over a batch or a part of one; float32 scalars."""

    nll: jax.Array  # sum of weight * negative log-likelihood
    weight: jax.Array  # sum of weights
    correct: jax.Array  # weight of the tokens that are the most probable ones


def make_train_step(
    graphdef: ModelDef,
    optimizer: Optimizer,
    *,
    supervised: int,
    accumulate: int = 1,
    normalisation: str = "clip",
    skip_non_finite: bool = False,
) -> TrainStep:
    """Builds `train_step(state, frozen, batch, seed) -> (state, metrics)`, to be jitted with `state` donated.

    The loss is sum(w * nll) / sum(w) over the whole batch, in float32; with weights that sum to 1 per record it is the
    mean over records of each record's mean. Dropout is keyed by `fold_in(key(seed), step)`.

    Args:
      graphdef: of the ExpLLM whose parameters are `{**state.params, **frozen}`.
      optimizer: from `build_optimizer`.
      supervised: S, the most tokens with a loss in any row. Logits are made for these only; a row with more makes the
        loss NaN rather than dropping some.
      accumulate: A, micro-batches whose gradients are added up, weighted by their loss weights, before the update;
        divides the batch. Same result as 1 but for rounding and the draw of dropout, with activations of B/A rows.
      normalisation: of `pictures`, if the batch has those instead of normalised `pixels`.
      skip_non_finite: an update whose loss or gradient norm is no finite number leaves all but `step` as it was, the
        optimiser's own count and so its learning rate included.

    Returns:
      The function; its metrics are float32 scalars `loss`, `grad_norm` (before clipping), `learning_rate`, and with
      `skip_non_finite` also `skipped`: 1 if the update was left out, else 0.
    """
    if accumulate < 1 or supervised < 1:
        raise ExpllmError(f"accumulate is {accumulate}, supervised is {supervised}", "both must be 1 or more")

    def sums_of(params: Params, frozen: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, _Sums]:
        sums = _sums(graphdef, {**params, **frozen}, batch, supervised, key, normalisation)
        return sums.nll, sums

    gradient = jax.grad(sums_of, has_aux=True)

    def train_step(state: TrainState, frozen: Params, batch: Batch, seed: jax.Array) -> tuple[TrainState, Metrics]:
        batch = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if accumulate == 1:
            grads, sums = gradient(state.params, frozen, batch, key)
        else:
            parts = {name: _micro_batches(x, accumulate) for name, x in batch.items()}

            def add(total: tuple[Params, _Sums], part: tuple[Batch, jax.Array]) -> tuple[tuple[Params, _Sums], None]:
                return jax.tree.map(jnp.add, total, gradient(state.params, frozen, *part)), None

            zeros = jax.tree.map(jnp.zeros_like, state.params), _Sums(*[jnp.zeros(())] * len(_Sums._fields))
            (grads, sums), _ = jax.lax.scan(add, zeros, (parts, jax.random.split(key, accumulate)))
        grads = jax.tree.map(lambda grad: grad / sums.weight, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": sums.nll / sums.weight,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": optimizer.learning_rate(state.opt_state),
        }
        params = optax.apply_updates(state.params, updates)
        if skip_non_finite:
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            before = state.params, state.opt_state
            params, opt_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), (params, opt_state), before)
            metrics["skipped"] = 1.0 - finite.astype(jnp.float32)
        return TrainState(state.step + 1, params, opt_state, state.stats), metrics

    return train_step


def make_eval_step(graphdef: ModelDef, *, supervised: int) -> EvalStep:
    """Builds `eval_step(params, frozen, batch) -> metrics`, without dropout.

    Metrics are float32 sums, to be added up over batches before dividing: `nll`, `weight`, and `correct`, the weight of
    the tokens that are predicted right given all those before them.
    """

    def eval_step(params: Params, frozen: Params, batch: Batch) -> Metrics:
        return _sums(graphdef, {**params, **frozen}, batch, supervised, None)._asdict()

    return eval_step


def _micro_batches(x: jax.Array, accumulate: int) -> jax.Array:
    """(B, …) -> (A, B / A, …). Takes every A-th row, so that each part lies across the devices as the whole did."""
    if x.shape[0] % accumulate:
        raise ExpllmError(f"a batch of {x.shape[0]} rows does not divide into {accumulate} parts", "change either")
    return jnp.swapaxes(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 0, 1)


def _sums(
    graphdef: ModelDef,
    params: Params,
    batch: Batch,
    supervised: int,
    key: jax.Array | None,
    normalisation: str = "clip",
) -> _Sums:
    model = merge(graphdef, params)
    tower_key, decoder_key = (None, None) if key is None else jax.random.split(key)
    features_BMND = _features(model, batch, tower_key, normalisation)
    h_BTE = model(batch["tokens"], batch["positions"], batch["segments"], features_BMND, dropout_key=decoder_key)
    where_BS, complete = _supervised(batch["loss_weights"], supervised)
    weights_BS, targets_BS = taken(batch["loss_weights"], where_BS), taken(batch["tokens"], where_BS)
    # A token is predicted from the one before it in the row, which is of the same branch: answers never open one.
    h_BSE = taken(h_BTE, jnp.maximum(where_BS - 1, 0))
    losses = model.token_losses(h_BSE, targets_BS)
    # `where`, and not only a weight of 0: the states of padding rows may be anything.
    nll = jnp.sum(jnp.where(weights_BS > 0, weights_BS * losses.nll, 0.0))
    return _Sums(
        nll=jnp.where(complete, nll, jnp.nan), weight=jnp.sum(weights_BS), correct=jnp.sum(weights_BS * losses.correct)
    )


def _features(model: ExpLLM, batch: Batch, key: jax.Array | None, normalisation: str) -> jax.Array:
    """Tower features of every picture of every row, [B, M, N, D] float32; a row with one picture needs no axis M."""
    if "features" in batch:
        features = batch["features"].astype(jnp.float32)
        return features if features.ndim == 4 else features[:, None]
    given = batch["pictures"] if "pictures" in batch else batch["pixels"]
    B, (M, *picture) = len(given), given.shape[1:] if given.ndim == 5 else (1, *given.shape[1:])
    pixels = reshaped(given, (B * M, *picture), "pixels_BHWC")  # all pictures go through the tower together
    if "pictures" in batch:
        augmented = automatic(partial(augment, statistics=normalisation), activation_spec("pixels_BHWC", pixels.shape))
        pixels = augmented(pixels, batch["draws"].reshape(B * M, -1))
    features_XND = model.encode(pixels, dropout_key=key)
    return reshaped(features_XND, (B, M, *features_XND.shape[1:]), "features_BMND")


def _supervised(weights_BT: jax.Array, supervised: int) -> tuple[jax.Array, jax.Array]:
    """(where_BS, complete): the places with a loss first, in order; whether all of them found room."""

    def first(has_loss_BT: jax.Array) -> jax.Array:
        return jnp.argsort(~has_loss_BT, axis=1, stable=True)[:, :supervised]

    has_loss_BT = weights_BT > 0
    complete = jnp.all(jnp.sum(has_loss_BT, 1) <= supervised)
    return automatic(first, activation_spec("tokens_BT", (len(weights_BT), supervised)))(has_loss_BT), complete
