"""Faces by their strongest unit, and how often answers are unusable."""

from __future__ import annotations

import math

import pytest

from expllm_jax.evaluate import EvaluatedFace, wilson
from expllm_jax.evaluate.scores import answer_rates
from expllm_jax.evaluate.strata import score_strata, stratum_of


@pytest.mark.parametrize(
    ("strongest", "stratum"), [(0.0, "< .2"), (0.199, "< .2"), (0.2, ".2–.5"), (0.5, ".2–.5"), (0.501, "> .5")]
)
def test_the_borders(make_face, strongest, stratum):
    assert stratum_of(make_face(units={"AU12": strongest, "AU6": strongest / 2})) == stratum


def unknown(record):
    return EvaluatedFace(record, record, "test", "Fear", {}, "Anger", "Anger", None)


def test_scores_of_each_stratum(make_face):
    weak = [make_face(expression="Neutral", predicted="Neutral"), make_face(predicted=None, units={"AU12": 0.1})]
    strong = [make_face(units={"AU12": 0.9}, stated={"AU12": "strong"}) for _ in range(3)]
    found = score_strata([*strong, *weak, unknown("a"), unknown("b")], resamples=50)
    assert [(row.name, row.n, row.neutral) for row in found] == [("< .2", 2, 1), ("> .5", 3, 0), ("unknown", 2, 0)]
    assert [row.labels["accuracy"].value for row in found] == [0.5, 1.0, 0.0]
    assert found[0].rates["unparsable_label"].value == 0.5
    assert found[1].units.f1 == 1.0
    assert found[2].units is None and math.isnan(found[2].rates["unparsable_cot"].value)


def test_rates_are_of_the_faces_that_were_asked(make_face):
    faces = [make_face(predicted=None), make_face(label_text=None, predicted=None), make_face(truncated=True)]
    faces += [make_face(cot_failure="no heading"), make_face(cot=None, concluded=None)]
    rates = answer_rates(faces)
    assert (rates["unparsable_label"].value, rates["unparsable_label"].low) == (0.25, wilson(1, 4)[0])
    assert rates["unparsable_cot"].value == 0.25
    assert rates["truncated"].value == 0.2
