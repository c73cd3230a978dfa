"""Were the labels numbered in another order than they were read in? What the confusion matrix says of it.

A wrong order exchanges whole classes: answers are wrong, but always in the same way. So the renaming of the predicted
labels that would make most answers right is looked for; where it wins by far, the scores are of the wrong order and
not of the model.

Shape letters: P pictures, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from scipy.optimize import linear_sum_assignment

from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.evaluate.scores import confusion_per_picture
from expllm_jax.evaluate.significance import mcnemar
from expllm_jax.faces import BASIC_7, LABEL_ORDERS

LEAST_GAIN = 0.1
"""Accuracy that a renaming has to gain before it is more than a model's habit of taking one class for another."""

_P = 0.001


@dataclass(frozen=True)
class LabelOrder:
    """What a renaming of the predicted labels would do."""

    accuracy: float  # as answered
    renamed_accuracy: float  # of pictures of other people than the renaming was chosen on
    p: float  # mid-p value that the renaming makes more right than wrong
    renaming: Mapping[str, str]  # predicted → what it would have to mean; only labels that change
    suspicious: bool  # the renaming wins by `LEAST_GAIN` and not by chance
    registered: tuple[str, ...]  # "written as A, read as B" for data sets' orders that explain the renaming

    @property
    def warning(self) -> str:
        """A sentence for people; empty where nothing is suspicious."""
        if not self.suspicious:
            return ""
        changes = ", ".join(f"{name} means {meaning}" for name, meaning in self.renaming.items())
        known = f" This is what happens to labels {' or '.join(self.registered)}." if self.registered else ""
        return (
            f"The labels look as if numbered in another order: if {changes}, accuracy is {self.renamed_accuracy:.1%} "
            f"and not {self.accuracy:.1%}.{known} Check the order before believing any score."
        )


def check_label_order(faces: Sequence[EvaluatedFace], classes: Sequence[str] = BASIC_7) -> LabelOrder:
    """Looks for a renaming of predicted labels under which far more answers are right.

    The renaming is chosen on one half of the people and tried on the other, both ways round, so that its gain is not
    that of the best of 5,040 tries. Raises ExpllmError for expressions that are not among `classes`.
    """
    matrices_PCX = confusion_per_picture(
        [face.expression for face in faces], [face.predicted for face in faces], classes
    ).astype(np.int64)
    half_P = np.array([sha256(face.identity.encode()).digest()[0] % 2 for face in faces])
    right_P = np.einsum("pcc->p", matrices_PCX[..., :-1]) > 0
    renamed_right_P = np.zeros(len(faces), bool)
    for half in (0, 1):
        meaning_C = _best_renaming(matrices_PCX[half_P != half].sum(0))
        inside = half_P == half
        renamed_right_P[inside] = matrices_PCX[inside][:, meaning_C, np.arange(len(classes))].any(1)
    test = mcnemar(right_P, renamed_right_P)
    accuracy, renamed_accuracy = float(right_P.mean()), float(renamed_right_P.mean())
    total_CX = matrices_PCX.sum(0)
    meaning_C = _best_renaming(total_CX)
    ever = total_CX[:, :-1].any(0)
    renaming = {classes[c]: classes[meaning_C[c]] for c in range(len(classes)) if ever[c] and meaning_C[c] != c}
    suspicious = renamed_accuracy - accuracy >= LEAST_GAIN and test.mid_p < _P
    answered = {classes[c]: classes[meaning_C[c]] for c in range(len(classes)) if ever[c]}
    return LabelOrder(
        accuracy, renamed_accuracy, test.mid_p, renaming, suspicious, tuple(_registered(answered)) if suspicious else ()
    )


def _best_renaming(confusion_CX: np.ndarray) -> np.ndarray:
    """The true class that each predicted one would have to mean for most right answers; ties keep the names."""
    hits_CC = confusion_CX[:, :-1].astype(np.float64)
    hits_CC += 0.5 / len(hits_CC) * np.eye(len(hits_CC))
    true_C, predicted_C = linear_sum_assignment(hits_CC, maximize=True)
    meaning_C = np.empty(len(hits_CC), int)
    meaning_C[predicted_C] = true_C
    return meaning_C


def _registered(renaming: Mapping[str, str]) -> Iterable[str]:
    """Pairs of data sets' orders that turn every label into what the renaming says it means."""
    told: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
    for written, meant in LABEL_ORDERS.items():
        for read, named in LABEL_ORDERS.items():
            pair = tuple(meant.values()), tuple(named.values())
            becomes = {named[number]: meant[number] for number in meant.keys() & named.keys()}
            explains = all(becomes.get(label) == meaning for label, meaning in renaming.items())
            if pair not in told and pair[0] != pair[1] and explains:
                told.add(pair)
                yield f"written as {written} numbers them and read as {read} does"
