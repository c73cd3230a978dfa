"""What the declarations of the field's datasets read out of their files, and the numbers they are compared with."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import BASIC_7, EXPRESSIONS, LABEL_ORDERS
from expllm_jax.sources import DATASETS, read_dataset
from tests.sources.trees import FOLDERS, TABLES, put_affectnet_arrays, put_picture, put_pictures


def expressions(name, root, **options) -> dict[str, str | None]:
    """Picture -> expression."""
    return {face.picture: face.expression for face in read_dataset(name, root, **options)}


# --- RAF-DB


def with_attributes(root: Path, name: str, *, gender="1", race="2", age="3") -> Path:
    """A picture's manual annotation: five points, then three codes."""
    path = root / f"basic/Annotation/manual/{name}_manu_attri.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    points = "".join(f"{index}.5\t{index + 10}\n" for index in range(5))
    path.write_text(f"{points}{gender}\n{race}\n{age}\n")
    return path


@pytest.fixture
def raf(tmp_path):
    root = TABLES["raf-db basic"].build(tmp_path)
    for name in ("train_00001", "train_00002", "test_0001"):
        with_attributes(root, name)
    return root


def test_raf_db_has_its_labels_splits_and_attributes(raf):
    faces = list(read_dataset("raf-db", raf))
    assert [(face.expression, face.split) for face in faces] == [
        ("Sadness", "train"),
        ("Happiness", "train"),
        ("Neutral", "test"),
    ]
    assert all(face.attributes == {"gender": "female", "race": "Asian", "age_group": "40-69"} for face in faces)
    assert faces[0].provenance == {
        "dataset": "raf-db",
        "layout": "basic",
        "layout_checked": "no",
        "label_file": "basic/EmoLabel/list_patition_label.txt",
        "line": "1",
    }


def test_raf_db_may_be_given_by_its_inner_folder(raf):
    assert list(expressions("raf-db", raf / "basic")) == [
        f"Image/aligned/{name}_aligned.jpg" for name in ("train_00001", "train_00002", "test_0001")
    ]


def test_landmarks_go_with_the_pictures_they_were_found_in(raf):
    put_pictures(raf, [f"basic/Image/original/{name}.jpg" for name in ("train_00001", "train_00002", "test_0001")])
    assert [face.landmarks for face in read_dataset("raf-db", raf)] == [()] * 3  # aligned, and not asked for others
    first = next(read_dataset("raf-db", raf, layout="original"))
    assert first.picture == "basic/Image/original/train_00001.jpg"
    assert first.landmarks == tuple((index + 0.5, index + 10.0) for index in range(5))


def test_raf_db_without_attributes_has_none(tmp_path):
    assert all(not face.attributes for face in read_dataset("raf-db", TABLES["raf-db basic"].build(tmp_path)))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "there is no .*train_00002_manu_attri.txt"),
        (lambda path: path.write_text("1 2\n0\n0\n0\n"), "train_00002_manu_attri.txt: 4 lines where 8 belong"),
        (lambda path: path.write_text(path.read_text()[:-2] + "9\n"), "'9' is no raf-db age group"),
    ],
)
def test_damaged_attributes_are_refused_at_their_line(raf, spoil, says):
    spoil(raf / "basic/Annotation/manual/train_00002_manu_attri.txt")
    with pytest.raises(ExpllmError, match=rf"list_patition_label\.txt, line 2: .*{says}"):
        list(read_dataset("raf-db", raf))


def test_the_csv_copy_is_meant_where_both_copies_are_there(tmp_path):
    root = TABLES["raf-db kaggle-csv"].build(tmp_path)
    faces = list(read_dataset("raf-db", root))
    assert {face.provenance["layout"] for face in faces} == {"kaggle-csv"}
    folders = expressions("raf-db", root, layout="folders")
    assert folders == {face.picture: face.expression for face in faces}


@pytest.mark.skipif("EXPLLM_FIXTURES" not in os.environ, reason="EXPLLM_FIXTURES names no folder of released labels")
def test_the_released_labels_of_the_test_set_come_back_whole(tmp_path):
    released = json.loads((Path(os.environ["EXPLLM_FIXTURES"]) / "rafdb_valid_labels.json").read_text(encoding="utf-8"))
    codes = {word: code for code, word in LABEL_ORDERS["raf-db"].items()}
    picture = put_picture(tmp_path / "picture.jpg")
    (tmp_path / "basic/Image/aligned").mkdir(parents=True)
    (tmp_path / "basic/EmoLabel").mkdir()
    lines = []
    for record in released:
        os.link(picture, tmp_path / "basic/Image/aligned" / record["file_name"])
        lines.append(f"{record['file_name'].replace('_aligned', '')} {codes[record['emo']]}\n")
    (tmp_path / "basic/EmoLabel/list_patition_label.txt").write_text("".join(lines))

    faces = list(read_dataset("raf-db", tmp_path))
    assert [(Path(face.picture).name, face.expression) for face in faces] == [
        (record["file_name"], record["emo"]) for record in released
    ]
    assert {face.split for face in faces} == {"test"}
    assert Counter(face.expression for face in faces) == DATASETS["raf-db"].counts["test"]


