"""How well predicted intensities of units follow the true ones: Pearson's r, mean absolute error, ICC(3,1), coverage.

Shape letters: P pictures, U units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from expllm_jax.errors import ExpllmError


@dataclass(frozen=True)
class UnitValueScore:
    """One unit's numbers; nan where they are not defined (a unit that never varies)."""

    vocabulary: str
    code: str
    pictures: int  # of which the true value is known
    pearson: float
    mae: float
    icc: float  # ICC(3,1)
    coverage: Mapping[float, float]  # level -> share of the pictures whose interval of that level holds the truth


def pearson(first_P: np.ndarray, second_P: np.ndarray) -> float:
    """Pearson's correlation; nan if there are fewer than two values, or one side never varies."""
    first, second = (np.asarray(x, np.float64) - np.mean(x) if len(x) else np.zeros(0) for x in (first_P, second_P))
    scale = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / scale) if scale > 0 else float("nan")


def icc_3_1(first_P: np.ndarray, second_P: np.ndarray) -> float:
    """ICC(3,1) of two raters: two-way mixed effects, consistency, a single rater.

    (MS_rows - MS_error) / (MS_rows + MS_error), where rows are pictures. Source: Shrout & Fleiss, "Intraclass
    correlations: uses in assessing rater reliability" (1979); the measure of DISFA and BP4D intensities. nan if fewer
    than two pictures, or nothing varies.
    """
    ratings_P2 = np.stack([first_P, second_P], 1).astype(np.float64)
    pictures = len(ratings_P2)
    if pictures < 2:
        return float("nan")
    of_rows, of_raters, grand = ratings_P2.mean(1), ratings_P2.mean(0), ratings_P2.mean()
    rows = 2 * np.square(of_rows - grand).sum() / (pictures - 1)
    rest = np.square(ratings_P2 - of_rows[:, None] - of_raters[None] + grand).sum() / (pictures - 1)
    return float((rows - rest) / (rows + rest)) if rows + rest > 0 else float("nan")


def score_unit_values(
    outputs: Sequence[tuple[str, str]],
    truth_PU: np.ndarray,
    value_PU: np.ndarray,
    intervals: Mapping[float, tuple[np.ndarray, np.ndarray]],
) -> list[UnitValueScore]:
    """A score for every unit.

    Args:
        outputs: (vocabulary, code) of the columns.
        truth_PU: NaN where unknown.
        value_PU: what is predicted.
        intervals: level -> both ends, [P, U].

    Raises:
        ExpllmError: there are no pictures, or the shapes differ.
    """
    if not len(truth_PU) or truth_PU.shape != value_PU.shape or truth_PU.shape[1] != len(outputs):
        raise ExpllmError(
            f"{truth_PU.shape} true values, {value_PU.shape} predicted ones of {len(outputs)} units",
            "evaluate at least one picture, and all units of each",
        )
    scores = []
    for unit, (vocabulary, code) in enumerate(outputs):
        known = ~np.isnan(truth_PU[:, unit])
        truth, value = truth_PU[known, unit], value_PU[known, unit]
        coverage = {
            level: float(np.mean((low[known, unit] <= truth) & (truth <= high[known, unit]))) if len(truth) else np.nan
            for level, (low, high) in intervals.items()
        }
        mae = float(np.mean(np.abs(truth - value))) if len(truth) else float("nan")
        # Where a unit is never shown, an ICC would be 0 whatever is predicted.
        icc = icc_3_1(truth, value) if len(truth) and np.ptp(truth) > 0 else float("nan")
        scores.append(UnitValueScore(vocabulary, code, len(truth), pearson(truth, value), mae, icc, coverage))
    return scores
