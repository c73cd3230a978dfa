"""How often the label is right: accuracy, macro-F1, UAR, per class, confusion matrix.

An answer that cannot be parsed has its own column of the confusion matrix: it is wrong for accuracy and a miss for the
true class's recall, and no denominator ever shrinks because of it.

Shape letters: P pictures, C classes; a confusion matrix is [C true, C+1 predicted], the last column unparsable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.bootstrap import Interval, cluster_totals, clustered_wilson
from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.faces import BASIC_7


@dataclass(frozen=True)
class ClassScore:
    """One class: precision, recall and F1 as fractions (nan where undefined) and its number of true pictures."""

    name: str
    precision: float
    recall: float
    f1: float
    n: int


@dataclass(frozen=True, eq=False)
class Scores:
    """Label scores of one set of pictures; fractions, nan where undefined."""

    classes: tuple[str, ...]
    confusion: np.ndarray  # int64 [C, C+1], rows true, last column unparsable
    accuracy: float
    macro_f1: float
    uar: float  # unweighted average recall
    per_class: tuple[ClassScore, ...]

    @property
    def n(self) -> int:
        """Number of pictures, parsable or not."""
        return int(self.confusion.sum())

    @property
    def unparsable(self) -> int:
        """Label answers that could not be parsed."""
        return int(self.confusion[:, -1].sum())

    def commonest_confusion(self) -> tuple[str, str, int] | None:
        """(true, predicted, count) of the largest wrong cell, "unparsable" included; None when nothing is wrong."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        if not wrong.any():
            return None
        row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
        return self.classes[row], (*self.classes, "unparsable")[column], int(wrong[row, column])


def confusion_per_picture(
    truth: Sequence[str], predicted: Sequence[str | None], classes: Sequence[str] = BASIC_7
) -> np.ndarray:
    """One-hot confusion matrices, uint8 [P, C, C+1]: summing over any set of pictures gives that set's matrix.

    Raises ExpllmError for an expression that is not among `classes`: a class the run does not know is a mistake in
    the data or in the class list, and dropping it would shrink the denominator.
    """
    index = {name: position for position, name in enumerate(classes)}
    for role, names in (("true", truth), ("predicted", predicted)):
        for position, name in enumerate(names):
            if name not in index and not (name is None and role == "predicted"):
                raise ExpllmError(
                    f"picture {position}: {role} expression {name!r} is not one of {', '.join(classes)}",
                    "evaluate with the class list the labels were made for",
                )
    rows = [index[name] for name in truth]
    columns = [len(index) if name is None else index[name] for name in predicted]
    if len(rows) != len(columns):
        raise ExpllmError(f"{len(rows)} true labels but {len(columns)} predictions", "score one prediction per picture")
    confusion_PCX = np.zeros((len(rows), len(index), len(index) + 1), np.uint8)
    confusion_PCX[np.arange(len(rows)), rows, columns] = 1
    return confusion_PCX


def ratio(top: npt.ArrayLike, bottom: npt.ArrayLike) -> np.ndarray:
    """top / bottom, nan where bottom is 0."""
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    return np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, np.nan), where=bottom != 0)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the entries that are not nan; nan when there is none."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1))


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of right answers among all pictures. confusion [..., C, C+1] → [...]."""
    return ratio(np.einsum("...cc->...", confusion[..., :-1]), confusion.sum((-2, -1)))


def recalls(confusion: np.ndarray) -> np.ndarray:
    """Per class, right answers among its true pictures. [..., C, C+1] → [..., C], nan for a class without pictures."""
    return ratio(np.einsum("...cc->...c", confusion[..., :-1]), confusion.sum(-1))


def precisions(confusion: np.ndarray) -> np.ndarray:
    """Per class, right answers among those predicted so. [..., C, C+1] → [..., C], nan for a class never predicted."""
    return ratio(np.einsum("...cc->...c", confusion[..., :-1]), confusion[..., :-1].sum(-2))


def f1s(confusion: np.ndarray) -> np.ndarray:
    """Per class F1 = 2·TP / (true + predicted). [..., C, C+1] → [..., C], nan where neither true nor predicted."""
    hits = np.einsum("...cc->...c", confusion[..., :-1])
    return ratio(2.0 * hits, confusion.sum(-1) + confusion[..., :-1].sum(-2))


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur as truth or prediction (as scikit-learn's default). [..., C, C+1] → [...]."""
    return _mean_of_defined(f1s(confusion))


def unweighted_average_recall(confusion: np.ndarray) -> np.ndarray:
    """UAR: mean recall over the classes that have pictures. [..., C, C+1] → [...]."""
    return _mean_of_defined(recalls(confusion))


def score_confusion(confusion: np.ndarray, classes: Sequence[str] = BASIC_7) -> Scores:
    """All label scores from one confusion matrix [C, C+1]."""
    confusion = np.asarray(confusion, np.int64)
    columns = zip(classes, precisions(confusion), recalls(confusion), f1s(confusion), confusion.sum(-1), strict=True)
    return Scores(
        classes=tuple(classes),
        confusion=confusion,
        accuracy=float(accuracy(confusion)),
        macro_f1=float(macro_f1(confusion)),
        uar=float(unweighted_average_recall(confusion)),
        per_class=tuple(ClassScore(name, float(p), float(r), float(f), int(n)) for name, p, r, f, n in columns),
    )


def score(faces: Sequence[EvaluatedFace], classes: Sequence[str] = BASIC_7) -> Scores:
    """Label scores of evaluated faces; unparsable answers count as wrong."""
    confusion_PCX = confusion_per_picture(
        [face.expression for face in faces], [face.predicted for face in faces], classes
    )
    return score_confusion(confusion_PCX.sum(0, dtype=np.int64), classes)


def conclusion_accuracy(faces: Sequence[EvaluatedFace]) -> float:
    """Share of all pictures whose reasoning concludes the true expression; unparsable reasoning counts as wrong."""
    return sum(face.concluded == face.expression for face in faces) / len(faces)


def conclusion_agreement(faces: Sequence[EvaluatedFace]) -> float:
    """Share of all pictures whose reasoning and label answer name the same expression; unparsable counts against."""
    return sum(face.concluded is not None and face.concluded == face.predicted for face in faces) / len(faces)


def answer_rates(faces: Sequence[EvaluatedFace]) -> dict[str, Interval]:
    """How often answers were unusable: `unparsable_label`, `unparsable_cot` (of the faces asked for it), `truncated`.

    Shares with Wilson's 95 % interval, clustered by identity; nan for what no face was asked for.
    """
    asked = {
        "unparsable_label": [(face, face.unparsable_label) for face in faces if face.label_text is not None],
        "unparsable_cot": [(face, face.unparsable_cot) for face in faces if face.cot is not None],
        "truncated": [(face, face.truncated) for face in faces],
    }
    rates = {}
    for name, found in asked.items():
        if found:
            totals_G2 = cluster_totals([face.identity for face, _ in found], np.array([[hit, 1] for _, hit in found]))
            rates[name] = clustered_wilson(totals_G2[:, 0], totals_G2[:, 1])
        else:
            rates[name] = Interval(math.nan, math.nan, math.nan)
    return rates
