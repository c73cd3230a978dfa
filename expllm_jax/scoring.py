"""`expllm score`: any model's predictions against annotations, read as some protocol reads them.

Composes the readers (`evaluate.predictions`) and the scores, and leaves `answers.jsonl` and `metrics.json` behind, so
that `expllm compare` can hold them against another model or a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from expllm_jax.cot import PROTOCOLS, UnparsableAnswer, read_label
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import EvaluatedFace, Interval, Scores, score, score_units, wilson
from expllm_jax.evaluate.answer_files import answer_line
from expllm_jax.evaluate.explanations import (
    ExplanationScores,
    UnitVerifier,
    explanation_of,
    explanation_scores,
    learnt_verifier,
    prototype_verifier,
)
from expllm_jax.evaluate.label_order import check_label_order
from expllm_jax.evaluate.label_scores import label_intervals
from expllm_jax.evaluate.metric_values import undefined_as_none, with_interval
from expllm_jax.evaluate.predictions import Predictions, Truth, Unfit, read_predictions, read_truth
from expllm_jax.evaluate.strata import STRATUM_KEYS, score_strata
from expllm_jax.evaluate.text_overlap import Told, corrected_rege, published_rege, rouge_l
from expllm_jax.evaluate.text_units import mentioned_units, unit_f1
from expllm_jax.faces import FACS, Vocabulary, read_annotations
from expllm_jax.faces.unit_sets import FABA_12
from expllm_jax.files import write_whole

ANSWERS, METRICS = "answers.jsonl", "metrics.json"

Value = float | int | str | None


@dataclass(frozen=True)
class Scored:
    """The scores of a file of predictions."""

    values: dict[str, Value]  # flat, as metrics.json has them; None where undefined
    labels: Scores
    unfit: Unfit
    faces: list[EvaluatedFace]
    truth: Truth


def score_file(
    predictions: str | Path,
    truth_file: str | Path,
    *,
    protocol: str = "strict",
    corrected: bool = False,
    split: str | None = None,
    vocabulary: Vocabulary = FACS,
    verifier_texts: str | Path | None = None,
    seed: int = 0,
) -> Scored:
    """All scores of a file of predictions.

    Args:
      predictions: JSON Lines, see `evaluate.predictions`.
      truth_file: annotations, with units and reference texts as far as they are known.
      protocol: how answers are read: a name in `cot.PROTOCOLS`.
      corrected: reads without the protocol's faults.
      split: scores only this one.
      vocabulary: of units in truth and texts.
      verifier_texts: annotations with the texts the model learnt from, for the local verifier; None: prototypes.
      seed: of the resampling.

    Raises:
      ExpllmError: a file cannot be read, or the truth has nothing to score against.
    """
    truth = read_truth(truth_file, split=split)
    told = partial(read_predictions, predictions, truth, protocol=protocol, vocabulary=vocabulary)
    read = {False: told(corrected=False), True: told(corrected=True)}
    chosen = read[corrected]
    faces = chosen.faces
    labels = score(faces, truth.allowed)
    values: dict[str, Value] = {
        "protocol": protocol,
        "reader": PROTOCOLS[protocol].source,
        "reading": "corrected" if corrected else "published",
        "truth": str(truth_file),
        "predictions": str(predictions),
        "n": labels.n,
        "identities": len({face.identity for face in faces}),
        "classes": len(truth.allowed),
        "truth_without_label": len(truth.unlabelled),
        "bootstrap_seed": seed,
        **chosen.unfit.counts(),
        **{
            key: value
            for name, found in label_intervals(faces, truth.allowed, seed=seed).items()
            for key, value in with_interval(name, found).items()
        },
        **_usable(faces),
        **_readings(read, truth.allowed),
    }
    if any(face.units for face in faces):
        values |= _strata(faces, truth.allowed, vocabulary, seed)
    values["label_order_warning"] = check_label_order(faces, truth.allowed).warning
    for row in labels.per_class:
        low, high = wilson(int(round(row.recall * row.n)) if row.n else 0, row.n)
        values |= {f"recall_{row.name}": row.recall, f"recall_{row.name}_low": low, f"recall_{row.name}_high": high}
        values |= {f"f1_{row.name}": row.f1, f"n_{row.name}": row.n}
    if any(face.cot is not None for face in faces):
        if any(face.units for face in faces):
            values |= _units(faces, vocabulary)
        values |= _overlap(faces, read[True].faces, truth)
        verifier = _verifier(verifier_texts, truth, vocabulary)
        if verifier is not None:
            values |= explanation_values(verified(faces, verifier, seed=seed))
            values["verifier_fingerprint"] = verifier.fingerprint
            values["verifier_on_references"] = _on_references(truth, verifier)
    return Scored(undefined_as_none(values), labels, chosen.unfit, faces, truth)


def write_scored(scored: Scored, folder: str | Path) -> Path:
    """Leaves answers.jsonl and metrics.json in a folder; both replace what was there."""
    folder = Path(folder)
    lines = "".join(answer_line(face, folder) + "\n" for face in scored.faces)
    write_whole(folder / ANSWERS, lines)
    write_whole(folder / METRICS, json.dumps(scored.values, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    return folder


def verified(faces: Sequence[EvaluatedFace], verifier: UnitVerifier, *, seed: int = 0) -> ExplanationScores:
    """EEA, EPC and FCR by the local verifier; a face without a text has no explanation."""
    named = [None if face.cot is None else verifier.named(explanation_of(face.cot)) for face in faces]
    return explanation_scores(faces, named, verifier.name, seed=seed)


def explanation_values(found: ExplanationScores) -> dict[str, Value]:
    """The scores of explanations under the keys of metrics.json."""
    values: dict[str, Value] = {"verifier": found.verifier, "explanations_unread": found.unread}
    for name in ("eea", "epc", "fcr"):
        values |= with_interval(name, getattr(found, name))
    return values | {f"right_{cell}": count for cell, count in found.cells.items()}


def _strata(
    faces: Sequence[EvaluatedFace], classes: Sequence[str], vocabulary: Vocabulary, seed: int
) -> dict[str, Value]:
    """Accuracy, UAR, macro-F1 and unit F1 by the face's strongest unit: keys end in weak, middle, strong or unknown."""
    values: dict[str, Value] = {}
    for stratum in score_strata(faces, classes, seed=seed, vocabulary=vocabulary):
        name = STRATUM_KEYS[stratum.name]
        values[f"n_{name}"] = stratum.n
        for metric, interval in stratum.labels.items():
            values |= with_interval(f"{metric}_{name}", interval)
        if stratum.units is not None:
            values[f"unit_f1_{name}"] = stratum.units.f1
    return values


