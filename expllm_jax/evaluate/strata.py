"""Every score by how much the face shows: faces whose strongest true unit is below .2, from .2 to .5, above .5.

A model that reads only plain expressions can look good on average; on faces that hardly move it cannot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expllm_jax.evaluate.bootstrap import RESAMPLES, Interval
from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.evaluate.label_scores import label_intervals
from expllm_jax.evaluate.scores import answer_rates
from expllm_jax.evaluate.units import UnitScores, score_units
from expllm_jax.faces import BASIC_7, FACS, Vocabulary

STRATA = ("< .2", ".2–.5", "> .5")
UNKNOWN = "unknown"
STRATUM_KEYS: Mapping[str, str] = dict(zip((*STRATA, UNKNOWN), ("weak", "middle", "strong", "unknown"), strict=True))
"""Stratum -> how metrics.json calls it."""


@dataclass(frozen=True)
class Stratum:
    """The scores of the faces of one stratum."""

    name: str
    n: int  # pictures
    people: int
    neutral: int  # of them without an expression: most faces below .2 are, and they are easy
    labels: dict[str, Interval]  # accuracy, uar, macro_f1
    rates: dict[str, Interval]  # unparsable_label, unparsable_cot, truncated
    units: UnitScores | None  # None where no unit of any face is known


def stratum_of(face: EvaluatedFace) -> str:
    """The stratum of the face's strongest true unit; "unknown" where no unit is known."""
    strongest = face.strongest
    if math.isnan(strongest):
        return UNKNOWN
    return STRATA[0] if strongest < 0.2 else STRATA[1] if strongest <= 0.5 else STRATA[2]


def by_strongest(faces: Sequence[EvaluatedFace]) -> dict[str, list[EvaluatedFace]]:
    """The faces of each stratum that has any, weakest first, unknown last."""
    members: dict[str, list[EvaluatedFace]] = {name: [] for name in (*STRATA, UNKNOWN)}
    for face in faces:
        members[stratum_of(face)].append(face)
    return {name: some for name, some in members.items() if some}


def score_strata(
    faces: Sequence[EvaluatedFace],
    classes: Sequence[str] = BASIC_7,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    vocabulary: Vocabulary = FACS,
) -> list[Stratum]:
    """The scores of each stratum that has faces."""
    return [
        Stratum(
            name=name,
            n=len(some),
            people=len({face.identity for face in some}),
            neutral=sum(face.expression == "Neutral" for face in some),
            labels=label_intervals(some, classes, seed=seed, resamples=resamples),
            rates=answer_rates(some),
            units=score_units(some, vocabulary) if any(face.units for face in some) else None,
        )
        for name, some in by_strongest(faces).items()
    ]
