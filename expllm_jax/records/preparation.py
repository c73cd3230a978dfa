"""From a picture file to the pixels that a model sees, the same in training and in use.

Training makes a record of a file (`stored_picture`) and pixels of the record (`seen_picture`); an answer about a file
takes both steps at once (`prepared_pixels`), and gets the same pixels, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.records.answers import Size
from expllm_jax.records.encode_config import EncodeConfig
from expllm_jax.records.framing import Region, face_region
from expllm_jax.records.pictures import (
    OpenPicture,
    encoded_picture,
    open_picture,
    prepared_picture,
    read_picture,
    square,
)


def stored_picture(opened: OpenPicture, annotation: Annotation, config: EncodeConfig) -> tuple[bytes, Annotation, Size]:
    """What a record holds of a picture: its file, the annotation in that file's pixels, and its width and height.

    Raises ExpllmError naming the picture if it cannot be said where in it the annotation's positions are, or there is
    no face box to cut it by.
    """
    if annotation.face_box or annotation.landmarks:
        _check_upright(opened, annotation.picture)
    if config.picture == "original":
        return opened.storable(), annotation, opened.size
    region = _region(opened, annotation, config)
    pixels = prepared_picture(opened.pixels, config.picture_size, region, config.resize)
    moved = region.squared().moved(annotation, config.picture_size)
    return encoded_picture(pixels, config.picture_format), moved, (config.picture_size, config.picture_size)


def seen_picture(content: bytes, size: int, resize: str, *, name: str = "") -> np.ndarray:
    """What a model sees of a record's picture, uint8 [size, size, 3]; `resize` is that of the record's EncodeConfig.

    Raises ExpllmError, calling the picture `name`, if it cannot be read.
    """
    return square(read_picture(content, name=name), size, resize)


def prepared_pixels(
    picture: bytes | str | Path,
    config: EncodeConfig,
    size: int,
    *,
    face_box: Sequence[float] = (),
    cropped: bool = False,
    name: str = "",
) -> np.ndarray:
    """What a model that learnt from records of `config` is to see of a picture, uint8 [size, size, 3].

    Args:
      picture: a file or its content.
      config: of the records.
      size: pixels a side that the model takes.
      face_box: (x, y, width, height) in pixels of the picture, for a model of faces (`picture` "face" in `config`).
      cropped: the picture holds what would be cut out of a larger one already, margin included, so that all of it is
        seen.
      name: what errors call the picture; by default its path.

    Raises:
      ExpllmError: the picture cannot be read, or the face box is missing, does not fit, or has no effect.
    """
    name = name or ("the picture" if isinstance(picture, bytes) else str(picture))
    opened = open_picture(picture, name=name)
    if face_box:
        if cropped or config.picture != "face":
            why = "it is said to be cut to the face already" if cropped else "the model has learnt from whole pictures"
            raise ExpllmError(f"{name} comes with a face box, which has no effect: {why}", "leave the face box out")
        _check_upright(opened, name)
    elif config.picture == "face" and not cropped:
        raise ExpllmError(
            f"the model has learnt from pictures cut to the face, and it is not known where the face is in {name}",
            "give its face box (--annotations FILE), or say that the picture is cut to the face already (--crop)",
        )
    pixels = opened.pixels
    if config.picture != "original":
        region = None if cropped else _region(opened, Annotation(name, face_box=tuple(face_box)), config)
        pixels = prepared_picture(pixels, config.picture_size, region, config.resize)
        if config.picture_format != "png":  # the only one that gives back what it is given
            pixels = read_picture(encoded_picture(pixels, config.picture_format), name=name)
    return square(pixels, size, config.resize)


def _region(opened: OpenPicture, annotation: Annotation, config: EncodeConfig) -> Region:
    """What is kept of a picture that is not stored as it is."""
    if config.picture == "face":
        return face_region(annotation, config.crop_margin, opened.size)
    return Region(0, 0, *opened.size)


def _check_upright(opened: OpenPicture, name: str) -> None:
    """Raises ExpllmError if positions in the picture could be meant before or after it is turned."""
    if opened.turned:
        raise ExpllmError(
            f"{name} has to be turned to stand upright (EXIF), and the annotation has positions",
            "store the picture upright and give the positions in it",
        )
