"""Intervals: exact where the resampling distribution is known, coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import Interval, bootstrap, cluster_totals, wilson
from expllm_jax.evaluate.bootstrap import clustered_wilson


def share(counts):
    return counts[..., 0] / counts[..., 1]


def test_totals_are_summed_by_identity_in_sorted_order():
    counts = np.array([[1, 1], [0, 1], [1, 1], [1, 1]])
    assert cluster_totals(["zoe", "ann", "zoe", "ann"], counts).tolist() == [[1, 2], [2, 2]]


def test_the_value_is_that_of_all_pictures_not_of_the_resamples():
    counts = np.array([[1, 1]] * 7 + [[0, 1]] * 3)
    assert bootstrap(cluster_totals([str(i) for i in range(10)], counts), share).value == 0.7


def test_a_share_over_independent_pictures_has_the_binomial_interval():
    hits = np.array([[1, 1]] * 160 + [[0, 1]] * 40)
    interval = bootstrap(cluster_totals([str(i) for i in range(200)], hits), share, resamples=8000)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 200)
    assert interval.low == pytest.approx(0.8 - half, abs=0.008)
    assert interval.high == pytest.approx(0.8 + half, abs=0.008)


def test_pictures_that_fail_together_widen_the_interval():
    hits = np.repeat([[1, 1], [0, 1]], [160, 40], axis=0)
    alone = bootstrap(cluster_totals([str(i) for i in range(200)], hits), share)
    together = bootstrap(cluster_totals([str(i // 10) for i in range(200)], hits), share)
    # Ten identical answers a person carry one answer's information: the interval is √10 times as wide.
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(math.sqrt(10), rel=0.15)


def test_no_interval_from_one_person():
    interval = bootstrap(np.array([[3, 7]]), share)
    assert interval.value == 3 / 7 and math.isnan(interval.low) and math.isnan(interval.high)


def test_bca_equals_scipy_where_people_are_many():
    rng = np.random.default_rng(3)
    values = rng.exponential(size=400)
    ours = bootstrap(np.stack([values, np.ones(400)], axis=1), share, resamples=20_000)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=4).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_a_skewed_metric_has_a_skewed_interval():
    few_failures = np.array([[1, 1]] * 190 + [[0, 1]] * 10)
    interval = bootstrap(few_failures, share)
    assert 0.95 - interval.low > 1.1 * (interval.high - 0.95)


def test_a_metric_that_no_resample_changes_has_an_interval_of_no_width():
    assert bootstrap(np.array([[1, 1]] * 30), share) == Interval(1.0, 1.0, 1.0)


def test_coverage_of_clustered_answers():
    """95 % intervals hold the truth in about 95 % of simulated studies with 80 people of very different difficulty."""
    rng = np.random.default_rng(1)
    covered = 0
    for study in range(200):
        ease = rng.beta(4, 1, size=80)  # mean 0.8
        hits = rng.binomial(7, ease)
        totals = np.stack([hits, np.full(80, 7)], axis=1)
        interval = bootstrap(totals, share, resamples=400, seed=study)
        covered += interval.low <= 0.8 <= interval.high
    assert 0.90 <= covered / 200 <= 0.985


def test_order_of_pictures_does_not_matter_and_seed_does():
    rng = np.random.default_rng(2)
    counts = rng.random((90, 2))
    people = [str(i % 30) for i in range(90)]
    order = rng.permutation(90)
    first = bootstrap(cluster_totals(people, counts), share, seed=5)
    shuffled = bootstrap(cluster_totals([people[i] for i in order], counts[order]), share, seed=5)
    assert (shuffled.low, shuffled.high) == pytest.approx((first.low, first.high), rel=1e-12)
    assert bootstrap(cluster_totals(people, counts), share, seed=6) != first


def test_undefined_value_and_mostly_undefined_resamples_have_no_interval():
    def undefined_at_zero(counts):
        with np.errstate(invalid="ignore"):
            return counts[..., 0] / counts[..., 1]

    nothing = bootstrap(np.zeros((5, 2)), undefined_at_zero)
    assert not nothing.defined and math.isnan(nothing.low)
    one_of_many = np.zeros((30, 2))
    one_of_many[3] = 1, 1  # a third of all resamples miss the only person with anything to count
    interval = bootstrap(one_of_many, undefined_at_zero)
    assert interval.value == 1.0 and math.isnan(interval.low) and math.isnan(interval.high)


def test_empty_or_mismatched_input_is_refused():
    with pytest.raises(ExpllmError, match="0 identities"):
        cluster_totals([], np.zeros((0, 2)))
    with pytest.raises(ExpllmError, match="1 identities for 2"):
        cluster_totals(["a"], np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("count", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],  # the last: Newcombe 1998, table I
)
def test_wilson(count, trials, low, high):
    assert wilson(count, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_without_trials_is_undefined():
    assert all(map(math.isnan, wilson(0, 0)))


def test_wilson_of_single_trials_is_not_changed_by_naming_people():
    hits = np.array([1] * 30 + [0] * 10)
    assert clustered_wilson(hits, np.ones(40)) == Interval(0.75, *wilson(30, 40))


def test_ten_equal_trials_a_person_tell_as_much_as_one():
    hits = np.array([10] * 30 + [0] * 10)
    clustered = clustered_wilson(hits, np.full(40, 10))
    low, high = wilson(30, 40)
    assert clustered.low < low and clustered.high > high
    assert (clustered.low, clustered.high) == pytest.approx((low, high), abs=0.015)


def test_clustered_wilson_at_the_ends():
    nobody = clustered_wilson(np.zeros(3), np.zeros(3))
    assert not nobody.defined
    assert clustered_wilson(np.full(12, 5), np.full(12, 5)) == Interval(1.0, *wilson(12, 12))
