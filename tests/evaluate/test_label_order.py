"""A wrong order of the labels is noticed and named; an ordinary model is not accused."""

from __future__ import annotations

import numpy as np
import pytest

from expllm_jax.evaluate.label_order import check_label_order
from expllm_jax.faces import BASIC_7, LABEL_ORDERS


def answers(make_face, accuracy, rename=lambda name: name, n=300, seed=0):
    rng = np.random.default_rng(seed)
    faces = []
    for _ in range(n):
        true = BASIC_7[rng.integers(7)]
        label = true if rng.random() < accuracy else BASIC_7[rng.integers(7)]
        faces.append(make_face(expression=true, predicted=rename(label), concluded="Fear"))
    return faces


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.9])
def test_an_ordinary_model_is_not_accused(make_face, accuracy):
    found = check_label_order(answers(make_face, accuracy))
    assert not found.suspicious and found.warning == "" and found.registered == ()


def test_numbers_of_fer2013_read_as_those_of_sfew(make_face):
    meant, read = LABEL_ORDERS["fer2013"], LABEL_ORDERS["sfew"]
    wrong = {name: read[number] for number, name in meant.items()}
    found = check_label_order(answers(make_face, 0.8, wrong.__getitem__))
    assert found.suspicious
    assert found.renaming == {read[number]: name for number, name in meant.items() if read[number] != name}
    assert found.renamed_accuracy > 0.75 > found.accuracy
    assert "written as fer2013 numbers them and read as emotiefflib-7 does" in found.registered
    assert "Check the order" in found.warning


def test_two_exchanged_classes_are_named(make_face):
    exchanged = {"Anger": "Disgust", "Disgust": "Anger"}
    found = check_label_order(answers(make_face, 0.9, lambda name: exchanged.get(name, name)))
    assert found.suspicious
    assert found.renaming == {"Anger": "Disgust", "Disgust": "Anger"}


def test_a_model_that_often_takes_one_class_for_another_is_not_accused(make_face):
    found = check_label_order(answers(make_face, 0.9, lambda name: "Surprise" if name == "Fear" else name))
    assert not found.suspicious


def test_unparsable_answers_stay_wrong(make_face):
    silent = [make_face(predicted=None) for _ in range(50)]
    assert check_label_order([*answers(make_face, 1.0, n=50), *silent]).accuracy == 0.5
