"""Does an explanation, read alone, lead to the label? EEA, EPC and FCR, after ERV's evaluator (Rhatanii/ERV).

A verifier reads only the explanation, with every word that names an expression blanked and the conclusion taken off,
and names an expression j. With p the model's own label and y the true one:

- **EEA** = P(j = y): the explanation leads to the truth,
- **EPC** = P(j = p): the explanation belongs to the model's own answer,
- **FCR** = P(p = y and j = y): both are right.

ERV's script prints the four cells of right and wrong and the share of j = p; the three names are given to them here as
the papers use them. What cannot be read is in no numerator and in every denominator.

The local verifier, `UnitVerifier`, is naive Bayes over the action units that an explanation states, and how strongly.
It sees no other word on purpose. A model of words learns how texts about a label are *phrased* and then finds the label
in any text that was written to fit it; the units are the evidence that a face can bear out or contradict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from expllm_jax.cot import UnparsableAnswer, band_of, split_parts
from expllm_jax.cot.label_words import namings
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.bootstrap import Interval, bootstrap, cluster_totals
from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.evaluate.predictions import said_units
from expllm_jax.evaluate.scores import ratio
from expllm_jax.evaluate.units import BAND_ORDER, CLEARLY_PRESENT
from expllm_jax.faces import EXPRESSIONS, FACS, PROTOTYPES, Annotation, Vocabulary

BLANK = "[…]"
_LEVELS = 3  # a unit is not stated, stated as weak, or stated as stronger (or without a word for it)
_STRONGER = frozenset(BAND_ORDER[BAND_ORDER.index(band_of(CLEARLY_PRESENT)) :])
_BY_PROTOTYPE = (0.8, 0.1)  # how often a label's explanation states a unit of its prototype, and any other


def explanation_of(text: str) -> str:
    """What a verifier may read: the text without its conclusion, its <answer> and the words that name an expression."""
    try:
        parts = split_parts(text)
        text = f"{parts.observations}\n\n{parts.interpretation}"
    except UnparsableAnswer:
        text = text.partition("<answer>")[0]
    pieces, end = [], 0
    for naming in namings(text, 0, len(text), EXPRESSIONS, loose=True):
        pieces += [text[end : naming.start], BLANK]
        end = naming.end
    return "".join([*pieces, text[end:]])


@dataclass(frozen=True, eq=False)
class UnitVerifier:
    """Names the expression that stated units speak for; every label is as likely beforehand."""

    name: str  # what it is, for the report
    labels: tuple[str, ...]
    vocabulary: Vocabulary
    log_LUK: np.ndarray  # float64: log P(level K of unit U | label L)

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides, 16 hex digits."""
        told = f"{self.labels}{self.vocabulary.name}".encode()
        return hashlib.sha256(told + np.ascontiguousarray(self.log_LUK).tobytes()).hexdigest()[:16]

    def named(self, explanation: str) -> str | None:
        """The expression that an explanation speaks for, the first in order of equal ones; None of an empty one."""
        if not explanation.strip():
            return None
        levels_U = _levels(said_units(explanation, self.vocabulary), self.vocabulary)
        score_L = self.log_LUK[:, np.arange(len(levels_U)), levels_U].sum(1)
        return self.labels[int(score_L.argmax())]


def learnt_verifier(
    annotations: Iterable[Annotation], labels: Sequence[str], vocabulary: Vocabulary = FACS
) -> UnitVerifier:
    """A verifier that learnt from texts and their labels: those a model was trained on, never those it is tested on.

    Raises:
      ExpllmError: a label has no text.
    """
    count_LUK = np.ones((len(labels), len(vocabulary.codes), _LEVELS))  # Laplace: nothing is impossible
    texts = dict.fromkeys(labels, 0)
    columns = np.arange(len(vocabulary.codes))
    for annotation in annotations:
        if annotation.cot is None or annotation.expression not in texts:
            continue
        texts[annotation.expression] += 1
        levels_U = _levels(said_units(explanation_of(annotation.cot), vocabulary), vocabulary)
        count_LUK[labels.index(annotation.expression), columns, levels_U] += 1
    without = [label for label, count in texts.items() if not count]
    if without:
        raise ExpllmError(
            f"no text of {without[0]} to learn a verifier from", "give the annotations that the model was trained on"
        )
    log_LUK = np.log(count_LUK / count_LUK.sum(2, keepdims=True))
    return UnitVerifier(
        f"naive Bayes over stated units, {sum(texts.values()):,} texts", tuple(labels), vocabulary, log_LUK
    )


def prototype_verifier(labels: Sequence[str]) -> UnitVerifier:
    """A verifier for want of texts to learn from: each label states the FACS units of its prototype, by the book."""
    likely, unlikely = _BY_PROTOTYPE
    stated_LU = np.array(
        [[likely if code in PROTOTYPES[label] else unlikely for code in FACS.codes] for label in labels]
    )
    share_LUK = np.stack([1 - stated_LU, stated_LU / 2, stated_LU / 2], axis=2)
    return UnitVerifier("prototypes of the expressions", tuple(labels), FACS, np.log(share_LUK))


def _levels(stated: Mapping[str, str | None], vocabulary: Vocabulary) -> np.ndarray:
    """int [U]: 0 not stated, 1 weak, 2 stronger."""
    return np.array(
        [
            0 if code not in stated else 2 if stated[code] is None or stated[code] in _STRONGER else 1
            for code in vocabulary.codes
        ]
    )


@dataclass(frozen=True)
class ExplanationScores:
    """EEA, EPC and FCR over all faces, with 95 % intervals over people."""

    verifier: str
    n: int
    eea: Interval
    epc: Interval
    fcr: Interval
    cells: Mapping[str, int]  # "both", "label", "explanation", "neither": which of the two is right
    unread: int  # explanations from which the verifier named nothing


def explanation_scores(
    faces: Sequence[EvaluatedFace], named: Sequence[str | None], verifier: str, *, seed: int = 0
) -> ExplanationScores:
    """The scores of faces whose explanations the verifier took for `named`.

    Args:
      faces: those with an explanation and those without.
      named: for each face what the verifier named; None: nothing.
      verifier: which one it was.
      seed: of the resampling.

    Raises:
      ExpllmError: there are no faces, or not as many as names.
    """
    if not faces or len(faces) != len(named):
        raise ExpllmError(f"{len(named)} readings for {len(faces)} faces", "let the verifier read every explanation")
    label_P = np.array([face.correct for face in faces])
    explanation_P = np.array([name == face.expression for face, name in zip(faces, named, strict=True)])
    agree_P = np.array([name is not None and name == face.predicted for face, name in zip(faces, named, strict=True)])
    counts_P4 = np.stack([explanation_P, agree_P, label_P & explanation_P, np.ones_like(label_P)], axis=1)
    totals_G4 = cluster_totals([face.identity for face in faces], counts_P4)
    eea, epc, fcr = (
        bootstrap(totals_G4, lambda totals, column=column: ratio(totals[..., column], totals[..., 3]), seed=seed)
        for column in range(3)
    )
    cells = {
        "both": int((label_P & explanation_P).sum()),
        "label": int((label_P & ~explanation_P).sum()),
        "explanation": int((~label_P & explanation_P).sum()),
        "neither": int((~label_P & ~explanation_P).sum()),
    }
    return ExplanationScores(verifier, len(faces), eea, epc, fcr, cells, sum(name is None for name in named))
