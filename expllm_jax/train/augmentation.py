"""The augmentation of `records.augmentation` on the device, a batch at a time, inside a jitted step.

It follows the same rows of draws to the same pictures as the compiled code for the CPU does, in float32 and int32 and
with static shapes: every picture goes through every operation, and one that is not wanted is given numbers that leave
the picture alone. Crop and resizing are two small matrix products, the blur is a sum of shifted pictures; rotation and
affine map pick single pixels (gathers), since nearest neighbours have no separable form.

What differs from the CPU's pictures: where resizing or blur ends on the edge between two levels, the sum may fall to
the other side (one level; sums on an edge are frequent where the crop's sides are simple fractions of S); and where a
turned pixel's centre falls closer than 2^-15 of a pixel to the edge between two source pixels, the other one may be
taken (any number of levels, one pixel in some 50,000). Flip, colours and grey are equal to the last bit where float32
divisions are rounded correctly (CPU; not promised by every accelerator, where a hue may then come out one 255th
further). The tests hold the mean difference of all pictures under 0.01 levels, that of each under 0.2.

Shape letters: B pictures, C the three colours, Y rows, X columns (both S), K columns of draws. Levels are whole
numbers, 0 to 255, in float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.records.augmentation import BLUR_HEIGHT, BLUR_WIDTH, COLOUR_ORDERS, NO_HUE, Column
from expllm_jax.records.pictures import STATISTICS, check_statistics

_HUE = 3  # in COLOUR_ORDERS
_LEAVE = 3  # in the tables below: no blend in this place
_FIXED = 65536.0  # see picture_kernels.warp


def augment(pictures: jax.Array, rows: jax.Array, statistics: str = "clip") -> jax.Array:
    """Augments and normalises a batch.

    Args:
      pictures: uint8 [B, S, S, 3] RGB.
      rows: float32 [B, K] of `records.augmentation.draws`, for pictures of side S.
      statistics: "clip" or "imagenet".

    Returns:
      float32 [B, S, S, 3]: mean 0 and deviation 1 under `statistics`, 0 where a rectangle was erased.

    Raises:
      ExpllmError: while tracing: shapes or types are not these, or `statistics` is unknown.
    """
    check_statistics(statistics)
    side = pictures.shape[1] if pictures.ndim == 4 else 0
    if pictures.dtype != jnp.uint8 or pictures.shape[1:] != (side, side, 3):
        raise ExpllmError(
            f"augmentation: pictures of {pictures.dtype} {list(pictures.shape)}", "give uint8 [pictures, side, side, 3]"
        )
    if rows.shape != (pictures.shape[0], len(Column)):
        raise ExpllmError(
            f"augmentation: draws {list(rows.shape)} for {pictures.shape[0]} pictures",
            f"give one row of {len(Column)} columns a picture",
        )
    value = {column: rows[:, column] for column in Column}
    levels_BCYX = jnp.moveaxis(pictures, -1, 1).astype(jnp.float32)
    levels_BCYX = jnp.where(_each(value[Column.FLIP]) != 0, levels_BCYX[..., ::-1], levels_BCYX)
    levels_BCYX = _coloured(levels_BCYX, value)
    zero_B, one_B = jnp.zeros_like(value[Column.ROTATION]), jnp.ones_like(value[Column.ROTATION])
    window = value[Column.WINDOW_RIGHT], value[Column.WINDOW_DOWN]
    levels_BCYX = _warped(levels_BCYX, -value[Column.ROTATION], one_B, (zero_B, zero_B), window)
    levels_BCYX = _enlarged(levels_BCYX, value)
    shift = value[Column.AFFINE_RIGHT], value[Column.AFFINE_DOWN]
    levels_BCYX = _warped(levels_BCYX, value[Column.AFFINE_ANGLE], value[Column.AFFINE_SCALE], shift, (zero_B, zero_B))
    levels_BCYX = _blurred(levels_BCYX, value[Column.BLUR])
    return _finished(levels_BCYX, value, statistics)


def _each(numbers_B: jax.Array) -> jax.Array:
    """[B] → [B, 1, 1, 1]."""
    return numbers_B[:, None, None, None]


# Colours


def _blends() -> tuple[np.ndarray, np.ndarray]:
    """Two int [24, 3]: for every order, the blends (0–2, or _LEAVE) before the hue's turn and those after it.

    Each batch does the hue once, between two times three blends, rather than in all four places that it can have.
    """
    before, after = [], []
    for order in COLOUR_ORDERS:
        turn = order.index(_HUE)
        before.append((*order[:turn], *[_LEAVE] * (3 - turn)))
        after.append((*order[turn + 1 :], *[_LEAVE] * turn))
    return np.array(before), np.array(after)


_BEFORE, _AFTER = _blends()


def _coloured(levels_BCYX: jax.Array, value: dict[Column, jax.Array]) -> jax.Array:
    order_B = value[Column.COLOUR_ORDER].astype(jnp.int32)
    one_B = jnp.ones_like(value[Column.BRIGHTNESS])
    factors_B4 = jnp.stack([value[Column.BRIGHTNESS], value[Column.CONTRAST], value[Column.SATURATION], one_B], axis=1)
    for blends in (_BEFORE, None, _AFTER):
        if blends is None:
            turned = _hue_shifted(levels_BCYX, value[Column.HUE].astype(jnp.int32))
            levels_BCYX = jnp.where(_each(value[Column.HUE]) == NO_HUE, levels_BCYX, turned)
            continue
        for place in range(blends.shape[1]):
            blend_B = jnp.asarray(blends)[order_B, place]
            factor_B = jnp.take_along_axis(factors_B4, blend_B[:, None], axis=1)[:, 0]
            levels_BCYX = _blended(levels_BCYX, blend_B, factor_B)
    return jnp.where(_each(value[Column.GREY]) != 0, _luma(levels_BCYX), levels_BCYX)


def _luma(levels_BCYX: jax.Array) -> jax.Array:
    """float32 [B, 1, Y, X], in the integers of Pillow's `convert("L")`."""
    red, green, blue = (levels_BCYX[:, c].astype(jnp.int32) for c in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).astype(jnp.float32)[:, None]


