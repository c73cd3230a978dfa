"""A z-buffer rasteriser for one small mesh: which triangle covers which sample, and where in it.

Written here because headless machines have no OpenGL and the software renderers on offer bring a browser's worth of
dependencies; the loop is forty lines, runs at memory speed under Numba and is the same on every platform.
"""

from __future__ import annotations

import numpy as np
from numba import njit

EMPTY = -1


@njit(cache=True, nogil=True)
def rasterise(
    screen_V3: np.ndarray, triangles_F3: np.ndarray, depth_YX: np.ndarray, triangle_YX: np.ndarray, bary_YX2: np.ndarray
) -> None:
    """Fills the three buffers in place.

    screen_V3: float32, x right and y down in samples, z = 1/distance (larger is nearer; linear over the screen).
    depth_YX starts at 0, triangle_YX at EMPTY; bary_YX2 receives the weights of a triangle's first two corners.
    """
    height, width = depth_YX.shape
    for t in range(triangles_F3.shape[0]):
        a, b, c = triangles_F3[t, 0], triangles_F3[t, 1], triangles_F3[t, 2]
        ax, ay, az = screen_V3[a, 0], screen_V3[a, 1], screen_V3[a, 2]
        bx, by, bz = screen_V3[b, 0], screen_V3[b, 1], screen_V3[b, 2]
        cx, cy, cz = screen_V3[c, 0], screen_V3[c, 1], screen_V3[c, 2]
        area = (by - cy) * (ax - cx) + (cx - bx) * (ay - cy)
        if abs(area) < 1e-9:
            continue
        inverse = 1.0 / area
        x0, x1 = max(0, int(min(ax, bx, cx))), min(width - 1, int(max(ax, bx, cx)) + 1)
        y0, y1 = max(0, int(min(ay, by, cy))), min(height - 1, int(max(ay, by, cy)) + 1)
        for y in range(y0, y1 + 1):
            py = y + 0.5
            for x in range(x0, x1 + 1):
                px = x + 0.5
                w0 = ((by - cy) * (px - cx) + (cx - bx) * (py - cy)) * inverse
                w1 = ((cy - ay) * (px - cx) + (ax - cx) * (py - cy)) * inverse
                w2 = 1.0 - w0 - w1
                if w0 < 0.0 or w1 < 0.0 or w2 < 0.0:
                    continue
                z = w0 * az + w1 * bz + w2 * cz
                if z > depth_YX[y, x]:
                    depth_YX[y, x] = z
                    triangle_YX[y, x] = t
                    bary_YX2[y, x, 0] = w0
                    bary_YX2[y, x, 1] = w1


@njit(cache=True, nogil=True)
def resolve(samples_YX3: np.ndarray, triangle_YX: np.ndarray, picture_YX3: np.ndarray) -> None:
    """Averages the covered samples of each pixel over the background that `picture_YX3` holds, in place."""
    height, width, _ = picture_YX3.shape
    factor = triangle_YX.shape[0] // height
    share = 1.0 / (factor * factor)
    for y in range(height):
        for x in range(width):
            covered = 0
            red, green, blue = 0.0, 0.0, 0.0
            for sy in range(y * factor, (y + 1) * factor):
                for sx in range(x * factor, (x + 1) * factor):
                    if triangle_YX[sy, sx] != EMPTY:
                        covered += 1
                        red += samples_YX3[sy, sx, 0]
                        green += samples_YX3[sy, sx, 1]
                        blue += samples_YX3[sy, sx, 2]
            if covered:
                rest = 1.0 - covered * share
                picture_YX3[y, x, 0] = picture_YX3[y, x, 0] * rest + red * share
                picture_YX3[y, x, 1] = picture_YX3[y, x, 1] * rest + green * share
                picture_YX3[y, x, 2] = picture_YX3[y, x, 2] * rest + blue * share