# --- AffectNet


def test_affectnet_has_box_landmarks_valence_and_arousal(tmp_path):
    root = TABLES["affectnet csv"].build(tmp_path)
    first, second, third, last = read_dataset("affectnet", root)
    assert [face.expression for face in (first, second, third, last)] == ["Neutral", "Contempt", "Happiness", "Anger"]
    assert first.face_box == (1, 1, 2, 2)
    assert first.landmarks == tuple((index / 2, float(index)) for index in range(68))
    assert first.attributes == {"valence": 0.25, "arousal": -0.5}
    assert third.attributes == {"arousal": -0.5}  # -2 is no valence
    assert last.split == "val"


@pytest.mark.parametrize(
    ("column", "cell", "says"),
    [
        ("face_width", "0", "face box"),
        ("face_x", "left", "column 'face_x' holds 'left', which is no number"),
        ("facial_landmarks", "1;2;3", "holds no pairs"),
        ("facial_landmarks", "1;nan", "holds no pairs"),
        ("facial_landmarks", "1;2;3;4", "has 2 landmarks"),
        ("valence", "1.5", "column 'valence' holds 1.5, outside -1 to 1"),
        ("expression", "0.25", "column 'expression' holds '0.25', which is no whole number"),
    ],
)
def test_cells_that_cannot_be_are_refused_at_their_line(tmp_path, column, cell, says):
    tree = TABLES["affectnet csv"]
    root = tree.build(tmp_path)
    rows = [[*cells] for cells in tree.rows]
    rows[1][tree.header.index(column)] = cell
    (root / tree.file).write_text(tree.text(rows))
    with pytest.raises(ExpllmError, match=rf"training\.csv, line 3: .*{says}"):
        expressions("affectnet", root)


def test_columns_of_a_header_may_stand_in_any_order(tmp_path):
    tree = TABLES["affectnet csv"]
    root = tree.build(tmp_path)
    expected = list(read_dataset("affectnet", root))
    lines = [",".join(reversed(cells)) for cells in (tree.header, *tree.rows)]
    (root / tree.file).write_text("\n".join(lines) + "\n")
    assert list(read_dataset("affectnet", root)) == expected


def test_what_affectnet_calls_no_expression_is_counted_and_left_out(tmp_path):
    tree = TABLES["affectnet csv"]
    root = tree.build(tmp_path)
    rows = [[*cells] for cells in tree.rows]
    rows[0][tree.label_column], rows[2][tree.label_column] = "8", "10"
    (root / tree.file).write_text(tree.text(rows))
    left_out: Counter[str] = Counter()
    found = expressions("affectnet", root, split="train", left_out=left_out)
    assert found == {"Manually_Annotated_Images/1/b.jpg": "Contempt"}
    assert left_out == {"8 (none)": 1, "10 (no face)": 1}


def test_seven_classes_are_eight_without_contempt(tmp_path):
    for name, layout in (("csv", TABLES["affectnet csv"]), ("npy", FOLDERS["affectnet npy"])):
        root = layout.build(tmp_path / name)
        left_out: Counter[str] = Counter()
        eight, seven = expressions("affectnet", root), expressions("affectnet-7", root, left_out=left_out)
        assert {picture: word for picture, word in eight.items() if word != "Contempt"} == seven
        assert left_out == {"Contempt (no class of this task)": 1}


def test_seven_classes_of_folders_count_the_pictures_left_out(tmp_path):
    put_pictures(tmp_path, ["train/0/a.jpg", "train/7/b.jpg", "train/7/c.jpg"])
    left_out: Counter[str] = Counter()
    assert expressions("affectnet-7", tmp_path, left_out=left_out) == {"train/0/a.jpg": "Neutral"}
    assert left_out == {"Contempt (no class of this task)": 2}


def test_affectnets_arrays_hold_numbers_as_numbers_and_as_text(tmp_path):
    root = FOLDERS["affectnet npy"].build(tmp_path)
    put_affectnet_arrays(root / "train_set", "0", "1", valence=-2.0)
    first, second, _ = read_dataset("affectnet", root)
    assert first.attributes == {"arousal": -0.5}
    assert second.attributes == {"valence": 0.25, "arousal": -0.5}
    assert first.landmarks == tuple((2.0 * index, 2.0 * index + 1) for index in range(68))


