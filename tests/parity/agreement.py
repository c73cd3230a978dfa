"""The measure of the ladder."""

from __future__ import annotations

import jax
import numpy as np

RUNG = 1e-5  # what every rung on random tiny models stays below


def relative_error(found: jax.typing.ArrayLike, expected: jax.typing.ArrayLike) -> float:
    """max |found - expected| / max |expected|; NaN if either holds one."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def agree(what: str, found: jax.typing.ArrayLike, expected: jax.typing.ArrayLike, within: float = RUNG) -> None:
    """Asserts the relative error, and prints it. `expected` is not all zeros."""
    assert np.abs(np.asarray(expected)).max() > 0, f"{what}: nothing to compare with"
    error = relative_error(found, expected)
    print(f"{what}: relative error {error:.1e}")
    assert error <= within, f"{what}: relative error {error:.1e}, allowed {within:.0e}"
