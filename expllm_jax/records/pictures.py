"""Pictures from anywhere, as 8-bit RGB arrays, or one clear refusal.

What happens to what:

| picture | is |
|---|---|
| JPEG, PNG, PGM/PPM/PBM, BMP, WebP, GIF, TIFF with one frame | read; the content decides, not the file name |
| grey, 1 bit, palette | converted to RGB |
| 16-bit grey (PNG, PGM) | scaled by 255 / 65535, rounded; 16-bit colour PNG keeps its upper 8 bits |
| CMYK | converted to RGB without colour profile |
| alpha | laid over PAD_COLOUR, the colour that `square` pads with |
| EXIF orientation | applied (the reference ignores it; a phone's portrait would lie on its side) |
| the extra pictures in a phone's multi-picture JPEG | ignored: the first is the photograph |
| animated GIF, PNG or WebP, multi-page TIFF | refused: which frame is meant is not ours to guess |
| under 16 pixels or over 10,000 on a side, over 50 megapixels | refused from the header, before decoding |
| empty, truncated, no picture, 32-bit or float | refused |
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from expllm_jax.errors import ExpllmError
from expllm_jax.records.framing import Region, padded_square
from expllm_jax.records.opencv_resize import opencv_linear

PAD_COLOUR = (123, 117, 104)
"""ExpLLM pads with this RGB colour: CLIP's mean, so 0 after normalisation (released code, `datasets/facetask.py`)."""

STATISTICS = {
    # RGB mean and standard deviation of pictures scaled to 0–1.
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),  # ExpLLM's choice
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # what DINOv2 was trained with
}

SMALLEST_SIDE = 16
LARGEST_SIDE = 10_000
LARGEST_AREA = 50_000_000
LARGEST_FILE = 200_000_000  # bytes; 50 megapixels of RGB, uncompressed, are 150 million

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "WEBP", "GIF", "TIFF")
_REMEDY = "give a JPEG or PNG picture of one face"


def read_picture(picture: bytes | str | Path, *, name: str = "") -> np.ndarray:
    """Reads a picture file (or its content) as uint8 [height, width, 3] RGB, following the table above.

    `name` is what errors call the picture; by default the path. Raises ExpllmError.
    """
    return _decode(_content(picture, name), name or _name(picture))[0]


def storable_picture(picture: bytes | str | Path, *, name: str = "") -> bytes:
    """The picture as every reader understands it: an upright, 8-bit, grey or RGB JPEG or PNG is passed through byte for
    byte (after a full decode, so that nothing broken is stored); anything else becomes PNG, losslessly.

    Raises ExpllmError like `read_picture`.
    """
    return open_picture(picture, name=name).storable()


@dataclass(frozen=True, eq=False)
class OpenPicture:
    """A picture file with its pixels, decoded once for all that is asked of it."""

    content: bytes
    pixels: np.ndarray  # uint8 [height, width, 3] RGB, upright
    plain: bool  # the content is a JPEG or PNG that needs no conversion to be read as it is
    turned: bool  # the content says that its pixels lie on their side or mirrored (EXIF), and `pixels` stand upright

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def storable(self) -> bytes:
        """See `storable_picture`."""
        return self.content if self.plain else encoded_picture(self.pixels)


def open_picture(picture: bytes | str | Path, *, name: str = "") -> OpenPicture:
    """Reads and decodes a picture file (or its content). Raises ExpllmError like `read_picture`."""
    content = _content(picture, name)
    return OpenPicture(content, *_decode(content, name or _name(picture)))


def encoded_picture(pixels: np.ndarray, picture_format: str = "png") -> bytes:
    """uint8 [height, width, 3] RGB as a file: "png" keeps every level; "jpeg" is of quality 95 with colours at full
    resolution.

    At 224×224, "jpeg" moves levels by 0.5 (grey faces, enlarged) to 1.5 (a sharp colour portrait) on average and 17 at
    most, takes a third of the room (12 to 29 kB), is decoded in a third of the time (0.2 to 0.4 ms against 0.9 to 1.3
    on one core) and encoded in a twentieth (0.2 ms against 3 to 6).
    """
    check_picture_format(picture_format)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, picture_format, **_FORMAT_OPTIONS[picture_format])
    return content.getvalue()


def check_picture_format(picture_format: str) -> None:
    """Raises ExpllmError unless `picture_format` is "png" or "jpeg"."""
    if picture_format not in _FORMAT_OPTIONS:
        raise ExpllmError(f"unknown picture_format {picture_format!r}", f"use one of: {', '.join(_FORMAT_OPTIONS)}")


_FORMAT_OPTIONS: Mapping[str, Mapping[str, int]] = {
    "png": {"compress_level": 3},  # half to a quarter of the time of the default, 6, for 1 to 17 % more room
    "jpeg": {"quality": 95, "subsampling": 0},
}


def cut(picture: np.ndarray, region: Region) -> np.ndarray:
    """The pixels of `region`, uint8 [region.height, region.width, 3]; PAD_COLOUR where it leaves the picture."""
    height, width = picture.shape[:2]
    if region == Region(0, 0, width, height):
        return picture
    pixels = np.empty((region.height, region.width, 3), np.uint8)
    pixels[:] = PAD_COLOUR
    left, top = max(region.left, 0), max(region.top, 0)
    seen = picture[top : max(region.top + region.height, 0), left : max(region.left + region.width, 0)]
    down, across = top - region.top, left - region.left
    pixels[down : down + seen.shape[0], across : across + seen.shape[1]] = seen
    return pixels