def _usable(faces: Sequence[EvaluatedFace]) -> dict[str, Value]:
    """How many faces have no label that could be read, and how many answers were cut off."""
    values: dict[str, Value] = {}
    for name, count in (
        ("unparsable", sum(face.predicted is None for face in faces)),
        ("unparsable_cot", sum(face.unparsable_cot for face in faces)),
        ("truncated", sum(face.truncated for face in faces)),
    ):
        low, high = wilson(count, len(faces))
        share = Interval(count / len(faces), low, high)
        values |= {name: count, **with_interval(f"{name}_share", share)}
    return values


def _readings(read: dict[bool, Predictions], classes: Sequence[str]) -> dict[str, Value]:
    """What the protocol's faults come to: accuracy by either reading, and how many answers they read differently."""
    published, corrected = read[False].faces, read[True].faces
    return {
        "accuracy_as_published": score(published, classes).accuracy,
        "accuracy_corrected": score(corrected, classes).accuracy,
        "read_otherwise": sum(a.predicted != b.predicted for a, b in zip(published, corrected, strict=True)),
    }


def _units(faces: Sequence[EvaluatedFace], vocabulary: Vocabulary) -> dict[str, Value]:
    """Unit scores of the texts: ours, with denials understood, and as published evaluators count."""
    ours = score_units(faces, vocabulary)
    names = ("f1", "precision", "recall")
    values: dict[str, Value] = {f"unit_{name}": getattr(ours, name) for name in names}
    values |= {name: getattr(ours, name) for name in ("hallucinated", "omitted", "band_exact", "band_within_one")}
    if vocabulary.name == FACS.name:
        truth = [face.units for face in faces]
        mentioned = [mentioned_units(face.cot or "") for face in faces]
        values |= {
            # What belongs to a label is known in FACS units alone.
            **{f"unit_{name}": getattr(ours, name) for name in ("f1_label_only", "added_gap", "dropped_gap")},
            "unit_f1_codes_faba": unit_f1(mentioned, truth, FABA_12, over="faba").mean,
            "unit_f1_codes_facial_r1": unit_f1(mentioned, truth, vocabulary.codes, over="facial-r1").mean,
            "unit_f1_mean_faba_12": unit_f1([face.credited for face in faces], truth, FABA_12).mean,
        }
    return values


def _overlap(
    faces: Sequence[EvaluatedFace], corrected_faces: Sequence[EvaluatedFace], truth: Truth
) -> dict[str, Value]:
    """ROUGE-L and both forms of REGE over the faces that have a reference text.

    The published form reads labels as FABA-Bench does, whatever the protocol; the corrected one as the protocol means.
    """
    told = [
        Told(face.expression, reference, face.cot or "", _faba_label(face.cot or "", truth.allowed), meant.predicted)
        for face, meant in zip(faces, corrected_faces, strict=True)
        if (reference := truth.faces[face.record].cot) is not None
    ]
    if not told:
        return {}
    published, corrected = published_rege(told), corrected_rege(told)
    return {
        "references": len(told),
        "rouge_l": corrected.generation / 100,
        "rouge_l_stemmed": sum(rouge_l(face.reference, face.text, stemmed=True) for face in told) / len(told),
        "rouge_l_recited": None if corrected.recited is None else corrected.recited / 100,
        "rege_published": published.total,
        "rege_published_recognition": published.recognition,
        "rege_published_generation": published.generation,
        "rege_published_left_out": published.left_out,
        "rege_corrected": corrected.total,
        "rege_corrected_recognition": corrected.recognition,
        "rege_corrected_generation": corrected.generation,
    }


def _faba_label(text: str, allowed: Sequence[str]) -> str | None:
    try:
        return read_label(text, "faba", allowed)
    except UnparsableAnswer:
        return None


def _verifier(texts: str | Path | None, truth: Truth, vocabulary: Vocabulary) -> UnitVerifier | None:
    """By prototypes, or learnt from texts of all labels that are asked for; prototypes speak of FACS units alone."""
    if texts is None:
        return prototype_verifier(truth.allowed) if vocabulary.name == FACS.name else None
    taught = read_annotations(texts)
    asked = {face.expression for face in truth.faces.values()}
    told = {annotation.expression for annotation in taught if annotation.cot is not None}
    labels = [label for label in truth.allowed if label in asked | told]
    try:
        return learnt_verifier(taught, labels, vocabulary)
    except ExpllmError as error:
        raise ExpllmError(f"{texts}: {error.problem}", error.remedy) from error


def _on_references(truth: Truth, verifier: UnitVerifier) -> float:
    """How often the verifier is right about the annotations' own texts: what no model can be expected to pass."""
    right = [
        verifier.named(explanation_of(face.cot)) == face.expression
        for face in truth.faces.values()
        if face.cot is not None
    ]
    return sum(right) / len(right) if right else math.nan
