"""95 % intervals that respect who is in the pictures: a bootstrap over identities, corrected for skew and few people.

Several pictures of one person succeed or fail together, so people are resampled, not pictures. Every metric here is a
function of sums over pictures; each person is therefore one row of sums, a resample is one integer weight per distinct
row, and 2,000 resamples of a metric are a few matrix products: milliseconds, not minutes.

Plain percentiles are too narrow where people are few (with 20 of them, "95 %" holds the truth in 89–92 of 100 studies)
and lie off where a metric is skewed. Both is mended here; `launch/bench/interval_coverage.py` shows by how much.

Shape letters: P pictures, G identities (clusters), D distinct rows among them, R resamples, K summed counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

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
    """Interval of `statistic`, resampling the G identities with replacement: BCa, widened for few identities.

    `statistic` maps summed counts [..., K] to values [...], vectorised over leading axes, nan where undefined. To
    compare two metrics on the same pictures, put both into one statistic: their difference then has a paired interval.
    Without a second identity there is a value but no interval.

    Source: Efron 1987 (bias-corrected and accelerated percentiles); Hesterberg 2015, section 5.3 (percentiles widened
    as Student's t is wider than the normal distribution); Field & Welsh 2007 (cluster bootstrap).
    """
    totals_GK = np.asarray(totals_GK, dtype=np.float64)
    value = float(statistic(totals_GK.sum(0)))
    if math.isnan(value) or len(totals_GK) < 2:
        return Interval(value, math.nan, math.nan)
    # Identities with equal rows are exchangeable: one multinomial count per distinct row draws the same resamples.
    rows_DK, count_D = np.unique(totals_GK, axis=0, return_counts=True)
    values_R = _resampled(rows_DK, count_D, statistic, resamples, seed)
    undefined_R = np.isnan(values_R)
    if undefined_R.mean() > _UNDEFINED_ALLOWED:
        return Interval(value, math.nan, math.nan)
    values_R = values_R[~undefined_R]
    acceleration = _acceleration(rows_DK, count_D, statistic)
    low, high = _quantiles(values_R, _percentiles(values_R, value, acceleration, len(totals_GK), level))
    return Interval(value, float(low), float(high))


def _quantiles(values_R: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Quantiles of values with ties: each tied value stands at the middle of the fractions that it takes up.

    Shares move in steps of one picture. Ends that only fall on such steps reach up to one too far, and so cover too
    much; between them, they cover what they should. Source: Ma, Genton & Parzen 2011 (mid-distribution quantiles).
    """
    steps, count = np.unique(np.round(values_R, 12), return_counts=True)
    middle = (np.cumsum(count) - 0.5 * count) / len(values_R)
    return np.interp(fractions, middle, steps)


def _resampled(
    rows_DK: np.ndarray,
    count_D: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    resamples: int,
    seed: int,
) -> np.ndarray:
    """The statistic of each resample, [R]."""
    rng = np.random.default_rng(seed)
    clusters = int(count_D.sum())
    values_R = np.empty(resamples)
    for start in range(0, resamples, _BLOCK):
        stop = min(start + _BLOCK, resamples)
        weights_RD = rng.multinomial(clusters, count_D / clusters, size=stop - start)
        values_R[start:stop] = statistic(weights_RD.astype(np.float64) @ rows_DK)
    return values_R


def _acceleration(rows_DK: np.ndarray, count_D: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> float:
    """How fast the statistic's spread changes with its value: a sixth of the skewness of its jackknife values."""
    total_K = count_D @ rows_DK
    without_D = np.concatenate(
        [statistic(total_K - rows_DK[start : start + _BLOCK]) for start in range(0, len(rows_DK), _BLOCK)]
    )
    defined_D = ~np.isnan(without_D)
    values, counts = without_D[defined_D], count_D[defined_D]
    if not len(values):
        return 0.0
    shift = np.average(values, weights=counts) - values
    squares = float(counts @ shift**2)
    # Rounding leaves a statistic that nobody changes with shifts near 1e-17.
    return float(counts @ shift**3) / (6.0 * squares**1.5) if squares > 1e-24 else 0.0


def _percentiles(values_R: np.ndarray, value: float, acceleration: float, clusters: int, level: float) -> np.ndarray:
    """The two percentiles, as fractions, of the resampled values at which the interval ends."""
    tail = (1.0 - level) / 2.0
    reach = special.stdtrit(clusters - 1, 1.0 - tail) * math.sqrt(clusters / (clusters - 1))
    # Counts make ties: half of them lie below the value. Rounding must not tell tied values apart.
    tied_R = np.isclose(values_R, value, rtol=0.0, atol=1e-12)
    below = float(((values_R < value) & ~tied_R).mean() + 0.5 * tied_R.mean())
    bias = special.ndtri(min(max(below, 1.0 / len(values_R)), 1.0 - 1.0 / len(values_R)))
    ends = bias + np.array([-reach, reach])
    # Past the pole of the correction it would turn round; there the percentile is the outermost one.
    bend = np.maximum(1.0 - acceleration * ends, 1e-9)
    return np.asarray(special.ndtr(bias + ends / bend))


def wilson(count: float, trials: float, *, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson 95 % score interval of a share, both ends in 0–1; (nan, nan) without trials. Trials may be effective ones.

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
    high = 1.0 if count >= trials else (centre + half) / scale
    return max(0.0, low), min(1.0, high)


def clustered_wilson(hits_G: np.ndarray, trials_G: np.ndarray) -> Interval:
    """A share and its Wilson interval where identities were tried several times: [G] hits among [G] trials.

    Trials of one person tell less than as many people would: their number is divided by how much wider the spread
    between people makes the interval (never by less than 1), and Student's t stands for the normal distribution. With
    one trial each, this is Wilson's interval itself. Source: Korn & Graubard 1998; Kish 1965 (design effect).
    """
    hits_G, trials_G = np.asarray(hits_G, np.float64), np.asarray(trials_G, np.float64)
    tried = trials_G > 0
    hits_G, trials_G = hits_G[tried], trials_G[tried]
    hits, trials, people = float(hits_G.sum()), float(trials_G.sum()), len(trials_G)
    if not people:
        return Interval(math.nan, math.nan, math.nan)
    share = hits / trials
    if trials_G.max() == 1 or people == 1 or share in (0.0, 1.0):
        effective = trials if trials_G.max() == 1 else float(people)
        return Interval(share, *wilson(share * effective, effective))
    between = people / (people - 1) * float(np.square(hits_G - share * trials_G).sum()) / trials**2
    effective = trials / max(1.0, between / (share * (1.0 - share) / trials))
    return Interval(share, *wilson(share * effective, effective, z=float(special.stdtrit(people - 1, 0.5 + LEVEL / 2))))
