"""The files of other programs: nothing is lost on the way in, and what is lost on the way out is said."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import EXPRESSIONS, FEAFA_24, Annotation
from expllm_jax.faces.attributes import CELEBA_40
from expllm_jax.records.list_file import read_list_file
from expllm_jax.sources.dataset import Reading
from expllm_jax.sources.interchange import (
    INTERCHANGE_DATASETS,
    QUESTIONS,
    read_facial_r1,
    read_ferbench,
    read_llava,
    read_released,
    write_facial_r1,
    write_ferbench,
    write_llava,
    write_released,
)

needs_fixtures = pytest.mark.skipif(
    "EXPLLM_FIXTURES" not in os.environ, reason="EXPLLM_FIXTURES names no folder of released annotations"
)

RELEASED = [
    {
        "file_name": "a b/ü 1.jpg",
        "emo": "Sadness",
        "au": [0.25] * 24,
        "description": "**Key Observations:** é \u2028 x",
    },
    {"file_name": "2.jpg", "bbox": [-3, 4, 50.5, 60], "landmark": [[1, 2], [3.5, 4], [5, 6], [7, 8], [9, 10]]},
    {"file_name": "3.jpg", "attr": [1, 0] * 20, "headpose": [-12.5, 3.25, 0.0], "age_gender_race": [8, 1, 4]},
]
LLAVA = [
    {
        "id": "one",
        "image": "a b/ü 1.jpg",
        "conversations": [
            {"from": "human", "value": f"<image>\n{QUESTIONS['cot']}"},
            {"from": "gpt", "value": "Text.\n\nMore."},
            {"from": "human", "value": QUESTIONS["expression"]},
            {"from": "gpt", "value": "Anger"},
        ],
    },
    {
        "id": "two",
        "image": "2.jpg",
        "conversations": [
            {"from": "human", "value": f"<image>\n{QUESTIONS['caption']}"},
            {"from": "gpt", "value": "A room."},
        ],
    },
]
FACIAL_R1 = [
    {
        "id": "x1",
        "dataset": "RAF-DB",
        "image": "a b/ü 1.jpg",
        "question": "What is it?",
        "AUs": ["AU4", "AU1"],
        "labels": ["angry"],
        "description": "Brows.",
        "meta_info": {"age": 3, "who": [1, None]},
    },
    {
        "id": "x2",
        "dataset": "DISFA",
        "image": "2.jpg",
        "question": "",
        "AUs": ["AU12"],
        "labels": [],
        "description": "",
        "meta_info": {},
    },
]
FERBENCH = [
    {
        "image_path": "/RAF DB/ü_1.jpg",
        "true_label": "angry",
        "prompt": "Which?",
        "candidate_labels": ["angry", "happy", "sad"],
    },
    {"image_path": "/2.jpg", "true_label": "fear", "prompt": "Which?", "candidate_labels": ["fear", "anger"]},
]
FORMATS = {
    "expllm": (RELEASED, read_released, write_released),
    "llava": (LLAVA, read_llava, write_llava),
    "facial-r1": (FACIAL_R1, read_facial_r1, lambda *args: write_facial_r1(*args, at_least=1)),
    "ferbench": (FERBENCH, read_ferbench, lambda *args: write_ferbench(*args, candidates=())),
}
PICTURE_KEY = {"expllm": "file_name", "llava": "image", "facial-r1": "image", "ferbench": "image_path"}
LISTS = (True, False)


def save(path: Path, entries: list, *, as_list: bool = True, newline: str = "\n", bom: bool = False) -> Path:
    text = json.dumps(entries) if as_list else newline.join(json.dumps(entry) for entry in entries) + newline
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.encode())
    return path


def load(path: Path) -> list:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("as_list", LISTS)
@pytest.mark.parametrize("bom", (False, True))
def test_what_goes_in_comes_out(tmp_path, name, as_list, bom):
    entries, read, write = FORMATS[name]
    file = save(tmp_path / "in.json", entries, as_list=as_list, newline="\r\n" if bom else "\n", bom=bom)
    annotations = list(read(file, split="train"))
    out = tmp_path / "out.json"
    assert write(out, annotations) == len(entries)
    if name == "facial-r1":  # always lines, whatever the name
        assert [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line] == entries
    else:
        assert json.loads(out.read_text(encoding="utf-8")) == entries
    assert {annotation.split for annotation in annotations} == {"train"}
    assert annotations[1].provenance["index" if as_list else "line"] == ("1" if as_list else "2")
    again = list(read(out, split="train"))
    assert [(a.picture, a.expression, a.units, a.cot, a.attributes) for a in again] == [
        (a.picture, a.expression, a.units, a.cot, a.attributes) for a in annotations
    ]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("as_list", LISTS)
def test_problems_name_file_and_place(tmp_path, name, as_list):
    entries, read, _ = FORMATS[name]
    key = PICTURE_KEY[name]
    first = entries[0]
    bad = [
        {**first, "surprise": 1},
        {**entries[1], key: 7},
        {**entries[1], key: "../up.jpg"},
        {**entries[1], key: "//srv/x.jpg"},
        "no object",
        {k: v for k, v in first.items() if k != key},
        first,  # the same again
    ]
    file = save(tmp_path / "in.json", [first, *bad, entries[1]], as_list=as_list)
    problems: list[ExpllmError] = []
    assert [a.picture for a in read(file, problems=problems.append)] == [
        first[key].lstrip("/"),
        entries[1][key].lstrip("/"),
    ]
    places = [f"{file}, index {n}:" if as_list else f"{file}, line {n + 1}:" for n in range(1, len(bad) + 1)]
    assert [problem.problem[: len(place)] for problem, place in zip(problems, places, strict=True)] == places
    with pytest.raises(ExpllmError, match="surprise"):
        list(read(file))


@pytest.mark.parametrize("name", FORMATS)
def test_pictures_are_looked_for_where_a_folder_is_named(tmp_path, name):
    entries, read, _ = FORMATS[name]
    for entry in entries[:-1]:
        picture = tmp_path / "pictures" / entry[PICTURE_KEY[name]].lstrip("/")
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(b"")
    file = save(tmp_path / "in.json", entries)
    problems: list[ExpllmError] = []
    found = list(read(file, pictures=tmp_path / "pictures", problems=problems.append))
    assert len(found) == len(entries) - 1
    (problem,) = problems
    assert f"index {len(entries) - 1}" in problem.problem and entries[-1][PICTURE_KEY[name]][-5:] in problem.problem


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("content", (b"", b"[", b"\xff\xfe[", None))
def test_files_that_are_none_of_the_kind(tmp_path, name, content):
    file = tmp_path / "in.json"
    if content is not None:
        file.write_bytes(content)
    if content == b"":
        assert list(FORMATS[name][1](file)) == []
    else:
        with pytest.raises(ExpllmError, match="in.json"):
            list(FORMATS[name][1](file))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"emo": "Angry"}, "Angry"),
        ({"emo": 3}, "'emo'"),
        ({"au": [0.0] * 23}, "24 numbers"),
        ({"au": [0.0] * 23 + [True]}, "24 numbers"),
        ({"au": [1.5] + [0.0] * 23}, "1.5"),
        ({"bbox": [0, 0, 10]}, "4 numbers"),
        ({"bbox": [0, 0, 0, 10]}, "face box"),
        ({"landmark": [[1, 2]] * 4}, "five points"),
        ({"landmark": [[1, "2"]] * 5}, "10 numbers"),
        ({"attr": [-1] * 40}, "-1"),
        ({"attr": [1] * 39}, "40 numbers"),
        ({"age_gender_race": [9, 0, 0]}, "age_group"),
        ({"age_gender_race": [0, 0.5, 0]}, "gender"),
        ({"headpose": [1, 2]}, "3 numbers"),
        ({"emo": "Anger", "gt_emo": "Fear"}, "predictions"),
    ],
)
def test_released_values_out_of_range(tmp_path, entry, said):
    file = save(tmp_path / "in.json", [{"file_name": "1.jpg"}, {"file_name": "2.jpg", **entry}])
    with pytest.raises(ExpllmError, match="index 1") as raised:
        list(read_released(file))
    assert said in str(raised.value)


def test_released_attributes_have_the_usual_names(tmp_path):
    box, faces = list(read_released(save(tmp_path / "in.json", RELEASED)))[1:]
    assert box.face_box == (-3, 4, 50.5, 60) and box.landmarks[1] == (3.5, 4.0)
    assert faces.attributes == {
        **{name: float(n % 2 == 0) for n, name in enumerate(CELEBA_40)},
        **{"yaw": -12.5, "pitch": 3.25, "roll": 0.0, "age_group": "70+", "gender": "male", "race": "Others"},
    }


names = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\\\:"), min_size=1).filter(
    lambda name: name.strip(".") == name and name
)
texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(lambda text: "<image>" not in text)
expressions = st.none() | st.sampled_from(EXPRESSIONS)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            Annotation,
            picture=names,
            expression=expressions,
            cot=st.none() | texts,
            units=st.just({})
            | st.lists(st.floats(0, 1), min_size=24, max_size=24).map(
                lambda values: {"feafa": dict(zip(FEAFA_24.codes, values, strict=True))}
            ),
            face_box=st.just(()) | st.tuples(*[st.floats(0.125, 1e6)] * 4),
            landmarks=st.just(())
            | st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=5, max_size=5),
        ).filter(lambda a: a.expression or a.cot or a.units or a.face_box or a.landmarks),
        max_size=4,
        unique_by=lambda annotation: annotation.picture,
    )
)
def test_the_released_form_keeps_everything_it_has_a_place_for(annotations):
    with tempfile.TemporaryDirectory() as folder:
        write_released(Path(folder) / "a.json", annotations)
        back = list(read_released(Path(folder) / "a.json"))
    assert [replace(annotation, provenance={}) for annotation in back] == annotations


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            Annotation, picture=names, expression=expressions, cot=st.none() | texts, caption=st.none() | texts
        ).filter(lambda a: a.expression or a.cot or a.caption),
        max_size=4,
    ),
    st.sampled_from(("a.json", "a.jsonl")),
)
def test_conversations_keep_everything_they_have_a_place_for(annotations, name):
    with tempfile.TemporaryDirectory() as folder:
        write_llava(Path(folder) / name, annotations)
        back = list(read_llava(Path(folder) / name))
    assert [replace(annotation, provenance={}) for annotation in back] == annotations


FULL = Annotation(
    "p.jpg",
    "Fear",
    units={"facs": {"AU1": 0.4, "AU2": 0.0}},
    cot="text",
    caption="a face",
    identity="someone",
    attributes={"race": "East Asian", "gender": "male", "age_group": "0-2"},
    landmarks=((1.0, 2.0),) * 68,
    face_box=(1, 2, 3, 4),
)
LOSSES = {
    "expllm": ("caption", "identity", "units.facs", "attributes.race", "68 landmarks"),
    "llava": ("units", "identity", "attributes", "landmarks", "face_box"),
    "facial-r1": ("caption", "identity", "attributes", "landmarks", "face_box", "absent", "intensities"),
    "ferbench": ("units", "cot", "caption", "identity", "attributes", "landmarks", "face_box"),
}
LOSSY = {
    "expllm": write_released,
    "llava": write_llava,
    "facial-r1": lambda *a, **k: write_facial_r1(*a, at_least=3, **k),
    "ferbench": lambda *a, **k: write_ferbench(*a, candidates=("Fear", "Anger"), **k),
}


@pytest.mark.parametrize("name", FORMATS)
def test_losses_are_named_and_can_be_allowed(tmp_path, name):
    file = tmp_path / "out.json"
    with pytest.raises(ExpllmError, match="has no place for") as raised:
        LOSSY[name](file, [FULL])
    assert all(lost in raised.value.problem for lost in LOSSES[name])
    assert not file.exists() and list(tmp_path.iterdir()) == []  # no half file is left
    assert LOSSY[name](file, [FULL], lossy=True) == 1
    (back,) = FORMATS[name][1](file)
    assert (back.picture, back.expression) == ("p.jpg", "Fear")
    with pytest.raises(ExpllmError, match="nothing of the annotation"):
        LOSSY[name](file, [Annotation("q.jpg", identity="someone")], lossy=True)


def test_the_grade_decides_which_units_are_active(tmp_path):
    units = {"facs": {"AU1": 0.2, "AU2": 0.4, "AU4": 0.0}}
    for grade, active in ((1, ["AU1", "AU2"]), (2, ["AU2"])):
        write_facial_r1(tmp_path / "a.jsonl", [Annotation("p.jpg", units=units)], at_least=grade, lossy=True)
        assert load(tmp_path / "a.jsonl")[0]["AUs"] == active
    with pytest.raises(ExpllmError, match="at_least"):
        write_facial_r1(tmp_path / "a.jsonl", [], at_least=0)


def test_units_known_in_part_are_not_made_up(tmp_path):
    partly = Annotation("p.jpg", units={"feafa": {"FEAFA1": 0.5}})
    with pytest.raises(ExpllmError, match="FEAFA2"):
        write_released(tmp_path / "a.json", [partly], lossy=True)


def test_conversations_from_elsewhere_need_to_be_told_what_they_answer(tmp_path):
    asked = [{"from": "human", "value": "Describe this.\n<image>"}, {"from": "gpt", "value": "A dog."}]
    file = save(tmp_path / "in.json", [{"id": 1, "image": "1.jpg", "conversations": asked}])
    with pytest.raises(ExpllmError, match="Describe this") as raised:
        list(read_llava(file))
    assert "answers" in raised.value.remedy
    (caption,) = read_llava(file, answers=("caption",))
    assert caption.caption == "A dog." and caption.expression is None
    with pytest.raises(ExpllmError, match="1 answers"):
        list(read_llava(file, answers=("cot", "expression")))
    with pytest.raises(ExpllmError, match="names no expression"):
        list(read_llava(file, answers=("expression",)))
    with pytest.raises(ExpllmError, match="answers is x"):
        read_llava(file, answers=("x",))


@pytest.mark.parametrize(
    "turns",
    [
        [],
        [{"from": "human", "value": "<image>"}],
        [{"from": "gpt", "value": "<image>"}, {"from": "human", "value": "x"}],
        [{"from": "human", "value": "no picture"}, {"from": "gpt", "value": "x"}],
        [{"from": "human", "value": "<image><image>"}, {"from": "gpt", "value": "x"}],
        [{"from": "human", "value": "<image>"}, {"from": "gpt"}],
    ],
)
def test_conversations_that_are_none(tmp_path, turns):
    file = save(tmp_path / "in.json", [{"image": "1.jpg", "conversations": turns}])
    with pytest.raises(ExpllmError, match="index 0"):
        list(read_llava(file, answers=("caption",)))


def test_a_list_file_names_what_is_read(tmp_path):
    (tmp_path / "pictures").mkdir()
    save(tmp_path / "labels.json", [{"file_name": "1.jpg", "emo": "Fear"}])
    (tmp_path / "pictures/1.jpg").write_bytes(b"")
    (tmp_path / "list.txt").write_text("labels.json,pictures,3\n")
    (entry,) = read_list_file(tmp_path / "list.txt", root=tmp_path)
    (annotation,) = read_released(entry.annotations, pictures=entry.pictures)
    assert (annotation.expression, entry.repeat) == ("Fear", 3)


def test_ferbench_candidates_hold_the_label(tmp_path):
    file = save(tmp_path / "in.json", [{**FERBENCH[0], "candidate_labels": ["happy"]}])
    with pytest.raises(ExpllmError, match="index 0: the label 'angry' is not among"):
        list(read_ferbench(file))
    with pytest.raises(ExpllmError, match="not among the candidates"):
        write_ferbench(tmp_path / "out.json", [Annotation("a.jpg", "Fear")], candidates=("Anger",))


def test_facial_r1_has_one_label_and_known_units(tmp_path):
    for change, said in (({"labels": ["anger", "fear"]}, "2 labels"), ({"AUs": ["AU99"]}, "AU99"), ({"AUs": 3}, "AUs")):
        file = save(tmp_path / "in.jsonl", [{**FACIAL_R1[0], **change}], as_list=False)
        with pytest.raises(ExpllmError, match="line 1") as raised:
            list(read_facial_r1(file))
        assert said in raised.value.problem


@pytest.mark.parametrize("dataset", INTERCHANGE_DATASETS, ids=lambda dataset: dataset.name)
def test_as_data_sets(tmp_path, dataset):
    entries, _, _ = FORMATS[dataset.name]
    engine = dataset.layouts[0].engine
    folder = tmp_path / "folder"
    folder.mkdir()
    assert not engine.detect(folder)
    file = save(folder / "in.json", entries)
    assert engine.detect(folder) and engine.detect(file)
    # The file alone says nothing about pictures; the folder must hold them.
    alone = list(engine.read(Reading(file, split="val", provenance={"layout": "file"})))
    assert len(alone) == len(entries) and {a.split for a in alone} == {"val"}
    assert alone[0].provenance["layout"] == "file" and alone[0].provenance["label_file"] == "in.json"
    problems: list[ExpllmError] = []
    assert list(engine.read(Reading(folder, problems=problems.append))) == []
    assert len(problems) == len(entries)
    save(folder / "other.json", entries)
    assert not engine.detect(folder)
    with pytest.raises(ExpllmError, match="2 files"):
        list(engine.read(Reading(folder)))


# The spec's counts of RAF-DB's test split.
TEST_COUNTS = {
    "Neutral": 680,
    "Happiness": 1185,
    "Sadness": 478,
    "Surprise": 329,
    "Fear": 74,
    "Disgust": 160,
    "Anger": 162,
}


@needs_fixtures
def test_the_released_labels_import_without_loss(tmp_path):
    file = Path(os.environ["EXPLLM_FIXTURES"]) / "rafdb_valid_labels.json"
    annotations = list(read_released(file, split="test"))
    assert len(annotations) == 3068
    assert Counter(annotation.expression for annotation in annotations) == TEST_COUNTS
    write_released(tmp_path / "out.json", annotations)
    assert (tmp_path / "out.json").read_bytes() == file.read_bytes()


@needs_fixtures
def test_the_released_texts_import_without_loss(tmp_path):
    file = Path(os.environ["EXPLLM_FIXTURES"]) / "rafdb_val_cot_half.json"
    annotations = list(read_released(file, split="test"))
    assert len(annotations) == 1534
    write_released(tmp_path / "out.json", annotations)
    # Floats, order of the keys and texts: the same JSON values and types, whatever was escaped.
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert json.dumps(json.loads(text)) == json.dumps(json.loads(file.read_text(encoding="utf-8")))
    labels = {a.picture: a.expression for a in read_released(file.with_name("rafdb_valid_labels.json"))}
    assert all(labels[annotation.picture] == annotation.expression for annotation in annotations)
    # The spec counts all 3,068 texts, of which these are every second one: its mean of 116.8 words has to be met within
    # one word (the standard error of 1,534 texts of sd ≈ 8 is 0.2), its extremes of 84 and 146 must contain these, and
    # all texts have at most 1,000 characters and three parts.
    words = [len(annotation.cot.split()) for annotation in annotations]
    assert mean(words) == pytest.approx(116.8, abs=1.0) and median(words) == 117
    assert min(words) >= 84 and max(words) <= 146
    assert all(len(a.cot) <= 1000 and len(a.cot.split("\n\n")) == 3 for a in annotations)
    assert all(tuple(a.units["feafa"]) == FEAFA_24.codes for a in annotations)
    active = [sum(value > 0 for value in a.units["feafa"].values()) for a in annotations]
    assert mean(active) == pytest.approx(8.5, abs=0.2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "line 1: not JSON .nested too deeply"),
        ('[{"file_name": "a.png", "bbox": [0, 0, 1, 1%s]}]' % ("0" * 400), "index 0: the key 'bbox' holds"),
        ('[{"file_name": "a.png", "bbox": [0, 0, 1, NaN]}]', "index 0: the key 'bbox' holds"),
    ],
)
def test_json_that_python_gives_up_on_is_refused_with_its_place(tmp_path, text, says):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(ExpllmError, match=says):
        list(read_released(tmp_path / "list.json"))
