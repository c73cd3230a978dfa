"""Safetensors read by hand: against the safetensors package, and every way in which a file can be bad."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from expllm_jax.errors import ExpllmError
from expllm_jax.weights import open_safetensors

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.int16, np.int32, np.int64,
          np.uint8, np.uint16, np.uint32, np.uint64, np.bool_]  # fmt: skip
F32 = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def raw(header, data=b"\0" * 24, length=None):
    """A file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def index(folder, shards, weight_map=None, name="model.safetensors.index.json"):
    """Shards (file -> tensors) and their index."""
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    found = {tensor: file for file, tensors in shards.items() for tensor in tensors}
    (folder / name).write_text(json.dumps({"weight_map": found if weight_map is None else weight_map}))
    return folder


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_what_the_safetensors_package_writes_is_read(tmp_path, dtype):
    rng = np.random.default_rng(0)
    tensors = {
        "matrix": (rng.normal(size=(5, 7)) * 50).astype(dtype),
        "cube": (rng.normal(size=(3, 2, 4)) * 50).astype(dtype),
        "number": np.array(1, dtype),
        "nothing": np.zeros((0, 3), dtype),
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    files = open_safetensors(tmp_path / "a.safetensors")
    assert set(files.tensors) == set(tensors)
    for name, expected in tensors.items():
        read = files.read(name)
        assert read.dtype == expected.dtype and files.tensors[name].dtype == expected.dtype
        np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(files.read("matrix", slice(1, 4)), tensors["matrix"][1:4])
    np.testing.assert_array_equal(files.read("cube", slice(2, 3)), tensors["cube"][2:3])


def test_a_folder_of_shards_is_read_as_one(tmp_path):
    a, b = np.arange(6.0).reshape(2, 3), np.arange(4, dtype=np.int32)
    files = open_safetensors(index(tmp_path, {"m-1.safetensors": {"a": a}, "m-2.safetensors": {"b": b}}))
    np.testing.assert_array_equal(files.read("a"), a)
    np.testing.assert_array_equal(files.read("b"), b)
    assert [path.name for path in files.paths] == ["m-1.safetensors", "m-2.safetensors"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "0 bytes"),
        (b"\x10\0\0", "3 bytes"),
        (raw({"a": F32})[:60], "cut"),  # inside the header
        (raw({"a": F32})[:-1], "'a' lies at bytes"),  # inside the numbers
        (raw({"a": F32}, length=1 << 62), "header would be"),
        (raw({"a": F32}, length=0), "header would be 0 bytes"),
        (raw(b"[1, 2]"), "no JSON object"),
        (raw(b"{ not JSON"), "not readable"),
        (raw(b'{"a": ' + b"[" * 200_000), "not readable"),
        (raw(b"{\xff\xfe}"), "not readable"),
        (raw(b'{"a": %b, "a": %b}' % ((json.dumps(F32).encode(),) * 2)), "'a' stands there twice"),
        (raw({"a": {**F32, "dtype": "F31"}}), "'a' has the unknown dtype 'F31'"),
        (raw({"a": {**F32, "dtype": ["F32"]}}), "'a' has the unknown dtype"),
        (raw({"a": {**F32, "shape": [2, -3]}}), "'a' has the shape [2, -3]"),
        (raw({"a": {**F32, "shape": [True, 6]}}), "'a' has the shape [True, 6]"),
        (raw({"a": {**F32, "shape": [2.0, 3]}}), "'a' has the shape"),
        (raw({"a": {**F32, "shape": "23"}}), "'a' has the shape"),
        (raw({"a": {**F32, "shape": [1] * 40}}), "'a' has the shape"),
        (raw({"a": {**F32, "shape": [2, 4]}}), "'a' takes 24 bytes, but F32 of shape (2, 4) takes 32"),
        (raw({"a": {**F32, "data_offsets": [0, 4096]}}), "'a' lies at bytes [0, 4096] of 24"),
        (raw({"a": {**F32, "data_offsets": [24, 0]}}), "'a' lies at bytes"),
        (raw({"a": {**F32, "data_offsets": [-24, 0]}}), "'a' has the data_offsets"),
        (raw({"a": {**F32, "data_offsets": [0]}}), "'a' lies at bytes [0]"),
        (raw({"a": {"dtype": "F32", "shape": [2, 3]}}), "'a' has no dtype, shape and data_offsets"),
        (raw({"a": 3}), "'a' has no dtype"),
        (raw({"a": F32, "b": {**F32, "data_offsets": [8, 32]}}, b"\0" * 32), "'b' overlaps 'a'"),
        (raw({"a": F32, "b": {**F32, "data_offsets": [32, 56]}}, b"\0" * 56), "'b' leaves a gap after 'a'"),
        (raw({"a": F32}, b"\0" * 30), "6 bytes at the end"),
        (raw({}, b"\0" * 30), "30 bytes at the end"),
    ],
)
def test_a_bad_file_is_one_error_that_names_it(tmp_path, content, told):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ExpllmError) as caught:
        open_safetensors(path)
    assert str(path) in caught.value.problem and told in caught.value.problem, caught.value.problem
    assert caught.value.remedy


