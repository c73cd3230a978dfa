"""Where action units show."""

from __future__ import annotations

import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import FACS, LANDMARK_REGIONS, MIRRORED_68, region_centres


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