def test_affectnet_folders_may_be_words(tmp_path):
    put_pictures(tmp_path, ["train/happy/a.jpg", "val/contempt/b.jpg"])
    assert expressions("affectnet", tmp_path) == {"train/happy/a.jpg": "Happiness", "val/contempt/b.jpg": "Contempt"}


# --- FERPlus and FER2013


@pytest.mark.parametrize(
    ("votes", "word"),
    [
        ("8 1 0 1 0 0 0 0 0 0", "Neutral"),
        ("0 0 6 0 0 0 4 0 0 0", "Surprise"),
        ("4 0 0 1 3 2 0 0 0 0", None),  # 4 of 9, the single vote set aside: no majority
        ("5 0 0 4 1 0 0 0 0 0", "Neutral"),  # 5 of 9
        ("5 0 0 5 0 0 0 0 0 0", None),
        ("1 1 1 1 1 1 1 1 1 1", None),
        ("0 0 0 0 0 0 0 0 9 1", "8 (unknown)"),
        ("0 1 0 0 0 0 0 0 0 9", "9 (not a face (NF))"),
        ("0 0 0 0 0 0 1 9 0 0", "Contempt"),
    ],
)
def test_ferplus_takes_what_more_than_half_of_the_votes_say(tmp_path, votes, word):
    tree = TABLES["ferplus votes"]
    root = tree.build(tmp_path)
    rows = [["Training", "fer0000000.png", *votes.split()], *tree.rows[1:]]
    (root / tree.file).write_text(tree.text(rows))
    left_out: Counter[str] = Counter()
    found = expressions("ferplus", root, left_out=left_out)
    if word in EXPRESSIONS:
        assert found["FER2013Train/fer0000000.png"] == word
        assert not left_out
    else:
        assert "FER2013Train/fer0000000.png" not in found
        assert left_out == {word or "no majority of the votes": 1}
    assert found["FER2013Test/fer0000002.png"] == "Contempt"


def test_ferplus_leaves_out_rows_without_a_picture_name(tmp_path):
    tree = TABLES["ferplus votes"]
    root = tree.build(tmp_path)
    (root / tree.file).write_text(tree.text([*tree.rows, ["Training", "", *"0 0 0 0 0 0 0 0 0 10".split()]]))
    for split, kept, nameless in (("", 3, 1), ("train", 2, 1), ("test", 1, 0)):
        left_out: Counter[str] = Counter()
        assert len(expressions("ferplus", root, split=split, left_out=left_out)) == kept
        assert left_out["9 (not a face (NF))"] == nameless


def test_ferplus_refuses_a_split_nobody_knows(tmp_path):
    tree = TABLES["ferplus votes"]
    root = tree.build(tmp_path)
    (root / tree.file).write_text(tree.text([["Trainig", *tree.rows[0][1:]], *tree.rows[1:]]))
    with pytest.raises(ExpllmError, match=r"line 2: column 'Usage' holds 'Trainig'"):
        expressions("ferplus", root)


# --- Published counts


def totals(name: str, layout: str) -> dict[str, int]:
    return {split: sum(counts.values()) for split, counts in DATASETS[name].published_counts(layout).items()}


@pytest.mark.parametrize(
    ("name", "layout", "expected"),
    [
        ("raf-db", "basic", {"train": 12_271, "test": 3_068}),
        ("affectnet", "csv", {"train": 287_651, "val": 4_000}),
        ("affectnet-7", "csv", {"train": 283_901, "val": 3_500}),
        ("affectnet", "folders", {"train": 37_553, "val": 4_000}),
        ("affectnet-7", "folders", {"train": 33_803, "val": 3_500}),
        ("ferplus", "folders", {"test": 3_573}),
        ("ferplus", "votes", {}),
        ("fer2013", "folders", {"train": 28_709, "val": 3_589, "test": 3_589}),
        ("fer2013", "kaggle-folders", {"train": 28_709, "test": 7_178}),
        ("sfew", "aligned", {"val": 431}),
    ],
)
def test_published_counts_sum_to_the_published_sizes(name, layout, expected):
    assert totals(name, layout) == expected


def test_published_counts_name_the_classes_of_their_set():
    classes = {"raf-db": BASIC_7, "affectnet-7": BASIC_7, "fer2013": BASIC_7, "sfew": BASIC_7}
    for dataset in DATASETS.values():
        for layout in dataset.layouts:
            for split, counts in dataset.published_counts(layout.name).items():
                assert set(counts) == set(classes.get(dataset.name, EXPRESSIONS)), (dataset.name, layout.name, split)
    assert DATASETS["fer2013"].published_counts("kaggle-folders")["test"]["Disgust"] == 111
