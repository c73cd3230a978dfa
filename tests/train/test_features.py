"""Features are computed once, in order, and again only when what they depend on has changed."""

from __future__ import annotations

import io
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.records import normalise, square
from expllm_jax.train import extract_features
from tests.train.tiny import PICTURE_SIZE, TinySource


class Encoder:
    """A stand-in for the tower: 3 tokens of mean colours, scaled; counts its calls."""

    def __init__(self, scale: float = 1.0) -> None:
        self.calls, self.scale = 0, scale

    def __call__(self, pixels):
        self.calls += 1
        assert pixels.shape == (4, PICTURE_SIZE, PICTURE_SIZE, 3)
        means = jnp.mean(jnp.asarray(pixels), (1, 2))
        return jnp.stack([means, means * 2, means * 3], 1) * self.scale


def extract(encoder, source, path: Path, **changes) -> np.ndarray:
    settings = {"fingerprint": "a", "batch": 4, "picture_size": PICTURE_SIZE, "stream": io.StringIO()}
    return extract_features(encoder, source, path, **(settings | changes))


def test_features_are_one_block_per_record_in_order(tmp_path: Path) -> None:
    source, encoder, stream = TinySource(10), Encoder(), io.StringIO()
    features = extract(encoder, source, tmp_path / "deep" / "f.npy", stream=stream)
    assert features.shape == (10, 3, 3) and features.dtype == np.float16 and isinstance(features, np.memmap)
    means = normalise(source.pictures, "clip").mean((1, 2))
    np.testing.assert_allclose(features, means[:, None] * np.array([1, 2, 3])[:, None], rtol=2e-3, atol=1e-3)
    assert encoder.calls == 3 and "features 10/10" in stream.getvalue()
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["f.json", "f.npy"]


@pytest.mark.parametrize("changes, calls", [({}, 0), ({"fingerprint": "b"}, 2), ({"normalisation": "imagenet"}, 2)])
def test_they_are_reused_only_while_everything_is_the_same(tmp_path: Path, changes, calls: int) -> None:
    source, encoder = TinySource(5), Encoder()
    first = np.array(extract(Encoder(), source, tmp_path / "f.npy"))
    again = extract(encoder, source, tmp_path / "f.npy", **changes)
    assert encoder.calls == calls
    assert np.array_equal(first, again) == ("normalisation" not in changes)


def test_pictures_are_resized_as_their_records_say(tmp_path: Path) -> None:
    source, size = TinySource(4), 13
    source.resize = "reference"
    features = extract_features(
        lambda pixels: jnp.asarray(pixels).reshape(4, size * size, 3), source, tmp_path / "f.npy",
        fingerprint="a", batch=4, picture_size=size, stream=io.StringIO(),
    )  # fmt: skip
    expected = normalise(np.stack([square(picture, size, "reference") for picture in source.pictures]))
    np.testing.assert_array_equal(features, expected.reshape(4, -1, 3).astype(np.float16))
    again = Encoder()
    extract(again, source, tmp_path / "g.npy")
    source.resize = "antialiased"
    extract(again, source, tmp_path / "g.npy")
    assert again.calls == 2


def test_a_failure_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    source = TinySource(5)
    extract(Encoder(), source, tmp_path / "f.npy")
    source.picture = lambda index: b"no picture" if index == 4 else TinySource.picture(source, index)
    with pytest.raises(ExpllmError, match="picture of record 4"):
        extract(Encoder(), source, tmp_path / "f.npy", fingerprint="b")
    assert [path.name for path in tmp_path.iterdir()] == ["f.npy"]
    encoder = Encoder()
    extract(encoder, TinySource(5), tmp_path / "f.npy")  # the old file without its note does not count
    assert encoder.calls == 2


def test_features_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExpllmError, match="record 0 are not finite in float16"):
        extract(Encoder(scale=1e7), TinySource(4), tmp_path / "f.npy")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExpllmError, match="cannot be written"):
        extract(Encoder(), TinySource(4), tmp_path / "file" / "f.npy")
