"""Does the model know when it is right? Probabilities of the labels against the truth, and what abstaining would buy.

The probabilities are the labels' shares of the likelihood (`EvaluatedFace.probabilities`); what they favour is the
label judged here, and its probability the confidence. A temperature mends over- and under-confidence without changing
any label. It is fitted on one half of the people and used for the other, both ways round, so that no face is judged
with a temperature that it helped to choose.

Shape letters: P pictures, C classes, B bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from scipy.optimize import minimize_scalar

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.bootstrap import Interval, wilson
from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.faces import BASIC_7

BINS = 15
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
_LEAST = 1e-12  # below this, a probability of the true label costs no more: one face must not decide a score alone
_TEMPERATURES = (0.05, 20.0)
_SIMULATIONS = 400


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Probabilities and truth of the faces that have probabilities."""

    classes: tuple[str, ...]
    probability_PC: np.ndarray  # float64, rows sum to 1
    truth_P: np.ndarray  # int, index into classes
    identities: tuple[str, ...]

    @property
    def confidence_P(self) -> np.ndarray:
        """Probability of the favoured label."""
        return self.probability_PC.max(1)

    @property
    def right_P(self) -> np.ndarray:
        """Whether the favoured label is the true one; of equal probabilities, the earlier class is favoured."""
        return self.probability_PC.argmax(1) == self.truth_P


@dataclass(frozen=True)
class ReliabilityBin:
    """The faces whose confidence lies in one range."""

    low: float
    high: float
    n: int
    confidence: float  # mean; nan without faces
    accuracy: Interval  # share of right labels, Wilson's interval


@dataclass(frozen=True)
class Operating:
    """What is left when the model abstains where it is least sure."""

    coverage: float  # share of the faces that still get an answer
    threshold: float  # lowest confidence that is answered
    n: int
    accuracy: Interval  # among the answered, Wilson's interval


@dataclass(frozen=True)
class CalibrationScores:
    """How far probabilities can be taken at their word; fractions, lower is better but for `accuracy`."""

    n: int
    accuracy: float  # of the favoured labels
    confidence: float  # mean; above the accuracy: over-confident
    log_loss: float  # mean of −log p(true label), natural logarithm
    brier: float  # mean of Σ (p − truth)² over the classes, 0 to 2
    ece: float  # expected calibration error over `BINS` equal ranges
    ece_if_calibrated: float  # what it would be on average if all probabilities were right: its bias at this n
    ece_p: float  # share of such perfectly calibrated studies with at least this error: small means miscalibrated
    area_under_risk: float  # mean error among the surest, over all coverages
    bins: tuple[ReliabilityBin, ...]
    abstaining: tuple[Operating, ...]


@dataclass(frozen=True)
class Calibration:
    """Probabilities as given and after the temperature, on the same faces."""

    raw: CalibrationScores
    mended: CalibrationScores
    temperatures: tuple[float, float]  # fitted on each half of the people, and used for the other
    missing: int  # faces without probabilities; in none of the numbers
    disagreeing: int  # faces whose probabilities favour another label than the answer named


def forecasts(faces: Sequence[EvaluatedFace], classes: Sequence[str] = BASIC_7) -> Forecasts:
    """The faces with probabilities, as arrays.

    Raises ExpllmError when no face has any, or a truth or a label with probability is not one of `classes`.
    """
    asked = [face for face in faces if face.probabilities]
    if not asked:
        raise ExpllmError(
            "no answer has probabilities of its labels", "evaluate with the likelihood of the labels asked for"
        )
    index = {name: place for place, name in enumerate(classes)}
    probability_PC = np.zeros((len(asked), len(index)))
    for row, face in enumerate(asked):
        for name in (face.expression, *face.probabilities):
            if name not in index:
                raise ExpllmError(
                    f"record {face.record!r}: the expression {name!r} is not one of {', '.join(classes)}",
                    "evaluate with the class list the labels were made for",
                )
        for name, share in face.probabilities.items():
            probability_PC[row, index[name]] = share
    probability_PC /= probability_PC.sum(1, keepdims=True)
    truth_P = np.array([index[face.expression] for face in asked])
    return Forecasts(tuple(classes), probability_PC, truth_P, tuple(face.identity for face in asked))


def tempered(probability_PC: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """p^(1/T), normalised: T > 1 makes less sure, T < 1 surer. `temperature` is one number or [P, 1]."""
    scaled = np.log(np.maximum(probability_PC, _LEAST)) / temperature
    scaled -= scaled.max(1, keepdims=True)
    powers = np.exp(scaled)
    return powers / powers.sum(1, keepdims=True)


def fit_temperature(probability_PC: np.ndarray, truth_P: np.ndarray) -> float:
    """The temperature with the least log loss, between 0.05 and 20. Source: Guo et al. 2017, section 4.2."""

    def loss(log_temperature: float) -> float:
        return log_loss(tempered(probability_PC, math.exp(log_temperature)), truth_P)

    low, high = map(math.log, _TEMPERATURES)
    return math.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)


def log_loss(probability_PC: np.ndarray, truth_P: np.ndarray) -> float:
    """Mean of −log p(true label); probabilities below 1e-12 count as that."""
    return float(-np.log(np.maximum(probability_PC[np.arange(len(truth_P)), truth_P], _LEAST)).mean())


def brier(probability_PC: np.ndarray, truth_P: np.ndarray) -> float:
    """Mean over pictures of the squared distance to the truth, summed over classes: 0 to 2. Source: Brier 1950."""
    off_PC = probability_PC - (truth_P[:, None] == np.arange(probability_PC.shape[1]))
    return float(np.square(off_PC).sum(1).mean())