RESIZES = ("antialiased", "reference")


def square(picture: np.ndarray, size: int = 224, resize: str = "antialiased") -> np.ndarray:
    """Pads to a centred square with PAD_COLOUR, then resizes to uint8 [size, size, 3].

    Bilinear with half-pixel centres; when it shrinks, over the whole area that falls into a pixel. `resize` "reference"
    gives the very levels of the reference's OpenCV call instead, which skips pixels there and aliases. A picture of
    that size already is returned as it is. Raises ExpllmError for another `resize`.
    """
    check_resize(resize)
    height, width = picture.shape[:2]
    picture = cut(picture, padded_square((width, height)))
    if len(picture) == size:
        return picture
    if resize == "reference":
        return opencv_linear(picture, size)
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))


def check_resize(resize: str) -> None:
    """Raises ExpllmError unless `resize` is one of RESIZES."""
    if resize not in RESIZES:
        raise ExpllmError(f"unknown resize {resize!r}", f"use one of: {', '.join(RESIZES)}")


def prepared_picture(
    picture: np.ndarray, size: int, region: Region | None = None, resize: str = "antialiased"
) -> np.ndarray:
    """What the model is to see of a picture, uint8 [size, size, 3]: `region` of it (all by default) made `square`,
    which leaves such a picture as it is when it is read again."""
    return square(picture if region is None else cut(picture, region), size, resize)


def check_statistics(statistics: str) -> None:
    """Raises ExpllmError unless `statistics` names a row of STATISTICS."""
    if statistics not in STATISTICS:
        raise ExpllmError(f"unknown normalisation {statistics!r}", f"use one of: {', '.join(STATISTICS)}")


def normalise(picture: np.ndarray, statistics: str = "clip") -> np.ndarray:
    """uint8 [..., 3] RGB → float32 [..., 3], mean 0 and deviation 1 under `statistics` ("clip" or "imagenet")."""
    check_statistics(statistics)
    mean, deviation = np.asarray(STATISTICS[statistics], np.float32)
    return (picture.astype(np.float32) - mean * np.float32(255)) / (deviation * np.float32(255))


def _name(picture: bytes | str | Path) -> str:
    return "the picture" if isinstance(picture, bytes) else str(picture)


def _content(picture: bytes | str | Path, name: str) -> bytes:
    name = name or _name(picture)
    try:
        size = len(picture) if isinstance(picture, bytes) else Path(picture).stat().st_size
        if size > LARGEST_FILE:
            raise ExpllmError(f"{name} is too large ({size:,} bytes)", f"give at most {LARGEST_FILE:,} bytes")
        content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    except OSError as error:
        raise ExpllmError(f"{name} cannot be read ({error.strerror})", "check the path") from error
    if not content:
        raise ExpllmError(f"{name} is empty (0 bytes)", _REMEDY)
    return content


def _decode(content: bytes, name: str) -> tuple[np.ndarray, bool, bool]:
    """The last three fields of an OpenPicture."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check_header(image, name)
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        plain = image.format in ("JPEG", "PNG") and image.mode in ("L", "RGB") and "transparency" not in image.info
        upright = ImageOps.exif_transpose(image) if turned else image
        return np.asarray(_as_rgb(upright, name)), plain and not turned, turned
    except ExpllmError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ExpllmError(f"{name} is too large to decode: {error}", _size_remedy()) from error
    except Image.UnidentifiedImageError as error:
        raise ExpllmError(f"{name} is not a picture (it begins with {content[:8]!r})", _REMEDY) from error
    except Exception as error:  # on broken files Pillow's decoders raise nearly everything
        raise ExpllmError(
            f"{name} is a broken or truncated picture ({error})", "make or fetch the file again"
        ) from error


def _check_header(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > LARGEST_AREA or max(width, height) > LARGEST_SIDE:
        raise ExpllmError(f"{name} is too large ({width}×{height} pixels)", _size_remedy())
    if min(width, height) < SMALLEST_SIDE:
        raise ExpllmError(
            f"{name} is too small ({width}×{height} pixels)", f"give {SMALLEST_SIDE}×{SMALLEST_SIDE} or more"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ExpllmError(f"{name} is animated or has pages ({frames} frames)", "save the one frame that is meant")


def _size_remedy() -> str:
    return f"shrink it to at most {LARGEST_SIDE:,} pixels a side and {LARGEST_AREA // 10**6} megapixels"


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or mode == "I":
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ExpllmError(f"{name} holds 32-bit values", "save it with 8 or 16 bits per channel")
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*PAD_COLOUR, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    if mode == "RGB":
        return image  # `convert` would copy it
    if mode in ("1", "L", "P", "RGBX", "CMYK", "YCbCr"):
        return image.convert("RGB")
    raise ExpllmError(f"{name} has pixels of an unsupported kind ({mode})", "save it as 8-bit RGB")
