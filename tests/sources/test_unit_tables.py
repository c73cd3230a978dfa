"""Tables of units that other tools wrote: what is read of them, what is refused, and how they find their pictures."""

from __future__ import annotations

import json

import pytest

from expllm_jax.cli import main
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation, read_annotations, write_annotations
from expllm_jax.sources.dataset import raise_first
from expllm_jax.sources.unit_tables import (
    TOOLS,
    UnitTableOptions,
    add_units,
    read_unit_table,
    unit_tool,
)

OPENFACE = "frame, face_id, timestamp, confidence, success, AU01_r, AU12_r, AU45_r, AU01_c, AU12_c, AU28_c"


def table(folder, text, name="table.csv"):
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def read(file, tool, **options):
    return list(read_unit_table(file, unit_tool(tool), raise_first, UnitTableOptions(**options)))


def test_openface_writes_a_table_for_each_picture(tmp_path):
    table(tmp_path, f"{OPENFACE}\n1, 0, 0, 0.98, 1, 0.50, 5.00, 2.1, 0, 1, 1\n", "b.csv")
    table(tmp_path, f"{OPENFACE}\n1, 0, 0, 0.91, 1, 0, 2.5, 0, 0, 1, 0\n", "a.csv")
    (tmp_path / "a_of_details.txt").write_text("not a table")
    rows = read(tmp_path, "openface")
    assert [(row.picture, row.line, row.confidence) for row in rows] == [("a", 2, 0.91), ("b", 2, 0.98)]
    # AU45 has no place in the vocabulary; AU28 only occurs.
    assert rows[1].units == {"AU1": pytest.approx(0.1), "AU12": 1.0}


def test_py_feat_names_the_picture(tmp_path):
    file = table(
        tmp_path,
        "FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore,AU01,AU12,AU43,anger,input,frame\n"
        "10,10,80,100,0.999,0.25,0.875,0.0,0.1,/data/faces/one.jpg,0\n",
    )
    (row,) = read(file, "py-feat")
    assert (row.picture, row.confidence, row.area) == ("/data/faces/one.jpg", 0.999, 8000)
    assert row.units == {"AU1": 0.25, "AU12": 0.875, "AU43": 0.0}


def test_libreface_says_intensities_and_occurrences(tmp_path):
    file = table(tmp_path, "input_image_path,au_1,au_12,au_1_intensity,au_25_intensity\none.png,1,1,1.5,5\n")
    (row,) = read(file, "libreface")
    assert row.units == {"AU1": pytest.approx(0.3), "AU25": 1.0}


def test_opengraphau_has_sides_and_percentages(tmp_path):
    text = "picture,AU1,AU12,AUL12,AUR12\none.png,12.5,50,75,25\n"
    with pytest.raises(ExpllmError, match=r"line 2, column 'AU1': 12.5 is outside") as error:
        read(table(tmp_path, text), "opengraphau")
    assert "--percent" in error.value.remedy
    (row,) = read(table(tmp_path, text), "opengraphau", percent=True)
    assert row.units == {"AU1": 0.125, "AU12": 0.5, "AUL12": 0.75, "AUR12": 0.25}
    done = add_units([Annotation("one.png")], [row], unit_tool("opengraphau"))
    assert done.annotations[0].units["opengraphau"] == row.units
    assert done.annotations[0].units["facs"] == {"AU1": 0.125, "AU12": 0.75}


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        ("1, 0, 0, 0.98, 1, nan, 1, 0, 0, 0, 0", {}, r"line 3, column 'AU01_r': 'nan' is no number"),
        ("1, 0, 0, 0.98, 1, , 1, 0, 0, 0, 0", {}, r"line 3, column 'AU01_r': '' is no number"),
        ("1, 0, 0, 0.98, 1, 1, 5.1, 0, 0, 0, 0", {}, r"line 3, column 'AU12_r': 5.1 is outside openface's 0 to 5"),
        ("1, 0, 0, 0.98, 1, -1, 0, 0, 0, 0, 0", {}, r"line 3, column 'AU01_r': -1 is outside"),
        ("1, 0, 0, 0.98, 0, 1, 0, 0, 0, 0, 0", {}, r"line 3: openface lost the face"),
        ("1, 0, 0, 0.5, 1, 1, 0, 0, 0, 0, 0", {"min_confidence": 0.8}, r"line 3, column 'confidence': 0.5 is less"),
        ("1, 0, 0, 0.98, 1, 1", {}, r"line 3: 6 cells where 11 belong"),
    ],
)
def test_a_bad_row_is_told_with_line_and_column_or_left_out(tmp_path, cells, options, message):
    file = table(tmp_path, f"{OPENFACE}\n1, 0, 0, 0.98, 1, 1, 1, 0, 0, 0, 0\n{cells}\n")
    with pytest.raises(ExpllmError, match=message):
        read(file, "openface", **options)
    told = []
    rows = list(read_unit_table(file, unit_tool("openface"), told.append, UnitTableOptions(**options)))
    assert [row.line for row in rows] == [2] and len(told) == 1


@pytest.mark.parametrize(
    ("header", "tool", "message"),
    [
        ("frame, AU01_c, AU02_c", "openface", "only says whether units occur"),
        ("input,au_1,au_2", "libreface", "only says whether units occur"),
        ("frame, AU01_r", "py-feat", "like those of openface"),
        ("x,y", "openface", "has no column of openface's intensities"),
        ("AU01_r, AU01_r", "openface", "two columns are called 'AU01_r'"),
        ("AU99_r", "openface", "'AU99_r' is no unit of facs"),
        ("AUL5", "opengraphau", "'AUL5' is no unit of opengraphau"),
    ],
)
def test_a_table_of_something_else_is_refused(tmp_path, header, tool, message):
    with pytest.raises(ExpllmError, match=message):
        read(table(tmp_path, f"{header}\n"), tool)


