"""Runs side by side on the pictures that all of them answered, and whether their differences are more than luck.

Only pictures that every run answered are compared, and how many that leaves out is told for each run: a run must not
win by having been asked about easier faces. All pairs of runs are tested, and their p-values corrected for it.

Shape letters: P pictures, G identities, K counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import scores, units
from expllm_jax.evaluate.answer_files import by_split, read_answers
from expllm_jax.evaluate.bootstrap import RESAMPLES, Interval, bootstrap, cluster_totals
from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.evaluate.label_scores import Statistic, label_statistics
from expllm_jax.evaluate.significance import DEALS, McNemar, holm, mcnemar, paired_difference, swap_test
from expllm_jax.faces import BASIC_7, EXPRESSIONS, VOCABULARIES, Vocabulary

ANSWERS = "answers.jsonl"

METRICS: Mapping[str, str] = {
    "accuracy": "Accuracy (WAR)",
    "uar": "UAR",
    "macro_f1": "Macro-F1",
    "unit_f1": "Unit F1",
    "hallucinated": "Stated units that are absent",
    "agreement": "Text concludes the answer",
}
"""What is compared → what it is called. All but `hallucinated` are better when higher."""


@dataclass(frozen=True)
class Candidate:
    """One run's answers."""

    name: str
    faces: Sequence[EvaluatedFace]


@dataclass(frozen=True)
class RunScores:
    """One run on the common pictures."""

    name: str
    answered: int  # pictures of the split that it answered
    left_out: int  # of them not answered by every other run
    metrics: Mapping[str, Interval]  # nan for what it was not asked, or what is not known of the faces
    rates: Mapping[str, Interval]  # unparsable_label, unparsable_cot, truncated
    tokens: float  # generated per face; nan where not known


@dataclass(frozen=True)
class Difference:
    """A metric of the second run of a pair minus that of the first."""

    interval: Interval
    p: float  # swap test: the two runs' answers about each person exchanged at random
    p_holm: float  # corrected for the number of pairs


@dataclass(frozen=True)
class Pair:
    """Two runs against each other."""

    first: str
    second: str
    right: McNemar  # of single pictures: too sure where several show one person
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class Comparison:
    """Runs on one split."""

    split: str
    classes: tuple[str, ...]
    common: int  # pictures that all answered
    people: int
    runs: tuple[RunScores, ...]
    pairs: tuple[Pair, ...]

    @property
    def people_repeat(self) -> bool:
        """Whether several pictures show one person, so that McNemar's test is too sure."""
        return self.people < self.common


def find_answers(place: str | Path) -> Path:
    """The answers.jsonl of a run's folder, an evaluation's folder, or the file itself.

    Raises ExpllmError when there is none, naming evaluations below the folder that have some.
    """
    place = Path(place)
    if place.is_file():
        return place
    if (place / ANSWERS).is_file():
        return place / ANSWERS
    below = sorted(str(found.parent) for found in place.glob(f"*/*/{ANSWERS}")) if place.is_dir() else []
    remedy = f"name one of {', '.join(below)}" if below else f"run `expllm eval --run {place}` first"
    raise ExpllmError(f"there is no {ANSWERS} in {place}", remedy)


def read_candidates(places: Sequence[str | Path]) -> list[Candidate]:
    """The runs, named by as much of their paths as tells them apart.

    Raises ExpllmError for fewer than two, one given twice, or answers that cannot be read.
    """
    if len(places) < 2:
        raise ExpllmError("there is only one run to compare", "name at least two")
    files = [find_answers(place) for place in places]
    resolved = [file.resolve() for file in files]
    for file in resolved:
        if resolved.count(file) > 1:
            raise ExpllmError(f"{file} is there twice", "name each run once")
    return [Candidate(name, read_answers(file)) for name, file in zip(_short_names(resolved), files, strict=True)]


