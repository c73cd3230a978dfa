"""What happens to a picture when it is augmented, drawn as numbers: one row of columns a record and epoch.

The numbers come from Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3),
which is a pure function of a key and a counter: the key is (seed, epoch), the counter (place of the quantity, key of
the record). Nothing is carried from one record to the next, so batches, workers and hosts do not matter, and integer
arithmetic gives the same on every platform. It is the generator of `numpy.random.Philox`, whose raw output the tests
compare it with; NumPy's class costs some 8 µs a record, this 0.01 µs a block of four numbers.

The compiled functions call none of another file: Numba's cache of a function notices a change in its own file only.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numba import njit

from expllm_jax.errors import ExpllmError

COLOUR_ORDERS = tuple(itertools.permutations(range(4)))
"""The orders of brightness (0), contrast (1), saturation (2) and hue (3); `Column.COLOUR_ORDER` counts them."""

NO_HUE = -1000.0
"""In `Column.HUE`: leave the hue alone. A shift by 0 does not: the way through 8-bit HSV and back is lossy."""

_ATTEMPTS = 10  # torchvision's, for a crop or a rectangle that fits
_CROP_BLOCK, _ERASE_BLOCK = 16, 32  # counters of their first attempts

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_ROUNDS = 10
_FRACTION_SHIFT = np.uint64(11)
_FRACTION = 2.0**-53


class Column(enum.IntEnum):
    """The columns of a row of draws. At the value in brackets an operation changes nothing."""

    SIZE = 0  # side of the picture that the numbers of pixels below are meant for
    FLIP = 1  # 0 or 1 [0]
    GREY = 2  # 0 or 1 [0]
    COLOUR_ORDER = 3  # index into COLOUR_ORDERS [any]
    BRIGHTNESS = 4  # factor [1]
    CONTRAST = 5  # factor [1]
    SATURATION = 6  # factor [1]
    HUE = 7  # whole 255ths of a turn, cut off towards 0 as in torchvision [NO_HUE]
    ROTATION = 8  # degrees, counter-clockwise [0]
    CROP_TOP = 9  # the window that is resized to the whole picture, pixels [0]
    CROP_LEFT = 10  # [0]
    CROP_HEIGHT = 11  # [SIZE]
    CROP_WIDTH = 12  # [SIZE]
    WINDOW_DOWN = 13  # how far the padded crop lies off the middle, pixels [0]
    WINDOW_RIGHT = 14  # [0]
    AFFINE_ANGLE = 15  # degrees, clockwise [0]
    AFFINE_DOWN = 16  # pixels [0]
    AFFINE_RIGHT = 17  # [0]
    AFFINE_SCALE = 18  # factor [1]
    BLUR = 19  # sigma in pixels [0]
    ERASE_TOP = 20  # pixels [0]
    ERASE_LEFT = 21  # [0]
    ERASE_HEIGHT = 22  # [0]
    ERASE_WIDTH = 23  # [0]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Probabilities and ranges; the defaults are the reference's recipe. A range of no width leaves an operation out.

    Raises ExpllmError where a value makes no sense.
    """

    size: int = 224  # side of the pictures
    flip: float = 0.5
    jitter: float = 0.5  # probability of jitter; otherwise of a chance to turn grey
    grey: float = 0.2  # probability of that chance
    brightness: float = 0.25  # factors lie within 1 ± this
    contrast: float = 0.25
    saturation: float = 0.25
    hue: float = 0.1  # turns
    spatial: float = 0.5  # probability of rotation and crop together
    rotation: float = 5.0  # degrees
    resized_crop: float = 0.5  # probability of the resized crop; otherwise the padded one
    crop_area: tuple[float, float] = (0.8, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 1.3333)  # width over height
    padding: int = 12  # pixels
    soften: float = 0.5  # probability of affine map and blur together
    affine_angle: float = 15.0  # degrees
    affine_shift: float = 0.1  # of the size
    affine_scale: tuple[float, float] = (0.9, 1.1)
    blur: tuple[float, float] = (0.1, 2.0)  # sigma in pixels; (0, 0) for none
    erasing: float = 0.5
    erase_area: tuple[float, float] = (0.05, 0.12)
    erase_ratio: tuple[float, float] = (0.3, 3.3)  # height over width

    def __post_init__(self) -> None:
        for field in ("flip", "jitter", "grey", "spatial", "resized_crop", "soften", "erasing"):
            self._check(field, 0 <= getattr(self, field) <= 1, "a probability from 0 to 1")
        for field in ("brightness", "contrast", "saturation"):
            self._check(field, 0 <= getattr(self, field) <= 1, "a number from 0 to 1")
        self._check("hue", 0 <= self.hue <= 0.5, "a number from 0 to 0.5 turns")
        for field in ("rotation", "affine_angle"):
            self._check(field, 0 <= getattr(self, field) <= 180, "a number of degrees from 0 to 180")
        self._check("affine_shift", 0 <= self.affine_shift <= 1, "a share of the size from 0 to 1")
        for field in ("crop_area", "crop_ratio", "affine_scale", "blur", "erase_area", "erase_ratio"):
            self._check(field, len(getattr(self, field)) == 2, "two numbers, the smaller one first")
        for field in ("crop_area", "crop_ratio", "affine_scale", "erase_area", "erase_ratio"):
            low, high = getattr(self, field)
            self._check(field, 0 < low <= high < math.inf, "two positive numbers, the smaller one first")
        for field in ("crop_area", "erase_area"):
            self._check(field, getattr(self, field)[1] <= 1, "shares of the picture's area, at most 1")
        low, high = self.blur
        self._check("blur", 0 < low <= high < math.inf or (low, high) == (0, 0), "two positive numbers, or (0, 0)")
        self._check("size", 16 <= self.size <= 8192, "a side from 16 to 8192 pixels")
        self._check("padding", 0 <= self.padding < self.size, "a number of pixels below the size")

    def _check(self, field: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ExpllmError(f"augmentation: {field} = {getattr(self, field)!r}", f"give {wanted}")


AUGMENTATIONS: Mapping[str, AugmentConfig] = MappingProxyType(
    {
        "reference": AugmentConfig(),
        "flip": AugmentConfig(jitter=0.0, grey=0.0, spatial=0.0, soften=0.0, erasing=0.0),
        "none": AugmentConfig(flip=0.0, jitter=0.0, grey=0.0, spatial=0.0, soften=0.0, erasing=0.0),
    }
)
"""Recipes by name, for pictures of 224 pixels."""


def draws(config: AugmentConfig, seed: int, epoch: int, keys: np.ndarray, located: np.ndarray) -> np.ndarray:
    """What shall happen to each of B records in an epoch: float32 [B, len(Column)], a function of its arguments row by
    row.

    `keys`: int64 [B], what names each record (the same key in the same epoch is the same augmentation). `located`: bool
    [B], whether a record's text states coordinates. Its other numbers do not depend on it.

    The numbers come from Philox4x64 in integer arithmetic; areas, ratios and square roots are then worked out in
    float64 and rounded to whole pixels or to float32, so a last digit that two C libraries see differently has to fall
    on a rounding edge to matter.

    Raises ExpllmError where seed or epoch is negative or the arrays disagree.
    """
    keys, located = np.ascontiguousarray(keys, np.int64), np.ascontiguousarray(located, np.bool_)
    if keys.ndim != 1 or keys.shape != located.shape:
        raise ExpllmError(
            f"augmentation: {keys.shape} keys and {located.shape} marks of coordinates", "give one of each a record"
        )
    for name, number in (("seed", seed), ("epoch", epoch)):
        if not 0 <= number < 2**64:
            raise ExpllmError(f"augmentation: {name} = {number}", "give a number from 0 to 2^64 - 1")
    rows = neutral_rows(config.size, len(keys))
    _draw_all(_numbers(config), np.uint64(seed), np.uint64(epoch), keys.view(np.uint64), located, rows)
    return rows


def flipped(rows: np.ndarray) -> np.ndarray:
    """bool [...]: which records are mirrored, and so need their mirrored text; `rows` [..., len(Column)] of `draws`."""
    return rows[..., Column.FLIP] != 0


def neutral_rows(size: int, count: int) -> np.ndarray:
    """float32 [count, len(Column)]: rows that change nothing of pictures of `size`. For evaluation, and for places in
    a batch that hold no picture: a row of zeros is not neutral."""
    row = np.zeros(len(Column), np.float32)
    row[[Column.SIZE, Column.CROP_HEIGHT, Column.CROP_WIDTH]] = size
    row[[Column.BRIGHTNESS, Column.CONTRAST, Column.SATURATION, Column.AFFINE_SCALE]] = 1
    row[Column.HUE] = NO_HUE
    return np.tile(row, (count, 1))


@functools.cache
def _numbers(config: AugmentConfig) -> tuple[float, ...]:
    """All fields in their order, as the compiled code wants them: floats, in one flat tuple."""
    flat = []
    for value in dataclasses.astuple(config):
        flat.extend(value if isinstance(value, tuple) else (value,))
    return tuple(map(float, flat))


@njit(cache=True, nogil=True)
def _upper_product(a: np.uint64, b: np.uint64) -> np.uint64:
    """Upper 64 bits of the 128-bit product."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a_high * b_low + ((a_low * b_low) >> _HALF)
    other = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> _HALF) + (other >> _HALF)


@njit(cache=True, nogil=True)
def philox(
    counter_0: np.uint64, counter_1: np.uint64, key_0: np.uint64, key_1: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """The block of four uint64 at the counter (counter_0, counter_1, 0, 0) under the key (key_0, key_1)."""
    zero = np.uint64(0)
    c0, c1, c2, c3 = counter_0, counter_1, zero, zero
    for _ in range(_ROUNDS):
        upper_0, lower_0 = _upper_product(_MULTIPLIER_0, c0), _MULTIPLIER_0 * c0
        upper_1, lower_1 = _upper_product(_MULTIPLIER_1, c2), _MULTIPLIER_1 * c2
        c0, c1, c2, c3 = upper_1 ^ c1 ^ key_0, lower_1, upper_0 ^ c3 ^ key_1, lower_0
        key_0, key_1 = key_0 + _WEYL_0, key_1 + _WEYL_1
    return c0, c1, c2, c3


@njit(cache=True, nogil=True)
def uniforms(
    counter_0: np.uint64, counter_1: np.uint64, key_0: np.uint64, key_1: np.uint64
) -> tuple[float, float, float, float]:
    """Four independent float64, uniform over the multiples of 2^-53 in [0, 1); arguments as for `philox`."""
    a, b, c, d = philox(counter_0, counter_1, key_0, key_1)
    return (
        float(a >> _FRACTION_SHIFT) * _FRACTION,
        float(b >> _FRACTION_SHIFT) * _FRACTION,
        float(c >> _FRACTION_SHIFT) * _FRACTION,
        float(d >> _FRACTION_SHIFT) * _FRACTION,
    )


@njit(cache=True, nogil=True)
def _between(low: float, high: float, uniform: float) -> float:
    return low + (high - low) * uniform


@njit(cache=True, nogil=True)
def _factor(reach: float, uniform: float) -> float:
    """1 ± reach, in 4096ths: times a difference of levels, that is exact in float32, so that a blend comes out the same
    whether a processor rounds between multiplication and addition or not."""
    return np.rint(_between(1 - reach, 1 + reach, uniform) * 4096) / 4096


@njit(cache=True, nogil=True)
def _sides(
    size: float, area: tuple[float, float], ratio: tuple[float, float], chosen: tuple[float, float, float, float]
) -> tuple[float, float]:
    """Both sides of a rectangle of random area and log-uniform ratio, in whole pixels: the one that grows with the
    ratio comes first."""
    pixels = size * size * _between(area[0], area[1], chosen[0])
    aspect = math.exp(_between(math.log(ratio[0]), math.log(ratio[1]), chosen[1]))
    return np.rint(math.sqrt(pixels * aspect)), np.rint(math.sqrt(pixels / aspect))


@njit(cache=True, nogil=True)
def _draw_all(
    numbers: tuple[float, ...],
    seed: np.uint64,
    epoch: np.uint64,
    keys_B: np.ndarray,
    located_B: np.ndarray,
    rows_BK: np.ndarray,
) -> None:
    for b in range(len(keys_B)):
        _draw(numbers, seed, epoch, keys_B[b], located_B[b], rows_BK[b])


@njit(cache=True, nogil=True)
def _draw(
    numbers: tuple[float, ...], seed: np.uint64, epoch: np.uint64, key: np.uint64, located: bool, row_K: np.ndarray
) -> None:
    """Writes into a neutral row what is drawn.

    Every quantity has a place of its own in the counter, so that none moves when another is not needed: recipes that
    differ in one operation agree on all others.
    """
    (
        size, flip, jitter, grey, brightness, contrast, saturation, hue,
        spatial, rotation, resized_crop, area_low, area_high, ratio_low, ratio_high, padding,
        soften, affine_angle, affine_shift, scale_low, scale_high, blur_low, blur_high,
        erasing, erase_low, erase_high, erase_ratio_low, erase_ratio_high,
    ) = numbers  # fmt: skip

    flips, jitters, greys, order = uniforms(np.uint64(1), key, seed, epoch)
    row_K[Column.FLIP] = flips < flip
    if jitters < jitter:
        u0, u1, u2, u3 = uniforms(np.uint64(2), key, seed, epoch)
        row_K[Column.COLOUR_ORDER] = math.floor(order * 24)
        row_K[Column.BRIGHTNESS] = _factor(brightness, u0)
        row_K[Column.CONTRAST] = _factor(contrast, u1)
        row_K[Column.SATURATION] = _factor(saturation, u2)
        if hue > 0:
            row_K[Column.HUE] = int(_between(-hue, hue, u3) * 255)
    elif greys < grey:
        row_K[Column.GREY] = 1.0

    spaced, angle, crops, _ = uniforms(np.uint64(3), key, seed, epoch)
    down, right, softened, sigma = uniforms(np.uint64(4), key, seed, epoch)
    if spaced < spatial and not located:
        row_K[Column.ROTATION] = _between(-rotation, rotation, angle)
        if crops < resized_crop:
            for attempt in range(_ATTEMPTS):
                chosen = uniforms(np.uint64(_CROP_BLOCK + attempt), key, seed, epoch)
                width, height = _sides(size, (area_low, area_high), (ratio_low, ratio_high), chosen)
                if 0 < width <= size and 0 < height <= size:
                    row_K[Column.CROP_TOP] = math.floor(chosen[2] * (size - height + 1))
                    row_K[Column.CROP_LEFT] = math.floor(chosen[3] * (size - width + 1))
                    row_K[Column.CROP_HEIGHT], row_K[Column.CROP_WIDTH] = height, width
                    break
        else:
            row_K[Column.WINDOW_DOWN] = math.floor(down * (2 * padding + 1)) - padding
            row_K[Column.WINDOW_RIGHT] = math.floor(right * (2 * padding + 1)) - padding

    if softened < soften:
        row_K[Column.BLUR] = _between(blur_low, blur_high, sigma)
        if not located:
            u0, u1, u2, u3 = uniforms(np.uint64(5), key, seed, epoch)
            reach = affine_shift * size
            row_K[Column.AFFINE_ANGLE] = _between(-affine_angle, affine_angle, u0)
            row_K[Column.AFFINE_DOWN] = np.rint(_between(-reach, reach, u1))
            row_K[Column.AFFINE_RIGHT] = np.rint(_between(-reach, reach, u2))
            row_K[Column.AFFINE_SCALE] = _between(scale_low, scale_high, u3)

    if uniforms(np.uint64(6), key, seed, epoch)[0] < erasing:
        for attempt in range(_ATTEMPTS):
            chosen = uniforms(np.uint64(_ERASE_BLOCK + attempt), key, seed, epoch)
            height, width = _sides(size, (erase_low, erase_high), (erase_ratio_low, erase_ratio_high), chosen)
            if height < size and width < size:
                row_K[Column.ERASE_TOP] = math.floor(chosen[2] * (size - height + 1))
                row_K[Column.ERASE_LEFT] = math.floor(chosen[3] * (size - width + 1))
                row_K[Column.ERASE_HEIGHT], row_K[Column.ERASE_WIDTH] = height, width
                break
