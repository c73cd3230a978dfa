"""The augmentation that ExpLLM trains with, in two halves: what to do, drawn as numbers; and doing it.

`draws` decides everything at random that is decided at random, one row of numbers a record, from (seed, epoch, key of
the record) alone. `augmented` (here, compiled for the CPU) and `expllm_jax.train.augmentation.augment` (for the device)
then follow the same row to the same picture, so that a run may do its pictures wherever they cost least, and neither
the batch nor the number of workers or hosts changes one.

The recipe is that of the released code (`datasets/facetask.py`), in this order, with torchvision's meaning on PIL
pictures (each operation rounds to 8 bits):

| | operation | reference |
|---|---|---|
| 1 | flip | p 0.5 |
| 2 | one of two: colour jitter / grey | brightness, contrast, saturation ±0.25, hue ±0.1, any order / p 0.2 |
| 3 | p 0.5: rotation, then one of two: resized / padded crop | ±5°; area 0.8–1, ratio 0.75–1.3333 / 12 pixels |
| 4 | p 0.5: affine map, then Gaussian blur | ±15°, shift 0.1, scale 0.9–1.1; sigma 0.1–2, 5 wide, 9 high |
| 5 | normalise | by the tower's statistics |
| 6 | erase a rectangle (0 after normalisation: the mean colour) | p 0.5, area 0.05–0.12, ratio 0.3–3.3 |

Rotation and affine map take nearest neighbours and leave black behind. Where a record's text states coordinates, 3 and
the affine map of 4 are left out: the flip has a twin text (`Record.mirrored`), they have none.
"""

from __future__ import annotations

import functools

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.records import picture_kernels
from expllm_jax.records.augment_draws import (
    AUGMENTATIONS,
    COLOUR_ORDERS,
    NO_HUE,
    AugmentConfig,
    Column,
    draws,
    flipped,
    neutral_rows,
)
from expllm_jax.records.pictures import normalise

__all__ = [
    "AUGMENTATIONS",
    "BLUR_HEIGHT",
    "BLUR_WIDTH",
    "COLOUR_ORDERS",
    "NO_HUE",
    "AugmentConfig",
    "Column",
    "augmented",
    "draws",
    "flipped",
    "neutral_rows",
]

BLUR_WIDTH, BLUR_HEIGHT = 5, 9
"""Extent of the Gaussian kernel in pixels (the reference's `kernel_size=(5, 9)`, which is width before height)."""


def augmented(
    picture: np.ndarray, row: np.ndarray, statistics: str = "clip", *, out: np.ndarray | None = None
) -> np.ndarray:
    """One picture as a row of draws wants it, normalised.

    Compiled; releases the GIL while it works.

    Args:
      picture: uint8 [S, S, 3] RGB.
      row: float32 [len(Column)], of `draws` for pictures of that size.
      statistics: a row of `STATISTICS`.
      out: float32 [S, S, 3], C-contiguous, where the result goes: a place in a batch, say. Fresh memory of that size
        can cost more than all operations on a picture, since the system hands it out page by page.

    Returns:
      `out`, or a new array if None: equal to `normalise` of the uint8 picture that torchvision would have made (within
      one level where it blurs), 0 where a rectangle was erased.

    Raises:
      ExpllmError: the picture is none of that kind or size, or `out` is not.
    """
    side = int(row[Column.SIZE])
    if picture.dtype != np.uint8 or picture.shape != (side, side, 3):
        raise ExpllmError(
            f"augmentation: a picture of {picture.dtype} {list(picture.shape)} for draws of size {side}",
            f"give uint8 [{side}, {side}, 3], or draw with AugmentConfig(size=...) as large as the pictures",
        )
    result = np.empty(picture.shape, np.float32) if out is None else out
    if result.dtype != np.float32 or result.shape != picture.shape or not result.flags.c_contiguous:
        raise ExpllmError(
            f"augmentation: a place of {result.dtype} {list(result.shape)} for a picture of side {side}",
            f"give contiguous float32 [{side}, {side}, 3]",
        )
    value = dict(zip(Column, row.tolist(), strict=True))
    current, spare = np.empty((3, side, side), np.uint8), np.empty((3, side, side), np.uint8)
    picture_kernels.planes(picture, value[Column.FLIP] != 0, current)

    for operation in COLOUR_ORDERS[int(value[Column.COLOUR_ORDER])]:
        if operation == 0 and value[Column.BRIGHTNESS] != 1:
            picture_kernels.brighten(current, np.float32(value[Column.BRIGHTNESS]))
        elif operation == 1 and value[Column.CONTRAST] != 1:
            picture_kernels.contrast(current, np.float32(value[Column.CONTRAST]))
        elif operation == 2 and value[Column.SATURATION] != 1:
            picture_kernels.saturate(current, np.float32(value[Column.SATURATION]))
        elif operation == 3 and value[Column.HUE] != NO_HUE:
            picture_kernels.shift_hue(current, int(value[Column.HUE]))
    if value[Column.GREY]:
        picture_kernels.greyscale(current)

    window = int(value[Column.WINDOW_RIGHT]), int(value[Column.WINDOW_DOWN])
    if value[Column.ROTATION] or any(window):
        picture_kernels.warp(current, -value[Column.ROTATION], 1.0, 0.0, 0.0, *window, spare)
        current, spare = spare, current
    height, width = int(value[Column.CROP_HEIGHT]), int(value[Column.CROP_WIDTH])
    if height != side or width != side:
        corner = int(value[Column.CROP_TOP]), int(value[Column.CROP_LEFT])
        picture_kernels.enlarge(current, *corner, height, width, spare)
        current, spare = spare, current

    angle, scale = value[Column.AFFINE_ANGLE], value[Column.AFFINE_SCALE]
    shift = value[Column.AFFINE_RIGHT], value[Column.AFFINE_DOWN]
    if angle or scale != 1 or any(shift):
        picture_kernels.warp(current, angle, scale, *shift, 0, 0, spare)
        current, spare = spare, current
    if value[Column.BLUR]:
        picture_kernels.blur(current, value[Column.BLUR], BLUR_WIDTH, BLUR_HEIGHT)

    rectangle = (Column.ERASE_TOP, Column.ERASE_LEFT, Column.ERASE_HEIGHT, Column.ERASE_WIDTH)
    picture_kernels.normalised(current, _levels(statistics), *(int(value[column]) for column in rectangle), result)
    return result


@functools.cache
def _levels(statistics: str) -> np.ndarray:
    """float32 [3, 256]: what `normalise` makes of every level of each colour."""
    return np.ascontiguousarray(normalise(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1), statistics).T)
