"""The same rows of draws done with Pillow, as torchvision calls it on PIL pictures: what the compiled code is held to.

Each function is the operation of that name in torchvision's PIL backend (its `functional_pil.py`), written
against Pillow's and SciPy's public interfaces only.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from expllm_jax.records.augmentation import COLOUR_ORDERS, NO_HUE, Column


def brightness(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(factor)


def saturation(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(factor)


def hue(image: Image.Image, shift: int) -> Image.Image:
    """`shift` is torchvision's `int(hue_factor * 255)`, which it adds as uint8."""
    h, s, v = image.convert("HSV").split()
    h = Image.fromarray(np.asarray(h) + np.uint8(shift % 256))
    return Image.merge("HSV", (h, s, v)).convert("RGB")


def grey(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


def rotation(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.NEAREST, fillcolor=(0, 0, 0))


def resized_crop(image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
    return image.crop((left, top, left + width, top + height)).resize(image.size, Image.Resampling.BILINEAR)


def padded_crop(image: Image.Image, top: int, left: int, padding: int) -> Image.Image:
    side = image.size[0]
    return ImageOps.expand(image, padding, (0, 0, 0)).crop((left, top, left + side, top + side))


def affine(image: Image.Image, degrees: float, right: float, down: float, scale: float) -> Image.Image:
    """The inverse of: move the middle to 0, turn and scale, move it back and on by (right, down)."""
    middle, angle = image.size[0] / 2, math.radians(degrees)
    forward = np.eye(3)
    forward[:2, :2] = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward[:2, 2] = np.array([middle + right, middle + down]) - forward[:2, :2] @ [middle, middle]
    back = np.linalg.inv(forward)[:2].ravel().tolist()
    return image.transform(image.size, Image.Transform.AFFINE, back, Image.Resampling.NEAREST, fillcolor=(0, 0, 0))


def blur(image: Image.Image, sigma: float) -> Image.Image:
    """SciPy's "mirror" is torch's "reflect"."""
    kernels = [np.exp(-0.5 * (np.arange(n) - n // 2) ** 2 / sigma**2) for n in (9, 5)]  # rows, then columns
    pixels = np.asarray(image, np.float64)
    for axis, kernel in enumerate(kernels):
        pixels = ndimage.correlate1d(pixels, kernel / kernel.sum(), axis, mode="mirror")
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def picture(pixels: np.ndarray, row: np.ndarray, *, padding: int = 12) -> np.ndarray:
    """uint8 [S, S, 3] after operations 1 to 4 of the recipe, as `row` of `draws` wants them."""
    value = {column: float(row[column]) for column in Column}
    side = int(value[Column.SIZE])
    image = Image.fromarray(pixels)
    if value[Column.FLIP]:
        image = ImageOps.mirror(image)
    jitter = (
        (brightness, Column.BRIGHTNESS),
        (contrast, Column.CONTRAST),
        (saturation, Column.SATURATION),
        (hue, Column.HUE),
    )
    for index in COLOUR_ORDERS[int(value[Column.COLOUR_ORDER])]:
        operation, column = jitter[index]
        if operation is not hue:
            image = operation(image, value[column])
        elif value[column] != NO_HUE:
            image = hue(image, int(value[column]))
    if value[Column.GREY]:
        image = grey(image)
    image = rotation(image, value[Column.ROTATION])
    image = padded_crop(
        image, padding + int(value[Column.WINDOW_DOWN]), padding + int(value[Column.WINDOW_RIGHT]), padding
    )
    corner = int(value[Column.CROP_TOP]), int(value[Column.CROP_LEFT])
    image = resized_crop(image, *corner, int(value[Column.CROP_HEIGHT]), int(value[Column.CROP_WIDTH]))
    image = affine(
        image,
        value[Column.AFFINE_ANGLE],
        value[Column.AFFINE_RIGHT],
        value[Column.AFFINE_DOWN],
        value[Column.AFFINE_SCALE],
    )
    if value[Column.BLUR]:
        image = blur(image, value[Column.BLUR])
    assert image.size == (side, side)
    return np.asarray(image)


def erased(normalised: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Operation 6 on float32 [S, S, 3]."""
    result = normalised.copy()
    top, left = int(row[Column.ERASE_TOP]), int(row[Column.ERASE_LEFT])
    result[top : top + int(row[Column.ERASE_HEIGHT]), left : left + int(row[Column.ERASE_WIDTH])] = 0
    return result


def face_like(side: int, seed: int) -> np.ndarray:
    """uint8 [side, side, 3] with areas, edges, noise and both ends of the scale: every operation can go wrong on it."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (7, 7, 3), np.uint8))
    pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(np.int64)
    pixels = np.clip(pixels + generator.integers(-12, 13, pixels.shape), 0, 255)
    pixels[: side // 5, : side // 4] = generator.integers(0, 256, 3)
    pixels[-side // 6 :, side // 2 :] = generator.integers(0, 256)  # grey
    return pixels.astype(np.uint8)
