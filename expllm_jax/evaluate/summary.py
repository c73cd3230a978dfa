"""The numbers of a run: one flat dictionary, each headline number with its interval.

Headline keys (each with `_low` and `_high`, the 95 % interval, clustered by identity):

- `accuracy_<split>` for every split, so `accuracy_clean`, `accuracy_mild`, `accuracy_hard` on rendered faces;
- `macro_f1`, `unit_f1`, `unit_f1_label_only`, `unit_f1_gain` (the difference, paired), `added_gap`, `dropped_gap`, all
  on the main split (`mild` by default), where reciting the label's prototype no longer suffices;
- `truncated`: how many faces had an answer cut off for lack of room;
- `retried`: how many faces were asked about again because a first answer did not parse.
- `unparsable`: how many answers of all splits, label and reasoning alike, the strict parsers refuse. Its interval is
  Wilson's share of all answers, scaled to a count: a bootstrap of none would claim that there never will be any.

Everything else is under its own key: `n_<split>`, `identities_<split>`, the same metrics per split
(`macro_f1_clean`, …), the gaps within (expression, unit) as `added_gap_stratified_<split>`, per-class recall and F1
(`recall_mild_Fear`), and the settings the numbers depend on. Undefined numbers are null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from expllm_jax.cot import STATED_FROM
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import scores, units
from expllm_jax.evaluate.bootstrap import RESAMPLES, Interval, bootstrap, cluster_totals, clustered_wilson, wilson
from expllm_jax.evaluate.calibration import Calibration, calibrate
from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.evaluate.fairness import Fairness, attributes, fairness
from expllm_jax.evaluate.label_order import check_label_order
from expllm_jax.evaluate.label_scores import label_intervals
from expllm_jax.evaluate.metric_values import undefined_as_none, with_interval
from expllm_jax.evaluate.metrics_schema import check_metrics
from expllm_jax.evaluate.strata import STRATUM_KEYS, Stratum, score_strata
from expllm_jax.faces import BASIC_7, FACS, Vocabulary
from expllm_jax.files import write_whole

MAIN_SPLIT = "mild"
_HEADLINE = ("macro_f1", "unit_f1", "unit_f1_label_only", "unit_f1_gain", "added_gap", "dropped_gap")


@dataclass(frozen=True)
class SplitSummary:
    """One split's scores and intervals."""

    split: str
    n: int  # pictures
    identities: int
    labels: scores.Scores
    units: units.UnitScores
    unparsable_label: int
    unparsable_cot: int
    truncated: int  # faces of which an answer was cut off
    conclusion_accuracy: float
    conclusion_agreement: float
    intensities: units.IntensityScores
    strata: Sequence[Stratum]  # by the strongest true unit
    calibration: Calibration | None  # None where probabilities of at least two people are not known
    fairness: Sequence[Fairness]  # by attribute; none where no attribute of the people shown is known
    label_order_warning: str  # "" where nothing is suspicious
    prompt_tokens: float  # read by the model for a face, on average
    new_tokens: float  # generated for a face, on average
    intervals: Mapping[str, Interval]  # metric name without the split → interval


@dataclass(frozen=True)
class Metrics:
    """A run's numbers: `values` is what stands in metrics.json, `splits` what the report draws from."""

    values: Mapping[str, float | int | str | None]  # flat; None where undefined
    splits: Mapping[str, SplitSummary]
    main_split: str

    def interval(self, key: str) -> Interval:
        """The named number with its interval; nan where undefined. Raises KeyError for a key without an interval."""
        parts = [self.values[key + suffix] for suffix in ("", "_low", "_high")]
        return Interval(*(math.nan if part is None else float(part) for part in parts))

    def shown(self, key: str) -> str:
        """The named number for people, with its interval where it has one."""
        value, low, high = (self.values.get(key + suffix) for suffix in ("", "_low", "_high"))
        if value is None or isinstance(value, str):
            return "undefined" if value is None else value
        number = str(value) if isinstance(value, int) else f"{value:.3f}"
        return number if low is None or high is None else f"{number}  [{float(low):.3f}, {float(high):.3f}]"


def _unit_f1_gain(counts: np.ndarray) -> np.ndarray:
    """The model's micro-F1 minus the label-only oracle's; counts [..., 6], both on the same pictures."""
    return units.micro_f1(counts[..., :3]) - units.micro_f1(counts[..., 3:])


def _share(counts: np.ndarray) -> np.ndarray:
    """counts [..., (hits, trials)] → [...]"""
    return scores.ratio(counts[..., 0], counts[..., 1])