def test_everything_wrong_with_a_file_is_told_at_once(tmp_path):
    header = {"a": {**F32, "dtype": "X"}, "b": {**F32, "shape": [9]}, "c": F32}
    (tmp_path / "bad.safetensors").write_bytes(raw(header))
    with pytest.raises(ExpllmError, match=r"'a' has the unknown dtype 'X'; 'b' takes 24 bytes"):
        open_safetensors(tmp_path)


def test_a_header_over_the_limit_is_not_read(tmp_path):
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:  # sparse: takes no disk
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(300_000_000)
    with pytest.raises(ExpllmError, match="200,000,000 bytes long"):
        open_safetensors(path)


@given(st.binary(max_size=300))
def test_noise_is_refused_and_never_crashes(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("noise") / "noise.safetensors"
    path.write_bytes(noise)
    with pytest.raises(ExpllmError, match="noise.safetensors"):
        open_safetensors(path)


@given(st.integers(8, 190), st.integers(0, 255))
def test_one_changed_byte_never_crashes(tmp_path_factory, at, byte):
    """Either it is refused, or what is read has the shape that the header says."""
    content = bytearray(raw({"a": F32, "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}}, b"\0" * 32))
    content[min(at, len(content) - 1)] = byte
    path = tmp_path_factory.mktemp("byte") / "a.safetensors"
    path.write_bytes(content)
    try:
        files = open_safetensors(path)
    except ExpllmError as error:
        assert "a.safetensors" in error.problem
    else:
        for name, info in files.tensors.items():
            assert files.read(name).shape == info.shape


@pytest.mark.parametrize(
    ("weight_map", "told"),
    [
        ({"a": "m-1.safetensors", "b": "m-3.safetensors"}, "1 of 2 files that are not there: m-3.safetensors"),
        ({"a": "m-1.safetensors", "b": "m-1.safetensors"}, "'b' is not in m-1.safetensors"),
        ({"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-2.safetensors"}, "'c' is not in m-2.safetensors"),
        ({"a": "m-1.safetensors"}, "the index"),
        ({"a": "../m-1.safetensors", "b": "m-2.safetensors"}, "'a' would lie in '../m-1.safetensors'"),
        ({"a": "/etc/x.safetensors", "b": "m-2.safetensors"}, "'a' would lie in"),
        ({"a": "..", "b": "m-2.safetensors"}, "'a' would lie in"),
        ({"a": "m-1.bin", "b": "m-2.safetensors"}, "'a' would lie in 'm-1.bin'"),
        ({"a": 1}, "weight_map"),
        ([], "weight_map"),
    ],
)
def test_a_bad_index_is_refused(tmp_path, weight_map, told):
    shards = {"m-1.safetensors": {"a": np.zeros(3)}, "m-2.safetensors": {"b": np.zeros(3)}}
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": np.zeros(3)}, tmp_path / "m-1.safetensors")  # what "../" would reach
    index(folder, shards, weight_map)
    if weight_map == {"a": "m-1.safetensors"}:  # a tensor that no index knows
        save_file({"a": np.zeros(3), "x": np.zeros(3)}, folder / "m-1.safetensors")
        told = "'x' of m-1.safetensors is not in the index"
    with pytest.raises(ExpllmError) as caught:
        open_safetensors(folder)
    assert "index.json" in caught.value.problem and told in caught.value.problem, caught.value.problem


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    shards = {"m-1.safetensors": {"a": np.zeros(3), "b": np.zeros(2)}, "m-2.safetensors": {"b": np.ones(2)}}
    with pytest.raises(ExpllmError, match="'b' lies in m-1.safetensors and in m-2.safetensors"):
        open_safetensors(index(tmp_path, shards))


def test_a_folder_that_leaves_a_choice_is_refused(tmp_path):
    with pytest.raises(ExpllmError, match="holds no safetensors"):
        open_safetensors(tmp_path)
    for name in ("a", "b"):
        save_file({name: np.zeros(3)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ExpllmError, match="2 files of safetensors: a.safetensors, b.safetensors"):
        open_safetensors(tmp_path)


def test_a_file_cut_after_it_was_opened_is_an_error(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.ones((100, 100))}, path)
    files = open_safetensors(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ExpllmError, match="ends inside the tensor 'a'"):
        files.read("a")
