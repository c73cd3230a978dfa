"""The projector: from vision tokens to decoder width.

Shape letters: B pictures, N vision tokens, D their width, E decoder width, p = pool, g = side of the token grid.
"""

from __future__ import annotations

import dataclasses
import math

import jax
from flax import nnx

from expllm_jax.errors import ExpllmError
from expllm_jax.models.layers import Linear, gelu
from expllm_jax.parallel import reshaped


@dataclasses.dataclass(frozen=True)
class ProjectorConfig:
    """The paper's projector is depth 2 without pooling; LocLLM's, before it, was depth 1."""

    depth: int = 2  # linear layers, with an exact GELU between two
    pool: int = 1  # p x p neighbouring tokens become one, their features concatenated, before the first layer
    dtype: str = "float32"  # compute dtype; the parameters, which always train, are float32

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ExpllmError(f"projector depth is {self.depth}", "give 1 or more linear layers; the paper's is 2")
        if self.pool < 1:
            raise ExpllmError(f"projector pool is {self.pool}", "give 1 (no pooling), 2 (4 tokens become 1), ...")

    def tokens(self, vision_tokens: int) -> int:
        """Image tokens the decoder reads for a square picture of `vision_tokens` patches.

        Raises:
          ExpllmError: the patches are not a square grid, or its side does not divide by the pool.
        """
        if self.pool == 1:
            return vision_tokens
        side = math.isqrt(vision_tokens)
        if side * side != vision_tokens or side % self.pool:
            raise ExpllmError(
                f"{vision_tokens} vision tokens cannot be pooled {self.pool} x {self.pool}",
                "the patches must be a square grid whose side divides by the pool (224 px: 1, 2, 4 or 8)",
            )
        return (side // self.pool) ** 2


class Projector(nnx.Module):
    """Space-to-depth pooling, then Linear (GELU Linear)*."""

    def __init__(self, in_width: int, out_width: int, config: ProjectorConfig, *, rngs: nnx.Rngs):
        self.config = config
        widths = [in_width * config.pool**2] + [out_width] * config.depth
        self.layers = nnx.List(
            Linear(a, b, rngs=rngs, dtype=config.dtype) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )

    def __call__(self, features_BND: jax.Array) -> jax.Array:
        """(B, N, D) -> (B, N / p^2, E). Tokens stay in row-major order; within one, the p x p features do, too."""
        x = self._pooled(features_BND)
        for index, layer in enumerate(self.layers):
            x = layer(gelu(x) if index else x)
        return x

    def _pooled(self, x_BND: jax.Array) -> jax.Array:
        p = self.config.pool
        if p == 1:
            return x_BND
        B, N, D = x_BND.shape
        tokens = self.config.tokens(N)
        cells = math.isqrt(tokens)
        x = reshaped(x_BND, (B, cells, p, cells, p, D), "patches_BYyXxC").transpose(0, 1, 3, 2, 4, 5)
        return reshaped(x, (B, tokens, p * p * D), "features_BND")
