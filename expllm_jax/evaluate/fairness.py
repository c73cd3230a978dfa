"""Is the model as good for everybody? Scores by group, the gap between the best and the worst served, and chance.

Groups are small and people differ, so some gap is always there. The permutation test says how often so large a gap
appears when group labels are dealt to people at random, among people who show the same expressions: a group that shows
more of the hard expressions is not thereby treated worse. All pictures of a person keep together.

Shape letters: G people, N groups, K cells of a confusion matrix.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.bootstrap import RESAMPLES, Interval, clustered_wilson
from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.evaluate.label_scores import Statistic, confusion_totals, label_intervals, label_statistics
from expllm_jax.faces import BASIC_7

SMALL = 30
"""Groups with fewer pictures are shown and flagged, and are in no gap: their scores are mostly noise."""

NOTE = (
    "Groups are what annotators saw in the pictures, not what people say of themselves. A gap tells how the model "
    "serves pictures that were perceived so; a small or insignificant one does not prove that there is none."
)

_DEALS = 1999
_ALONE_ALLOWED = 0.05  # share of people who may be alone in their stratum before strata are made coarser


@dataclass(frozen=True)
class GroupScore:
    """The label scores of one group, with 95 % intervals."""

    group: str
    n: int  # pictures
    people: int
    accuracy: Interval  # clustered Wilson
    uar: Interval  # over the expressions that the group shows
    macro_f1: Interval
    small: bool  # fewer than `SMALL` pictures


@dataclass(frozen=True)
class Gap:
    """The best minus the worst of the groups that are not small."""

    metric: str
    value: float  # nan with fewer than two such groups
    best: str
    worst: str
    p: float  # share of random deals of the group labels with at least this gap


@dataclass(frozen=True)
class Fairness:
    """Scores by one attribute."""

    attribute: str
    groups: tuple[GroupScore, ...]  # by number of pictures, the largest first
    gaps: tuple[Gap, ...]  # accuracy, uar, macro_f1
    unknown: int  # pictures without this attribute; in no group
    strata: str  # among whom labels were dealt: "expression profile" or "commonest expression"


def attributes(faces: Sequence[EvaluatedFace]) -> list[str]:
    """The attributes that any face has, in the order in which they first occur."""
    return list(dict.fromkeys(attribute for face in faces for attribute in face.groups))


def fairness(
    faces: Sequence[EvaluatedFace],
    attribute: str,
    classes: Sequence[str] = BASIC_7,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    deals: int = _DEALS,
) -> Fairness:
    """Scores of each group of one attribute, gaps and their p-values.

    A person whom annotators put into different groups in different pictures counts as one person in each.

    Raises ExpllmError when no face has the attribute.
    """
    known = [face for face in faces if attribute in face.groups]
    if not known:
        there = ", ".join(attributes(faces)) or "none"
        raise ExpllmError(
            f"no face has the attribute {attribute!r} (there is {there})",
            "name an attribute that the annotations have",
        )
    members: dict[str, list[EvaluatedFace]] = defaultdict(list)
    for face in known:
        members[face.groups[attribute]].append(face)
    by_size = sorted(members, key=lambda group: (-len(members[group]), group))
    groups = tuple(_group_score(group, members[group], classes, seed, resamples) for group in by_size)
    gaps, strata = _gaps(known, attribute, [row.group for row in groups if not row.small], classes, seed, deals)
    return Fairness(attribute, groups, gaps, len(faces) - len(known), strata)


def _group_score(
    group: str, faces: Sequence[EvaluatedFace], classes: Sequence[str], seed: int, resamples: int
) -> GroupScore:
    intervals = label_intervals(faces, classes, seed=seed, resamples=resamples)
    hits: Counter[str] = Counter()
    pictures: Counter[str] = Counter()
    for face in faces:
        hits[face.identity] += face.correct
        pictures[face.identity] += 1
    accuracy = clustered_wilson(
        np.array([hits[name] for name in pictures]), np.array([pictures[name] for name in pictures])
    )
    return GroupScore(
        group, len(faces), len(pictures), accuracy, intervals["uar"], intervals["macro_f1"], len(faces) < SMALL
    )


def _gaps(
    faces: Sequence[EvaluatedFace],
    attribute: str,
    large: Sequence[str],
    classes: Sequence[str],
    seed: int,
    deals: int,
) -> tuple[tuple[Gap, ...], str]:
    """Each metric's gap, and among whom labels were dealt."""
    faces = [face for face in faces if face.groups[attribute] in large]
    statistics = label_statistics(len(classes))
    if len(large) < 2:
        return tuple(Gap(metric, math.nan, "", "", math.nan) for metric in statistics), ""
    # A person in two groups is two people here; the zero byte keeps names apart that end alike.
    names = [f"{face.identity}\0{face.groups[attribute]}" for face in faces]
    totals_GK = confusion_totals(faces, classes, names)
    people = sorted(set(names))
    group_of = dict(zip(names, (face.groups[attribute] for face in faces), strict=True))
    column = {group: place for place, group in enumerate(large)}
    group_G = np.array([column[group_of[name]] for name in people])
    stratum_G, strata = _strata(faces, names, people)
    seen = {metric: _by_group(totals_GK, group_G, len(large), statistic) for metric, statistic in statistics.items()}
    as_large = dict.fromkeys(statistics, 1)  # the deal that was seen
    rng = np.random.default_rng(seed)
    order_by_stratum = np.argsort(stratum_G, kind="stable")
    for _ in range(deals):
        dealt_G = np.empty_like(group_G)
        # Sorting by stratum and a random number shuffles people within their stratum.
        shuffled = np.lexsort((rng.random(len(people)), stratum_G))
        dealt_G[order_by_stratum] = group_G[shuffled]
        matrices_NK = _group_totals(totals_GK, dealt_G, len(large))
        for metric, statistic in statistics.items():
            as_large[metric] += _spread(statistic(matrices_NK)) >= _spread(seen[metric]) - 1e-12
    return tuple(
        Gap(
            metric,
            _spread(value_N),
            large[int(np.nanargmax(value_N))],
            large[int(np.nanargmin(value_N))],
            as_large[metric] / (1 + deals),
        )
        for metric, value_N in seen.items()
    ), strata


