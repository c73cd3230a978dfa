"""Scores of unit intensities, against textbook numbers and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import pearsonr

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.unit_values import icc_3_1, pearson, score_unit_values

# Shrout & Fleiss (1979), table 2: six targets; the first and the last of its four judges
FIRST, LAST = np.array([9, 6, 8, 7, 10, 6.0]), np.array([8, 2, 6, 5, 7, 6.0])  # fmt: skip


def test_pearson_is_scipys():
    rng = np.random.default_rng(0)
    a = rng.normal(size=40)
    b = a + rng.normal(size=40)
    assert pearson(a, b) == pytest.approx(pearsonr(a, b).statistic, abs=1e-12)
    assert math.isnan(pearson(a, np.ones(40))) and math.isnan(pearson(a[:0], b[:0]))


def test_icc_is_the_analysis_of_variance():
    """By hand: sums of squares of rows, of judges and of all, whose rest is the error."""
    total = ((np.concatenate([FIRST, LAST]) - np.mean([FIRST, LAST])) ** 2).sum()
    rows = 2 * (((FIRST + LAST) / 2 - np.mean([FIRST, LAST])) ** 2).sum()
    judges = 6 * ((FIRST.mean() - np.mean([FIRST, LAST])) ** 2 + (LAST.mean() - np.mean([FIRST, LAST])) ** 2)
    between, error = rows / 5, (total - rows - judges) / 5
    assert icc_3_1(FIRST, LAST) == pytest.approx((between - error) / (between + error), abs=1e-12)


def test_icc_forgives_a_shift_and_not_a_scale():
    assert icc_3_1(FIRST, FIRST + 3) == pytest.approx(1.0)
    assert icc_3_1(FIRST, 0.5 * FIRST) < 0.85 < pearson(FIRST, 0.5 * FIRST)
    assert math.isnan(icc_3_1(np.ones(4), np.ones(4)))


def test_unknown_values_are_left_out_and_coverage_is_counted():
    truth = np.array([[0.1, 0.5], [0.2, np.nan], [0.9, 0.5]])
    value = np.array([[0.1, 0.2], [0.3, 0.9], [0.5, 0.3]])
    first, second = score_unit_values(
        (("facs", "AU1"), ("facs", "AU2")), truth, value, {0.8: (value - 0.15, value + 0.15)}
    )
    assert (first.pictures, second.pictures) == (3, 2)
    assert first.mae == pytest.approx((0 + 0.1 + 0.4) / 3) and first.coverage[0.8] == pytest.approx(2 / 3)
    assert second.mae == pytest.approx(0.25) and second.coverage[0.8] == 0.0
    assert math.isnan(second.pearson) and math.isnan(second.icc)  # it never varies


def test_no_pictures_is_an_error():
    with pytest.raises(ExpllmError, match="evaluate at least one picture"):
        score_unit_values((("facs", "AU1"),), np.zeros((0, 1)), np.zeros((0, 1)), {})
