"""Covering a region of a picture, and a region of the same shape elsewhere on the face to compare it with.

Shape letters: H, W pixels of the picture; E ellipses.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from expllm_jax.errors import ExpllmError
from expllm_jax.records.pictures import STATISTICS, check_statistics

Fill = Literal["mean", "blur"]
FILLS: tuple[str, ...] = get_args(Fill)
"""What a region is covered with: the colour that is 0 after the tower's normalisation, or itself, blurred."""

_BLUR = 1 / 16  # standard deviation, of the picture's width: a region 20 pixels wide keeps its colour and nothing else
_TRIES = 400

# Along the jaw, and back over the brows: every landmark lies within.
_OUTLINE = (*range(17), *range(26, 16, -1))


def region_mask(ellipses_E4: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels within any of the ellipses, bool [H, W].

    Args:
      ellipses_E4: centre x and y and semi-axes along x and y, in pixels (`faces.region_ellipses`); the middle of the
        upper left pixel is (0, 0).
      height, width: of the picture; what lies outside is left out.
    """
    y, x = np.mgrid[:height, :width]
    cx, cy, rx, ry = np.asarray(ellipses_E4, np.float64)[:, :, None, None].transpose(1, 0, 2, 3)
    return (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1).any(axis=0)


def face_mask(landmarks: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels of the face from its brows down to its jaw, bool [H, W]; `landmarks` are float [68, 2]."""
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon([tuple(map(float, landmarks[index])) for index in _OUTLINE], fill=1)
    return np.asarray(canvas)


def elsewhere(
    ellipses_E4: np.ndarray, landmarks: np.ndarray, height: int, width: int, rng: np.random.Generator
) -> np.ndarray | None:
    """A region of the same size and shape as the ellipses', elsewhere on the face, bool [H, W].

    Each ellipse's pixels are moved on their own, to a place drawn uniformly from those where their middle lies on the
    face, they lie within the picture, and they meet neither the region itself nor each other; so as many pixels are
    covered as `region_mask` covers.

    Returns:
      the mask; None if no such place was found, as of a region that fills most of the face.
    """
    region_HW = region_mask(ellipses_E4, height, width)
    places_P2 = np.argwhere(face_mask(landmarks, height, width))
    taken_HW, left_HW = region_HW.copy(), region_HW.copy()
    for ellipse in np.asarray(ellipses_E4, np.float64):
        pixels_N2 = np.argwhere(region_mask(ellipse[None], height, width) & left_HW)
        if not len(pixels_N2):
            continue  # outside the picture, or within the ellipse before it
        left_HW[tuple(pixels_N2.T)] = False
        middle_2 = np.round(pixels_N2.mean(axis=0)).astype(int)
        for _ in range(_TRIES if len(places_P2) else 0):
            moved_N2 = pixels_N2 + places_P2[rng.integers(len(places_P2))] - middle_2
            inside = (moved_N2 >= 0).all() and (moved_N2 < (height, width)).all()
            if inside and not taken_HW[tuple(moved_N2.T)].any():
                taken_HW[tuple(moved_N2.T)] = True
                break
        else:
            return None
    return taken_HW & ~region_HW


def covered(picture_HW3: np.ndarray, mask_HW: np.ndarray, fill: Fill, statistics: str = "clip") -> np.ndarray:
    """The picture with the pixels of the mask covered, uint8 [H, W, 3].

    Args:
      picture_HW3: uint8.
      mask_HW: bool.
      fill: one of FILLS.
      statistics: the tower's normalisation, whose mean colour is the fill "mean".

    Raises:
      ExpllmError: another fill or normalisation.
    """
    if fill not in FILLS:
        raise ExpllmError(f"unknown fill {fill!r}", f"use one of: {', '.join(FILLS)}")
    check_statistics(statistics)
    result = picture_HW3.copy()
    if fill == "mean":
        result[mask_HW] = np.round(255 * np.asarray(STATISTICS[statistics][0])).astype(np.uint8)
    else:
        blurred = Image.fromarray(picture_HW3).filter(ImageFilter.GaussianBlur(_BLUR * picture_HW3.shape[1]))
        result[mask_HW] = np.asarray(blurred)[mask_HW]
    return result
