"""OpenCV's bilinear resizing of 8-bit pictures, bit for bit, in NumPy: what the released ExpLLM code sees.

`cv2.resize` with its default interpolation looks at the two nearest pixels an axis, whatever the scale, so shrinking
skips pixels and aliases. It computes in fixed point (modules/imgproc/src/resize.cpp of OpenCV 4): weights of 11 bits,
columns first and without rounding, then rows with two roundings towards zero and one to the nearest. Shrinking to
exactly half is another path there, the mean of each 2×2 pixels.
"""

from __future__ import annotations

import numpy as np

_ONE = 2048  # a weight of 1


def opencv_linear(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 [side, side, 3] → [size, size, 3], as `cv2.resize(picture, (size, size))` computes it."""
    side = len(picture)
    if side == size:
        return picture
    levels = picture.astype(np.int32)
    if side == 2 * size:
        columns = levels[:, ::2] + levels[:, 1::2]
        return ((columns[::2] + columns[1::2] + 2) >> 2).astype(np.uint8)
    # Pixel centres in double and weights in single precision, as there.
    at = ((np.arange(size) + 0.5) * (1 / (size / side)) - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.int32)
    part = at - first.astype(np.float32)
    low, high = (np.rint(weight * np.float32(_ONE)).astype(np.int32) for weight in (1 - part, part))
    near, far = np.clip(first, 0, side - 1), np.clip(first + 1, 0, side - 1)
    # Columns beyond the edge get the edge with the whole weight; rows get it twice, with both weights.
    within = (first >= 0) & (first < side - 1)
    columns = (
        levels[:, near] * np.where(within, low, _ONE)[:, None] + levels[:, far] * np.where(within, high, 0)[:, None]
    )
    upper, lower = (columns[rows] >> 4 for rows in (near, far))
    mixed = ((upper * low[:, None, None]) >> 16) + ((lower * high[:, None, None]) >> 16)
    return ((mixed + 2) >> 2).astype(np.uint8)