def _strata(faces: Sequence[EvaluatedFace], names: Sequence[str], people: Sequence[str]) -> tuple[np.ndarray, str]:
    """A number per person, equal for those among whom group labels are dealt, and what makes them equal.

    People with the same number of pictures of each expression, if hardly anybody is alone with theirs; otherwise
    people whose commonest expression is the same. With one picture a person both mean: the same expression.
    """
    shown: dict[str, Counter[str]] = defaultdict(Counter)
    for name, face in zip(names, faces, strict=True):
        shown[name][face.expression] += 1
    profiles = [tuple(sorted(shown[name].items())) for name in people]
    sizes = Counter(profiles)
    if sum(size == 1 for size in sizes.values()) <= _ALONE_ALLOWED * len(people):
        return np.unique([repr(profile) for profile in profiles], return_inverse=True)[1], "expression profile"
    commonest = [max(sorted(shown[name]), key=lambda expression: shown[name][expression]) for name in people]
    return np.unique(commonest, return_inverse=True)[1], "commonest expression"


def _group_totals(totals_GK: np.ndarray, group_G: np.ndarray, groups: int) -> np.ndarray:
    """Confusion matrices summed per group, [N, K]."""
    return (group_G == np.arange(groups)[:, None]).astype(np.float64) @ totals_GK


def _by_group(totals_GK: np.ndarray, group_G: np.ndarray, groups: int, statistic: Statistic) -> np.ndarray:
    return statistic(_group_totals(totals_GK, group_G, groups))


def _spread(value_N: np.ndarray) -> float:
    """Best minus worst."""
    return float(np.nanmax(value_N) - np.nanmin(value_N))
