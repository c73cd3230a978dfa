"""Bicubic resizing as a matrix, with the exact semantics of PyTorch's `interpolate(mode="bicubic")`.

`jax.image.resize(..., "cubic")` is not the same: it uses a = -0.5, and antialiases when it shrinks.
"""

from __future__ import annotations

import functools
import math

import numpy as np

_A = -0.75  # PyTorch's cubic coefficient


def _near(t: np.ndarray) -> np.ndarray:
    """Weight of a sample at distance t <= 1."""
    return ((_A + 2) * t - (_A + 3)) * t * t + 1


def _far(t: np.ndarray) -> np.ndarray:
    """Weight of a sample at distance 1 < t < 2."""
    return ((_A * t - 5 * _A) * t + 8 * _A) * t - 4 * _A


@functools.lru_cache(maxsize=64)
def bicubic_matrix(source: int, target: int, scale: float | None = None) -> np.ndarray:
    """The float32 matrix W (target, source) such that W @ signal is the resized signal.

    Args:
      source: samples there are.
      target: samples wanted.
      scale: samples of the target per sample of the source, as PyTorch's `scale_factor`; None: target / source, as when
        PyTorch is given `size`. Position of target sample i in the source: (i + 0.5) / scale - 0.5, no antialiasing,
        borders repeated (align_corners=False).
    """
    scale = target / source if scale is None else scale
    position = (np.arange(target, dtype=np.float64) + 0.5) / scale - 0.5
    matrix = np.zeros((target, source), np.float64)
    for row, where in enumerate(position):
        left = math.floor(where)
        t = where - left
        weights = (_far(t + 1), _near(t), _near(1 - t), _far(2 - t))
        for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
            matrix[row, min(max(left + offset, 0), source - 1)] += weight
    matrix = matrix.astype(np.float32)
    matrix.flags.writeable = False  # it is cached, so nobody may change it
    return matrix