def _intervals(
    faces: Sequence[EvaluatedFace], classes: Sequence[str], seed: int, resamples: int, vocabulary: Vocabulary
) -> dict[str, Interval]:
    table = units.unit_table(faces, vocabulary)
    model_P3, oracle_P3 = units.detection_counts(table), units.detection_counts(table, label_only=True)
    plan: dict[str, tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]] = {
        "unit_f1": (model_P3, units.micro_f1),
        "unit_f1_label_only": (oracle_P3, units.micro_f1),
        "unit_f1_gain": (np.concatenate([model_P3, oracle_P3], axis=1), _unit_f1_gain),
        "hallucinated": (units.hallucination_counts(table), _share),
        "omitted": (units.omission_counts(table), _share),
        "added_gap": (units.added_counts(table), units.gap),
        "dropped_gap": (units.dropped_counts(table), units.gap),
        "added_gap_stratified": (units.stratified_counts(table, prototype=False), units.stratified_gap),
        "dropped_gap_stratified": (units.stratified_counts(table, prototype=True), units.stratified_gap),
    }
    asked = [face for face in faces if face.cot is not None]
    agreeing_P2 = np.array([[face.concluded is not None and face.concluded == face.predicted, 1] for face in asked])
    identities = [face.identity for face in faces]
    found = label_intervals(faces, classes, seed=seed, resamples=resamples) | {
        name: bootstrap(cluster_totals(identities, counts), statistic, resamples=resamples, seed=seed)
        for name, (counts, statistic) in plan.items()
    }
    if asked:
        totals_G2 = cluster_totals([face.identity for face in asked], agreeing_P2)
        found["conclusion_agreement"] = clustered_wilson(totals_G2[:, 0], totals_G2[:, 1])
    return found | {f"{name}_rate": rate for name, rate in scores.answer_rates(faces).items()}


def summarise_split(
    split: str,
    faces: Sequence[EvaluatedFace],
    *,
    classes: Sequence[str] = BASIC_7,
    seed: int = 0,
    resamples: int = RESAMPLES,
    vocabulary: Vocabulary = FACS,
    by: Sequence[str] | None = None,
) -> SplitSummary:
    """Scores and intervals of one split, and by group for the attributes in `by` (None: all that are known).

    Raises ExpllmError when the split is empty, a record is in it twice, or no face has an attribute of `by`.
    """
    if not faces:
        raise ExpllmError(f"the split {split!r} has no evaluated pictures", "evaluate it, or leave the split out")
    seen: set[str] = set()
    for face in faces:
        if face.record in seen:
            raise ExpllmError(f"record {face.record!r} is twice in the split {split!r}", "evaluate each record once")
        seen.add(face.record)
    weighed = {face.identity for face in faces if face.probabilities}
    return SplitSummary(
        split=split,
        n=len(faces),
        identities=len({face.identity for face in faces}),
        labels=scores.score(faces, classes),
        units=units.score_units(faces, vocabulary),
        unparsable_label=sum(face.unparsable_label for face in faces),
        unparsable_cot=sum(face.unparsable_cot for face in faces),
        truncated=sum(face.truncated for face in faces),
        prompt_tokens=float(np.mean([face.prompt_tokens for face in faces])),
        new_tokens=float(np.mean([face.new_tokens for face in faces])),
        conclusion_accuracy=scores.conclusion_accuracy(faces),
        conclusion_agreement=scores.conclusion_agreement(faces),
        intensities=units.score_intensities(faces, vocabulary),
        strata=score_strata(faces, classes, seed=seed, resamples=resamples, vocabulary=vocabulary),
        # The temperature of each half of the people is fitted on the other.
        calibration=calibrate(faces, classes, seed=seed) if len(weighed) > 1 else None,
        fairness=[
            fairness(faces, attribute, classes, seed=seed, resamples=resamples)
            for attribute in (attributes(faces) if by is None else by)
        ],
        label_order_warning=check_label_order(faces, classes).warning,
        intervals=_intervals(faces, classes, seed, resamples, vocabulary),
    )


