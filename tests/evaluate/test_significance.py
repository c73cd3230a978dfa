"""Tests of significance against scipy, arithmetic on paper, and simulation where nothing differs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.significance import holm, mcnemar, paired_difference, swap_test


def share(counts):
    return counts[..., 0] / counts[..., 1]


def answers(first_only, second_only, both=5, neither=3):
    first = [True] * first_only + [False] * second_only + [True] * both + [False] * neither
    second = [False] * first_only + [True] * second_only + [True] * both + [False] * neither
    return first, second


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (9, 2), (2, 9), (70, 41), (3000, 2800)])
def test_exact_and_mid_p_equal_scipys_binomial(b, c):
    found = mcnemar(*answers(b, c))
    assert (found.first_only, found.second_only) == (b, c)
    exact = scipy.stats.binomtest(min(b, c), b + c).pvalue if b + c else 1.0
    assert found.exact == pytest.approx(exact, rel=1e-9)
    assert found.mid_p == pytest.approx(
        1.0 if b == c else exact - scipy.stats.binom.pmf(min(b, c), b + c, 0.5), rel=1e-7
    )


def test_the_published_example():
    # Fagerland et al. 2013, airway hyper-responsiveness before and after transplantation: 1 and 7 discordant pairs
    found = mcnemar(*answers(1, 7))
    assert (round(found.exact, 4), round(found.mid_p, 4)) == (0.0703, 0.0391)


def test_runs_on_different_pictures_are_refused():
    with pytest.raises(ExpllmError, match="2 answers of the first run but 1"):
        mcnemar([True, False], [True])
    with pytest.raises(ExpllmError, match="counts"):
        swap_test(np.ones((2, 2)), np.ones((3, 2)), share)


def clusters(rng, people, gain):
    ease = rng.beta(2, 1, size=people)
    first = rng.binomial(4, ease)
    second = rng.binomial(4, np.clip(ease + gain, 0, 1))
    return (np.stack([hits, np.full(people, 4)], axis=1).astype(float) for hits in (first, second))


def test_the_swap_test_equals_all_deals_of_few_people():
    first, second = clusters(np.random.default_rng(0), 9, 0.1)
    seen = abs(share(second.sum(0)) - share(first.sum(0)))
    dealt = []
    for swaps in itertools.product((False, True), repeat=9):
        swapped = np.array(swaps)[:, None]
        one, other = np.where(swapped, second, first), np.where(swapped, first, second)
        dealt.append(abs(share(other.sum(0)) - share(one.sum(0))) >= seen - 1e-12)
    assert swap_test(first, second, share) == pytest.approx(np.mean(dealt), abs=0.015)


def test_the_swap_test_of_single_pictures_agrees_with_mcnemar():
    first, second = answers(14, 4)
    one, other = (np.stack([np.array(right, float), np.ones(len(right))], axis=1) for right in (first, second))
    assert swap_test(one, other, share) == pytest.approx(mcnemar(first, second).exact, abs=0.01)


def test_equal_runs_are_called_different_in_one_of_twenty_studies():
    rng = np.random.default_rng(5)
    called = [swap_test(*clusters(rng, 40, 0.0), share, deals=399, seed=study) <= 0.05 for study in range(400)]
    assert np.mean(called) == pytest.approx(0.05, abs=0.03)


def test_a_real_difference_is_found_and_has_its_interval():
    first, second = clusters(np.random.default_rng(2), 200, 0.12)
    difference = paired_difference(first, second, share)
    assert difference.value == pytest.approx(share(second.sum(0)) - share(first.sum(0)))
    assert 0.0 < difference.low < difference.value < difference.high
    assert swap_test(first, second, share) < 0.01


def test_nothing_differs_and_nothing_is_defined():
    counts = np.ones((6, 2))
    assert swap_test(counts, counts, share) == 1.0
    with np.errstate(invalid="ignore"):
        assert math.isnan(swap_test(np.zeros((6, 2)), np.zeros((6, 2)), share))


def test_holm_by_hand():
    assert holm([0.04, 0.01, math.nan, 0.03]) == [
        pytest.approx(0.06),
        pytest.approx(0.03),
        pytest.approx(math.nan, nan_ok=True),
        pytest.approx(0.06),
    ]
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
