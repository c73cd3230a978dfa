"""Intensity words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.cot import BAND_WORDS, BANDS, band, band_of, band_of_word
from expllm_jax.errors import ExpllmError


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (0.0, "minimal"),
        (0.0599, "minimal"),
        (0.06, "slight"),
        (0.2, "moderate"),
        (0.4, "significant"),
        (0.55, "significant"),
        (0.5501, "strong"),
        (1.0, "strong"),
    ],
)
def test_bounds(value, name):
    assert band_of(value) == name


def test_words_are_unambiguous():
    listed = [word for entry in BANDS for word in (*entry.adjectives, *entry.adverbs, *entry.read_only)]
    assert len(listed) == len(set(listed)) == len(BAND_WORDS)
    for entry in BANDS:
        assert band(entry.name) is entry
        for word in (*entry.adjectives, *entry.adverbs):
            assert band_of_word(word.upper()) == entry.name
    assert band_of_word("lower") is None


@given(st.floats(0, 1), st.floats(0, 1))
def test_bands_rise_with_intensity(a, b):
    order = [entry.name for entry in BANDS]
    low, high = sorted((a, b))
    assert order.index(band_of(low)) <= order.index(band_of(high))


def test_values_off_the_scale_are_refused():
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ExpllmError):
            band_of(value)
