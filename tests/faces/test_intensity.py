"""Scales of intensity and what counts as present."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import (
    BINARISATIONS,
    binarise,
    grade_of,
    is_active,
    letter_of,
    value_of_grade,
    value_of_letter,
    value_on,
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


@pytest.mark.parametrize("rule", [*BINARISATIONS, 1, 3, 5])
def test_the_scales_binarise_alike(rule):
    least = BINARISATIONS.get(rule, rule)
    for grade, letter in enumerate(("", *"ABCDE")):
        assert value_on("grade", grade) == value_on("letter", letter) == value_on("unit", grade / 5)
        expected = grade >= least
        assert binarise(grade, "grade", at_least=rule) is expected
        assert binarise(letter, "letter", at_least=rule) is expected
        assert binarise(grade / 5, "unit", at_least=rule) is expected


def test_published_rules_differ_on_a_trace():
    active = {name for name in BINARISATIONS if binarise("A", "letter", at_least=name)}
    assert active == {"opengraphau", "disfa"}  # CK+ asks for more than 1, the others for 2


@pytest.mark.parametrize(
    ("value", "scale", "rule", "message"),
    [
        ("B", "grade", 2, "'B'.*'grade'"),
        (2, "letter", 2, "2.*'letter'"),
        (6, "grade", 2, "6 is no grade"),
        (1.5, "unit", 2, "1.5 is no intensity"),
        (0.5, "percent", 2, "'percent'.*unit, grade, letter"),
        (0.5, "unit", 0, "from grade 0"),
        (0.5, "unit", "disfa-5", "'disfa-5'.*opengraphau"),
    ],
)
def test_bad_values_scales_and_rules_are_named(value, scale, rule, message):
    with pytest.raises(ExpllmError, match=message):
        binarise(value, scale, at_least=rule)
