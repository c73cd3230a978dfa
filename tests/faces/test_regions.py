"""Where action units show."""

from __future__ import annotations

import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import FACS, LANDMARK_REGIONS, MIRRORED_68, region_centres, region_ellipses


def test_every_unit_has_a_region_in_the_same_order():
    assert tuple(LANDMARK_REGIONS) == FACS.codes
    published = {code for code, region in LANDMARK_REGIONS.items() if region.source == "JAA-Net"}
    assert published == {f"AU{n}" for n in (1, 2, 4, 6, 7, 9, 10, 12, 14, 15, 17, 23, 24, 25, 26)}


@pytest.mark.parametrize("code", LANDMARK_REGIONS)
def test_regions_are_symmetric(code):
    region = LANDMARK_REGIONS[code]
    first, second = ({MIRRORED_68[index] for index in group} for group in (region.first, region.second))
    on_the_midline = (first, second) == (set(region.first), set(region.second))
    assert on_the_midline or (first, second) == (set(region.second), set(region.first))


def test_centres_move_by_the_distance_of_the_eyes():
    points = np.arange(136, dtype=np.float32).reshape(68, 2)
    points[39], points[42] = (30.0, 40.0), (36.0, 48.0)  # 10 apart
    np.testing.assert_allclose(region_centres("AU1", points), points[[21, 22]] - [0, 5])
    np.testing.assert_allclose(region_centres("AU6", points), points[[41, 46]] + [0, 10])
    np.testing.assert_allclose(region_centres("AU12", points), points[[48, 54]])
    np.testing.assert_allclose(region_centres("AU33", points)[0], (points[4] + points[48]) / 2)


def test_other_codes_and_other_landmarks_are_refused():
    with pytest.raises(ExpllmError, match="'FEAFA1'.*AU12"):
        region_centres("FEAFA1", np.zeros((68, 2)))
    with pytest.raises(ExpllmError, match=r"\(5, 2\)"):
        region_centres("AU1", np.zeros((5, 2)))


def _face() -> np.ndarray:
    """A symmetric face: every pair of mirrored landmarks at the same height, left and right of x = 100."""
    rng = np.random.default_rng(2)
    points = rng.uniform(30, 200, (68, 2))
    for index in range(68):
        other = MIRRORED_68[index]
        if other == index:
            points[index, 0] = 100.0
        elif index < other:
            points[other] = 200.0 - points[index, 0], points[index, 1]
    return points


@pytest.mark.parametrize("code", FACS.codes)
def test_ellipses_are_as_symmetric_as_the_face(code):
    ellipses = region_ellipses(code, _face())
    assert ellipses.shape[1] == 4 and 1 <= len(ellipses) <= 2 and (ellipses[:, 2:] > 0).all()
    mirrored = ellipses * [-1, 1, 1, 1] + [200, 0, 0, 0]
    np.testing.assert_allclose(mirrored[np.lexsort(mirrored.T)], ellipses[np.lexsort(ellipses.T)])


@pytest.mark.parametrize("code", FACS.codes)
def test_ellipses_move_and_grow_with_the_face(code):
    face = _face()
    np.testing.assert_allclose(
        region_ellipses(code, 2 * face + [30, 50]), 2 * region_ellipses(code, face) + [30, 50, 0, 0]
    )


def test_the_published_ellipses():
    face = _face()
    pixel = 1.4 * np.ptp(face, axis=0).max() / 224  # a face that fills its crop as those of the paper do
    np.testing.assert_allclose(region_ellipses("AU1", face)[0], [*face[20], 28 * pixel, 22 * pixel])
    np.testing.assert_allclose(region_ellipses("AU6", face)[1], [*face[46] + [0, 37 * pixel], 22 * pixel, 22 * pixel])
    np.testing.assert_allclose(region_ellipses("AU14", face)[1], [*face[54] + [20 * pixel, 0], 20 * pixel, 20 * pixel])
    np.testing.assert_allclose(
        region_ellipses("AU9", face), [[face[k][0], face[29][1], 20 * pixel, 20 * pixel] for k in (31, 35)]
    )
    (mouth,) = region_ellipses("AU24", face)
    np.testing.assert_allclose(mouth[:2], [100, (face[51][1] + face[57][1]) / 2])
    np.testing.assert_allclose(mouth[2], abs(face[54][0] - face[48][0]) / 2)


def test_ellipses_of_other_codes_and_landmarks_are_refused():
    with pytest.raises(ExpllmError, match="'FEAFA1'"):
        region_ellipses("FEAFA1", _face())
    with pytest.raises(ExpllmError, match=r"\(5, 2\)"):
        region_ellipses("AU1", np.zeros((5, 2)))