def _blended(levels_BCYX: jax.Array, blend_B: jax.Array, factor_B: jax.Array) -> jax.Array:
    """A blend with black (0), the mean luma (1) or the luma (2); by a factor of 1 nothing changes."""
    luma = _luma(levels_BCYX)
    pixels = luma.shape[2] * luma.shape[3]
    total = luma.astype(jnp.int32).sum((1, 2, 3), keepdims=True)
    mean = ((2 * total + pixels) // (2 * pixels)).astype(jnp.float32)
    ground = jnp.where(_each(blend_B) == 2, luma, jnp.where(_each(blend_B) == 1, mean, 0.0))
    return jnp.floor(jnp.clip(ground + _each(factor_B) * (levels_BCYX - ground), 0, 255))


def _cut_255ths(share: jax.Array) -> jax.Array:
    """⌊255 · share⌋ of the exact product, which float32 cannot hold: Pillow's C multiplies in float64.

    255 · share = (256 · share − n) − share + n, and with n the nearest whole number each difference is exact.
    """
    nearest = jnp.round(255 * share)
    return nearest - ((256 * share - nearest) - share < 0)


def _hue_shifted(levels_BCYX: jax.Array, shift_B: jax.Array) -> jax.Array:
    """`picture_kernels.shift_hue`; see there."""
    red, green, blue = levels_BCYX[:, 0], levels_BCYX[:, 1], levels_BCYX[:, 2]
    largest, smallest = levels_BCYX.max(1), levels_BCYX.min(1)
    spread = jnp.maximum(largest - smallest, 1)
    from_red, from_green, from_blue = ((largest - colour) / spread for colour in (red, green, blue))
    # Of the two other colours one is the smallest, at 1 exactly: written so, each sum is rounded once, as in Pillow.
    near_green = jnp.where(from_blue == 1, 1 + from_red, 3 - from_blue)
    near_blue = jnp.where(from_red == 1, 3 + from_green, 5 - from_red)
    turn = jnp.where(red == largest, from_blue - from_green, jnp.where(green == largest, near_green, near_blue))
    # Did XLA see that this is 6, it would multiply by 1/6, which is rounded: another hue for one colour in 400.
    turn = turn / (6 + 0 * spread)
    hue = _cut_255ths(jnp.where(turn < 0, turn + 1, turn)).astype(jnp.int32)
    saturation = _cut_255ths((largest - smallest) / jnp.maximum(largest, 1))
    hue = (hue + shift_B[:, None, None]) & 255

    sector = 6 * hue // 255
    rest = (6 * hue - 255 * sector).astype(jnp.float32) / 255
    sector = sector % 6
    share = saturation / 255
    low, falling, rising = (jnp.floor(largest * (1 - part) + 0.5) for part in (share, share * rest, share * (1 - rest)))
    # Who is largest in sectors 0 to 5, and so on.
    red = jnp.select([sector == 1, (sector == 2) | (sector == 3), sector == 4], [falling, low, rising], largest)
    green = jnp.select([sector == 0, (sector == 1) | (sector == 2), sector == 3], [rising, largest, falling], low)
    blue = jnp.select([sector == 2, (sector == 3) | (sector == 4), sector == 5], [rising, largest, falling], low)
    return jnp.stack([red, green, blue], axis=1)


# Places


def _warped(
    levels_BCYX: jax.Array,
    degrees_B: jax.Array,
    scale_B: jax.Array,
    shift: tuple[jax.Array, jax.Array],
    window: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """`picture_kernels.warp`; see there. `shift` and `window` are [B] each, to the right and down."""
    B, _, side, _ = levels_BCYX.shape
    middle = side * 0.5
    angle_B = jnp.deg2rad(degrees_B)
    cosine_B, sine_B = jnp.cos(angle_B) / scale_B, jnp.sin(angle_B) / scale_B
    right_B, down_B = shift
    start_x_B = cosine_B * (0.5 - middle - right_B) + sine_B * (0.5 - middle - down_B) + middle
    start_y_B = -sine_B * (0.5 - middle - right_B) + cosine_B * (0.5 - middle - down_B) + middle

    def fixed(numbers_B: jax.Array) -> jax.Array:
        return jnp.floor(numbers_B * _FIXED + 0.5).astype(jnp.int32)[:, None, None]

    x = jnp.arange(side)[None, None, :] + window[0].astype(jnp.int32)[:, None, None]
    y = jnp.arange(side)[None, :, None] + window[1].astype(jnp.int32)[:, None, None]
    from_x = (fixed(start_x_B) + x * fixed(cosine_B) + y * fixed(sine_B)) >> 16
    from_y = (fixed(start_y_B) + x * fixed(-sine_B) + y * fixed(cosine_B)) >> 16
    inside = (0 <= x) & (x < side) & (0 <= y) & (y < side)
    inside &= (0 <= from_x) & (from_x < side) & (0 <= from_y) & (from_y < side)

    # One number a pixel, so that it is picked once for all three colours.
    red, green, blue = (levels_BCYX[:, c].astype(jnp.int32) for c in range(3))
    pixels = (red | green << 8 | blue << 16).reshape(B, side * side)
    source = jnp.where(inside, from_y * side + from_x, 0).reshape(B, side * side)
    picked = jnp.take_along_axis(pixels, source, axis=1, mode="promise_in_bounds").reshape(B, side, side)
    picked = jnp.where(inside, picked, 0)
    return jnp.stack([picked & 255, picked >> 8 & 255, picked >> 16], axis=1).astype(jnp.float32)


def _enlarged(levels_BCYX: jax.Array, value: dict[Column, jax.Array]) -> jax.Array:
    """`picture_kernels.enlarge` as two products with matrices that have two numbers a row."""
    side = levels_BCYX.shape[2]
    down = _interpolation(value[Column.CROP_TOP], value[Column.CROP_HEIGHT], side)
    across = _interpolation(value[Column.CROP_LEFT], value[Column.CROP_WIDTH], side)
    precise = jax.lax.Precision.HIGHEST  # bfloat16 weights would be off by half a level
    wide = jnp.einsum("bcyx,bvx->bcyv", levels_BCYX, across, precision=precise)
    wide = jnp.floor(wide + 0.5)
    return jnp.floor(jnp.einsum("bcyv,buy->bcuv", wide, down, precision=precise) + 0.5)


def _interpolation(start_B: jax.Array, length_B: jax.Array, side: int) -> jax.Array:
    """float32 [B, S, S]: how much each result (middle axis) takes of each source row or column (last axis)."""
    start, length = start_B[:, None, None], length_B[:, None, None]
    result, source = jnp.arange(side)[None, :, None], jnp.arange(side)[None, None, :]
    centre = start + (result + 0.5) * (length / side)
    weight = jnp.maximum(0, 1 - jnp.abs(source + 0.5 - centre))
    weight = jnp.where((source >= start) & (source < start + length), weight, 0)
    return weight / weight.sum(-1, keepdims=True)


def _gaussian(length: int, sigma_B: jax.Array) -> jax.Array:
    """float32 [B, length], sum 1; all in the middle where sigma is 0."""
    place = jnp.arange(length) - length // 2
    sigma = sigma_B[:, None]
    weight = jnp.exp(-0.5 * (place / jnp.where(sigma > 0, sigma, 1)) ** 2)
    weight = jnp.where(sigma > 0, weight, place == 0)
    return weight / weight.sum(1, keepdims=True)


def _blurred(levels_BCYX: jax.Array, sigma_B: jax.Array) -> jax.Array:
    side = levels_BCYX.shape[2]
    across, down = _gaussian(BLUR_WIDTH, sigma_B), _gaussian(BLUR_HEIGHT, sigma_B)
    reach_x, reach_y = BLUR_WIDTH // 2, BLUR_HEIGHT // 2
    padded = jnp.pad(levels_BCYX, ((0, 0), (0, 0), (reach_y, reach_y), (reach_x, reach_x)), mode="reflect")
    smooth = sum(_each(across[:, tap]) * padded[..., tap : tap + side] for tap in range(BLUR_WIDTH))
    smooth = sum(_each(down[:, tap]) * smooth[:, :, tap : tap + side] for tap in range(BLUR_HEIGHT))
    return jnp.round(smooth)


def _finished(levels_BCYX: jax.Array, value: dict[Column, jax.Array], statistics: str) -> jax.Array:
    mean, deviation = np.asarray(STATISTICS[statistics], np.float32) * np.float32(255)
    top, left = _each(value[Column.ERASE_TOP]), _each(value[Column.ERASE_LEFT])
    height, width = _each(value[Column.ERASE_HEIGHT]), _each(value[Column.ERASE_WIDTH])
    y, x = (jnp.arange(levels_BCYX.shape[2]).reshape(shape) for shape in ((1, -1, 1, 1), (1, 1, -1, 1)))
    hole = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    return jnp.where(hole, 0.0, (jnp.moveaxis(levels_BCYX, 1, -1) - mean) / deviation)
