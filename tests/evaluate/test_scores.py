"""Label scores against arithmetic done on paper, and properties that hold for every table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import conclusion_accuracy, conclusion_agreement, score
from expllm_jax.evaluate.scores import confusion_per_picture, score_confusion

ABC = ("A", "B", "C")
# Ten pictures. True A: A A A B; true B: B B unparsable; true C: C A B.
TRUTH = list("AAAABBBCCC")
PREDICTED = ["A", "A", "A", "B", "B", "B", None, "C", "A", "B"]


def paper():
    return score_confusion(confusion_per_picture(TRUTH, PREDICTED, ABC).sum(0), ABC)


def test_confusion_has_an_unparsable_column():
    assert paper().confusion.tolist() == [[3, 1, 0, 0], [0, 2, 0, 1], [1, 1, 1, 0]]
    assert paper().unparsable == 1
    assert paper().n == 10


def test_accuracy_keeps_the_unparsable_in_the_denominator():
    assert paper().accuracy == 6 / 10


def test_per_class_by_hand():
    a, b, c = paper().per_class
    assert (a.precision, a.recall, a.f1, a.n) == (3 / 4, 3 / 4, 3 / 4, 4)
    assert (b.precision, b.recall, b.f1, b.n) == (2 / 4, 2 / 3, pytest.approx(4 / 7), 3)
    assert (c.precision, c.recall, c.f1, c.n) == (1.0, 1 / 3, 1 / 2, 3)


def test_macro_f1_and_uar_by_hand():
    assert paper().macro_f1 == pytest.approx((3 / 4 + 4 / 7 + 1 / 2) / 3)
    assert paper().uar == pytest.approx((3 / 4 + 2 / 3 + 1 / 3) / 3)


def test_a_class_that_never_occurs_is_undefined_and_not_averaged():
    scores = score_confusion(confusion_per_picture(["A", "A"], ["A", None], ABC).sum(0), ABC)
    assert scores.macro_f1 == pytest.approx(2 / 3)
    assert scores.uar == 0.5
    assert math.isnan(scores.per_class[1].f1)


def test_a_class_predicted_but_never_true_counts_as_zero_f1():
    scores = score_confusion(confusion_per_picture(["A", "A"], ["A", "B"], ABC).sum(0), ABC)
    assert scores.macro_f1 == pytest.approx((2 / 3 + 0) / 2)


def test_commonest_confusion():
    scores = score_confusion(np.array([[5, 1, 0], [0, 3, 4]]), ("A", "B"))
    assert scores.commonest_confusion() == ("B", "unparsable", 4)
    assert score_confusion(np.array([[5, 0, 0], [0, 3, 0]]), ("A", "B")).commonest_confusion() is None


@pytest.mark.parametrize(("truth", "predicted"), [(["D"], ["A"]), (["A"], ["D"]), ([None], ["A"])])
def test_unknown_expressions_are_refused_not_dropped(truth, predicted):
    with pytest.raises(ExpllmError, match="is not one of A, B, C"):
        confusion_per_picture(truth, predicted, ABC)


def test_lengths_must_agree():
    with pytest.raises(ExpllmError, match="2 true labels but 1"):
        confusion_per_picture(["A", "A"], ["A"], ABC)


def test_unparsable_faces_are_wrong_everywhere(make_face):
    faces = [
        make_face(expression="Fear", predicted="Fear", concluded="Fear"),
        make_face(expression="Fear", predicted=None, concluded="Fear"),
        make_face(expression="Anger", predicted="Anger", cot_failure="no conclusion"),
        make_face(expression="Anger", predicted=None, cot_failure="no conclusion"),
    ]
    assert score(faces).accuracy == 0.5
    assert conclusion_accuracy(faces) == 0.5
    assert conclusion_agreement(faces) == 0.25  # two failures do not agree with each other
    assert [face.unparsable for face in faces] == [0, 1, 1, 2]


labels = st.lists(st.tuples(st.sampled_from(ABC), st.sampled_from([*ABC, None])), min_size=1, max_size=40)


@given(labels)
def test_bounds(pairs):
    truth, predicted = zip(*pairs, strict=True)
    scores = score_confusion(confusion_per_picture(truth, predicted, ABC).sum(0), ABC)
    assert 0 <= scores.accuracy <= 1 and 0 <= scores.macro_f1 <= 1 and 0 <= scores.uar <= 1
    for row in scores.per_class:
        if row.n and row.recall > 0:
            assert min(row.precision, row.recall) - 1e-12 <= row.f1 <= max(row.precision, row.recall) + 1e-12
    assert scores.n == len(pairs)


@given(labels, st.permutations(ABC), st.randoms())
def test_renaming_classes_and_shuffling_pictures_change_nothing(pairs, renamed, random):
    def scored(some):
        truth, predicted = zip(*some, strict=True)
        return score_confusion(confusion_per_picture(truth, predicted, ABC).sum(0), ABC)

    to = dict(zip(ABC, renamed, strict=True)) | {None: None}
    other = [(to[truth], to[predicted]) for truth, predicted in pairs]
    random.shuffle(other)
    before, after = scored(pairs), scored(other)
    assert after.accuracy == before.accuracy
    assert after.macro_f1 == pytest.approx(before.macro_f1)
    assert after.uar == pytest.approx(before.uar)
