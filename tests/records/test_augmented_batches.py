"""Augmentation in batches: true to its text, and the same wherever and with whomever a record stands."""

from __future__ import annotations

import dataclasses
import io
import shutil

import numpy as np
import pytest
from PIL import Image

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.records import (
    AugmentConfig,
    BatchConfig,
    EncodeConfig,
    MixedRows,
    PackingConfig,
    RecordEncoder,
    batches,
    normalise,
    open_records,
    write_records,
)
from expllm_jax.records.augmentation import draws, flipped

SIDE, RECORDS = 32, 16
COT = (
    "**Key Observations:** The left lip corner is pulled up strongly, the right one is still.\n\n"
    "**Overall Emotional Interpretation:** The units agree.\n\n**Conclusion:** The face shows happiness."
)
FLIP = AugmentConfig(
    size=SIDE, flip=0.5, jitter=0.0, grey=0.0, spatial=0.0, soften=0.0, erasing=0.0
)  # nothing but the flip


def picture(index: int) -> bytes:
    """Left half dark, right half bright, so that a flip shows."""
    pixels = np.full((SIDE, SIDE, 3), 10 * index, np.uint8)
    pixels[:, SIDE // 2 :] += 90
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def folder(template, own_tokenizer, tmp_path_factory):
    """16 faces whose text names a side; the last four state a box instead."""
    at = tmp_path_factory.mktemp("augmented") / "faces"
    config = EncodeConfig(image_tokens=4, tasks=("label", "cot", "bbox"))
    encoder = RecordEncoder(template, own_tokenizer, config)
    faces = [
        Annotation(f"{index}.png", "Happiness", cot=COT) if index < 12
        else Annotation(f"{index}.png", "Happiness", face_box=(2.0, 3.0, 10.0, 12.0))
        for index in range(RECORDS)
    ]  # fmt: skip
    write_records(at, {"train": (encoder.record(face, picture(k)) for k, face in enumerate(faces))}, encoder)
    return at


@pytest.fixture(scope="module")
def source(folder):
    return open_records(folder, "train")


def by_record(found: list[dict[str, np.ndarray]]) -> dict[tuple[int, int], np.ndarray]:
    """(record, how often it came before) → its picture, whatever row and batch it came in."""
    seen: dict[tuple[int, int], np.ndarray] = {}
    for batch in found:
        side = batch["pixels"].shape[-3:]
        for index, pixels in zip(batch["record"].ravel(), batch["pixels"].reshape(-1, *side), strict=True):
            if index >= 0:
                count = sum(key[0] == index for key in seen)
                seen[int(index), count] = pixels
    return seen


def test_a_flipped_picture_has_the_text_of_the_mirrored_face(source, own_tokenizer) -> None:
    config = BatchConfig(batch=4, epochs=3, picture_size=SIDE, augmentation=FLIP, threads=0)
    sides = set()
    for batch in batches(source, config):
        for index, tokens, weights, pixels in zip(*(batch[k] for k in ("record", "tokens", "loss_weights", "pixels")),
                                                  strict=True):  # fmt: skip
            turned = bool(pixels[0, 0, 0] > pixels[0, -1, 0])  # the bright half lies on the left
            text = own_tokenizer.decode([int(token) for token in tokens[weights > 0]])
            if index < 12:
                said = "right lip corner is pulled" if turned else "left lip corner is pulled"
                assert said in text
            else:
                box = "0.6250 0.0938" if turned else "0.0625 0.0938"  # x is 20 of 32 from the left, or 2
                assert box in text.replace(",", "")
            sides.add((turned, index < 12))
    assert len(sides) == 4


def test_what_happens_to_a_record_depends_on_nothing_but_seed_epoch_and_record(source) -> None:
    augmentation = AugmentConfig(size=SIDE)
    packing = PackingConfig(on=True, row_length=1024, window=1, picture_cost=1.0, attention_length=1e5)
    configs = [
        BatchConfig(batch=4, seed=1, epochs=2, picture_size=SIDE, augmentation=augmentation, threads=0),
        BatchConfig(batch=8, seed=1, epochs=2, picture_size=SIDE, augmentation=augmentation, threads=2),
        BatchConfig(batch=8, seed=1, updates=4, picture_size=SIDE, augmentation=augmentation, packing=packing),
    ]
    first, *others = [by_record(list(batches(source, config))) for config in configs]
    assert len(first) == 2 * RECORDS
    for other in others:
        assert other.keys() == first.keys()
        for key, pixels in other.items():
            np.testing.assert_array_equal(pixels, first[key], err_msg=str(key))
    assert any((first[index, 0] != first[index, 1]).any() for index in range(RECORDS))  # epochs differ
    reseeded = by_record(list(batches(source, dataclasses.replace(configs[0], seed=2))))
    assert sum((reseeded[key] != first[key]).any() for key in first) > RECORDS


def test_copies_of_a_record_in_one_epoch_are_augmented_differently(source) -> None:
    config = BatchConfig(batch=8, epochs=1, picture_size=SIDE, augmentation=AugmentConfig(size=SIDE))
    seen = by_record(list(batches(MixedRows([source], [3]), config)))
    assert len(seen) == 3 * RECORDS
    assert sum((seen[index, 0] != seen[index, 1]).any() for index in range(RECORDS)) > RECORDS // 2


def test_the_device_gets_the_picture_and_its_draws(source) -> None:
    augmentation = AugmentConfig(size=SIDE)
    config = BatchConfig(batch=4, seed=5, epochs=1, picture_size=SIDE, augmentation=augmentation, augment_on="device")
    for batch in batches(source, config):
        assert "pixels" not in batch and batch["pictures"].dtype == np.uint8
        located = source.lengths.located[batch["record"]]
        wanted = draws(augmentation, 5, 0, batch["record"].astype(np.int64), located)
        np.testing.assert_array_equal(batch["draws"], wanted)
        for index, pixels, turned in zip(batch["record"], batch["pictures"], flipped(batch["draws"]), strict=True):
            np.testing.assert_array_equal(pixels[0, 0], 10 * index)  # the step flips it, the row is flipped already
            row = source.row(int(index), bool(turned))
            line = batch["record"].tolist().index(index)
            np.testing.assert_array_equal(batch["tokens"][line, : len(row)], row.tokens)


def test_without_augmentation_pictures_are_as_stored(source) -> None:
    batch = next(batches(source, BatchConfig(batch=4, picture_size=SIDE)))
    for index, pixels in zip(batch["record"], batch["pixels"], strict=True):
        stored = np.asarray(Image.open(io.BytesIO(picture(int(index)))))
        np.testing.assert_array_equal(pixels, normalise(stored))


def test_augmentation_that_cannot_be_true_is_refused(source, template, own_tokenizer, tmp_path) -> None:
    with pytest.raises(ExpllmError, match="features are read from a file"):
        features = np.zeros((RECORDS, 1, 2), np.float16)
        batches(source, BatchConfig(batch=4, picture_size=SIDE, augmentation=FLIP), features)
    with pytest.raises(ExpllmError, match="augmentation.size is 32, picture_size 64"):
        BatchConfig(batch=4, picture_size=64, augmentation=FLIP)
    with pytest.raises(ExpllmError, match="augment_on"):
        BatchConfig(augment_on="moon")
    encoder = RecordEncoder(template, own_tokenizer, EncodeConfig(image_tokens=4, mirror=False))
    face = Annotation("0.png", "Happiness", cot=COT)
    write_records(tmp_path / "plain", {"train": [encoder.record(face, picture(0))]}, encoder)
    plain = open_records(tmp_path / "plain", "train")
    with pytest.raises(ExpllmError, match="call right what is left"):
        batches(plain, BatchConfig(batch=1, picture_size=SIDE, augmentation=FLIP))
    batches(plain, BatchConfig(batch=1, picture_size=SIDE, augmentation=dataclasses.replace(FLIP, flip=0.0)))


def test_a_damaged_record_leaves_its_place_empty(folder, tmp_path) -> None:
    """One bit of the stored pictures is wrong: the record is named, or left out and listed."""
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (shard,) = broken.glob("*train*array_record*")
    content = bytearray(shard.read_bytes())
    written = np.flatnonzero(np.frombuffer(content, np.uint8))  # the rest of the file is padding
    content[written[len(written) // 2]] ^= 1
    shard.write_bytes(content)
    packing = PackingConfig(on=True, row_length=1024, picture_cost=1.0, attention_length=1e5)
    config = BatchConfig(batch=8, updates=2, picture_size=SIDE, packing=packing, threads=0)
    with pytest.raises(ExpllmError, match=r"record \d+ \(\d+.png\) is damaged"):
        list(batches(open_records(broken, "train"), config))
    source = open_records(broken, "train", on_error="skip")
    iterator = batches(source, config)
    planned = [iterator.layout(number).record for number in range(2)]
    found = list(iterator)
    missing = {entry.index for entry in source.skipped}
    assert missing
    for batch, plan in zip(found, planned, strict=True):
        kept = sorted(set(plan[plan >= 0].tolist()) - missing)
        assert sorted(batch["record"][batch["record"] >= 0].tolist()) == kept
        assert batch["loss_weights"].sum() == pytest.approx(len(kept), abs=1e-4)
        used = batch["record"] >= 0
        assert all((~used[:, k] <= ~used[:, k + 1]).all() for k in range(used.shape[1] - 1))  # the rest closed up
        image_tokens = (batch["tokens"] == source.manifest.image_token).sum(1)
        np.testing.assert_array_equal(image_tokens, 4 * used.sum(1))
