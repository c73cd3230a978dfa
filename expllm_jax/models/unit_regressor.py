"""From a picture's patch tokens to action units: for each unit a value and how uncertain it is.

A head on a frozen tower. Every unit has a query of its own that looks for the patches that show it, and a small network
of its own that reads what was found: mostly by itself, but also by the other units, so that one whose query never finds
its place can use that of a related one.

Shape letters: B pictures, N patch tokens, D their width, U units, A attention heads of a unit, h width of a head,
E = A h, F hidden width of a unit's network.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from expllm_jax.errors import ExpllmError
from expllm_jax.models.layers import Linear, gelu
from expllm_jax.models.layers.linear import INIT_STD

_LOG_VARIANCES = (-9.0, 1.0)
"""Bounds of the logarithm of a variance: standard deviations of 0.011 to 1.65. Values run from 0 to 1."""


@dataclasses.dataclass(frozen=True)
class UnitRegressorConfig:
    """Shape of the head."""

    units: int  # U
    width: int  # D, of a patch token (of all chosen blocks together)
    tokens: int = 256  # N
    heads: int = 2  # A
    head_width: int = 48  # h
    hidden: int = 48  # F

    def __post_init__(self) -> None:
        for name in ("units", "width", "tokens", "heads", "head_width", "hidden"):
            if getattr(self, name) < 1:
                raise ExpllmError(f"unit regressor {name} is {getattr(self, name)}", "give a positive number")

    def build(self, rngs: nnx.Rngs) -> UnitRegressor:
        """The module with freshly drawn parameters."""
        return UnitRegressor(self, rngs=rngs)


class UnitEstimates(NamedTuple):
    """What the head says of pictures, before calibration."""

    mean_BU: jax.Array  # float32; about 0 to 1, but not bound to it
    log_variance_BU: jax.Array  # float32, of the value around the mean


class UnitRegressor(nnx.Module):
    """The head."""

    def __init__(self, config: UnitRegressorConfig, *, rngs: nnx.Rngs):
        self.config = config
        U, A, h, F = config.units, config.heads, config.head_width, config.hidden

        def normal(*shape: int, std: float) -> nnx.Param:
            return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32))

        self.keys = Linear(config.width, A * h, rngs=rngs, init_std=0.0)
        self.values = Linear(config.width, A * h, rngs=rngs, init_std=0.0)
        self.positions = normal(config.tokens, A * h, std=INIT_STD)
        self.queries = normal(U, A * h, std=1.0)
        self.mixing = nnx.Param(jnp.eye(U, dtype=jnp.float32))
        self.unit_kernel1 = normal(U, A * h, F, std=(A * h) ** -0.5)
        self.unit_bias1 = nnx.Param(jnp.zeros((U, F), jnp.float32))
        self.unit_kernel2 = normal(U, F, 2, std=0.1 * F**-0.5)
        self.unit_bias2 = nnx.Param(jnp.zeros((U, 2), jnp.float32))

    def __call__(self, features_BND: jax.Array) -> UnitEstimates:
        """Patch tokens (B, N, D) -> a mean and a log variance for every unit, (B, U) each, float32."""
        B, N, _ = features_BND.shape
        U, A, h = self.config.units, self.config.heads, self.config.head_width
        x_BND = features_BND.astype(jnp.float32)  # normalised already, by the tower's last norm
        keys_BNAh = (self.keys(x_BND) + self.positions[...]).reshape(B, N, A, h)
        values_BNAh = self.values(x_BND).reshape(B, N, A, h)
        queries_UAh = self.queries[...].reshape(U, A, h)
        attention_BUAN = jax.nn.softmax(jnp.einsum("uah,bnah->buan", queries_UAh, keys_BNAh) * h**-0.5, -1)
        seen_BUE = jnp.einsum("buan,bnah->buah", attention_BUAN, values_BNAh).reshape(B, U, A * h)
        mixed_BUE = jnp.einsum("wu,bue->bwe", self.mixing[...], seen_BUE)
        hidden_BUF = gelu(jnp.einsum("bue,uef->buf", mixed_BUE, self.unit_kernel1[...]) + self.unit_bias1[...])
        out_BU2 = jnp.einsum("buf,ufo->buo", hidden_BUF, self.unit_kernel2[...]) + self.unit_bias2[...]
        return UnitEstimates(out_BU2[..., 0], jnp.clip(out_BU2[..., 1], *_LOG_VARIANCES))


def unit_losses(estimates: UnitEstimates, truth_BU: jax.Array, usual_U: jax.Array, variance_weight: float) -> jax.Array:
    """What each estimate costs, (B, U) float32: its squared error, and how badly its variance fits that error.

    The error is in shares of `usual_U`, the variance of the unit's true values: a unit that is rarely shown counts as
    much as one that often is.

    The variance is fitted to the error of a mean that it cannot move (Gaussian negative log-likelihood with the mean
    held still): otherwise units that are hard would be given a large variance and never be learnt (Seitzer et al.,
    "On the Pitfalls of Heteroscedastic Uncertainty Estimation", 2022).
    """
    error_BU = estimates.mean_BU - truth_BU
    held_BU = jax.lax.stop_gradient(jnp.square(error_BU))
    misfit_BU = 0.5 * (held_BU * jnp.exp(-estimates.log_variance_BU) + estimates.log_variance_BU)
    return jnp.square(error_BU) / usual_U + variance_weight * misfit_BU
