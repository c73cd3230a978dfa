"""Label orders, intensity scales and the ties between expressions and units."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import (
    ARKIT_52,
    BASIC_7,
    EXPRESSIONS,
    FACS,
    FEAFA_24,
    LABEL_ORDERS,
    PROTOTYPES,
    SOURCED_UNITS,
    associated_expressions,
    expression_of,
    grade_of,
    is_active,
    letter_of,
    prototype_units,
    value_of_grade,
    value_of_letter,
)


def test_label_orders_name_each_expression_once():
    for dataset, order in LABEL_ORDERS.items():
        assert sorted(order.values()) in (sorted(BASIC_7), sorted(EXPRESSIONS)), dataset
        assert list(order) == list(range(min(order), min(order) + len(order))), dataset


def test_known_label_numbers():
    assert expression_of("raf-db", 4) == "Happiness"
    assert expression_of("affectnet", 3) == "Surprise"
    assert expression_of("fer2013", 0) == "Anger"
    with pytest.raises(ExpllmError, match="raf-db has no expression with label 0"):
        expression_of("raf-db", 0)
    with pytest.raises(ExpllmError, match="'rafdb'"):
        expression_of("rafdb", 1)


@pytest.mark.skipif("EXPLLM_FIXTURES" not in os.environ, reason="EXPLLM_FIXTURES names no folder of released labels")
def test_released_labels_are_the_basic_seven():
    records = json.loads((Path(os.environ["EXPLLM_FIXTURES"]) / "rafdb_valid_labels.json").read_text(encoding="utf-8"))
    counts = Counter(record["emo"] for record in records)
    assert {name: counts[name] for name in BASIC_7} == dict(
        Neutral=680, Happiness=1185, Sadness=478, Surprise=329, Fear=74, Disgust=160, Anger=162
    )


def test_grades_and_letters():
    assert [grade_of(v) for v in (0.0, 0.09, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)] == [0, 0, 1, 2, 3, 4, 5, 5]
    assert [letter_of(v) for v in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)] == ["", "A", "B", "C", "D", "E"]
    for grade in range(6):
        assert grade_of(value_of_grade(grade)) == grade
    for letter in ("", *"ABCDE"):
        assert letter_of(value_of_letter(letter)) == letter
    assert is_active(0.3, at_least=2) and not is_active(0.2, at_least=2)


@given(st.floats(0, 1), st.floats(0, 1))
def test_grades_rise_with_intensity(a, b):
    low, high = sorted((a, b))
    assert grade_of(low) <= grade_of(high)
    assert abs(value_of_grade(grade_of(a)) - a) <= 0.1 + 1e-9


@pytest.mark.parametrize("call", [lambda: grade_of(1.2), lambda: value_of_grade(6), lambda: value_of_letter("F")])
def test_values_off_the_scale_are_refused(call):
    with pytest.raises(ExpllmError):
        call()


def test_prototypes_rest_on_sources():
    assert tuple(PROTOTYPES) == EXPRESSIONS
    for expression, units in PROTOTYPES.items():
        attested = {code for codes in SOURCED_UNITS.get(expression, {}).values() for code in codes}
        assert set(units) <= attested and set(units) <= set(FACS.codes)
        assert all(0 < value <= 1 for value in units.values())
        assert prototype_units(expression) == dict(units)


def test_no_two_prototypes_are_alike():
    assert len({tuple(sorted(units)) for units in PROTOTYPES.values()}) == len(EXPRESSIONS)


def test_associations():
    assert associated_expressions("AU12")[0] == "Happiness"
    assert associated_expressions("AU9") == ("Disgust",)
    assert associated_expressions("AU18") == ()
    assert associated_expressions("FEAFA12", FEAFA_24) == associated_expressions("AU12", FACS)
    for expression, units in PROTOTYPES.items():
        assert all(expression in associated_expressions(code) for code in units)
    with pytest.raises(ExpllmError, match="'arkit'"):
        associated_expressions("jawOpen", ARKIT_52)


def test_prototypes_in_feafa():
    assert prototype_units("Happiness", FEAFA_24) == {"FEAFA12": 0.8, "FEAFA13": 0.8}
    assert "FEAFA9" in prototype_units("Surprise", FEAFA_24)
    with pytest.raises(ExpllmError, match="'Joy'"):
        prototype_units("Joy")
