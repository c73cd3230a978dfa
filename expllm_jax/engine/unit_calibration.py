"""What a unit regressor says, brought to scale: values that are right on average, and intervals that hold what they
promise, measured on people it did not learn from.

Shape letters: P pictures, U units.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from expllm_jax.errors import ExpllmError

LEVEL = 0.8
"""Share of the calibration pictures whose true value lies in a unit's interval."""

_QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)
_SMALLEST_DEVIATION = 1e-3


@dataclass(frozen=True)
class UnitCalibration:
    """One line for every unit: value = slope * mean + intercept, deviation = spread * slope * predicted deviation."""

    slope: tuple[float, ...]
    intercept: tuple[float, ...]
    spread: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("slope", "intercept", "spread"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if not len(self.slope) == len(self.intercept) == len(self.spread):
            raise ExpllmError("a calibration has not as many slopes as intercepts and spreads", "fit it again")

    def __call__(self, mean_PU: np.ndarray, deviation_PU: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(values 0 to 1, standard deviations) out of what the head says, [P, U] each."""
        slope, intercept, spread = (np.asarray(each) for each in (self.slope, self.intercept, self.spread))
        return np.clip(slope * mean_PU + intercept, 0.0, 1.0), spread * slope * deviation_PU + _SMALLEST_DEVIATION


def fit_calibration(mean_PU: np.ndarray, deviation_PU: np.ndarray, truth_PU: np.ndarray) -> UnitCalibration:
    """The least-squares line of every unit, and the spread with which LEVEL of the pictures lie in
    value ± 1.28 deviations.

    A unit that never varies, or is known of fewer than 20 pictures, is left as it is.

    Args:
        mean_PU, deviation_PU: what the head says.
        truth_PU: NaN where unknown.
    """
    slopes, intercepts, spreads = [], [], []
    for unit in range(truth_PU.shape[1]):
        known = ~np.isnan(truth_PU[:, unit])
        mean, truth, deviation = mean_PU[known, unit], truth_PU[known, unit], deviation_PU[known, unit]
        slope, intercept, spread = 1.0, 0.0, 1.0
        if known.sum() >= 20 and np.ptp(mean) > 0 and np.ptp(truth) > 0:
            line = np.polyfit(mean, truth, 1)
            if line[0] > 0:
                slope, intercept = line
            value = np.clip(slope * mean + intercept, 0.0, 1.0)
            spread = float(np.quantile(np.abs(truth - value) / (slope * deviation), LEVEL)) / _QUANTILE
        slopes.append(slope)
        intercepts.append(intercept)
        spreads.append(spread)
    return UnitCalibration(tuple(slopes), tuple(intercepts), tuple(spreads))


def interval(value_PU: np.ndarray, deviation_PU: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the interval that holds the truth with probability `level`, within 0 to 1."""
    half = NormalDist().inv_cdf((1 + level) / 2) * deviation_PU
    return np.clip(value_PU - half, 0.0, 1.0), np.clip(value_PU + half, 0.0, 1.0)
