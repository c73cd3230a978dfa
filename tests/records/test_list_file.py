"""List files and what their repeats mean."""

from __future__ import annotations

import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.records import (
    BatchConfig,
    EncodedRow,
    ListEntry,
    RepeatedRows,
    batches,
    read_list_file,
    repeated,
)

RAF_DB = 12_271


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def data(tmp_path):
    for name in ("labels", "texts"):
        (tmp_path / f"{name}.json").write_text("[]")
    (tmp_path / "pictures of faces").mkdir()
    return tmp_path


def written(data, text):
    path = data / "mix.txt"
    path.write_text(text)
    return path


def test_a_list_file(data):
    path = written(
        data,
        "texts.json,pictures of faces,1\n\n# three of four are labels\n"
        "labels.json, pictures of faces , 3\nlabels.json,pictures of faces\n",
    )
    texts, labels, pictures = data / "texts.json", data / "labels.json", data / "pictures of faces"
    entries = read_list_file(path, root=data)
    assert entries == (ListEntry(texts, pictures, 1), ListEntry(labels, pictures, 3), ListEntry(labels, pictures))
    (data / "absolute.txt").write_text(f"{texts},{pictures},.2")
    assert read_list_file(data / "absolute.txt", root="/nowhere") == (ListEntry(texts, pictures, 0.2),)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("labels.json", "two or three fields"),
        ("labels.json,pictures of faces,1,2", "two or three fields"),
        ("labels.json,,1", "two or three fields"),
        ("labels.json,pictures of faces,thrice", "thrice"),
        ("labels.json,pictures of faces,0", "repeat is 0"),
        ("labels.json,pictures of faces,-1", "repeat is -1"),
        ("labels.json,pictures of faces,nan", "repeat is nan"),
        ("nothing.json,pictures of faces,1", "nothing.json"),
        ("labels.json,texts.json,1", "no folder"),
    ],
)
def test_errors_name_file_and_line(data, line, named):
    with pytest.raises(ExpllmError, match=f"mix.txt, line 2: .*{named}"):
        read_list_file(written(data, f"texts.json,pictures of faces,1\n{line}\n"), root=data)


def test_a_list_that_is_not_there_or_is_empty(data):
    with pytest.raises(ExpllmError, match="absent.txt"):
        read_list_file(data / "absent.txt")
    with pytest.raises(ExpllmError, match="lists nothing"):
        read_list_file(written(data, "# nothing\n"))


@pytest.mark.parametrize(("repeat", "copies"), [(1, 1), (3, 3), (2.7, 2), (1.0, 1)])
def test_whole_copies(repeat, copies):
    assert repeated(5, repeat, rng()).tolist() == [0, 1, 2, 3, 4] * copies


def test_a_random_part():
    drawn = repeated(RAF_DB, 0.2, rng())
    assert len(drawn) == 2454 == int(RAF_DB * 0.2)
    assert len(set(drawn.tolist())) == len(drawn)
    assert 0 <= drawn.min() and drawn.max() < RAF_DB
    assert drawn.tolist() == repeated(RAF_DB, 0.2, rng()).tolist()
    assert drawn.tolist() != repeated(RAF_DB, 0.2, rng(1)).tolist()
    assert len(repeated(100, 0.29, rng())) == 28  # 100 x 0.29 is a little less than 29 in floating point, there as here


@pytest.mark.parametrize("repeat", [0, -1, float("nan"), float("inf")])
def test_a_bad_repeat(repeat):
    with pytest.raises(ExpllmError, match="repeat is"):
        repeated(5, repeat, rng())


def test_a_part_that_is_empty():
    with pytest.raises(ExpllmError, match="nothing of 4 records"):
        repeated(4, 0.2, rng())


class Rows:
    """A source of `count` rows of one token each, whose value says which set and record it is."""

    pad_token = 0

    def __init__(self, number, count, longest=1):
        self.number, self.count, self.longest_row = number, count, (longest, f"longest of {number}")

    def __len__(self):
        return self.count

    def row(self, index):
        token = np.asarray([1000 * self.number + index], np.int32)
        return EncodedRow(token, token * 0, token * 0 + 1, np.zeros(1, np.float32))

    def picture(self, index):
        return f"{self.number} {index}".encode()


def test_three_to_one_of_labels_and_texts():
    mixed = RepeatedRows([Rows(0, RAF_DB), Rows(1, RAF_DB)], [1, 3])
    assert len(mixed) == 4 * RAF_DB == 49_084
    assert np.bincount(mixed.origin[:, 0]).tolist() == [RAF_DB, 3 * RAF_DB]
    counts = np.bincount(mixed.origin[mixed.origin[:, 0] == 1, 1])
    assert counts.tolist() == [3] * RAF_DB
    assert mixed.row(RAF_DB + 7).tokens[0] == 1007
    assert mixed.picture(RAF_DB + 7) == b"1 7"


def test_an_epoch_holds_every_copy_once_and_the_next_is_in_another_order():
    mixed = RepeatedRows([Rows(1, 4), Rows(2, 10, longest=3)], [2.7, 0.3], seed=5)
    assert mixed.longest_row == (3, "longest of 2")
    features = np.zeros((len(mixed), 1, 1), np.float32)
    config = BatchConfig(batch=11, epochs=2, seed=3, threads=0)
    first, second = [batch["tokens"][:, 0].tolist() for batch in batches(mixed, config, features)]
    part = sorted(2000 + mixed.origin[8:, 1])
    assert sorted(first) == sorted(second) == sorted([1000, 1001, 1002, 1003] * 2) + part
    assert first != second


def test_sets_have_to_fit_together():
    other = Rows(1, 3)
    other.pad_token = 1
    with pytest.raises(ExpllmError, match="different tokenizers"):
        RepeatedRows([Rows(0, 3), other], [1, 1])
    with pytest.raises(ExpllmError, match="no sets"):
        RepeatedRows([], [])
