"""95 % intervals that respect who is in the pictures: a percentile bootstrap over identities.

Several pictures of one person succeed or fail together, so people are resampled, not pictures. Every metric here is a
function of sums over pictures; each person is therefore one row of sums, a resample is one integer weight per person,
and 2,000 resamples of a metric are a few matrix products: milliseconds, not minutes.

Shape letters: P pictures, G identities (clusters), R resamples, K summed counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from expllm_jax.errors import ExpllmError

RESAMPLES = 2000
LEVEL = 0.95
# Beyond this share of resamples in which a metric is undefined (nothing to divide by), the rest would be a biased
# selection, and no interval is given.
_UNDEFINED_ALLOWED = 0.05
_BLOCK = 256  # resamples per matrix product: bounds memory for data sets with many thousand identities


@dataclass(frozen=True)
class Interval:
    """A metric's value on all pictures and the ends of its interval; nan where it is undefined."""

    value: float
    low: float
    high: float

    @property
    def defined(self) -> bool:
        """Whether the value itself exists."""
        return not math.isnan(self.value)


def cluster_totals(identities: Sequence[str], counts_PK: np.ndarray) -> np.ndarray:
    """Sums per-picture counts over the pictures of each identity.

    Returns float64 [G, K], identities in sorted order, so that the order of the pictures does not change an interval.
    Raises ExpllmError when there are no pictures or the lengths differ.
    """
    counts_PK = np.asarray(counts_PK)
    if len(identities) == 0 or len(identities) != len(counts_PK):
        raise ExpllmError(
            f"{len(identities)} identities for {len(counts_PK)} evaluated pictures",
            "evaluate at least one picture, and give each its identity",
        )
    _, group_P = np.unique(np.asarray(identities, dtype=str), return_inverse=True)
    totals_GK = np.zeros((group_P.max() + 1, counts_PK.shape[1]))
    np.add.at(totals_GK, group_P, counts_PK)
    return totals_GK


def bootstrap(
    totals_GK: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Percentile interval of `statistic`, resampling the G identities with replacement.

    `statistic` maps summed counts [..., K] to values [...], vectorised over leading axes, nan where undefined. To
    compare two metrics on the same pictures, put both into one statistic: their difference then has a paired interval.
    Source: Efron & Tibshirani 1993, ch. 13 (percentile interval); Field & Welsh 2007 (cluster bootstrap).
    """
    totals_GK = np.asarray(totals_GK, dtype=np.float64)
    clusters = len(totals_GK)
    value = float(statistic(totals_GK.sum(0)))
    if math.isnan(value):
        return Interval(value, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    values_R = np.empty(resamples)
    for start in range(0, resamples, _BLOCK):
        stop = min(start + _BLOCK, resamples)
        weights = rng.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=stop - start)
        values_R[start:stop] = statistic(weights.astype(np.float64) @ totals_GK)
    undefined_R = np.isnan(values_R)
    if undefined_R.mean() > _UNDEFINED_ALLOWED:
        return Interval(value, math.nan, math.nan)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(values_R[~undefined_R], [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def wilson(count: int, trials: int, *, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson 95 % score interval of a share, both ends in 0–1; (nan, nan) without trials.

    For rare events: a bootstrap of "none in 1,400" would say 0 to 0, this says 0 to 0.3 %. Source: Wilson 1927.
    """
    if trials == 0:
        return math.nan, math.nan
    share = count / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # The ends are exactly 0 and 1 at the extremes; rounding must not push them past.
    low = 0.0 if count == 0 else (centre - half) / scale
    high = 1.0 if count == trials else (centre + half) / scale
    return max(0.0, low), min(1.0, high)