def test_unknown_tools_rules_and_columns_are_told(tmp_path):
    with pytest.raises(ExpllmError, match="'openfaces'"):
        unit_tool("openfaces")
    with pytest.raises(ExpllmError, match="'first'"):
        UnitTableOptions(several_faces="first")
    with pytest.raises(ExpllmError, match="no column 'photo'"):
        read(table(tmp_path, f"{OPENFACE}\n"), "openface", picture_column="photo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExpllmError, match=r"holds no \.csv file"):
        read(tmp_path / "empty", "openface")


TWO_FACES = "input,FaceScore,FaceRectWidth,FaceRectHeight,AU01\none.jpg,0.9,10,10,0.25\none.jpg,0.8,20,20,0.75\n"


def test_of_several_faces_one_is_chosen_by_rule_or_all_are_refused(tmp_path):
    rows = read(table(tmp_path, TWO_FACES), "py-feat")
    known, tool = [Annotation("one.jpg")], unit_tool("py-feat")
    with pytest.raises(ExpllmError, match=r"line 3: a second face in one.jpg; the first is in .*line 2"):
        add_units(known, rows, tool)
    for rule, value in (("most-confident", 0.25), ("largest", 0.75)):
        done = add_units(known, rows, tool, UnitTableOptions(several_faces=rule))
        assert done.annotations[0].units["facs"] == {"AU1": value}
    unsized = read(table(tmp_path, "input,AU01\none.jpg,0.5\none.jpg,0.6\n"), "py-feat")
    with pytest.raises(ExpllmError, match="does not say what 'largest' goes by"):
        add_units(known, unsized, tool, UnitTableOptions(several_faces="largest"))


def test_pictures_are_found_by_the_end_of_their_path(tmp_path):
    text = "input,AU01\nC:\\data\\b\\one.jpg,0.1\n/x/two.jpg,0.2\nthree.jpg,0.3\n"
    rows = read(table(tmp_path, text), "py-feat")
    known = [Annotation(name) for name in ("a/one.jpg", "b/one.jpg", "c/two.jpg", "four.jpg")]
    done = add_units(known, rows, unit_tool("py-feat"))
    assert [face.units.get("facs", {}).get("AU1") for face in done.annotations] == [None, 0.1, 0.2, None]
    assert done.without_row == ("a/one.jpg", "four.jpg") and done.without_annotation == ("three.jpg",)
    with pytest.raises(ExpllmError, match="may be any of 2 pictures"):
        add_units(known, read(table(tmp_path, "input,AU01\none.jpg,0.1\n"), "py-feat"), unit_tool("py-feat"))


def test_a_table_called_like_the_picture_finds_it_and_provenance_tells(tmp_path):
    (row,) = read(table(tmp_path, f"{OPENFACE}\n1, 0, 0, 0.9, 1, 5, 0, 0, 0, 0, 0\n", "one.csv"), "openface")
    face = Annotation("train/one.jpg", units={"feafa": {"FEAFA9": 0.5}}, provenance={"dataset": "raf-db"})
    done = add_units([face], [row], unit_tool("openface"))
    (told,) = done.annotations
    assert told.units == {"feafa": {"FEAFA9": 0.5}, "facs": {"AU1": 1.0, "AU12": 0.0}}
    assert told.provenance == {
        "dataset": "raf-db", "units": "openface", "units_table": "one.csv, line 2", "units_mean": "intensity",
    }  # fmt: skip


def test_units_that_are_there_give_way_only_if_asked(tmp_path):
    rows = read(table(tmp_path, "input,AU01\none.jpg,0.5\n"), "py-feat")
    known = [Annotation("one.jpg", units={"facs": {"AU4": 1.0}})]
    with pytest.raises(ExpllmError, match="has facs units already"):
        add_units(known, rows, unit_tool("py-feat"))
    done = add_units(known, rows, unit_tool("py-feat"), UnitTableOptions(replace=True))
    assert done.annotations[0].units["facs"] == {"AU1": 0.5}


def test_the_command_counts_what_it_skips(tmp_path, capsys):
    annotations, out = tmp_path / "faces.jsonl", tmp_path / "out.jsonl"
    write_annotations(annotations, [Annotation(name) for name in ("one.jpg", "two.jpg", "three.jpg")])
    file = table(tmp_path, "input,AU01\none.jpg,0.5\ntwo.jpg,7\nfour.jpg,0.5\n")
    command = ["data", "add-units", str(annotations), str(file), "--tool", "py-feat", "--out", str(out), "--json"]
    assert main(command) == 2 and not out.exists()
    assert "line 3, column 'AU01': 7 is outside" in json.loads(capsys.readouterr().out)["error"]
    assert main([*command, "--on-error", "skip"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["with_units"], told["without_row"], told["rows_without_annotation"], told["skipped"]) == (1, 2, 1, 1)
    assert [bool(face.units) for face in read_annotations(out)] == [True, False, False]
    assert len((tmp_path / "out.jsonl.skipped.jsonl").read_text().splitlines()) == 1
    assert main([*command, "--on-error", "skip"]) == 2  # nothing is overwritten


def test_the_command_offers_what_there_is():
    from expllm_jax.cli import data_add_units
    from expllm_jax.sources.unit_tables import SEVERAL_FACES

    assert tuple(TOOLS) == data_add_units._TOOLS and SEVERAL_FACES == data_add_units._SEVERAL_FACES