def compare(
    candidates: Sequence[Candidate],
    split: str,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    deals: int = DEALS,
) -> Comparison:
    """Compares runs on the pictures of `split` that all of them answered.

    Raises ExpllmError for fewer than two runs, when no picture was answered by all of them, or two runs hold different
    truths of one picture.
    """
    if len(candidates) < 2:
        raise ExpllmError("there is only one run to compare", "name at least two")
    of_run = [{face.record: face for face in candidate.faces if face.split == split} for candidate in candidates]
    common = [record for record in of_run[0] if all(record in faces for faces in of_run[1:])]
    if not common:
        counts = ", ".join(f"{c.name}: {len(faces):,}" for c, faces in zip(candidates, of_run, strict=True))
        raise ExpllmError(
            f"no picture of the split {split!r} was answered by all runs ({counts})",
            "compare runs that were evaluated on the same records",
        )
    aligned = [[faces[record] for record in common] for faces in of_run]
    _check_truths(candidates, aligned)
    classes = _classes([face for faces in aligned for face in faces])
    identities = [face.identity for face in aligned[0]]
    plan = _plan([face for faces in aligned for face in faces], classes)
    totals = [_totals(faces, identities, plan) for faces in aligned]
    runs = tuple(
        RunScores(
            name=candidate.name,
            answered=len(answered),
            left_out=len(answered) - len(common),
            metrics={
                metric: bootstrap(totals_GK, plan[metric][1], resamples=resamples, seed=seed)
                if totals_GK is not None
                else _UNDEFINED
                for metric, totals_GK in own.items()
            },
            rates=scores.answer_rates(faces),
            tokens=float(np.mean([face.new_tokens for face in faces]))
            if all(f.new_tokens for f in faces)
            else math.nan,
        )
        for candidate, answered, faces, own in zip(candidates, of_run, aligned, totals, strict=True)
    )
    places = list(combinations(range(len(candidates)), 2))
    tested = [_differences(totals[a], totals[b], plan, seed, resamples, deals) for a, b in places]
    for metric in METRICS:
        corrected = holm([differences[metric].p for differences in tested])
        for differences, p in zip(tested, corrected, strict=True):
            differences[metric] = Difference(differences[metric].interval, differences[metric].p, p)
    pairs = tuple(
        Pair(
            candidates[a].name,
            candidates[b].name,
            mcnemar([face.correct for face in aligned[a]], [face.correct for face in aligned[b]]),
            differences,
        )
        for (a, b), differences in zip(places, tested, strict=True)
    )
    return Comparison(split, classes, len(common), len(set(identities)), runs, pairs)


def common_splits(candidates: Sequence[Candidate]) -> list[str]:
    """Splits that every run has, in the first run's order. Raises ExpllmError when there is none."""
    splits = [list(by_split(candidate.faces)) for candidate in candidates]
    common = [split for split in splits[0] if all(split in other for other in splits[1:])]
    if not common:
        told = "; ".join(f"{c.name}: {', '.join(names)}" for c, names in zip(candidates, splits, strict=True))
        raise ExpllmError(f"the runs have no split in common ({told})", "compare runs evaluated on the same splits")
    return common


