"""What is answered to each task, and that reading an answer gives back what was said and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import EXPRESSIONS, Annotation
from expllm_jax.faces.attributes import CELEBA_40, FAIRFACE_AGE, FAIRFACE_GENDER, FAIRFACE_RACE, UTKFACE_RACE
from expllm_jax.faces.mirror import mirrored
from expllm_jax.records import TASKS, answer_of, read_answer
from expllm_jax.records.answers import five_points

COORDINATES = st.floats(-500, 500, allow_nan=False)
SIDES = st.integers(16, 400)
WORDS = {
    "age_group": st.sampled_from(sorted(set(FAIRFACE_AGE.values()))),
    "gender": st.sampled_from(sorted(set(FAIRFACE_GENDER.values()))),
    "race": st.sampled_from(sorted({*FAIRFACE_RACE.values(), *UTKFACE_RACE.values()})),
}
ANGLES = {name: st.floats(-180, 180, allow_nan=False) for name in ("yaw", "pitch", "roll")}
FLAGS = {name: st.sampled_from([0.0, 1.0]) for name in CELEBA_40}
TEXT = st.text(min_size=1).filter(lambda text: text.strip())


@st.composite
def faces(draw) -> Annotation:
    """An annotation that has an answer to every task."""
    points = draw(st.sampled_from([5, 68]))
    return Annotation(
        "a.png",
        expression=draw(st.sampled_from(EXPRESSIONS)),
        cot=draw(TEXT),
        caption=draw(TEXT),
        attributes=draw(st.fixed_dictionaries({**WORDS, **ANGLES, **FLAGS})),
        landmarks=tuple(draw(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=points, max_size=points))),
        face_box=(draw(COORDINATES), draw(COORDINATES), draw(st.floats(1, 300)), draw(st.floats(1, 300))),
    )


@given(face=faces(), width=SIDES, height=SIDES)
@settings(max_examples=60, deadline=None)
def test_every_answer_is_read_back(face, width, height):
    size, side = (width, height), max(width, height)
    said = {task: read_answer(task, answer_of(face, task, size)) for task in TASKS}
    assert [said[task] for task in ("label", "cot", "caption")] == [face.expression, face.cot, face.caption]
    assert said["attr"] == tuple(face.attributes[name] for name in CELEBA_40)
    assert said["age_gender_race"] == tuple(face.attributes[name] for name in WORDS)
    np.testing.assert_allclose(said["headpose"], [face.attributes[name] for name in ANGLES], atol=0.00501)
    # The picture lies in the middle of the square; of an odd pixel of padding, the larger part is right or below.
    across, down = (side - width) // 2, (side - height) // 2
    x, y, *extent = face.face_box
    np.testing.assert_allclose(said["bbox"], np.array([x + across, y + down, *extent]) / side, atol=0.0000501)
    points = np.array(five_points(face.landmarks)) + [across + 0.5, down + 0.5]
    np.testing.assert_allclose(said["landmark"], points / side, atol=0.0000501)


def test_answers_by_hand():
    landmarks = ((9.5, 9.5), (29.5, 9.5), (19.5, 19.5), (9.5, 29.5), (41.5, -10.5))
    flags = {name: float(name == "Smiling") for name in CELEBA_40}
    attributes = {"age": 26.0, "gender": "female", "race": "White", "yaw": -12.5, "pitch": 3, "roll": -0.001, **flags}
    face = Annotation("a.png", landmarks=landmarks, face_box=(-4, 10, 20, 30.0), attributes=attributes)
    answers = {task: answer_of(face, task, (40, 20)) for task in TASKS}
    assert answers == {
        "label": "",
        "cot": "",
        "bbox": "-0.1000, 0.5000, 0.5000, 0.7500",
        "landmark": "0.2500, 0.5000; 0.7500, 0.5000; 0.5000, 0.7500; 0.2500, 1.0000; 1.0500, 0.0000",
        "attr": " ".join("1" if name == "Smiling" else "0" for name in CELEBA_40),
        "age_gender_race": "26, female, White",
        "headpose": "-12.50, 3.00, 0.00",
        "caption": "",
    }


def test_an_answer_of_which_a_part_is_unknown_is_none():
    for task, known in (("attr", FLAGS), ("headpose", ANGLES), ("age_gender_race", WORDS)):
        values = {name: "x" if task == "age_gender_race" else 1.0 for name in known}
        assert answer_of(Annotation("a.png", attributes=values), task)
        for name in list(values)[:3]:
            rest = {other: value for other, value in values.items() if other != name}
            assert answer_of(Annotation("a.png", attributes=rest), task) == ""
    assert answer_of(Annotation("a.png"), "bbox") == answer_of(Annotation("a.png"), "landmark") == ""


def test_the_five_of_sixty_eight_points():
    points = np.random.default_rng(0).uniform(0, 100, (68, 2))
    face = Annotation("a.png", landmarks=tuple(map(tuple, points)))
    expected = [points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]]
    np.testing.assert_allclose(five_points(face.landmarks), expected)
    # Reducing and mirroring commute.
    reduced = dataclasses.replace(face, landmarks=five_points(face.landmarks))
    np.testing.assert_allclose(
        five_points(mirrored(face, 100).landmarks), mirrored(reduced, 100).landmarks, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("label", "happiness"), ("label", "Happiness "), ("label", "Happiness, Fear"), ("cot", ""), ("caption", " \n"),
        ("bbox", "0.1, 0.2, 0.3, 0.4"), ("bbox", "0.1000, 0.2000, 0.3000"), ("bbox", "0.1000,0.2000,0.3000,0.4000"),
        ("bbox", "-0.0000, 0.2000, 0.3000, 0.4000"), ("bbox", "00.1000, 0.2000, 0.3000, 0.4000"),
        ("bbox", ".1000, 0.2000, 0.3000, 0.4000"), ("bbox", "0.١000, 0.2000, 0.3000, 0.4000"),
        ("bbox", "0.1000, 0.2000, 0.3000, 0.4000\n"), ("bbox", "nan, 0.2000, 0.3000, 0.4000"),
        ("landmark", "; ".join(["0.1000, 0.2000"] * 4)), ("attr", " ".join("0" * 39)), ("attr", " ".join("2" * 40)),
        ("age_gender_race", "20-29, female"), ("age_gender_race", "20-29, , White"), ("age_gender_race", "a, b, c, d"),
        ("headpose", "1.0, 2.0, 3.0"), ("headpose", "1.00, 2.00, -0.00"),
    ],
)  # fmt: skip
def test_what_is_written_otherwise_is_no_answer(task, text):
    with pytest.raises(ExpllmError, match=f"no answer to a '{task}'"):
        read_answer(task, text)


@pytest.mark.parametrize(
    ("task", "attributes", "named"),
    [
        ("attr", {**dict.fromkeys(CELEBA_40, 1.0), "Bald": -1.0}, "'Bald' = -1.0"),
        ("age_gender_race", {"age_group": "1", "gender": "x, y", "race": "z"}, "comma"),
        ("age_gender_race", {"age_group": "1", "gender": "", "race": "z"}, "comma"),
        ("age_gender_race", {"age": float("inf"), "gender": "y", "race": "z"}, "no number"),
        ("headpose", {"yaw": "left", "pitch": 1.0, "roll": 2.0}, "no number: .'left'"),
        ("headpose", {"yaw": float("nan"), "pitch": 1.0, "roll": 2.0}, "no number: .nan"),
        ("gaze", {}, "unknown task 'gaze'"),
    ],
)
def test_what_cannot_be_said_is_named(task, attributes, named):
    with pytest.raises(ExpllmError, match=named) as caught:
        answer_of(Annotation("faces/a.png", attributes=attributes), task)
    assert task == "gaze" or "faces/a.png" in caught.value.problem
    with pytest.raises(ExpllmError, match="unknown task 'gaze'"):
        read_answer("gaze", "left")
