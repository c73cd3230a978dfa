"""Annotations and their files."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import EXPRESSIONS, FACS, FEAFA_24, Annotation, read_annotations, write_annotations

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
UNIT = st.floats(0, 1)
ANNOTATIONS = st.builds(
    Annotation,
    picture=TEXT.filter(lambda name: name and "\0" not in name),
    expression=st.none() | st.sampled_from(EXPRESSIONS),
    units=st.fixed_dictionaries(
        {
            "facs": st.dictionaries(st.sampled_from(FACS.codes), UNIT),
            "feafa": st.dictionaries(st.sampled_from(FEAFA_24.codes), UNIT),
        }
    ),
    cot=st.none() | TEXT,
    identity=TEXT,
    split=st.sampled_from(("", "train", "clean", "hard")),
    attributes=st.dictionaries(TEXT, TEXT | st.floats(-1e6, 1e6)),
    caption=st.none() | TEXT,
    landmarks=st.sampled_from([tuple((float(i), i / 3) for i in range(points)) for points in (0, 5, 68)]),
    face_box=st.sampled_from(((), (1, 2, 30, 40))),
    provenance=st.dictionaries(TEXT, TEXT),
)


@given(st.lists(ANNOTATIONS, max_size=4))
def test_files_keep_everything(tmp_path_factory, annotations):
    path = tmp_path_factory.mktemp("annotations") / "faces.jsonl"
    assert write_annotations(path, annotations) == len(annotations)
    assert read_annotations(path) == annotations
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_mark_and_line_ends_of_other_systems_are_no_mistake(tmp_path):
    path = tmp_path / "faces.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"picture": "a.png"}\r\n\r\n{"picture": "b.png"}\r\n')
    assert [face.picture for face in read_annotations(path)] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"picture": "a\0.png"}, "NUL"),
        ({"picture": "a\udcff.png"}, "picture 'a.udcff.png'.*UTF-8"),
        ({"picture": "a.png", "cot": "\ud800"}, "cot .*UTF-8"),
        ({"picture": "a.png", "face_box": (float("nan"), 0, 1, 1)}, "coordinate nan"),
        ({"picture": "a.png", "face_box": (0, 0, 1e308, 1)}, "coordinate 1e.308"),
        ({"picture": "a.png", "landmarks": [(0, 0)] * 4 + [(0, float("inf"))]}, "coordinate inf"),
    ],
)
def test_what_could_not_be_stored_or_reckoned_with_is_refused(values, says):
    with pytest.raises(ExpllmError, match=says):
        Annotation(**values)


def test_an_annotation_owns_its_units_and_travels_between_processes():
    units = {"facs": {"AU12": 0.5}}
    annotation = Annotation("a.png", "Happiness", units)
    units["facs"]["AU12"] = 0.9
    assert annotation.units["facs"]["AU12"] == 0.5
    assert pickle.loads(pickle.dumps(annotation)) == annotation


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "faces.jsonl"
    write_annotations(path, [Annotation("a.png")])

    def broken():
        yield Annotation("b.png")
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError):
        write_annotations(path, broken())
    assert [a.picture for a in read_annotations(path)] == ["a.png"]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"bad\.jsonl, line 3: not JSON"),
        ("[]", r"line 3: not a JSON object"),
        ('{"expression": "Anger"}', r"line 3: .*'picture'"),
        ('{"picture": "a", "emo": "Anger"}', r"line 3: .*'emo'"),
        ('{"picture": "a", "expression": "Angry"}', r"line 3: .*'Angry'.*Anger"),
        ('{"picture": "a", "units": {"facs": {"AU12": 2}}}', r"line 3: .*AU12 is 2"),
        ('{"picture": "a", "units": {"facs": {"AU12": "high"}}}', r"line 3: .*wrong type"),
        ('{"picture": "a", "units": {"facs": []}}', r"line 3: .*wrong type"),
        ('{"picture": "a", "units": {"faces": {}}}', r"line 3: .*'faces'"),
        ('{"picture": 7}', r"line 3: .*'picture' .* 7"),
        ('{"picture": "a", "landmarks": [[1, 2]]}', r"line 3: .*1 landmarks"),
        ('{"picture": "a", "landmarks": [[1, 2], [3, 4], [5, 6], [7, 8], [9]]}', r"line 3: .*landmark \[9\]"),
        ('{"picture": "a", "caption": 7}', r"line 3: .*'caption' .* 7"),
        ('{"picture": "a", "face_box": [1, 2, 0, 4]}', r"line 3: .*face box"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"picture": "a"}\n\n' + line + "\n")
    with pytest.raises(ExpllmError, match=message):
        read_annotations(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "not JSON .nested too deeply"),
        ("9" * 5000, "not JSON .a number has too many digits"),
        ('{"picture": "a.png", "face_box": [0, 0, 1, 1%s]}' % ("0" * 400), "wrong type .int too large"),
    ],
)
def test_json_that_python_gives_up_on_is_a_bad_line(tmp_path, text, says):
    (tmp_path / "faces.jsonl").write_text(text)
    with pytest.raises(ExpllmError, match=f"line 1: .*{says}"):
        read_annotations(tmp_path / "faces.jsonl")


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(ExpllmError, match="none.jsonl"):
        read_annotations(tmp_path / "none.jsonl")
    (tmp_path / "picture.jsonl").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ExpllmError, match="UTF-8"):
        read_annotations(tmp_path / "picture.jsonl")
