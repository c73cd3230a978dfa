"""A model sees the same pixels of a picture in training and in use, however it is stored and whatever its file is."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.records import (
    BatchConfig,
    EncodeConfig,
    RecordEncoder,
    batches,
    normalise,
    open_records,
    prepared_pixels,
    read_picture,
    seen_picture,
    square,
    write_records,
)
from tests.records.examples import annotation

RNG = np.random.default_rng(0)
SIZE = 48
BOX, MARGIN = (12.0, 9.5, 30.0, 20.0), 0.25


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def noise(height: int, width: int, *channels: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, *channels), np.uint8))


def on_its_side() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


COLOURS = noise(70, 101, 3)
PICTURES = {
    "large": encoded(COLOURS, "PNG"),
    "small": encoded(noise(31, 20, 3), "PNG"),
    "the model's size": encoded(noise(SIZE, SIZE, 3), "PNG"),
    "jpeg": encoded(COLOURS, "JPEG"),
    "turned": encoded(COLOURS, "JPEG", exif=on_its_side()),
    "turned png": encoded(COLOURS, "PNG", exif=on_its_side()),
    "16 bit": encoded(Image.fromarray(RNG.integers(0, 65536, (60, 50)).astype(np.uint16)), "PNG"),
    "16 bit pgm": b"P5\n50 60\n65535\n" + RNG.integers(0, 65536, (60, 50)).astype(">u2").tobytes(),
    "alpha": encoded(noise(50, 60, 4), "PNG"),
    "grey alpha": encoded(noise(50, 60, 2), "PNG"),
    "grey": encoded(noise(61, 52), "PNG"),
    "palette": encoded(COLOURS.quantize(16), "PNG", transparency=3),
    "cmyk": encoded(COLOURS.convert("CMYK"), "JPEG"),
    "webp": encoded(COLOURS, "WEBP", lossless=True),
    "1 bit": encoded(noise(40, 90).convert("1"), "TIFF"),
}


def faces() -> list[Annotation]:
    """One for each of PICTURES; without positions, which a turned picture cannot have."""
    return [
        dataclasses.replace(annotation(number), landmarks=(), face_box=()) for number, _ in enumerate(PICTURES.values())
    ]


@pytest.mark.parametrize("resize", ["antialiased", "reference"])
def test_square_and_original_records_give_the_very_pixels_of_the_file(template, own_tokenizer, tmp_path, resize):
    expected = np.stack([square(read_picture(content), SIZE, resize) for content in PICTURES.values()])
    for kind in ("square", "original"):
        made = {"picture_size": SIZE} if kind == "square" else {}
        config = EncodeConfig(image_tokens=4, picture=kind, resize=resize, **made)
        encoder = RecordEncoder(template, own_tokenizer, config)
        records = [encoder.record(face, content) for face, content in zip(faces(), PICTURES.values(), strict=True)]
        write_records(tmp_path / kind, {"train": records}, encoder)
        source = open_records(tmp_path / kind, "train")
        reading = batches(source, BatchConfig(len(PICTURES), shuffle=False, picture_size=SIZE, threads=0, read_ahead=0))
        np.testing.assert_array_equal(next(reading)["pixels"], normalise(expected), err_msg=kind)
        reading.close()
        asked = [prepared_pixels(content, config, SIZE) for content in PICTURES.values()]
        np.testing.assert_array_equal(asked, expected, err_msg=kind)
        if kind == "square":
            np.testing.assert_array_equal([read_picture(record.picture) for record in records], expected)


def test_the_two_resizes_are_not_the_same():
    assert (square(np.asarray(COLOURS), SIZE) != square(np.asarray(COLOURS), SIZE, "reference")).any()


@pytest.mark.parametrize("resize", ["antialiased", "reference"])
@pytest.mark.parametrize(("picture_format", "stored_size"), [("png", SIZE), ("png", 64), ("jpeg", SIZE), ("jpeg", 40)])
def test_a_face_is_cut_and_resized_for_an_answer_as_for_a_record(
    template, own_tokenizer, resize, picture_format, stored_size
):
    config = EncodeConfig(
        image_tokens=4, picture="face", crop_margin=MARGIN, picture_size=stored_size, resize=resize,
        picture_format=picture_format,
    )  # fmt: skip
    face = Annotation("a.png", "Fear", face_box=BOX)
    record = RecordEncoder(template, own_tokenizer, config).record(face, PICTURES["large"])
    learnt_from = seen_picture(record.picture, SIZE, resize)
    np.testing.assert_array_equal(prepared_pixels(PICTURES["large"], config, SIZE, face_box=BOX), learnt_from)
    # The box (12, 9.5, 30, 20) with its margin, 7.5 and 5 pixels, rounded outwards, cut out beforehand.
    crop = encoded(COLOURS.crop((4, 4, 50, 35)), "PNG")
    np.testing.assert_array_equal(prepared_pixels(crop, config, SIZE, cropped=True), learnt_from)
    whole = dataclasses.replace(config, picture="square", crop_margin=0.0)
    assert (prepared_pixels(PICTURES["large"], whole, SIZE) != learnt_from).any()


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"picture": "face"}, {}, r"not known where the face is in face\.png"),
        ({"picture": "face"}, {"face_box": BOX, "cropped": True}, "no effect: it is said to be cut"),
        ({"picture": "face"}, {"face_box": (200.0, 0.0, 5.0, 5.0)}, r"face\.png.*101×70"),
        ({"picture": "face"}, {"face_box": (1.0, 2.0)}, r"face\.png"),
        ({"picture": "square"}, {"face_box": BOX}, "no effect: the model has learnt from whole pictures"),
        ({}, {"face_box": BOX}, "no effect: the model has learnt from whole pictures"),
    ],
)
def test_a_face_box_that_is_missing_or_in_vain_is_refused(changes, options, said):
    with pytest.raises(ExpllmError, match=said):
        prepared_pixels(PICTURES["large"], EncodeConfig(**changes), SIZE, name="face.png", **options)


def test_a_box_in_a_picture_to_be_turned_is_refused():
    with pytest.raises(ExpllmError, match=r"face\.jpg has to be turned"):
        prepared_pixels(PICTURES["turned"], EncodeConfig(picture="face"), SIZE, face_box=BOX, name="face.jpg")
