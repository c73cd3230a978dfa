"""The device follows the same draws to the same pictures as the CPU does, but for sums on the edge of two levels."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.records import STATISTICS, normalise
from expllm_jax.records.augmentation import NO_HUE, AugmentConfig, Column, augmented, draws, neutral_rows
from expllm_jax.train.augmentation import augment
from tests.records import pillow_augmentation as pillow

SIDE = 96
RECIPE = AugmentConfig(size=SIDE, padding=6)
BATCH = 32
FAR = 1.5  # levels: more than a sum on the edge of two levels explains

augment_jit = jax.jit(augment, static_argnames="statistics")


def drawn(config=RECIPE, epoch=0, *, located=False):
    return draws(config, 7, epoch, np.arange(BATCH), np.full(BATCH, located))


@pytest.fixture(scope="module")
def pictures():
    return np.stack([pillow.face_like(SIDE, seed) for seed in range(BATCH)])


def levels_apart(one, other, statistics="clip"):
    """|difference| in levels of 8 bits, [B, S, S]: the largest of the three colours."""
    return (np.abs(np.asarray(one) - other) * np.float32(STATISTICS[statistics][1]) * 255).max(-1)


def on_cpu(pictures, rows, statistics="clip"):
    return np.stack([augmented(picture, row, statistics) for picture, row in zip(pictures, rows, strict=True)])


def test_pictures_are_those_of_the_cpu(pictures):
    apart = []
    for epoch in range(4):
        rows = drawn(epoch=epoch)
        apart.append(levels_apart(augment_jit(pictures, rows), on_cpu(pictures, rows)))
    apart = np.concatenate(apart)
    assert apart.mean() < 0.01 and apart.mean((1, 2)).max() < 0.2
    assert (apart > 0.01).mean() < 0.01
    assert (apart > FAR).mean() < 1e-4


def test_everything_at_once(pictures):
    always = dataclasses.replace(RECIPE, flip=1.0, jitter=1.0, spatial=1.0, soften=1.0, erasing=1.0, resized_crop=0.7)
    rows = drawn(always)
    apart = levels_apart(augment_jit(pictures, rows), on_cpu(pictures, rows))
    assert apart.mean() < 0.01 and apart.mean((1, 2)).max() < 0.2
    assert (apart > FAR).mean() < 1e-4


def test_colours_flip_and_erasing_are_equal(pictures):
    """What needs no sums on edges: to the rounding of the normalisation."""
    rows = drawn(dataclasses.replace(RECIPE, jitter=0.7, grey=1.0, spatial=0.0, soften=0.0))
    assert (rows[:, Column.HUE] != NO_HUE).any() and (rows[:, Column.GREY] == 1).any()
    assert levels_apart(augment_jit(pictures, rows), on_cpu(pictures, rows)).max() < 1e-3


def test_records_with_coordinates_stay_in_place(pictures):
    rows = drawn(located=True)
    assert (rows[:, Column.BLUR] > 0).any()
    apart = levels_apart(augment_jit(pictures, rows), on_cpu(pictures, rows))
    assert apart.max() < FAR and (apart > 0.01).mean() < 0.01


def test_hues_of_a_grid_of_all_colours_are_equal():
    levels = np.array([*range(0, 256, 9), 1, 2, 127, 128, 254, 255])
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    side = int(np.ceil(np.sqrt(len(grid))))
    picture = np.resize(grid, (side, side, 3)).astype(np.uint8)
    rows = neutral_rows(side, 4)
    rows[:, Column.HUE] = (-25, 0, 11, 25)
    pictures = np.stack([picture] * 4)
    assert levels_apart(augment_jit(pictures, rows), on_cpu(pictures, rows)).max() < 1e-3


def test_neutral_rows_only_normalise(pictures):
    rows = neutral_rows(SIDE, BATCH)
    for statistics in STATISTICS:
        difference = augment_jit(pictures, rows, statistics=statistics) - normalise(pictures, statistics)
        assert np.abs(difference).max() < 1e-5


def test_one_program_serves_all_draws(pictures):
    """No draw changes a shape, and no picture sees its neighbours."""
    before = augment_jit._cache_size()
    together = augment_jit(pictures, drawn(epoch=9))
    augment_jit(pictures, neutral_rows(SIDE, BATCH))
    backwards = augment_jit(pictures[::-1], drawn(epoch=9)[::-1])[::-1]
    np.testing.assert_array_equal(together, backwards)
    assert augment_jit._cache_size() <= before + 1


def test_matrix_products_keep_whole_levels(pictures):
    """CPUs ignore it, but elsewhere products of float32 are computed in fewer digits unless told otherwise."""
    products = [
        equation
        for equation in jax.make_jaxpr(augment)(pictures, drawn()).jaxpr.eqns
        if equation.primitive.name == "dot_general"
    ]
    assert len(products) == 2
    assert {precision for product in products for precision in product.params["precision"]} == {
        jax.lax.Precision.HIGHEST
    }


@pytest.mark.parametrize(
    "pictures, rows, named",
    [
        (jnp.zeros((2, SIDE, SIDE, 3), jnp.float32), jnp.zeros((2, len(Column))), "pictures of float32"),
        (jnp.zeros((2, SIDE, 8, 3), jnp.uint8), jnp.zeros((2, len(Column))), "pictures of uint8"),
        (jnp.zeros((SIDE, SIDE, 3), jnp.uint8), jnp.zeros((2, len(Column))), "pictures of uint8"),
        (jnp.zeros((2, SIDE, SIDE, 3), jnp.uint8), jnp.zeros((3, len(Column))), "for 2 pictures"),
        (jnp.zeros((2, SIDE, SIDE, 3), jnp.uint8), jnp.zeros((2, 7)), "for 2 pictures"),
    ],
)
def test_other_shapes_are_refused(pictures, rows, named):
    with pytest.raises(ExpllmError, match=named):
        augment(pictures, rows)


def test_unknown_statistics_are_refused(pictures):
    with pytest.raises(ExpllmError, match="unknown normalisation"):
        augment(pictures, drawn(), "sepia")
