"""Covered regions and their controls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.interventions import covered, elsewhere, region_mask
from expllm_jax.evaluate.interventions.masking import face_mask

SIDE = 120
ANGLES = np.linspace(0, 2 * np.pi, 27, endpoint=False)


def landmarks(radius: float = 50.0) -> np.ndarray:
    """A round face: the jaw along the lower part of a circle, the brows along the upper, the rest in its middle."""
    points = np.full((68, 2), SIDE / 2)
    around = [*range(17), *range(26, 16, -1)]  # along the jaw, and back over the brows
    points[around] = SIDE / 2 + radius * np.stack([-np.cos(ANGLES), np.sin(ANGLES)], axis=1)
    return points


def test_a_region_holds_the_pixels_within_its_ellipses():
    mask = region_mask(np.array([[30, 40, 10, 5], [80, 40, 10, 5]]), SIDE, SIDE)
    assert mask.sum() == pytest.approx(2 * np.pi * 10 * 5, rel=0.03)
    assert mask[40, 40] and not mask[40, 41] and mask[45, 30] and not mask[46, 30] and mask[40, 80]


def test_what_lies_outside_the_picture_is_left_out():
    quarter = region_mask(np.array([[-0.5, -0.5, 20, 20]]), SIDE, SIDE)
    assert quarter.sum() == pytest.approx(np.pi * 20**2 / 4, rel=0.03)
    assert not region_mask(np.array([[-50, 0, 10, 10]]), SIDE, SIDE).any()


def test_the_face_is_what_jaw_and_brows_enclose():
    assert face_mask(landmarks(), SIDE, SIDE).sum() == pytest.approx(np.pi * 50**2, rel=0.05)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(5, 115), st.floats(5, 115), st.floats(3, 16), st.floats(3, 16)), min_size=1, max_size=2
    ),
    st.integers(0, 1000),
)
def test_the_control_is_as_large_elsewhere_and_on_the_face(ellipses, seed):
    region = region_mask(np.array(ellipses), SIDE, SIDE)
    control = elsewhere(np.array(ellipses), landmarks(), SIDE, SIDE, np.random.default_rng(seed))
    assert control is not None  # a face of radius 50 has room for two ellipses of 16
    assert control.sum() == region.sum() and not (control & region).any()
    middle = np.argwhere(control).mean(axis=0)
    assert np.linalg.norm(middle - SIDE / 2) < 55


def test_the_control_depends_on_the_seed_alone():
    one, same, other = (
        elsewhere(np.array([[60, 60, 8, 4]]), landmarks(), SIDE, SIDE, np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_region_as_large_as_the_face_has_no_control():
    ellipses = np.array([[60, 60, 45, 45]])
    assert elsewhere(ellipses, landmarks(), SIDE, SIDE, np.random.default_rng(0)) is None


def test_covering_changes_the_region_and_nothing_else():
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    mask = region_mask(np.array([[60, 60, 20, 20]]), SIDE, SIDE)
    grey, blurred = (covered(picture, mask, fill) for fill in ("mean", "blur"))
    for changed in (grey, blurred):
        np.testing.assert_array_equal(changed[~mask], picture[~mask])
    assert (grey[mask] == (123, 117, 104)).all()  # CLIP's mean colour, 0 after normalisation
    assert (covered(picture, mask, "mean", "imagenet")[mask] == (124, 116, 104)).all()
    assert blurred[mask].std() < 0.1 * picture[mask].std() and abs(blurred[mask].mean() - picture.mean()) < 10


def test_other_fills_and_normalisations_are_refused():
    picture, mask = np.zeros((20, 20, 3), np.uint8), np.ones((20, 20), bool)
    with pytest.raises(ExpllmError, match="fill 'noise'"):
        covered(picture, mask, "noise")
    with pytest.raises(ExpllmError, match="siglip"):
        covered(picture, mask, "mean", "siglip")
