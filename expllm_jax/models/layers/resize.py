"""Bicubic resizing as a matrix, with the exact semantics of PyTorch's `interpolate(mode="bicubic")`.

`jax.image.resize(..., "cubic")` is not the same: it always antialiases, and knows neither PyTorch's a = -0.75 nor its
`scale_factor`.
"""

from __future__ import annotations

import functools

import numpy as np


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel: weight of a sample at distance x."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@functools.lru_cache(maxsize=64)
def bicubic_matrix(source: int, target: int, scale: float | None = None, *, antialias: bool = False) -> np.ndarray:
    """The float32 matrix W (target, source) such that W @ signal is the resized signal (align_corners=False).

    Target sample i lies at (i + 0.5) / scale - 0.5 in the source.

    Args:
      source: samples there are.
      target: samples wanted.
      scale: samples of the target per sample of the source, as PyTorch's `scale_factor`; None: target / source, as when
        PyTorch is given `size`.
      antialias: as in PyTorch (and Pillow): a = -0.5, the kernel widened when shrinking, samples outside left out.
        Without it a = -0.75, and the border is repeated.
    """
    scale = target / source if scale is None else scale
    position = (np.arange(target, dtype=np.float64) + 0.5) / scale - 0.5
    if antialias:
        distance = np.arange(source) - position[:, None]
        matrix = _cubic(distance * min(scale, 1.0), -0.5)
        matrix /= matrix.sum(1, keepdims=True)
    else:
        matrix = np.zeros((target, source))
        left = np.floor(position).astype(int)
        for offset in (-1, 0, 1, 2):
            column = np.clip(left + offset, 0, source - 1)
            matrix[np.arange(target), column] += _cubic(position - (left + offset), -0.75)
    matrix = matrix.astype(np.float32)
    matrix.flags.writeable = False  # it is cached, so nobody may change it
    return matrix
