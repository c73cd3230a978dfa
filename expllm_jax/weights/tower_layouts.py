"""What the name tables of all vision towers share: how tensors are laid out there, and writing a table per block."""

from __future__ import annotations

from collections.abc import Mapping

from expllm_jax.models import ViTConfig
from expllm_jax.weights.naming import SAME, TRANSPOSED, Source, Transform


def patch_kernel(config: ViTConfig) -> Transform:
    """A convolution kernel (D, colour, row, column) is our matrix (row, column, colour) x D."""
    p, D = config.patch, config.width
    return Transform(
        lambda w: w.transpose(2, 3, 1, 0).reshape(p * p * 3, D), lambda w: w.reshape(p, p, 3, D).transpose(3, 2, 0, 1)
    )


def token_rows(config: ViTConfig) -> Transform:
    """Tokens and positions that carry a batch axis of 1 there: (1, n, D) is our (n, D)."""
    return Transform(lambda w: w.reshape(-1, config.width), lambda w: w[None])


def block_entries(
    config: ViTConfig, prefix: str, block: Mapping[str, str | tuple[str, ...]]
) -> dict[str, Source | tuple[Source, ...]]:
    """The table of all blocks.

    Args:
      config: how many blocks.
      prefix: what stands before the block's number, without the dot.
      block: name behind the number -> path inside `blocks/`, or the paths of the parts of a fused tensor.
    """

    def source(layer: int, path: str) -> Source:
        return Source(f"blocks/{path}", layer, TRANSPOSED if path.endswith("/kernel") else SAME)

    return {
        f"{prefix}.{layer}.{name}": source(layer, paths)
        if isinstance(paths, str)
        else tuple(source(layer, path) for path in paths)
        for layer in range(config.depth)
        for name, paths in block.items()
    }
