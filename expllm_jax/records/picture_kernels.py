"""The picture operations of the augmentation, compiled by Numba: what Pillow does to 8-bit RGB, without its detours.

Pictures are uint8 [3, S, S], one plane a colour, so that the loops run over neighbouring bytes of one kind. Every
function fills or changes an array in place and rounds where Pillow rounds, because torchvision (the reference) hands
PIL pictures from one operation to the next: the results are Pillow's bit for bit (13.0 on x86-64; elsewhere its C may
be compiled with fused multiply-adds, which can move a colour by one level), but for `blur`, which torchvision computes
by a float convolution and where a sum that ends on .5 may round the other way.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_FIXED = 65536.0  # Pillow's nearest-neighbour transform steps through the source in 16.16 fixed point
_WEIGHT_BITS = 22  # and weighs pixels by 22-bit integers when it resizes


@njit(cache=True, nogil=True)
def planes(picture_YX3: np.ndarray, flip: bool, planes_3YX: np.ndarray) -> None:
    """Sorts an interleaved picture into planes; `flip` swaps left and right."""
    side = picture_YX3.shape[0]
    for y in range(side):
        if flip:
            for x in range(side):
                source = side - 1 - x
                planes_3YX[0, y, x] = picture_YX3[y, source, 0]
                planes_3YX[1, y, x] = picture_YX3[y, source, 1]
                planes_3YX[2, y, x] = picture_YX3[y, source, 2]
        else:
            for x in range(side):
                planes_3YX[0, y, x] = picture_YX3[y, x, 0]
                planes_3YX[1, y, x] = picture_YX3[y, x, 1]
                planes_3YX[2, y, x] = picture_YX3[y, x, 2]


@njit(cache=True, nogil=True, inline="always")
def _luma(red: np.uint8, green: np.uint8, blue: np.uint8) -> np.uint32:
    """ITU-R 601 luma as `convert("L")` rounds it."""
    weighted = (
        np.uint32(red) * np.uint32(19595) + np.uint32(green) * np.uint32(38470) + np.uint32(blue) * np.uint32(7471)
    )
    return np.uint32(weighted + np.uint32(32768)) >> np.uint32(16)


@njit(cache=True, nogil=True, inline="always")
def _blend(ground: np.float32, value: np.uint8, factor: np.float32) -> np.uint8:
    """`Image.blend` of one byte: cut off, not rounded, in float32."""
    mixed = ground + factor * (np.float32(value) - ground)
    return np.uint8(np.int32(min(max(mixed, np.float32(0.0)), np.float32(255.0))))


@njit(cache=True, nogil=True)
def brighten(planes_3YX: np.ndarray, factor: np.float32) -> None:
    """`ImageEnhance.Brightness`: a blend with black."""
    flat = planes_3YX.reshape(-1)
    for i in range(flat.size):
        flat[i] = _blend(np.float32(0.0), flat[i], factor)


@njit(cache=True, nogil=True)
def contrast(planes_3YX: np.ndarray, factor: np.float32) -> None:
    """`ImageEnhance.Contrast`: a blend with the picture's mean luma, rounded."""
    red, green, blue = planes_3YX[0].reshape(-1), planes_3YX[1].reshape(-1), planes_3YX[2].reshape(-1)
    total = np.uint32(0)
    for i in range(red.size):
        total += _luma(red[i], green[i], blue[i])
    ground = np.float32(int(float(total) / red.size + 0.5))
    flat = planes_3YX.reshape(-1)
    for i in range(flat.size):
        flat[i] = _blend(ground, flat[i], factor)


@njit(cache=True, nogil=True)
def saturate(planes_3YX: np.ndarray, factor: np.float32) -> None:
    """`ImageEnhance.Color`: a blend with each pixel's luma."""
    red, green, blue = planes_3YX[0].reshape(-1), planes_3YX[1].reshape(-1), planes_3YX[2].reshape(-1)
    for i in range(red.size):
        ground = np.float32(_luma(red[i], green[i], blue[i]))
        red[i] = _blend(ground, red[i], factor)
        green[i] = _blend(ground, green[i], factor)
        blue[i] = _blend(ground, blue[i], factor)


@njit(cache=True, nogil=True)
def greyscale(planes_3YX: np.ndarray) -> None:
    """Luma in all three planes."""
    red, green, blue = planes_3YX[0].reshape(-1), planes_3YX[1].reshape(-1), planes_3YX[2].reshape(-1)
    for i in range(red.size):
        grey = np.uint8(_luma(red[i], green[i], blue[i]))
        red[i] = grey
        green[i] = grey
        blue[i] = grey