def _extras(summary: SplitSummary) -> dict[str, float | int]:
    """A split's own keys beyond its accuracy."""
    name = summary.split
    values: dict[str, float | int] = {
        f"n_{name}": summary.n,
        f"identities_{name}": summary.identities,
        f"unparsable_label_{name}": summary.unparsable_label,
        f"unparsable_cot_{name}": summary.unparsable_cot,
        f"truncated_{name}": summary.truncated,
        f"prompt_tokens_{name}": summary.prompt_tokens,
        f"new_tokens_{name}": summary.new_tokens,
        f"conclusion_accuracy_{name}": summary.conclusion_accuracy,
    }
    for metric, interval in summary.intervals.items():
        if metric != "accuracy":
            values |= with_interval(f"{metric}_{name}", interval)
    for metric in ("precision", "recall"):
        values[f"unit_{metric}_{name}"] = getattr(summary.units, metric)
    for metric in ("hallucinated_per_picture", "stated_unknown", "band_exact", "band_within_one"):
        values[f"{metric}_{name}"] = getattr(summary.units, metric)
    values |= {f"intensity_mae_{name}": summary.intensities.mae, f"intensity_icc_{name}": summary.intensities.icc}
    for stratum in summary.strata:
        values |= with_interval(f"accuracy_{name}_{STRATUM_KEYS[stratum.name]}", stratum.labels["accuracy"])
        values[f"n_{name}_{STRATUM_KEYS[stratum.name]}"] = stratum.n
    if summary.calibration is not None:
        raw, mended = summary.calibration.raw, summary.calibration.mended
        values |= {
            f"ece_{name}": raw.ece,
            f"ece_tempered_{name}": mended.ece,
            f"brier_{name}": raw.brier,
            f"log_loss_{name}": raw.log_loss,
            f"temperature_{name}": float(np.mean(summary.calibration.temperatures)),
            f"area_under_risk_{name}": raw.area_under_risk,
        }
    for found in summary.fairness:
        for gap in found.gaps:
            key = f"group_gap_{gap.metric}_{found.attribute}_{name}"
            values |= {key: gap.value, f"{key}_p": gap.p}
    for row in summary.labels.per_class:
        recall = Interval(row.recall, row.recall_low, row.recall_high)
        values |= with_interval(f"recall_{name}_{row.name}", recall) | {f"f1_{name}_{row.name}": row.f1}
        values[f"n_{name}_{row.name}"] = row.n
    return values


def summarise(
    faces_by_split: Mapping[str, Sequence[EvaluatedFace]],
    *,
    classes: Sequence[str] = BASIC_7,
    main_split: str = MAIN_SPLIT,
    seed: int = 0,
    resamples: int = RESAMPLES,
    vocabulary: Vocabulary = FACS,
    by: Sequence[str] | None = None,
) -> Metrics:
    """All numbers of a run; the module's docstring lists the keys.

    `main_split` carries the headline macro-F1, unit scores and gaps. Raises ExpllmError when it is missing, a split is
    empty, or a face does not fit `classes`.
    """
    if main_split not in faces_by_split:
        raise ExpllmError(
            f"the main split {main_split!r} was not evaluated (only {', '.join(faces_by_split) or 'nothing'})",
            "evaluate it, or name another main split",
        )
    splits = {
        name: summarise_split(
            name, faces, classes=classes, seed=seed, resamples=resamples, vocabulary=vocabulary, by=by
        )
        for name, faces in faces_by_split.items()
    }
    values: dict[str, float | int | str] = {}
    for name, summary in splits.items():
        values |= with_interval(f"accuracy_{name}", summary.intervals["accuracy"])
    for metric in _HEADLINE:
        values |= with_interval(metric, splits[main_split].intervals[metric])
    answers = sum(face.asked for faces in faces_by_split.values() for face in faces)
    unparsable = sum(summary.unparsable_label + summary.unparsable_cot for summary in splits.values())
    low, high = (answers * end for end in wilson(unparsable, answers))
    values |= {"unparsable": unparsable, "unparsable_low": low, "unparsable_high": high, "answers": answers}
    values["truncated"] = sum(summary.truncated for summary in splits.values())
    values["retried"] = sum(face.tries > 1 for faces in faces_by_split.values() for face in faces)
    for summary in splits.values():
        values |= _extras(summary)
    values |= {
        "main_split": main_split,
        "chance": 1.0 / len(classes),
        "bootstrap_resamples": resamples,
        "bootstrap_seed": seed,
        "units_present_from": STATED_FROM,
        "gaps_present_from": units.CLEARLY_PRESENT,
    }
    return Metrics(undefined_as_none(values), splits, main_split)


def write_metrics(path: str | Path, metrics: Metrics) -> Path:
    """Writes the flat dictionary as strict JSON (null where undefined), all or nothing.

    Raises ExpllmError for numbers that metrics_schema.json does not allow.
    """
    check_metrics(metrics.values)
    return write_whole(path, json.dumps(metrics.values, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
