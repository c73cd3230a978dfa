"""What the augmentation of a picture costs: each operation and all of them, on the CPU, on the device, and in Pillow.

    python launch/bench/augmentation.py --json

Pillow does the same draws, with the calls that torchvision makes of it (the blur by Pillow's own approximation, which
is faster than torchvision's convolution) and NumPy for normalisation and erasing: what a torch data loader spends.
Everything runs in one thread but for the device's computation, which has the cores that XLA takes. Times are medians
over `--repeats`; an operation's is for a picture that needs it, the whole's for the recipe's own odds.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable

import jax
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from expllm_jax.records.augmentation import (
    AUGMENTATIONS,
    COLOUR_ORDERS,
    NO_HUE,
    Column,
    augmented,
    draws,
    neutral_rows,
)
from expllm_jax.records.pictures import STATISTICS
from expllm_jax.train.augmentation import augment

REFERENCE = AUGMENTATIONS["reference"]
SIDE = REFERENCE.size

# Values of columns that switch one operation on.
OPERATIONS: dict[str, dict[Column, float]] = {
    "normalise": {},
    "flip": {Column.FLIP: 1},
    "brightness": {Column.BRIGHTNESS: 1.125},
    "contrast": {Column.CONTRAST: 1.125},
    "saturation": {Column.SATURATION: 1.125},
    "hue": {Column.HUE: 13},
    "grey": {Column.GREY: 1},
    "rotation": {Column.ROTATION: 2.5},
    "resized crop": {Column.CROP_TOP: 7, Column.CROP_LEFT: 9, Column.CROP_HEIGHT: 205, Column.CROP_WIDTH: 211},
    "padded crop": {Column.WINDOW_DOWN: 7, Column.WINDOW_RIGHT: -5},
    "affine map": {Column.AFFINE_ANGLE: 7, Column.AFFINE_RIGHT: 9, Column.AFFINE_DOWN: -4, Column.AFFINE_SCALE: 1.05},
    "blur": {Column.BLUR: 1.1},
    "erasing": {Column.ERASE_TOP: 30, Column.ERASE_LEFT: 40, Column.ERASE_HEIGHT: 60, Column.ERASE_WIDTH: 70},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="example: python launch/bench/augmentation.py --json"
    )
    parser.add_argument("--batch", type=int, default=32, help="pictures a call on the device and of draws")
    parser.add_argument("--pictures", type=int, default=512, help="pictures with draws of their own, for the whole")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    for name in ("batch", "pictures", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    found = measure(options.batch, options.pictures, options.repeats)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'operation':14} {'ours µs':>9} {'Pillow µs':>10}")
    for name in OPERATIONS:
        print(f"{name:14} {found['ours_us'][name]:9.0f} {found['pillow_us'][name]:10.0f}")
    print(f"\nthe recipe, ms a picture: ours {found['ours_ms']:.3f}, Pillow {found['pillow_ms']:.3f}", end="")
    print(f" ({found['ratio']:.1f} times), device {found['device_ms']:.3f} ({found['device']})")
    print(f"draws, µs a record: {found['draw_us']:.2f} in batches of {options.batch}, {found['draw_one_us']:.1f} alone")


def measure(batch: int = 32, pictures: int = 512, repeats: int = 5) -> dict[str, object]:
    """All numbers: microseconds of each operation, milliseconds a picture of the whole recipe."""
    timed = functools.partial(_median_seconds, repeats=repeats)
    picture, place = _picture(0), np.empty((SIDE, SIDE, 3), np.float32)
    rows = {name: _row(values) for name, values in OPERATIONS.items()}
    loops = 20

    def ours(rows: Iterable[np.ndarray]) -> None:
        for row in rows:
            augmented(picture, row, out=place)

    def pillow(rows: Iterable[np.ndarray]) -> None:
        for row in rows:
            with_pillow(picture, row)

    ours_s = {name: timed(lambda row=row: ours([row] * loops)) for name, row in rows.items()}
    pillow_s = {name: timed(lambda row=row: pillow([row] * loops)) for name, row in rows.items()}
    # An operation alone, without the normalisation that every row ends with.
    ours_us, pillow_us = (
        {name: 1e6 * (spent - (name != "normalise") * times["normalise"]) / loops for name, spent in times.items()}
        for times in (ours_s, pillow_s)
    )

    keys, located = np.arange(pictures), np.zeros(pictures, bool)
    recipe = draws(REFERENCE, 0, 0, keys, located)
    ours_ms = 1e3 * timed(lambda: ours(recipe)) / pictures
    pillow_ms = 1e3 * timed(lambda: pillow(recipe)) / pictures
    on_device = jax.jit(augment)
    stack = jax.device_put(np.stack([_picture(seed) for seed in range(batch)]))
    batch_rows = jax.device_put(draws(REFERENCE, 0, 0, np.arange(batch), np.zeros(batch, bool)))
    device_ms = 1e3 * timed(lambda: jax.block_until_ready(on_device(stack, batch_rows))) / batch
    batches = range(0, pictures - batch + 1, batch)
    draw = timed(lambda: [draws(REFERENCE, 0, 0, keys[i : i + batch], located[:batch]) for i in batches])
    draw_one = timed(lambda: [draws(REFERENCE, 0, 0, keys[i : i + 1], located[:1]) for i in range(loops)])
    return {
        "ours_us": ours_us,
        "pillow_us": pillow_us,
        "ours_ms": ours_ms,
        "pillow_ms": pillow_ms,
        "ratio": pillow_ms / ours_ms,
        "device_ms": device_ms,
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "draw_us": 1e6 * draw / (len(batches) * batch),
        "draw_one_us": 1e6 * draw_one / loops,
        "batch": batch,
        "pictures": pictures,
    }


def with_pillow(picture: np.ndarray, row: np.ndarray) -> np.ndarray:
    """float32 [S, S, 3]: one picture as a row of draws wants it, as torchvision gets it done; neutral columns cost
    nothing."""
    value = dict(zip(Column, row.tolist(), strict=True))
    image = Image.fromarray(picture)
    if value[Column.FLIP]:
        image = ImageOps.mirror(image)
    blends = (
        (ImageEnhance.Brightness, Column.BRIGHTNESS),
        (ImageEnhance.Contrast, Column.CONTRAST),
        (ImageEnhance.Color, Column.SATURATION),
    )
    for operation in COLOUR_ORDERS[int(value[Column.COLOUR_ORDER])]:
        if operation < 3:
            enhance, column = blends[operation]
            if value[column] != 1:
                image = enhance(image).enhance(value[column])
        elif value[Column.HUE] != NO_HUE:
            hue, saturation, brightness = image.convert("HSV").split()
            hue = Image.fromarray(np.asarray(hue) + np.uint8(int(value[Column.HUE]) % 256))
            image = Image.merge("HSV", (hue, saturation, brightness)).convert("RGB")
    if value[Column.GREY]:
        image = image.convert("L").convert("RGB")
    if value[Column.ROTATION]:
        image = image.rotate(value[Column.ROTATION], Image.Resampling.NEAREST)
    right, down = (
        int(value[Column.WINDOW_RIGHT]) + REFERENCE.padding,
        int(value[Column.WINDOW_DOWN]) + REFERENCE.padding,
    )
    if right != REFERENCE.padding or down != REFERENCE.padding:
        image = ImageOps.expand(image, REFERENCE.padding, 0).crop((right, down, right + SIDE, down + SIDE))
    if value[Column.CROP_WIDTH] != SIDE or value[Column.CROP_HEIGHT] != SIDE:
        left, top = int(value[Column.CROP_LEFT]), int(value[Column.CROP_TOP])
        box = (left, top, left + int(value[Column.CROP_WIDTH]), top + int(value[Column.CROP_HEIGHT]))
        image = image.crop(box).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if value[Column.AFFINE_ANGLE]:
        angle, scale = math.radians(value[Column.AFFINE_ANGLE]), value[Column.AFFINE_SCALE]
        cosine, sine, middle = math.cos(angle) / scale, math.sin(angle) / scale, SIDE / 2
        x, y = middle + value[Column.AFFINE_RIGHT], middle + value[Column.AFFINE_DOWN]
        back = (cosine, sine, middle - cosine * x - sine * y, -sine, cosine, middle + sine * x - cosine * y)
        image = image.transform(image.size, Image.Transform.AFFINE, back, Image.Resampling.NEAREST)
    if value[Column.BLUR]:
        image = image.filter(ImageFilter.GaussianBlur(value[Column.BLUR]))
    mean, deviation = np.asarray(STATISTICS["clip"], np.float32)
    result = (np.asarray(image, np.float32) / 255 - mean) / deviation
    top, left = int(value[Column.ERASE_TOP]), int(value[Column.ERASE_LEFT])
    result[top : top + int(value[Column.ERASE_HEIGHT]), left : left + int(value[Column.ERASE_WIDTH])] = 0
    return result


def _row(values: dict[Column, float]) -> np.ndarray:
    row = neutral_rows(SIDE, 1)[0]
    for column, value in values.items():
        row[column] = value
    return row


def _picture(seed: int) -> np.ndarray:
    """uint8 [S, S, 3]: soft areas of colour, about as varied as a face."""
    coarse = np.random.default_rng(seed).integers(0, 256, (14, 14, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _median_seconds(call: Callable[[], object], *, repeats: int) -> float:
    """Of `repeats` calls, after one that compiles."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
