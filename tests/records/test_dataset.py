"""Records on disk."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from expllm_jax.errors import ExpllmError
from expllm_jax.records import (
    Manifest,
    Record,
    open_encoder,
    open_records,
    read_picture,
    verify_records,
    write_records,
)
from tests.records.examples import annotation, picture_bytes


def records(encoder, start, stop):
    for index in range(start, stop):
        yield encoder.record(annotation(index), picture_bytes(index))


@pytest.fixture(scope="module")
def folder(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "faces"
    write_records(folder, {"train": records(encoder, 0, 300), "clean": records(encoder, 300, 310)}, encoder)
    return folder


def test_round_trip_keeps_order_and_everything(folder, encoder):
    source = open_records(folder, "train")
    assert len(source) == 300
    for index in (0, 1, 255, 256, 299):
        expected = encoder.record(annotation(index), picture_bytes(index))
        found = source[index]
        assert found.id == expected.id
        assert found.picture == expected.picture
        assert found.annotation == expected.annotation
        assert found.row == expected.row
        assert source.row(index) == expected.row
        assert source.picture(index) == expected.picture
    with pytest.raises(IndexError):
        source[300]


def test_tfds_opens_it_without_tensorflow(folder):
    script = (
        "import sys, tensorflow_datasets as tfds\n"
        "builder = tfds.builder_from_directory(sys.argv[1])\n"
        "example = builder.as_data_source(split='clean')[4]\n"
        "assert 'tensorflow' not in sys.modules and 'expllm_jax' not in sys.modules\n"
        "assert example['picture'].shape == (32, 32, 3) and (example['picture'] == 304 % 256).all()\n"
        "assert sorted(builder.info.splits) == ['clean', 'train'], builder.info.splits\n"
        "print(example['expression'].decode(), len(example['tokens']), example['loss_weights'].dtype)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expression, length, dtype = done.stdout.split()
    assert expression == annotation(304).expression
    assert int(length) == len(open_records(folder, "clean").row(4))
    assert dtype == "float32"


def test_units_are_readable_columns(folder):
    example = tfds.builder_from_directory(folder).as_data_source(split="train")[7]
    assert json.loads(example["units"]) == {"facs": {"AU12": 0.7}}
    assert example["cot"].decode() == annotation(7).cot


def test_manifest(folder, encoder):
    manifest = Manifest.read(folder)
    rows = [encoder.row(annotation(index)) for index in range(300)]
    assert manifest.splits["train"].records == 300
    assert manifest.splits["train"].longest_row == max(map(len, rows))
    assert manifest.encoding == encoder.config
    assert manifest.template == encoder.template.fingerprint
    assert manifest.image_token == encoder.tokenizer.image
    assert verify_records(folder) == manifest
    again = open_encoder(folder)
    assert again.row(annotation(5)) == encoder.row(annotation(5))


def test_hash_is_of_the_content_alone(encoder, tmp_path):
    def write(name, start, stop):
        return write_records(tmp_path / name, {"train": records(encoder, start, stop)}, encoder).sha256

    assert write("a", 0, 5) == write("b", 0, 5)
    assert len({write("c", 0, 6), write("d", 1, 6), write("e", 0, 5)}) == 3


def test_nothing_is_left_by_a_crash(encoder, tmp_path):
    def broken():
        yield from records(encoder, 0, 300)
        raise RuntimeError("the renderer died")

    with pytest.raises(RuntimeError, match="renderer died"):
        write_records(tmp_path / "faces", {"train": broken()}, encoder)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_is_cleaned_up_by_the_next(encoder, tmp_path):
    left = tmp_path / ".faces.partial"
    left.mkdir()
    (left / "shard").write_bytes(b"half")
    write_records(tmp_path / "faces", {"train": records(encoder, 0, 2)}, encoder)
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]
    assert not (tmp_path / "faces" / "shard").exists()


def test_overwriting_is_asked_for_and_all_or_nothing(encoder, tmp_path):
    folder = tmp_path / "faces"
    first = write_records(folder, {"train": records(encoder, 0, 3)}, encoder)
    with pytest.raises(ExpllmError, match="already"):
        write_records(folder, {"train": records(encoder, 0, 4)}, encoder)
    with pytest.raises(ExpllmError, match="no records"):
        write_records(folder, {"train": []}, encoder, overwrite=True)
    assert verify_records(folder) == first
    write_records(folder, {"train": records(encoder, 0, 4)}, encoder, overwrite=True)
    assert len(open_records(folder, "train")) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_a_folder_of_something_else_is_left_alone(encoder, tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / "beach.txt").write_text("sun")
    for overwrite in (False, True):
        with pytest.raises(ExpllmError, match="no records folder"):
            write_records(folder, {"train": records(encoder, 0, 1)}, encoder, overwrite=overwrite)
    assert (folder / "beach.txt").read_text() == "sun"
    empty = tmp_path / "empty"
    empty.mkdir()
    write_records(empty, {"train": records(encoder, 0, 1)}, encoder)


def test_bad_input_is_one_clear_error(encoder, tmp_path):
    (tmp_path / "file").write_text("")
    one = encoder.record(annotation(0), picture_bytes(0))
    for splits, place, named in (
        ({"train": [one]}, tmp_path / "file" / "faces", "cannot be written"),
        ({"train": [one]}, tmp_path / "file", "no records folder"),
        ({"train": [one, one]}, tmp_path / "faces", "faces/0000.png"),
        ({"train": [one], "clean": [one]}, tmp_path / "faces", "faces/0000.png"),
        ({"train set": [one]}, tmp_path / "faces", "train set"),
        ({}, tmp_path / "faces", "no splits"),
    ):
        with pytest.raises(ExpllmError, match=named):
            write_records(place, splits, encoder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


FULL_DISK = """
import resource, signal, sys
from expllm_jax.errors import ExpllmError
from expllm_jax.records import open_encoder, open_records, write_records
encoder, source = open_encoder(sys.argv[1]), open_records(sys.argv[1], "train")
# No file may grow past this size: what a full disk looks like to the writer.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    write_records(sys.argv[2], {"train": source}, encoder)
except ExpllmError as error:
    sys.exit("refused: " + error.problem)
