"""Batches: order, sharding, padding, and resuming in the middle."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.records import (
    PADDED_RECORD,
    BatchConfig,
    batches,
    batches_per_epoch,
    normalise,
    open_records,
    write_records,
)
from tests.records.examples import annotation, picture_bytes

RECORDS = 22
FEATURES = np.arange(RECORDS * 4 * 3, dtype=np.float16).reshape(RECORDS, 4, 3)


@pytest.fixture(scope="module")
def source(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "faces"
    faces = (encoder.record(annotation(index), picture_bytes(index)) for index in range(RECORDS))
    write_records(folder, {"train": faces}, encoder)
    return open_records(folder, "train", keep_rows=True)


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def seen(source, config, features=FEATURES):
    return [batch["record"] for batch in batches(source, config, features)]


def test_rows_reach_the_batch_unchanged(source, encoder):
    config = BatchConfig(batch=6, seed=3, epochs=1, row_length=200)
    for batch in batches(source, config, FEATURES):
        assert batch["tokens"].shape == (6, 200)
        np.testing.assert_allclose(batch["loss_weights"].sum(1), 1, atol=1e-5)
        for line, index in enumerate(batch["record"]):
            row = encoder.row(annotation(int(index)))
            for name in ("tokens", "positions", "segments", "loss_weights"):
                assert batch[name].dtype == getattr(row, name).dtype
                np.testing.assert_array_equal(batch[name][line, : len(row)], getattr(row, name))
            assert (batch["tokens"][line, len(row) :] == encoder.tokenizer.pad).all()
            assert not batch["segments"][line, len(row) :].any()
            assert not batch["loss_weights"][line, len(row) :].any()
            np.testing.assert_array_equal(batch["features"][line], FEATURES[index])
        assert batch["features"].dtype == np.float16


def test_every_epoch_is_a_new_permutation(source):
    order = np.concatenate(seen(source, BatchConfig(batch=2, epochs=3)))
    epochs = order.reshape(3, RECORDS)
    assert all(sorted(epoch) == list(range(RECORDS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    np.testing.assert_array_equal(order, np.concatenate(seen(source, BatchConfig(batch=2, epochs=3))))
    assert not np.array_equal(order, np.concatenate(seen(source, BatchConfig(batch=2, epochs=3, seed=1))))
    unshuffled = np.concatenate(seen(source, BatchConfig(batch=2, epochs=2, shuffle=False)))
    assert unshuffled.tolist() == [*range(RECORDS)] * 2


def test_the_order_without_end_begins_like_the_finite_one(source):
    finite = seen(source, BatchConfig(batch=4, epochs=2))
    endless = itertools.islice(batches(source, BatchConfig(batch=4), FEATURES), 30)
    endless = [batch["record"] for batch in endless]
    assert len(endless) == 30
    np.testing.assert_array_equal(finite, endless[: len(finite)])


def test_the_last_partial_batch_is_dropped_in_training(source):
    order = seen(source, BatchConfig(batch=5, epochs=1))
    assert [len(batch) for batch in order] == [5] * 4
    assert batches_per_epoch(RECORDS, BatchConfig(batch=5)) == 4
    # Batches run across the seam of two epochs; only the very last is dropped.
    assert len(seen(source, BatchConfig(batch=5, epochs=2))) == 8


def test_the_last_partial_batch_is_padded_in_evaluation(source):
    config = BatchConfig(batch=5, epochs=1, partial="pad", shuffle=False)
    order = list(batches(source, config, FEATURES))
    assert len(order) == batches_per_epoch(RECORDS, config) == 5
    assert np.concatenate([batch["record"] for batch in order]).tolist() == [*range(RECORDS)] + [PADDED_RECORD] * 3
    last = order[-1]
    assert last["tokens"].shape == order[0]["tokens"].shape
    for name in ("segments", "loss_weights", "features"):
        assert not last[name][2:].any()
    assert sum(batch["loss_weights"].sum() for batch in order) == pytest.approx(RECORDS, abs=1e-3)
    # A whole number of batches has nothing to pad.
    assert PADDED_RECORD not in np.concatenate(seen(source, BatchConfig(batch=11, epochs=1, partial="pad")))


@pytest.mark.parametrize("threads", [0, 2])
def test_state_continues_in_the_middle_of_an_epoch(source, threads):
    config = BatchConfig(batch=4, seed=7, epochs=3, threads=threads)
    iterator = batches(source, config, FEATURES)
    for _ in range(7):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    rest = list(iterator)
    resumed = batches(source, config, FEATURES)
    resumed.set_state(state)
    again = list(resumed)
    assert len(rest) == len(again) == RECORDS * 3 // 4 - 7
    for first, second in zip(rest, again, strict=True):
        same(first, second)


@pytest.mark.parametrize("partial", ["drop", "pad"])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_global_batch(source, processes, partial):
    settings = dict(batch=8, seed=5, epochs=3, partial=partial)
    whole = seen(source, BatchConfig(**settings))
    parts = [
        seen(source, BatchConfig(**settings, process_index=index, process_count=processes))
        for index in range(processes)
    ]
    assert {len(part) for part in parts} == {len(whole)}
    for number, batch in enumerate(whole):
        shares = [part[number] for part in parts]
        assert all(len(share) == 8 // processes for share in shares)
        # One behind the other they are the very array that one process has.
        np.testing.assert_array_equal(np.concatenate(shares), batch)


def test_pixels_are_decoded_squared_and_normalised(source):
    config = BatchConfig(batch=5, epochs=1, picture_size=28, normalisation="imagenet", partial="pad")
    for batch in batches(source, config):
        assert "features" not in batch
        assert batch["pixels"].shape == (5, 28, 28, 3)
        assert batch["pixels"].dtype == np.float32
        for index, pixels in zip(batch["record"], batch["pixels"], strict=True):
            value = np.full((28, 28, 3), index, np.uint8) if index != PADDED_RECORD else None
            np.testing.assert_array_equal(pixels, 0 if value is None else normalise(value, "imagenet"))


def test_features_may_be_a_memory_map(source, tmp_path):
    np.save(tmp_path / "features.npy", FEATURES)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    batch = next(batches(source, BatchConfig(batch=5, epochs=1, partial="pad"), mapped))
    np.testing.assert_array_equal(batch["features"], FEATURES[batch["record"]])
    # The caller owns the batch: writing to it must not reach the file.
    assert batch["features"].flags.writeable
    assert not isinstance(batch["features"], np.memmap)


def test_row_length_defaults_to_the_longest_row(source):
    longest, longest_id = source.longest_row
    batch = next(batches(source, BatchConfig(batch=2), FEATURES))
    assert longest <= batch["tokens"].shape[1] < longest + 16
    with pytest.raises(ExpllmError, match=longest_id):
        batches(source, BatchConfig(batch=2, row_length=longest - 1), FEATURES)
    assert next(batches(source, BatchConfig(batch=2, row_length=longest), FEATURES))["tokens"].shape[1] == longest


def test_misfits_are_refused_at_once(source):
    with pytest.raises(ExpllmError, match="features of shape"):
        batches(source, BatchConfig(batch=2), FEATURES[1:])
    with pytest.raises(ExpllmError, match="more than the 22 records"):
        batches(source, BatchConfig(batch=23, epochs=1), FEATURES)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch": 0}, "batch"),
        ({"seed": -1}, "seed"),
        ({"partial": "keep"}, "keep"),
        ({"partial": "pad"}, "never end"),
        ({"process_index": 2, "process_count": 2}, "process_index"),
        ({"batch": 3, "process_count": 2}, "does not divide"),
        ({"process_count": 0}, "process_count"),
        ({"normalisation": "none"}, "normalisation"),
        ({"threads": 9}, "threads"),
        ({"row_length": -1}, "row_length"),
        ({"picture_size": 0}, "picture_size"),
    ],
)
def test_config_says_what_is_wrong(changes, named):
    with pytest.raises(ExpllmError, match=named):
        BatchConfig(**changes)
