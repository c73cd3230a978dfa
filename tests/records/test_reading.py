"""Reading records: every part of them, and what happens when a file is not what was written."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds

from expllm_jax.errors import ExpllmError
from expllm_jax.records import (
    CorruptRecord,
    Manifest,
    RecordEncoder,
    build_records,
    open_encoder,
    open_records,
    verify_records,
    write_records,
)
from tests.records.examples import annotation, picture_bytes

SHARD, RECORDS = 4, 14


def name(index: int) -> str:
    return f"größe 日本 😀/{index}\n.png"


@pytest.fixture(scope="module")
def made(encoder) -> list:
    """Records of every kind: a third with a mirrored row, some located, names that need care."""
    records = []
    for index in range(RECORDS):
        face = dataclasses.replace(
            annotation(index), picture=name(index), caption=f"Gesicht {index}" if index % 2 else None
        )
        record = encoder.record(face, picture_bytes(index))
        other = encoder.row(annotation(index + 1))
        records.append(dataclasses.replace(record, mirrored=None if index % 3 else other, located=index % 4 == 1))
    return records


@pytest.fixture(scope="module")
def folder(encoder, made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("read") / "faces"
    write_records(folder, {"train": made}, encoder)
    return folder


@pytest.fixture(scope="module")
def sharded(encoder, tmp_path_factory):
    """A folder of four files, whose pictures differ enough for files of one size to differ."""
    place = tmp_path_factory.mktemp("sharded")
    faces = []
    for index in range(RECORDS):
        path = place / f"{index}.png"
        path.write_bytes(picture_bytes(index))
        faces.append((annotation(index), path))
    build_records(place / "faces", {"train": faces}, encoder, workers=1, shard_records=SHARD)
    return place / "faces"


@pytest.fixture
def copy(sharded, tmp_path):
    return shutil.copytree(sharded, tmp_path / "faces")


def shard_files(folder) -> list:
    return sorted(folder.glob("*array_record*"))


def test_every_part_of_a_record_comes_back(folder, made):
    source = open_records(folder, "train")
    for index, record in enumerate(made):
        found = source[index]
        assert found.annotation == record.annotation and found.row == record.row and found.mirrored == record.mirrored
        assert (found.id, found.picture, found.located) == (record.id, record.picture, record.located)
        assert source.row(index) == record.row
        assert source.row(index, mirrored=True) == (record.mirrored or record.row)
        assert source.picture(index) == record.picture
        assert source.id(index) == record.id == name(index)
        assert source.located(index) is record.located
    for read in (source.row, source.picture, source.id, source.located):
        with pytest.raises(IndexError):
            read(RECORDS)
        with pytest.raises(IndexError):
            read(-1)


def test_kept_rows_are_read_once(folder, made):
    source = open_records(folder, "train", keep_rows=True)
    assert source.row(0) is source.row(0)
    assert source.row(0, mirrored=True) is source.row(0, mirrored=True) is not source.row(0)
    assert source.row(0, mirrored=True) == made[0].mirrored


def test_lengths_are_known_without_the_records(folder, made, tmp_path):
    source = open_records(shutil.copytree(folder, tmp_path / "faces"), "train")
    for shard in shard_files(tmp_path / "faces"):
        shard.unlink()
    rows = [[record.row] + [record.mirrored] * (record.mirrored is not None) for record in made]
    lengths = source.lengths
    assert lengths.tokens.tolist() == [max(map(len, both)) for both in rows]
    assert lengths.supervised.tolist() == [max(np.count_nonzero(row.loss_weights) for row in both) for both in rows]
    assert lengths.located.tolist() == [record.located for record in made]
    assert (lengths.tokens.dtype, lengths.supervised.dtype, lengths.located.dtype) == (np.int32, np.int32, np.bool_)
    assert source.longest_row == (lengths.tokens.max(), name(int(lengths.tokens.argmax())))


def test_tfds_reads_the_columns_that_we_parse(folder, made):
    for example, record in zip(tfds.builder_from_directory(folder).as_data_source(split="train"), made, strict=True):
        assert example["id"].decode() == record.id and example["caption"].decode() == (record.annotation.caption or "")
        assert bool(example["located"]) is record.located
        for prefix, row in (("", record.row), ("mirrored_", record.mirrored)):
            for column in ("tokens", "positions", "segments", "loss_weights"):
                expected = [] if row is None else getattr(row, column).tolist()
                assert example[prefix + column].tolist() == expected
        assert json.loads(example["landmarks"]) == [list(point) for point in record.annotation.landmarks]


def test_a_source_travels_to_other_processes_and_serves_threads(sharded):
    source = open_records(sharded, "train")
    expected = [source.picture(index) for index in range(RECORDS)]
    again = pickle.loads(pickle.dumps(source))
    indices = np.random.default_rng(0).integers(0, RECORDS, 400).tolist()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda index: (again.id(index), again.picture(index)), indices))
    assert found == [(annotation(index).picture, expected[index]) for index in indices]
    assert len(pickle.dumps(source)) < 10_000  # no arrays travel


def test_a_set_of_more_files_than_may_be_open_is_read_by_closing_some(sharded, monkeypatch):
    whole = open_records(sharded, "train")
    monkeypatch.setattr("expllm_jax.records.reading._most_open", lambda: 2)
    source = open_records(sharded, "train")
    indices = np.random.default_rng(0).integers(0, RECORDS, 200).tolist()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(source.picture, indices))
    assert found == [whole.picture(index) for index in indices]
    assert len(source._readers) == 2 < len(shard_files(sharded))


def readable(source) -> list[bool]:
    """Which records are as they were written; anything but the right bytes or CorruptRecord fails."""
    whole = []
    for index in range(len(source)):
        try:
            assert source.picture(index) == picture_bytes(index)
            assert source[index].annotation == annotation(index)
            whole.append(True)
        except CorruptRecord as error:
            assert (error.index, error.id) == (index, annotation(index).picture)
            assert f"record {index} ({error.id}) is damaged" in str(error)
            assert pickle.loads(pickle.dumps(error)).problem == error.problem
            whole.append(False)
    return whole


def test_a_flipped_bit_anywhere_is_found(copy):
    shard = shard_files(copy)[1]
    content = shard.read_bytes()
    filled = np.flatnonzero(np.frombuffer(content, np.uint8))
    rng = np.random.default_rng(0)
    # Most of so small a file is padding, which belongs to no record: it is the file's hash that finds it changed.
    offsets = [*rng.choice(filled, 40), *rng.integers(0, len(content), 10), 0, filled[-1], len(content) - 1]
    lost = 0
    for offset in map(int, offsets):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << int(rng.integers(8))
        shard.write_bytes(damaged)
        with pytest.raises(ExpllmError, match="array_record-00001"):
            verify_records(copy)
        whole = readable(open_records(copy, "train"))
        assert all(whole[:SHARD]) and all(whole[2 * SHARD :])
        source = open_records(copy, "train", on_error="skip")
        assert [source[index] is not None for index in range(RECORDS)] == whole
        source[SHARD], source[SHARD + 1]  # noqa: B018 - met again, counted once
        assert [skipped.index for skipped in source.skipped] == [i for i in range(RECORDS) if not whole[i]]
        assert all(skipped.id == annotation(skipped.index).picture and skipped.reason for skipped in source.skipped)
        lost += whole.count(False)
    assert lost >= 40


@pytest.mark.parametrize("damage", ["truncated", "deleted", "longer"])
def test_a_file_of_the_wrong_size_is_found_before_anything_is_read(copy, damage):
    shard = shard_files(copy)[2]
    content = shard.read_bytes()
    {
        "truncated": lambda: shard.write_bytes(content[: len(content) // 2]),
        "deleted": shard.unlink,
        "longer": lambda: shard.write_bytes(content + b"\0"),
    }[damage]()
    for read in (verify_records, lambda folder: open_records(folder, "train")):
        with pytest.raises(ExpllmError, match="array_record-00002"):
            read(copy)
    source = open_records(copy, "train", on_error="skip")
    assert [skipped.index for skipped in source.skipped] == [8, 9, 10, 11]
    assert all("array_record-00002" in skipped.reason for skipped in source.skipped)
    assert readable(source) == [True] * 8 + [False] * 4 + [True] * 2
    assert len(source.skipped) == 4
    assert source.lengths.tokens.shape == (RECORDS,)


def test_two_files_that_changed_places_are_found(copy):
    first, second = shard_files(copy)[:2]
    assert first.stat().st_size == second.stat().st_size
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    with pytest.raises(CorruptRecord, match="record 0 "):
        verify_records(copy)
    assert readable(open_records(copy, "train")) == [False] * 8 + [True] * 6


def test_a_changed_manifest_index_or_list_of_ids_is_found(copy):
    def changed(file, old, new):
        content = (copy / file).read_bytes()
        assert old in content
        (copy / file).write_bytes(content.replace(old, new, 1))
        return content

    kept = changed("manifest.json", b'"pad_token": ', b'"pad_token": 1')
    with pytest.raises(ExpllmError, match="manifest.json was changed"):
        open_records(copy, "train")
    (copy / "manifest.json").write_bytes(kept)

    index = (copy / "train.index.npy").read_bytes()
    (copy / "train.index.npy").write_bytes(index[:-3] + bytes([index[-3] ^ 1]) + index[-2:])
    with pytest.raises(ExpllmError, match="index.npy differs"):
        open_records(copy, "train")
    (copy / "train.index.npy").write_bytes(index[:200])
    with pytest.raises(ExpllmError, match="index.npy"):
        open_records(copy, "train")
    (copy / "train.index.npy").write_bytes(index)

    kept = changed("train.ids.txt", b"0003", b"0007")
    with pytest.raises(ExpllmError, match="ids.txt differs"):
        verify_records(copy)
    (copy / "train.ids.txt").write_bytes(kept[:-1])
    with pytest.raises(ExpllmError, match="not of 14 records"):
        open_records(copy, "train")
    (copy / "train.ids.txt").write_bytes(kept)
    assert verify_records(copy) == Manifest.read(copy)


def test_records_of_an_earlier_format_are_refused(copy):
    fields = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**fields, "format": 1}))
    with pytest.raises(ExpllmError, match="format 1, not 2"):
        open_records(copy, "train")


def test_another_encoder_than_that_of_the_rows_is_refused(sharded, encoder, llama_tokenizer):
    manifest = Manifest.read(sharded)
    manifest.check_encoder(open_encoder(sharded), sharded)
    with pytest.raises(ExpllmError, match="the tokenizer in .* is not the one"):
        manifest.check_encoder(RecordEncoder(encoder.template, llama_tokenizer, encoder.config), sharded)
    config = dataclasses.replace(encoder.config, image_tokens=5)
    with pytest.raises(ExpllmError, match="the encoding in .* is not the one"):
        manifest.check_encoder(dataclasses.replace(encoder, config=config), sharded)


def test_verification_tells_how_far_it_is(sharded):
    told = []
    verify_records(sharded, report=lambda done, total: told.append((done, total)))
    assert told == [(4, 14), (8, 14), (12, 14), (14, 14)]
    with pytest.raises(ExpllmError, match="on_error is 'ignore'"):
        open_records(sharded, "train", on_error="ignore")
