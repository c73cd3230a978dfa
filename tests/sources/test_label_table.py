"""Every layout with a label table: read as it is, and with every mistake that tables have."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.sources import JoinedTable, LabelTable, Reading, Table, read_dataset
from expllm_jax.sources.columns import Number, Text, Word
from expllm_jax.sources.table import BLANKS
from tests.sources.trees import TABLES, TableTree, put_picture, put_pictures


def read(tree: TableTree, root, **options) -> list[Annotation]:
    return list(read_dataset(tree.dataset, root, layout=tree.layout, **options))


def refusal(tree: TableTree, root, **options) -> ExpllmError:
    """The first problem of a strict reading."""
    with pytest.raises(ExpllmError) as caught:
        read(tree, root, **options)
    return caught.value


def told(tree: TableTree, root, **options) -> tuple[list[str], list[str]]:
    """Pictures that are read and problems that are told of, when problems do not end the reading."""
    problems: list[ExpllmError] = []
    pictures = [annotation.picture for annotation in read(tree, root, problems=problems.append, **options)]
    return pictures, [problem.problem for problem in problems]


@pytest.fixture(params=TABLES)
def tree(request) -> TableTree:
    return TABLES[request.param]


@pytest.fixture
def root(tree, tmp_path):
    return tree.build(tmp_path)


def rewrite(tree, root, rows, **options):
    (root / tree.file).write_text(tree.text(rows, **options), encoding="utf-8", newline="")


def changed(tree, row, column, cell) -> list[list[str]]:
    rows = [list(cells) for cells in tree.rows]
    rows[row][column] = cell
    return rows


def test_a_tree_without_mistakes_is_read_whole(tree, root):
    found = read(tree, root)
    assert [annotation.picture for annotation in found if annotation.picture in tree.pictures] == list(tree.pictures)
    assert {annotation.picture for annotation in found} == {*tree.pictures, *tree.other_pictures}
    first = found[0]
    assert first.split == tree.split
    assert first.provenance["label_file"] == tree.file
    assert first.provenance["line"] == str(tree.line(0))
    assert read(tree, root) == found


def test_one_split_is_the_part_of_all_that_has_it(tree, root):
    everything = read(tree, root)
    for split in {annotation.split for annotation in everything}:
        assert read(tree, root, split=split) == [found for found in everything if found.split == split]


@pytest.mark.parametrize(
    "as_bytes",
    [
        pytest.param(lambda tree: tree.text(end="\r\n").encode(), id="CRLF"),
        pytest.param(lambda tree: b"\xef\xbb\xbf" + tree.text().encode(), id="byte order mark"),
        pytest.param(lambda tree: tree.text().rstrip("\n").encode() + b"\n\n\n", id="blank lines at the end"),
    ],
)
def test_forms_of_text_make_no_difference(tree, root, as_bytes):
    expected = read(tree, root)
    (root / tree.file).write_bytes(as_bytes(tree))
    assert read(tree, root) == expected


def test_names_may_hold_blanks_and_any_letters(tree, root):
    old = root / tree.pictures[0]
    cell = tree.rows[0][tree.picture_column]
    stem, dot, suffix = cell.rpartition(".")
    new = old.with_name(old.name.replace(stem.rpartition("/")[2], stem.rpartition("/")[2] + " é 笑"))
    old.rename(new)
    rewrite(tree, root, changed(tree, 0, tree.picture_column, f"{stem} é 笑{dot}{suffix}"))
    assert new.relative_to(root).as_posix() in {annotation.picture for annotation in read(tree, root)}


def test_a_missing_label_file_is_named(tree, root):
    (root / tree.file).unlink()
    assert tree.file in refusal(tree, root).problem.replace("\\", "/")


def test_an_empty_label_file_is_named(tree, root):
    (root / tree.file).write_text("")
    error = refusal(tree, root)
    assert tree.file in error.problem
    assert "no rows" in error.problem


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_text_in_another_encoding_is_refused(tree, root, encoding):
    rows = changed(tree, 1, tree.picture_column, "é.png")
    (root / tree.file).write_bytes(tree.text(rows).encode(encoding))
    error = refusal(tree, root)
    assert tree.file in error.problem
    assert "UTF-8" in error.problem


def expect_at(tree, root, row, *patterns):
    """That a row is refused by file and line; the others are read where problems are collected."""
    error = refusal(tree, root)
    assert f"{root / tree.file}, line {tree.line(row)}: " in error.problem
    for pattern in patterns:
        assert re.search(pattern, str(error)), str(error)
    pictures, problems = told(tree, root)
    assert error.problem in problems
    everything = {*tree.pictures, *tree.other_pictures}
    assert everything - set(pictures) <= {tree.pictures[row]}
    return problems


def test_a_label_that_is_none_is_refused(tree, root):
    rewrite(tree, root, changed(tree, 1, tree.label_column, tree.bad_label))
    problems = expect_at(tree, root, 1, re.escape(tree.bad_label))
    # The picture is spoken of, if badly; unless the label should have led to it.
    assert len(problems) == 1 + tree.label_in_path


def test_columns_that_changed_places_are_told(tree, root):
    rows = [list(cells) for cells in tree.rows]
    for cells in rows:
        label, name = cells[tree.label_column], cells[tree.picture_column]
        cells[tree.label_column], cells[tree.picture_column] = name, label
    rewrite(tree, root, rows)
    assert "the columns look swapped" in refusal(tree, root).problem


def test_a_second_line_for_a_picture_is_refused_with_both_lines(tree, root):
    rewrite(tree, root, [*tree.rows, tree.rows[0]])
    error = refusal(tree, root)
    assert f"line {tree.line(len(tree.rows))}: {tree.pictures[0]} was named before" in error.problem
    assert f"line {tree.line(0)} of {tree.file}" in error.problem
    pictures, problems = told(tree, root)
    assert Counter(pictures)[tree.pictures[0]] == 1
    assert problems == [error.problem]


def test_an_annotation_without_a_picture_is_refused(tree, root):
    (root / tree.pictures[1]).unlink()
    problems = expect_at(tree, root, 1, re.escape(tree.pictures[1]))
    assert len(problems) == 1


def test_pictures_without_annotations_are_named_but_not_all(tree, root):
    folder = (root / tree.pictures[0]).parent
    for number in range(9):
        put_picture(folder / f"stray{number}.jpg")
    error = refusal(tree, root)
    assert "9 picture(s)" in error.problem
    assert "stray0.jpg" in error.problem
    assert "and 4 more" in error.problem
    pictures, problems = told(tree, root)
    assert set(pictures) == {*tree.pictures, *tree.other_pictures}
    assert problems == [error.problem]


@pytest.mark.parametrize("name", ["../../../outside.jpg", "train_../../../../../../x.jpg"])
def test_paths_that_lead_out_are_refused(tree, root, name):
    rewrite(tree, root, changed(tree, 1, tree.picture_column, name))
    problems = expect_at(tree, root, 1, "leads out|tells no split")
    assert len(problems) == 2  # and the picture has no line any more


def test_too_few_cells_are_refused(tree, root):
    rows = [list(cells) for cells in tree.rows]
    rows[1] = rows[1][:-1]
    rewrite(tree, root, rows)
    expect_at(tree, root, 1, "cells where")


@pytest.mark.parametrize(
    "tree", [tree for tree in TABLES.values() if tree.delimiter == ","], ids=lambda tree: tree.file
)
def test_too_many_cells_are_refused(tree, tmp_path):
    root = tree.build(tmp_path)
    rows = [list(cells) for cells in tree.rows]
    rows[1] = [*rows[1], "more"]
    rewrite(tree, root, rows)
    expect_at(tree, root, 1, "cells where")


def test_a_picture_in_two_splits_is_refused(tmp_path):
    tree = TABLES["csv file-a-split"]
    root = tree.build(tmp_path)
    (root / "test.csv").write_text("picture,expression\na/4.png,6\na/1.png,6\n")
    for split in ("", "test"):
        error = refusal(tree, root, split=split)
        assert error.problem.startswith(
            f"{root / 'test.csv'}, line 3: a/1.png was named before, in line 2 of train.csv"
        )


def test_files_of_other_splits_may_be_absent(tmp_path):
    tree = TABLES["csv file-a-split"]
    root = tree.build(tmp_path)
    (root / "test.csv").unlink()
    assert len(read(tree, root, split="train")) == 2
    assert "test.csv" in refusal(tree, root).problem


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/etc/passwd.png", "is absolute"),
        ("C:\\faces\\1.png", "is absolute"),
        ("\\\\host\\1.png", "is absolute"),
        ("a\\1.png", "has backslashes"),
        ("", "is empty"),
    ],
)
def test_paths_that_are_not_relative_are_refused(tmp_path, name, says):
    tree = TABLES["csv one-file"]
    root = tree.build(tmp_path)
    rewrite(tree, root, changed(tree, 1, 0, name))
    expect_at(tree, root, 1, says)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("picture;expression", "no column 'picture' among 'picture;expression'"),
        ("picture,expression,expression", "two columns are called 'expression'"),
        ("picture,expression,identiy", "no column is called 'identiy'; did you mean 'identity'?"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path, header, says):
    tree = TABLES["csv one-file"]
    root = tree.build(tmp_path)
    (root / tree.file).write_text(f"{header}\na/1.png,angry,0\n")
    error = refusal(tree, root)
    assert error.problem.startswith(f"{root / tree.file}, line 1: ")
    assert says in error.problem


def test_a_quotation_mark_that_is_never_closed_is_refused(tmp_path):
    tree = TABLES["csv one-file"]
    root = tree.build(tmp_path)
    (root / tree.file).write_text('picture,expression\na/1.png,"angry\na/2.png,sad\n')
    assert str(root / tree.file) in refusal(tree, root).problem


def test_all_columns_of_ones_own_table(tmp_path):
    put_picture(tmp_path / "a, b/1.png")
    (tmp_path / "labels.csv").write_text(
        "expression,picture,identity,caption,gender,age,valence,face_x,face_y,face_width,face_height\n"
        'fearful,"a, b/1.png",anna,"Eyes wide, mouth open.",female,31,-0.5,1,2,3,4\n'
    )
    (face,) = read_dataset("csv", tmp_path)
    assert (face.expression, face.identity, face.split) == ("Fear", "anna", "")
    assert face.caption == "Eyes wide, mouth open."
    assert face.attributes == {"gender": "female", "age": 31.0, "valence": -0.5}
    assert face.face_box == (1, 2, 3, 4)


@pytest.fixture
def joined(tmp_path):
    """Labels in one table, ages in another."""
    put_pictures(tmp_path, ["1.png", "2.png"])
    (tmp_path / "labels.txt").write_text("1.png angry\n2.png sad\n")
    (tmp_path / "ages.txt").write_text("2 pictures\n2.png 40\n1.png 30\n")
    engine = LabelTable(
        files={"labels.txt": "train"},
        table=Table(("name", "label"), delimiter=BLANKS),
        picture="{name}",
        expression=Word("label"),
        attributes={"age": Number("age")},
        beside=(
            JoinedTable(
                "ages.txt", Table(("of", "age"), delimiter=BLANKS, skipped_lines=1), key=Text("of"), of=Text("name")
            ),
        ),
    )
    return engine, tmp_path


def test_a_second_table_gives_its_columns(joined):
    engine, root = joined
    assert [(face.expression, face.attributes) for face in engine.read(Reading(root))] == [
        ("Anger", {"age": 30.0}),
        ("Sadness", {"age": 40.0}),
    ]


@pytest.mark.parametrize(
    ("ages", "says"),
    [
        ("1 picture\n2.png 40\n", r"labels\.txt, line 1: .*ages\.txt has no line for 1\.png"),
        ("3 pictures\n2.png 40\n1.png 30\n2.png 41\n", r"ages\.txt, line 4: a second line for 2\.png"),
        ("0 pictures\n", r"ages\.txt holds no rows"),
    ],
)
def test_a_second_table_that_does_not_fit_is_refused(joined, ages, says):
    engine, root = joined
    (root / "ages.txt").write_text(ages)
    with pytest.raises(ExpllmError, match=says):
        list(engine.read(Reading(root)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("picture;expression\na.png;sad\n", r"line 1: .*apart by ',', and not by ';'"),
        ("picture\texpression\na.png\tsad\n", r"line 1: .*apart by ',', and not by '\\t'"),
        ("picture,expression\na.png,sad\nb.png,né\n".encode("latin-1"), r"labels\.csv, line 3: not UTF-8.*0xe9"),
        ("picture,expression\na.png,sad\n".encode("utf-16"), r"labels\.csv, line 1: not UTF-8 text \(byte 0xff\)"),
    ],
)
def test_text_of_another_make_is_refused_where_it_begins(tmp_path, content, says):
    (tmp_path / "labels.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    put_pictures(tmp_path, ["a.png", "b.png"])
    with pytest.raises(ExpllmError, match=says):
        list(read_dataset("csv", tmp_path))