def reliability(confidence_P: np.ndarray, right_P: np.ndarray, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Accuracy by confidence, in ranges of equal width; a range has its upper end, the first also its lower one."""
    bin_P = _bin_of(confidence_P, bins)
    found = []
    for place in range(bins):
        inside = bin_P == place
        n, hits = int(inside.sum()), int(right_P[inside].sum())
        accuracy = Interval(hits / n if n else math.nan, *wilson(hits, n))
        mean = float(confidence_P[inside].mean()) if n else math.nan
        found.append(ReliabilityBin(place / bins, (place + 1) / bins, n, mean, accuracy))
    return tuple(found)


def expected_calibration_error(confidence_P: np.ndarray, right_P: np.ndarray, bins: int = BINS) -> float:
    """ECE: |accuracy − confidence| of each range, averaged over faces. Source: Naeini et al. 2015; Guo et al. 2017.

    Chance alone makes it larger than 0: compare it with `ece_if_calibrated`.
    """
    bin_P = _bin_of(confidence_P, bins)
    off_B = np.bincount(bin_P, weights=right_P - confidence_P, minlength=bins)
    return float(np.abs(off_B).sum() / len(confidence_P))


def risk_by_coverage(confidence_P: np.ndarray, right_P: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(coverage, error among the covered, lowest confidence covered) at each threshold, the surest faces first.

    Faces of equal confidence are covered together: no threshold can part them.
    """
    order = np.argsort(-confidence_P, kind="stable")
    confidence, wrong = confidence_P[order], ~right_P[order].astype(bool)
    last = np.flatnonzero(np.append(confidence[1:] != confidence[:-1], True))
    covered = last + 1
    return covered / len(confidence), np.cumsum(wrong)[last] / covered, confidence[last]


def abstaining(
    confidence_P: np.ndarray, right_P: np.ndarray, coverages: Sequence[float] = COVERAGES
) -> tuple[Operating, ...]:
    """For each wanted coverage, the highest threshold that covers at least so many, and the accuracy there."""
    coverage, error, threshold = risk_by_coverage(confidence_P, right_P)
    found = []
    for wanted in coverages:
        place = int(np.searchsorted(coverage, wanted - 1e-12))
        n = round(float(coverage[place]) * len(confidence_P))
        hits = n - round(float(error[place]) * n)
        found.append(
            Operating(float(coverage[place]), float(threshold[place]), n, Interval(hits / n, *wilson(hits, n)))
        )
    return tuple(found)


def calibration_scores(probability_PC: np.ndarray, truth_P: np.ndarray, *, seed: int = 0) -> CalibrationScores:
    """All numbers of one set of probabilities, at least one picture."""
    confidence_P, right_P = probability_PC.max(1), probability_PC.argmax(1) == truth_P
    ece = expected_calibration_error(confidence_P, right_P)
    chance = _chance_errors(confidence_P, seed)
    coverage, error, _ = risk_by_coverage(confidence_P, right_P)
    return CalibrationScores(
        n=len(truth_P),
        accuracy=float(right_P.mean()),
        confidence=float(confidence_P.mean()),
        log_loss=log_loss(probability_PC, truth_P),
        brier=brier(probability_PC, truth_P),
        ece=ece,
        ece_if_calibrated=float(chance.mean()),
        ece_p=float((1 + (chance >= ece - 1e-12).sum()) / (1 + len(chance))),
        area_under_risk=float(np.diff(coverage, prepend=0.0) @ error),
        bins=reliability(confidence_P, right_P),
        abstaining=abstaining(confidence_P, right_P),
    )


def calibrate(faces: Sequence[EvaluatedFace], classes: Sequence[str] = BASIC_7, *, seed: int = 0) -> Calibration:
    """Probabilities as given, and after a temperature fitted on other people.

    Raises ExpllmError when no face has probabilities, they name other classes, or all show one person: then nobody
    else is there to fit the temperature on.
    """
    known = forecasts(faces, classes)
    half_P = _halves(known.identities)
    if half_P.all() or not half_P.any():
        raise ExpllmError(
            f"all {len(half_P)} faces with probabilities show {known.identities[0]!r}",
            "a temperature is fitted on other people than it is used for: evaluate at least two",
        )
    of_half = [fit_temperature(known.probability_PC[half_P == half], known.truth_P[half_P == half]) for half in (0, 1)]
    temperature_P = np.where(half_P, of_half[0], of_half[1])
    mended_PC = tempered(known.probability_PC, temperature_P[:, None])
    asked = [face for face in faces if face.probabilities]
    favoured = [known.classes[place] for place in known.probability_PC.argmax(1)]
    return Calibration(
        raw=calibration_scores(known.probability_PC, known.truth_P, seed=seed),
        mended=calibration_scores(mended_PC, known.truth_P, seed=seed),
        temperatures=(of_half[0], of_half[1]),
        missing=len(faces) - len(asked),
        disagreeing=sum(face.predicted != name for face, name in zip(asked, favoured, strict=True)),
    )


def _halves(identities: Sequence[str]) -> np.ndarray:
    """Every other person, in the order of their names' hashes: the same halves on every machine and in any order."""
    people = sorted(set(identities), key=lambda name: sha256(name.encode()).digest())
    half = {name: place % 2 for place, name in enumerate(people)}
    return np.array([half[name] for name in identities])


def _bin_of(confidence_P: np.ndarray, bins: int) -> np.ndarray:
    return np.clip(np.ceil(confidence_P * bins).astype(int) - 1, 0, bins - 1)


def _chance_errors(confidence_P: np.ndarray, seed: int) -> np.ndarray:
    """Calibration errors of studies in which every face is right exactly as often as its confidence says."""
    rng = np.random.default_rng(seed)
    return np.array(
        [
            expected_calibration_error(confidence_P, rng.random(len(confidence_P)) < confidence_P)
            for _ in range(_SIMULATIONS)
        ]
    )
