"""Pictures from hostile or odd files: each is read as documented, or refused with one clear error that names it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from expllm_jax.errors import ExpllmError
from expllm_jax.records import PAD_COLOUR, normalise, read_picture, square, storable_picture

OPENCV = Path(__file__).parent.parent / "golden" / "opencv_resize.npz"  # made by make_opencv_resize.py
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (40, 30, 3), np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(48)[:, None] * 5, np.arange(40)[None] * 6, 90), -1).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels: only a reader that looks before it decodes survives large ones."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    data = b"IDAT" + zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


FRAMES = [Image.fromarray(np.full((20, 20, 3), value, np.uint8)) for value in (10, 200)]
JPEG = encoded(SMOOTH, "JPEG", quality=90)

REFUSED = {
    "empty.png": (b"", "0 bytes"),
    "text.jpg": (b"hello, I am a letter", "not a picture"),
    "zeros.png": (bytes(1000), "not a picture"),
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "truncated.png": (encoded(COLOUR, "PNG")[:500], "truncated"),
    "header.jpg": (JPEG[:20], "truncated|not a picture"),
    "dot.png": (encoded(np.zeros((1, 1, 3), np.uint8), "PNG"), "too small .1×1"),
    "thin.png": (encoded(np.zeros((15, 400, 3), np.uint8), "PNG"), "too small .400×15"),
    "bomb.png": (png_header(20_000, 20_000), "too large"),
    "wide.png": (png_header(20_000, 20), "too large .20000×20"),
    "large.png": (png_header(9_000, 9_000), "too large .9000×9000"),
    "film.gif": (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "2 frames"),
    "film.png": (encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "2 frames"),
    "film.webp": (encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "2 frames"),
    "pages.tiff": (encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "2 frames"),
    "float.tiff": (encoded(np.ones((20, 20), np.float32), "TIFF"), "unsupported kind"),
    "long.tiff": (encoded(Image.fromarray(np.full((20, 20), 70_000, np.int32)), "TIFF"), "32-bit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_error_that_names_the_file(tmp_path, name):
    content, reason = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    for reading in (read_picture, storable_picture):
        with pytest.raises(ExpllmError, match=reason) as caught:
            reading(tmp_path / name)
        assert name in caught.value.problem
        assert caught.value.remedy
    with pytest.raises(ExpllmError, match="the upload"):
        read_picture(content, name="the upload")


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(ExpllmError, match=str(path)):
            read_picture(path)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_are_exact(kind):
    np.testing.assert_array_equal(read_picture(encoded(COLOUR, kind)), COLOUR)


def test_content_decides_not_the_name(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(COLOUR, "PNG"))
    np.testing.assert_array_equal(read_picture(path), COLOUR)
    np.testing.assert_array_equal(read_picture(str(path)), COLOUR)


def test_jpeg_is_close():
    assert np.abs(read_picture(JPEG).astype(int) - SMOOTH).max() < 12


def test_pgm_as_orl_faces_have_it():
    grey = RNG.integers(0, 256, (112, 92), np.uint8)
    picture = read_picture(b"P5\n92 112\n255\n" + grey.tobytes())
    assert picture.shape == (112, 92, 3)
    np.testing.assert_array_equal(picture, grey[..., None].repeat(3, -1))
    assert square(picture).shape == (224, 224, 3)


def test_sixteen_bit_grey_is_scaled():
    values = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    for content in (encoded(values, "PNG"), b"P5 20 20 65535\n" + values.astype(">u2").tobytes()):
        np.testing.assert_array_equal(read_picture(content)[..., 0], expected)


def test_cmyk_palette_and_bits():
    assert (
        np.abs(read_picture(encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG")).astype(int) - SMOOTH).max() < 16
    )
    palette = Image.fromarray(np.full((20, 20, 3), (1, 2, 3), np.uint8)).quantize(4)
    assert (read_picture(encoded(palette, "GIF")) == (1, 2, 3)).all()
    bits = Image.fromarray(np.eye(20, dtype=np.uint8) * 255).convert("1")
    assert (read_picture(encoded(bits, "PNG"))[..., 1] == np.eye(20) * 255).all()


def test_alpha_lies_over_the_pad_colour():
    layer = np.dstack([COLOUR[:20, :20], np.zeros((20, 20), np.uint8)])
    layer[:, 10:, 3] = 255
    picture = read_picture(encoded(layer, "PNG"))
    assert (picture[:, :10] == PAD_COLOUR).all()
    np.testing.assert_array_equal(picture[:, 10:], COLOUR[:20, 10:20])


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is at the right: turn it 90° clockwise
    content = encoded(Image.fromarray(COLOUR), "PNG", exif=exif)
    np.testing.assert_array_equal(read_picture(content), np.rot90(COLOUR, -1))
    np.testing.assert_array_equal(read_picture(storable_picture(content)), np.rot90(COLOUR, -1))


def test_storable_passes_plain_files_through():
    for content in (JPEG, encoded(COLOUR, "PNG"), encoded(COLOUR[..., 0], "PNG")):
        assert storable_picture(content) == content
    for content in (encoded(COLOUR, "BMP"), encoded(np.dstack([COLOUR, COLOUR[..., :1]]), "PNG")):
        stored = storable_picture(content)
        assert stored[:4] == b"\x89PNG"
        np.testing.assert_array_equal(read_picture(stored), read_picture(content))


@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_damaged_files_never_escape(data):
    content = bytearray(data.draw(st.sampled_from([JPEG, encoded(COLOUR, "PNG"), REFUSED["film.gif"][0],
                                                   encoded(COLOUR, "TIFF"), encoded(COLOUR, "WEBP")])))  # fmt: skip
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        picture = read_picture(content)
    except ExpllmError:
        return
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3


def bilinear(picture: np.ndarray, size: int) -> np.ndarray:
    """Half-pixel bilinear enlargement, written out."""
    side = len(picture)
    at = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, side - 1), at - low
    rows = picture[low] * (1 - part)[:, None, None] + picture[high] * part[:, None, None]
    return rows[:, low] * (1 - part)[None, :, None] + rows[:, high] * part[None, :, None]


def test_square_pads_with_the_mean_colour_and_enlarges_bilinearly():
    padded = np.full((40, 40, 3), PAD_COLOUR, np.uint8)
    padded[:, 5:35] = COLOUR
    # Pillow rounds after each axis: half a level, twice.
    assert np.abs(square(COLOUR, 224).astype(float) - bilinear(padded.astype(float), 224)).max() < 1.01
    wide = COLOUR.transpose(1, 0, 2)
    np.testing.assert_array_equal(square(wide, 40), padded.transpose(1, 0, 2))
    np.testing.assert_array_equal(square(padded, 40), padded)


def test_reference_resizing_is_opencvs():
    with np.load(OPENCV) as golden:
        for side, expected in golden.items():
            picture = np.random.default_rng(int(side)).integers(0, 256, (int(side), int(side), 3), np.uint8)
            np.testing.assert_array_equal(square(picture, len(expected), "reference"), expected, err_msg=side)
        assert len(golden) == 8
    # 2 pixels to 3, on paper: the edges are kept, and the middle lies half way.
    low, high = (0, 0, 0), (100, 100, 100)
    across = square(np.array([[low, high], [low, high]], np.uint8), 3, "reference")
    assert (across[..., 0] == [0, 50, 100]).all()
    # It skips pixels where the other looks at them all.
    stripes = np.zeros((72, 72, 3), np.uint8)
    stripes[:, 1::3] = 255
    assert (square(stripes, 24, "reference") == 255).all()
    assert np.abs(square(stripes, 24)[2:-2, 2:-2].astype(float) - 85).max() < 40
    with pytest.raises(ExpllmError, match="cubic"):
        square(stripes, 24, "cubic")


def test_normalise_is_the_published_one():
    for name, mean, deviation in (
        ("clip", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ):
        expected = (COLOUR / 255.0 - mean) / deviation
        result = normalise(COLOUR, name)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, atol=1e-5)
    assert np.abs(normalise(np.array(PAD_COLOUR, np.uint8))).max() < 0.01  # padding says nothing
    with pytest.raises(ExpllmError, match="imagenet"):
        normalise(COLOUR, "clips")
