"""The three label scores of any part of the faces, each with its interval: what the tables of groups and strata share.

Shape letters: G identities, K cells of a confusion matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from expllm_jax.evaluate import scores
from expllm_jax.evaluate.bootstrap import RESAMPLES, Interval, bootstrap, cluster_totals
from expllm_jax.evaluate.evaluated import EvaluatedFace

Statistic = Callable[[np.ndarray], np.ndarray]


def _on_matrices(statistic: Statistic, classes: int, totals: np.ndarray) -> np.ndarray:
    """Applies a statistic of confusion matrices to flattened ones, [..., C·(C+1)] → [...]."""
    return statistic(totals.reshape(*totals.shape[:-1], classes, classes + 1))


def label_statistics(classes: int) -> Mapping[str, Statistic]:
    """Metric → function of summed, flattened confusion matrices [..., C·(C+1)]: accuracy (WAR), UAR and macro-F1."""
    return {
        "accuracy": partial(_on_matrices, scores.accuracy, classes),
        "uar": partial(_on_matrices, scores.unweighted_average_recall, classes),
        "macro_f1": partial(_on_matrices, scores.macro_f1, classes),
    }


def confusion_totals(faces: Sequence[EvaluatedFace], classes: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Flattened confusion matrices summed per name, [G, C·(C+1)], names in sorted order; one name per face."""
    matrices_PK = scores.confusion_per_picture(
        [face.expression for face in faces], [face.predicted for face in faces], classes
    ).reshape(len(faces), -1)
    return cluster_totals(names, matrices_PK)


def label_intervals(
    faces: Sequence[EvaluatedFace], classes: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Accuracy, UAR and macro-F1 of the faces, with intervals clustered by identity."""
    totals_GK = confusion_totals(faces, classes, [face.identity for face in faces])
    return {
        metric: bootstrap(totals_GK, statistic, resamples=resamples, seed=seed)
        for metric, statistic in label_statistics(len(classes)).items()
    }