"""


@pytest.mark.parametrize("room", [100, 20_000])
def test_a_full_disk_is_one_clear_error(folder, tmp_path, room):
    command = [sys.executable, "-c", FULL_DISK, str(folder), str(tmp_path / "faces"), str(room)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"refused: records cannot be written to {tmp_path}/faces" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_opening_errors(folder, tmp_path):
    with pytest.raises(ExpllmError, match="holds no records"):
        open_records(tmp_path, "train")
    with pytest.raises(ExpllmError, match="did you mean 'train'"):
        open_records(folder, "trian")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ExpllmError, match="manifest.json is damaged"):
        open_records(tmp_path, "train")
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(ExpllmError, match="format 99"):
        open_records(tmp_path, "train")


def test_another_tokenizer_in_the_folder_is_noticed(encoder, llama_tokenizer, tmp_path):
    write_records(tmp_path / "faces", {"train": records(encoder, 0, 1)}, encoder)
    llama_tokenizer.save(tmp_path / "faces")
    with pytest.raises(ExpllmError, match="tokenizer"):
        open_encoder(tmp_path / "faces")


def test_kept_rows_and_long_texts(encoder, tmp_path):
    long = annotation(1).__class__(picture="long.png", expression="Fear", cot="wörter und 😀 " * 400)
    rows = [
        encoder.record(long, picture_bytes(0)),
        Record("2", picture_bytes(1), annotation(2), encoder.row(annotation(2))),
    ]
    manifest = write_records(tmp_path / "faces", {"train": rows}, encoder)
    assert manifest.splits["train"].longest_id == "long.png"
    source = open_records(tmp_path / "faces", "train", keep_rows=True)
    assert source.row(0) is source.row(0)
    assert source[0].annotation.cot == long.cot
    assert [record.id for record in source] == ["long.png", "2"]
    assert read_picture(source.picture(1)).shape == (32, 32, 3)
    assert source.row(0).tokens.dtype == np.int32