@njit(cache=True, nogil=True, error_model="numpy")
def shift_hue(planes_3YX: np.ndarray, shift: int) -> None:
    """To Pillow's 8-bit HSV, hue + `shift` modulo 256 (torchvision's wrap, though hues end at 255), and back.

    Each step keeps the precision of Pillow's C, which mixes float32 variables with float64 constants: the truncations
    at the ends depend on it. All branches are selections and no division can be by zero (a pixel without colour has
    saturation 0, and so comes back as it was), which lets the compiler work on several pixels at once: five times
    faster than with the branches.
    """
    red, green, blue = planes_3YX[0].reshape(-1), planes_3YX[1].reshape(-1), planes_3YX[2].reshape(-1)
    shift_32 = np.int32(shift)
    for i in range(red.size):
        r, g, b = np.int32(red[i]), np.int32(green[i]), np.int32(blue[i])
        largest, smallest = max(r, max(g, b)), min(r, min(g, b))
        spread = np.float32(max(largest - smallest, np.int32(1)))
        from_red = np.float32(largest - r) / spread
        from_green = np.float32(largest - g) / spread
        from_blue = np.float32(largest - b) / spread
        near_red = from_blue - from_green
        near_green = np.float32(2.0 + from_red - from_blue)
        near_blue = np.float32(4.0 + from_green - from_red)
        around = (near_red if r == largest else (near_green if g == largest else near_blue)) / 6.0 + 1.0
        around = around - 1.0 if around >= 1.0 else around
        hue = np.int32(np.int32(np.int32(np.float32(around) * 255.0) + shift_32) & np.int32(255))
        saturation = np.int32(np.float32(largest - smallest) / np.float32(max(largest, np.int32(1))) * 255.0)

        sixths = np.float32(hue) * 6.0 / 255.0
        sector = np.int32(sixths)
        rest = np.float32(sixths - np.float32(sector))
        sector = np.int32(0) if sector == 6 else sector
        share = np.float32(np.float32(saturation) / 255.0)
        value = np.float64(largest)
        low = np.int32(value * (1.0 - share) + 0.5)
        falling = np.int32(value * (1.0 - np.float64(share * rest)) + 0.5)
        rising = np.int32(value * (1.0 - share * (1.0 - rest)) + 0.5)
        red[i] = (
            largest if sector == 0 or sector == 5 else (falling if sector == 1 else (rising if sector == 4 else low))
        )
        green[i] = (
            largest if sector == 1 or sector == 2 else (rising if sector == 0 else (falling if sector == 3 else low))
        )
        blue[i] = (
            largest if sector == 3 or sector == 4 else (rising if sector == 2 else (falling if sector == 5 else low))
        )


@njit(cache=True, nogil=True)
def warp(
    planes_3YX: np.ndarray,
    degrees: float,
    scale: float,
    right: float,
    down: float,
    crop_right: int,
    crop_down: int,
    warped_3YX: np.ndarray,
) -> None:
    """Turns about the middle (clockwise), scales, moves `right` and `down`; then takes the window `crop_right` and
    `crop_down` off the middle one. Nearest neighbours, black outside.

    One pass stands for `Image.transform` by torchvision's inverse matrix (`Image.rotate` is the same with the degrees
    negated) followed by the crop of a padded picture, which only moves whole pixels.
    """
    side = planes_3YX.shape[1]
    middle = side * 0.5
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    start_x = cosine * (-middle - right) + sine * (-middle - down) + middle
    start_y = -sine * (-middle - right) + cosine * (-middle - down) + middle
    step_c, step_s = math.floor(cosine * _FIXED + 0.5), math.floor(sine * _FIXED + 0.5)
    step_n = math.floor(-sine * _FIXED + 0.5)
    fixed_x = np.int64(math.floor((start_x + cosine * 0.5 + sine * 0.5) * _FIXED + 0.5))
    fixed_y = np.int64(math.floor((start_y - sine * 0.5 + cosine * 0.5) * _FIXED + 0.5))
    step_c, step_s, step_n = np.int64(step_c), np.int64(step_s), np.int64(step_n)
    limit = np.uint64(side)
    for y in range(side):
        inside_y = 0 <= y + crop_down < side
        row_x = fixed_x + (y + crop_down) * step_s + crop_right * step_c
        row_y = fixed_y + (y + crop_down) * step_c + crop_right * step_n
        for x in range(side):
            from_x, from_y = (row_x + x * step_c) >> 16, (row_y + x * step_n) >> 16
            if inside_y and 0 <= x + crop_right < side and np.uint64(from_x) < limit and np.uint64(from_y) < limit:
                warped_3YX[0, y, x] = planes_3YX[0, from_y, from_x]
                warped_3YX[1, y, x] = planes_3YX[1, from_y, from_x]
                warped_3YX[2, y, x] = planes_3YX[2, from_y, from_x]
            else:
                warped_3YX[0, y, x] = 0
                warped_3YX[1, y, x] = 0
                warped_3YX[2, y, x] = 0


