"""Is one run better than another, or was it luck? Tests on the same pictures, answered by both.

Three questions, three answers:

- `mcnemar`: of the pictures that only one of the two got right, are there more of the one kind than a coin would give?
  For pictures of different people.
- `swap_test`: had the two runs' answers about each person been dealt to them at random, how often would they differ as
  much? For any metric, and for pictures of which several show one person.
- `paired_difference`: how large is the difference, with its interval (people resampled, both runs together).

`holm` corrects p-values for how many there are.

Shape letters: P pictures, G identities, D distinct rows among them, K counts, R random deals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.bootstrap import RESAMPLES, Interval, bootstrap

DEALS = 9999
_BLOCK = 512  # deals per matrix product


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two runs' right and wrong answers."""

    first_only: int  # pictures that only the first run got right
    second_only: int
    exact: float  # two-sided p-value of the exact test: never too small, but too large with few such pictures
    mid_p: float  # two-sided mid-p value: closer to what it claims, and the one to report


def mcnemar(first_right_P: Sequence[bool] | np.ndarray, second_right_P: Sequence[bool] | np.ndarray) -> McNemar:
    """McNemar's exact and mid-p tests; both p-values are 1 where the two are right about the same number.

    Raises ExpllmError for different numbers of pictures. Source: McNemar 1947; Fagerland, Lydersen & Laake 2013 (the
    mid-p value counts half of the outcomes as likely as the one seen).
    """
    first_P, second_P = np.asarray(first_right_P, bool), np.asarray(second_right_P, bool)
    if first_P.shape != second_P.shape:
        raise ExpllmError(
            f"{len(first_P)} answers of the first run but {len(second_P)} of the second",
            "compare two runs on the pictures that both answered, in one order",
        )
    first_only, second_only = int((first_P & ~second_P).sum()), int((second_P & ~first_P).sum())
    fewer, differing = min(first_only, second_only), first_only + second_only
    exact = min(1.0, 2.0 * float(special.bdtr(fewer, differing, 0.5)))
    # log-binomial: the coefficient itself overflows where runs differ on more than 1,000 pictures
    log_point = (
        special.gammaln(differing + 1)
        - special.gammaln(fewer + 1)
        - special.gammaln(differing - fewer + 1)
        - differing * math.log(2.0)
    )
    mid_p = 1.0 if first_only == second_only else 2.0 * float(special.bdtr(fewer, differing, 0.5)) - math.exp(log_point)
    return McNemar(first_only, second_only, exact, min(1.0, max(0.0, mid_p)))


def paired_difference(
    first_GK: np.ndarray,
    second_GK: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The second run's metric minus the first's, with its 95 % interval, people resampled for both together.

    Args:
      first_GK: summed counts of each identity (see `cluster_totals`), the first run's.
      second_GK: the second run's, of the same pictures, identities in the same order.
      statistic: counts [..., K] to values [...].
      resamples: of the bootstrap.
      seed: of the bootstrap.
    """
    width = _one_shape(first_GK, second_GK)

    def difference(counts: np.ndarray) -> np.ndarray:
        return statistic(counts[..., width:]) - statistic(counts[..., :width])

    return bootstrap(np.concatenate([first_GK, second_GK], axis=1), difference, resamples=resamples, seed=seed)


def swap_test(
    first_GK: np.ndarray,
    second_GK: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    deals: int = DEALS,
    seed: int = 0,
) -> float:
    """Two-sided p-value of a metric's difference: the answers about each person are swapped between the runs at random.

    Exact up to the number of deals, whatever the metric and however alike the pictures of one person are: if the two
    runs were equally good, swapping would change nothing. 1 where nothing differs, nan where the metric is undefined.
    Source: Edgington & Onghena 2007, ch. 5; Phipson & Smyth 2010 (the deal that was seen counts as one).
    """
    width = _one_shape(first_GK, second_GK)
    first_K, second_K = np.asarray(first_GK, np.float64).sum(0), np.asarray(second_GK, np.float64).sum(0)
    seen = float(statistic(second_K) - statistic(first_K))
    if math.isnan(seen):
        return math.nan
    # Swapping a person moves their difference from one run to the other; persons with equal differences are
    # exchangeable, so that one binomial count per distinct difference says how many of them are swapped.
    moved_DK, count_D = np.unique(
        np.asarray(second_GK, np.float64) - np.asarray(first_GK, np.float64), axis=0, return_counts=True
    )
    differs_D = moved_DK.any(1)
    moved_DK, count_D = moved_DK[differs_D].reshape(-1, width), count_D[differs_D]
    if not len(moved_DK):
        return 1.0
    rng = np.random.default_rng(seed)
    as_large, undefined = 0, 0  # a deal without a value counts against the difference
    for start in range(0, deals, _BLOCK):
        swapped_RD = rng.binomial(count_D, 0.5, size=(min(start + _BLOCK, deals) - start, len(count_D)))
        moved_RK = swapped_RD.astype(np.float64) @ moved_DK
        dealt_R = statistic(second_K - moved_RK) - statistic(first_K + moved_RK)
        undefined += int(np.isnan(dealt_R).sum())
        as_large += int((np.abs(dealt_R) >= abs(seen) - 1e-12).sum())
    return (1 + as_large + undefined) / (1 + deals)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the order given; nan stays nan and does not count.

    If no run differs from another, the chance that any corrected value is below .05 is below .05. Source: Holm 1979.
    """
    known = [place for place, p in enumerate(p_values) if not math.isnan(p)]
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(known, key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(known) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def _one_shape(first_GK: np.ndarray, second_GK: np.ndarray) -> int:
    """The number of counts that both have. Raises ExpllmError where identities or counts differ in number."""
    if np.shape(first_GK) != np.shape(second_GK):
        raise ExpllmError(
            f"counts {np.shape(first_GK)} of the first run but {np.shape(second_GK)} of the second",
            "compare two runs on the same pictures, with one list of classes",
        )
    return int(np.shape(first_GK)[1])
