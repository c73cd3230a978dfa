"""The square that the model sees of a picture: the pixels that are cut out and the points that move along."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.records import PAD_COLOUR, prepared_picture, square
from expllm_jax.records.framing import Region, face_region, padded_square
from expllm_jax.records.pictures import cut

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)


@given(region=st.builds(Region, *[st.integers(-60, 60)] * 2, *[st.integers(1, 90)] * 2))
@settings(max_examples=80, deadline=None)
def test_a_cut_has_the_pictures_pixels_and_padding_elsewhere(region):
    pixels = cut(PICTURE, region)
    assert pixels.shape == (region.height, region.width, 3)
    rows, columns = np.mgrid[: region.height, : region.width]
    rows, columns = rows + region.top, columns + region.left
    inside = (rows >= 0) & (rows < 30) & (columns >= 0) & (columns < 41)
    np.testing.assert_array_equal(pixels[inside], PICTURE[rows[inside], columns[inside]])
    assert (pixels[~inside] == PAD_COLOUR).all()


def test_the_square_around_a_picture():
    assert padded_square((41, 30)) == Region(0, -5, 41, 41)
    assert padded_square((30, 41)) == Region(-5, 0, 41, 41)
    assert padded_square((7, 7)) == Region(0, 0, 7, 7)
    np.testing.assert_array_equal(square(PICTURE, 41), cut(PICTURE, Region(0, -5, 41, 41)))


def test_the_face_with_its_margin_is_rounded_outwards():
    face = Annotation("a.png", face_box=(10.5, 4, 10, 20))
    assert face_region(face, 0, (41, 30)) == Region(10, 4, 11, 20)
    assert face_region(face, 0.5, (41, 30)) == Region(5, -6, 21, 40)
    for box in ((41, 0, 5, 5), (-6, 3, 5, 5), (0, 0, 1e6, 5)):
        with pytest.raises(ExpllmError, match=r"a\.png.*41×30"):
            face_region(Annotation("a.png", face_box=box), 0, (41, 30))
    with pytest.raises(ExpllmError, match=r"a\.png.*no face box"):
        face_region(Annotation("a.png"), 0, (41, 30))


@pytest.mark.parametrize(
    ("region", "corner"),
    [(Region(0, 0, 41, 30), (33, 10)), (Region(10, -6, 12, 40), (14, 10)), (Region(30, 3, 20, 9), (33, 6))],
)
def test_points_follow_the_pixels(region, corner):
    """A spot's centre of mass is where its point is moved to, and its edges where its box is."""
    canvas, size, (left, top) = np.zeros_like(PICTURE), 120, corner
    canvas[top : top + 3, left : left + 3] = 255
    spot = Annotation("a.png", face_box=(left, top, 3, 3), landmarks=((left + 1.0, top + 1.0),) * 5)
    seen = prepared_picture(canvas, size, region).astype(float).sum(-1)
    seen[seen <= sum(PAD_COLOUR)] = 0
    moved = region.squared().moved(spot, size)
    rows, columns = np.mgrid[:size, :size]
    centre = (columns * seen).sum() / seen.sum(), (rows * seen).sum() / seen.sum()
    np.testing.assert_allclose(moved.landmarks[0], centre, atol=0.05)
    x, y, width, height = moved.face_box
    np.testing.assert_allclose((x + width / 2 - 0.5, y + height / 2 - 0.5), centre, atol=0.05)
    np.testing.assert_allclose((width, height), 3 * size / max(region.width, region.height))


def test_a_prepared_picture_is_read_as_it_is():
    pixels = prepared_picture(PICTURE, 24)
    assert square(pixels, 24) is pixels
    region = Region(5, 5, 24, 24)
    np.testing.assert_array_equal(prepared_picture(PICTURE, 24, region), PICTURE[5:29, 5:29])