@njit(cache=True, nogil=True)
def _taps(length: int, side: int, first_S: np.ndarray, weight_S2: np.ndarray) -> None:
    """Where each of `side` pixels finds its two neighbours among `length` <= side, and their weights in 22 bits."""
    scale = length / side
    for i in range(side):
        centre = (i + 0.5) * scale
        first = max(0, int(centre - 0.5))
        left = max(0.0, 1.0 - abs(first - centre + 0.5))
        right = max(0.0, 1.0 - abs(first + 1 - centre + 0.5)) if first + 1 < length else 0.0
        first_S[i] = first
        weight_S2[i, 0] = int(left / (left + right) * (1 << _WEIGHT_BITS) + 0.5)
        weight_S2[i, 1] = int(right / (left + right) * (1 << _WEIGHT_BITS) + 0.5)


@njit(cache=True, nogil=True)
def enlarge(planes_3YX: np.ndarray, top: int, left: int, height: int, width: int, enlarged_3YX: np.ndarray) -> None:
    """A window of the picture, resized to all of it: `crop` and `resize(..., BILINEAR)`, columns first, then rows."""
    side = planes_3YX.shape[1]
    first, weight = np.empty(side, np.int64), np.empty((side, 2), np.int32)
    half = np.int32(1 << (_WEIGHT_BITS - 1))
    wide = np.empty((height, side), np.uint8)
    for c in range(3):
        _taps(width, side, first, weight)
        for y in range(height):
            row = planes_3YX[c, top + y]
            for x in range(side):
                near = left + first[x]
                far = min(near + 1, left + width - 1)
                total = np.int32(row[near]) * weight[x, 0] + np.int32(row[far]) * weight[x, 1] + half
                wide[y, x] = np.uint8(total >> _WEIGHT_BITS)
        _taps(height, side, first, weight)
        for y in range(side):
            upper, lower = wide[first[y]], wide[min(first[y] + 1, height - 1)]
            for x in range(side):
                total = np.int32(upper[x]) * weight[y, 0] + np.int32(lower[x]) * weight[y, 1] + half
                enlarged_3YX[c, y, x] = np.uint8(total >> _WEIGHT_BITS)


@njit(cache=True, nogil=True)
def _gaussian(length: int, sigma: float) -> np.ndarray:
    """float32 [length], symmetric, sum 1."""
    weights = np.empty(length, np.float32)
    for i in range(length):
        weights[i] = math.exp(-0.5 * ((i - length // 2) / sigma) ** 2)
    return weights / weights.sum()


@njit(cache=True, nogil=True)
def blur(planes_3YX: np.ndarray, sigma: float, width: int, height: int) -> None:
    """torchvision's Gaussian blur: a kernel of `width` by `height` (odd), the edge mirrored without repeating it."""
    side = planes_3YX.shape[1]
    across, down = _gaussian(width, sigma), _gaussian(height, sigma)
    reach = width // 2
    padded = np.empty(side + 2 * reach, np.float32)
    smooth = np.empty((side, side), np.float32)
    sums = np.empty(side, np.float32)
    for c in range(3):
        for y in range(side):
            row, line = planes_3YX[c, y], smooth[y]
            for x in range(side):
                padded[reach + x] = row[x]
            for x in range(reach):
                padded[reach - 1 - x] = row[x + 1]
                padded[reach + side + x] = row[side - 2 - x]
            line[:] = 0.0
            for tap in range(width):
                weight = across[tap]
                for x in range(side):
                    line[x] += weight * padded[x + tap]
        for y in range(side):
            sums[:] = 0.0
            for tap in range(height):
                source = abs(y + tap - height // 2)
                line, weight = smooth[source if source < side else 2 * side - 2 - source], down[tap]
                for x in range(side):
                    sums[x] += weight * line[x]
            row = planes_3YX[c, y]
            for x in range(side):
                row[x] = np.uint8(np.int32(np.rint(sums[x])))


@njit(cache=True, nogil=True)
def normalised(
    planes_3YX: np.ndarray, table_3V: np.ndarray, top: int, left: int, height: int, width: int, picture_YX3: np.ndarray
) -> None:
    """Interleaves the planes, each level replaced by its value in float32 [3, 256]; a window of it becomes 0."""
    side = planes_3YX.shape[1]
    for y in range(side):
        for x in range(side):
            picture_YX3[y, x, 0] = table_3V[0, planes_3YX[0, y, x]]
            picture_YX3[y, x, 1] = table_3V[1, planes_3YX[1, y, x]]
            picture_YX3[y, x, 2] = table_3V[2, planes_3YX[2, y, x]]
    picture_YX3[top : top + height, left : left + width] = 0.0
