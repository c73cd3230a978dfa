"""The resize matrix against PyTorch's formula for bicubic interpolation, written out sample by sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from expllm_jax.models.layers import bicubic_matrix
from expllm_jax.models.vit import fitted_positions
from tests.models.sizes import VISION, changed, random_params


def cubic(x, a=-0.75):
    """Keys' kernel, as in the documentation of torch.nn.functional.interpolate."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0


def interpolate(image, out_h, out_w, scale_h, scale_w):
    """Direct two-dimensional bicubic resize: 16 neighbours of every target pixel, borders clamped."""
    height, width = image.shape[:2]
    out = np.zeros((out_h, out_w, *image.shape[2:]))
    for i in range(out_h):
        for j in range(out_w):
            y, x = (i + 0.5) / scale_h - 0.5, (j + 0.5) / scale_w - 0.5
            for m in range(math.floor(y) - 1, math.floor(y) + 3):
                for n in range(math.floor(x) - 1, math.floor(x) + 3):
                    pixel = image[min(max(m, 0), height - 1), min(max(n, 0), width - 1)]
                    out[i, j] += cubic(y - m) * cubic(x - n) * pixel
    return out


@pytest.mark.parametrize(("resize", "extra"), [("size", 0.0), ("scale_0.1", 0.1)])
@pytest.mark.parametrize("grid", [(3, 3), (4, 7), (9, 6)])
def test_position_table_follows_both_conventions(resize, extra, grid):
    config = changed(VISION, resize=resize)
    _, params = random_params(config)
    n, (down, across) = config.native_grid, grid
    table = np.asarray(params["position_embedding"])[1:].reshape(n, n, -1)
    expected = interpolate(table, down, across, (down + extra) / n, (across + extra) / n)
    resized = fitted_positions(config, table.reshape(n * n, -1), down, across)
    np.testing.assert_allclose(np.asarray(resized).reshape(down, across, -1), expected, atol=1e-6)


@pytest.mark.parametrize("grid", [(3, 3), (4, 7), (9, 6)])
def test_antialiased_position_table_is_pillow_s(grid):
    """PyTorch's antialias=True was written to equal Pillow's bicubic; Pillow works on float pictures, too."""
    config = changed(VISION, resize="antialias")
    _, params = random_params(config)
    n, (down, across) = config.native_grid, grid
    table = np.asarray(params["position_embedding"])[1:].reshape(n, n, -1)
    channels = [Image.fromarray(table[..., c]).resize((across, down), Image.Resampling.BICUBIC) for c in range(4)]
    resized = fitted_positions(config, table.reshape(n * n, -1), down, across).reshape(down, across, -1)
    np.testing.assert_allclose(np.asarray(resized)[..., :4], np.stack([np.asarray(c) for c in channels], -1), atol=1e-6)


def test_known_weights():
    """Enlarging twice samples a quarter to the left or right: the four weights of t = 1/4 and 3/4, by hand."""
    weights = np.array([cubic(1.25), cubic(0.25), cubic(0.75), cubic(1.75)])
    np.testing.assert_allclose(weights, [-0.10546875, 0.87890625, 0.26171875, -0.03515625])
    matrix = bicubic_matrix(8, 16)
    np.testing.assert_allclose(matrix[7, 2:6], weights, rtol=1e-6)  # at 3.25
    np.testing.assert_allclose(matrix[8, 2:6], weights[::-1], rtol=1e-6)  # at 3.75
    np.testing.assert_allclose(matrix.sum(1), 1.0, rtol=1e-6)


def test_same_size_is_the_identity():
    np.testing.assert_array_equal(bicubic_matrix(6, 6), np.eye(6, dtype=np.float32))