def plain(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON has it, null where a number is undefined."""

    def mended(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: mended(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [mended(part) for part in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    return mended(asdict(comparison) | {"people_repeat": comparison.people_repeat})


_UNDEFINED = Interval(math.nan, math.nan, math.nan)
_Plan = Mapping[str, tuple[Callable[[Sequence[EvaluatedFace]], np.ndarray | None], Statistic]]


def _plan(faces: Sequence[EvaluatedFace], classes: Sequence[str]) -> _Plan:
    """Metric → (counts [P, K] of a run's faces, or None where it was not asked for; function of summed counts)."""
    known = _vocabulary(faces)

    def matrices(some: Sequence[EvaluatedFace]) -> np.ndarray:
        return scores.confusion_per_picture(
            [face.expression for face in some], [face.predicted for face in some], classes
        ).reshape(len(some), -1)

    def detected(some: Sequence[EvaluatedFace]) -> np.ndarray | None:
        if known is None or not _wrote(some):
            return None
        return units.detection_counts(units.unit_table(some, known))

    def agreed(some: Sequence[EvaluatedFace]) -> np.ndarray | None:
        if not _wrote(some):
            return None
        return np.array([[face.concluded is not None and face.concluded == face.predicted, 1] for face in some])

    return {
        **{metric: (matrices, statistic) for metric, statistic in label_statistics(len(classes)).items()},
        "unit_f1": (detected, units.micro_f1),
        "hallucinated": (detected, _false_share),
        "agreement": (agreed, _share),
    }


def _share(counts: np.ndarray) -> np.ndarray:
    return scores.ratio(counts[..., 0], counts[..., 1])


def _false_share(counts: np.ndarray) -> np.ndarray:
    """Of detection counts [..., 3]: stated units that are absent among all stated ones whose truth is known."""
    return scores.ratio(counts[..., 1], counts[..., 0] + counts[..., 1])


def _wrote(faces: Sequence[EvaluatedFace]) -> bool:
    """Whether texts were asked for."""
    return any(face.cot is not None for face in faces)


def _totals(faces: Sequence[EvaluatedFace], identities: Sequence[str], plan: _Plan) -> dict[str, np.ndarray | None]:
    """Metric → counts summed per identity, [G, K]; None where the run was not asked for it."""
    counts = {metric: count(faces) for metric, (count, _) in plan.items()}
    return {
        metric: None if counts_PK is None else cluster_totals(identities, counts_PK)
        for metric, counts_PK in counts.items()
    }


def _differences(
    first: Mapping[str, np.ndarray | None],
    second: Mapping[str, np.ndarray | None],
    plan: _Plan,
    seed: int,
    resamples: int,
    deals: int,
) -> dict[str, Difference]:
    """Every metric's difference, p-values not corrected yet."""
    found = {}
    for metric, (_, statistic) in plan.items():
        one, other = first[metric], second[metric]
        if one is None or other is None:
            found[metric] = Difference(_UNDEFINED, math.nan, math.nan)
            continue
        interval = paired_difference(one, other, statistic, resamples=resamples, seed=seed)
        p = swap_test(one, other, statistic, deals=deals, seed=seed)
        found[metric] = Difference(interval, p, p)
    return found


def _check_truths(candidates: Sequence[Candidate], aligned: Sequence[Sequence[EvaluatedFace]]) -> None:
    """Raises ExpllmError where two runs hold different truths of one picture."""
    for other, faces in zip(candidates[1:], aligned[1:], strict=True):
        wrong = [
            (mine, theirs)
            for mine, theirs in zip(aligned[0], faces, strict=True)
            if (mine.expression, mine.identity) != (theirs.expression, theirs.identity)
        ]
        if wrong:
            mine, theirs = wrong[0]
            raise ExpllmError(
                f"{len(wrong):,} of {len(faces):,} pictures have another truth in {other.name} than in "
                f"{candidates[0].name}: {mine.record!r} is {mine.expression} of {mine.identity!r} in the one and "
                f"{theirs.expression} of {theirs.identity!r} in the other",
                "evaluate all runs with the same annotations",
            )


def _classes(faces: Sequence[EvaluatedFace]) -> tuple[str, ...]:
    """The basic seven, or all expressions where one of the faces or answers needs them."""
    found = {face.expression for face in faces} | {face.predicted for face in faces if face.predicted}
    return BASIC_7 if found <= set(BASIC_7) else EXPRESSIONS


def _vocabulary(faces: Sequence[EvaluatedFace]) -> Vocabulary | None:
    """The first vocabulary that has all units of the faces; None where no unit is known, or no vocabulary has all."""
    codes = {code for face in faces for code in (*face.units, *face.stated)}
    if not any(face.units for face in faces):
        return None
    return next((known for known in VOCABULARIES.values() if codes <= set(known.codes)), None)


def _short_names(files: Sequence[Path]) -> list[str]:
    """Each file's folder without what all paths begin with; the file's own name where it is no answers.jsonl."""
    parts = [list((file.parent if file.name == ANSWERS else file.with_suffix("")).parts) for file in files]
    shared = 0
    while all(len(some) > shared + 1 for some in parts) and len({some[shared] for some in parts}) == 1:
        shared += 1
    return ["/".join(some[shared:]) for some in parts]
