"""Answers are read back as they were written; what is damaged is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.answer_files import answer_line, answered_step, by_split, read_answers


def written(folder, faces, step=None):
    path = folder / "answers.jsonl"
    path.write_text("".join(answer_line(face, folder, step=step) + "\n" for face in faces), encoding="utf-8")
    return path


def test_all_fields_come_back(tmp_path, make_face):
    face = make_face(
        label_text="Happi\u2028ness 😀 شاد",  # a line separator that is no end of a line in JSON Lines
        units={"AU12": 0.5},
        stated={"AU12": "strong", "AU6": None},
        order="reasoning-first",
        probabilities={"Happiness": 0.75, "Anger": 0.25},
        truncated=True,
        prompt_tokens=90,
        new_tokens=70,
        votes={"Happiness": 3},
        groups={"age": "adult"},
        tries=2,
        picture=tmp_path / "faces" / "a.jpg",
    )
    unparsable = make_face(predicted=None, cot_failure="no heading", picture=Path("/elsewhere/b.jpg"))
    label_only = make_face(cot=None, concluded=None)
    faces = [face, unparsable, label_only]
    assert read_answers(written(tmp_path, faces)) == faces


def test_pictures_move_with_their_folder(tmp_path, make_face):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    written(old, [make_face(picture=old / "faces" / "a.jpg")])
    old.rename(new)
    assert read_answers(new / "answers.jsonl")[0].picture == new / "faces" / "a.jpg"


def test_lines_of_before_the_newer_fields_are_read(tmp_path):
    line = {"record": "r", "identity": "p", "split": "hard", "expression": "Fear", "units": {"AU1": 0.2},
            "label_text": "Fear", "predicted": "Fear", "cot": "…", "cot_failure": "no heading", "stated": {},
            "concluded": None, "tries": 5, "picture": "p_fear.jpg", "step": 850}  # fmt: skip
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(line) + "\n")
    (face,) = read_answers(path)
    assert (face.order, face.probabilities, face.truncated) == ("label-first", {}, False)
    assert face.picture == tmp_path / "faces" / "pictures" / "hard" / "p_fear.jpg"
    assert answered_step(path) == 850


def test_the_step_is_that_of_all_lines_or_none(tmp_path, make_face):
    assert answered_step(written(tmp_path, [make_face(), make_face()], step=7)) == 7
    assert answered_step(written(tmp_path, [make_face()])) is None
    mixed = [answer_line(make_face(), tmp_path, step=step) for step in (7, 8)]
    (tmp_path / "answers.jsonl").write_text("\n".join(mixed))
    assert answered_step(tmp_path / "answers.jsonl") is None


def test_splits_keep_the_order_of_the_file(make_face):
    faces = [make_face(split=split) for split in ("mild", "clean", "mild")]
    assert by_split(faces) == {"mild": [faces[0], faces[2]], "clean": [faces[1]]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"units": {"AU1": 2.0}}, "AU1 is 2.0"),
        ({"units": {"AU1": "much"}}, "'units'"),
        ({"units": [1]}, "'units'"),
        ({"stated": {"AU1": 3}}, "'stated'"),
        ({"predicted": 3}, "'predicted'"),
        ({"tries": True}, "'tries'"),
        ({"tries": -1}, "'tries'"),
        ({"truncated": 0}, "'truncated'"),
        ({"groups": {"age": 3}}, "'groups'"),
        ({"probabilities": {"Fear": 0.4}}, "sum to 0.4"),
        ({"probabilities": {"Fear": float("nan")}}, "'probabilities'"),
        ({"record": None}, "'record'"),
        ({"colour": "red"}, "'colour'"),
        ({"record": "twice"}, "is on line 1 already"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path, make_face, change, told):
    path = written(tmp_path, [make_face(record="twice"), make_face()])
    first, second = path.read_text().splitlines()
    path.write_text(first + "\n" + json.dumps(json.loads(second) | change) + "\n")
    with pytest.raises(ExpllmError, match="line 2") as caught:
        read_answers(path)
    assert told in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"[]", b"{", b"{}", b"\xff", b"[" * 100_000])
def test_files_that_hold_no_answers(tmp_path, content):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content)
    with pytest.raises(ExpllmError, match="answers.jsonl"):
        read_answers(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ExpllmError, match="cannot be read"):
        read_answers(tmp_path / "answers.jsonl")
