"""Do 95 % intervals hold the truth in 95 of 100 studies? Simulated studies whose truth is known, counted.

    python launch/bench/interval_coverage.py
    python launch/bench/interval_coverage.py --studies 400 --json

A simulated study asks a model of known ability about so many people and puts our intervals around its accuracy, its UAR
and the recall of its first class. People differ in how easy they are (a normal effect under a probit), so that pictures
of one person succeed or fail together; the true values follow in closed form. Per design the table has the share of
studies whose interval holds the truth:

- `accuracy`, `UAR`: `bootstrap` as every metric of the reports uses it; `percentile` beside each: the plain percentile
  bootstrap of the same resamples, for comparison,
- `recall`: the clustered Wilson interval of the first class; `percentile` beside it likewise.

With 2,000 studies, a share of 95 % is known to ± 1 percentage point (two standard errors).

The last tables are exact: the share of right ones among 40 (a class) or 200 independent pictures. It moves in steps, so
that every interval covers now more and now less than 95 % by turns of the true share; the mean over shares tells what
it does on the whole. A percentile bootstrap of 40 pictures is too narrow where most answers are right.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from scipy.special import ndtri
from scipy.stats import binom

from expllm_jax.evaluate.bootstrap import bootstrap, clustered_wilson, wilson
from expllm_jax.evaluate.scores import accuracy, ratio, unweighted_average_recall

RESAMPLES = 1000
CLASSES = 7
SHARES = (0.5, 0.7, 0.8, 0.9, 0.93, 0.95, 0.97)


@dataclass(frozen=True)
class Design:
    """One kind of study. Recalls are of the population that people are drawn from."""

    name: str
    people: int
    pictures: int  # of each person
    recall: tuple[float, ...]  # per class
    share: tuple[float, ...] | None = None  # of the pictures, per class; None: one picture of each class a person
    between_people: float = 0.0  # standard deviation of a person's ease, where a single answer's is 1


_UNEVEN = (0.7, 0.45, 0.4, 0.8, 0.6, 0.7, 0.6)
_RAF_DB = tuple(n / 3068 for n in (329, 74, 160, 1185, 478, 162, 680))  # pictures of its test part, in its order
_SFEW = tuple(n / 431 for n in (56, 46, 23, 72, 73, 77, 84))
_EVEN = (1 / CLASSES,) * CLASSES

DESIGNS = (
    Design("3,068 pictures, as RAF-DB", 3068, 1, (0.9, 0.62, 0.68, 0.96, 0.9, 0.85, 0.9), _RAF_DB),
    Design("431 pictures, as SFEW", 431, 1, _UNEVEN, _SFEW),
    Design("200 pictures", 200, 1, _UNEVEN, _EVEN),
    Design("200 pictures, 95 % right", 200, 1, (0.95,) * CLASSES, _EVEN),
    Design("84 people x 7", 84, 7, _UNEVEN, None, 0.7),
    Design("84 people x 7, 90 % right", 84, 7, (0.9,) * CLASSES, None, 0.7),
    Design("27 people x 30, as RAF-DB", 27, 30, _UNEVEN, _RAF_DB, 0.7),
    Design("20 people x 7", 20, 7, _UNEVEN, None, 0.7),
    Design("10 people x 7", 10, 7, _UNEVEN, None, 0.7),
)


def draw(design: Design, rng: np.random.Generator) -> np.ndarray:
    """Confusion matrices of the people of one study, [G, C, C+1]."""
    shape = (design.people, design.pictures)
    if design.share is None:
        true = np.tile(np.arange(CLASSES), (design.people, design.pictures // CLASSES))
    else:
        true = rng.choice(CLASSES, size=shape, p=design.share)
    spread = design.between_people
    # P(right) over people is the class's recall: a sum of the two normal effects has variance 1 + spread².
    level = ndtri(np.array(design.recall)) * np.sqrt(1 + spread**2)
    ease = spread * rng.standard_normal((design.people, 1))
    right = level[true] + ease + rng.standard_normal(shape) > 0
    other = (true + rng.integers(1, CLASSES, shape)) % CLASSES
    confusion_GCX = np.zeros((design.people, CLASSES, CLASSES + 1))
    person = np.broadcast_to(np.arange(design.people)[:, None], shape)
    np.add.at(confusion_GCX, (person, true, np.where(right, true, other)), 1)
    return confusion_GCX


def percentile_interval(
    totals_GK: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, seed: int
) -> tuple[float, float]:
    """The plain percentile bootstrap, for comparison."""
    people = len(totals_GK)
    rows, counts = np.unique(totals_GK, axis=0, return_counts=True)
    weights = np.random.default_rng(seed).multinomial(people, counts / people, size=RESAMPLES)
    low, high = np.nanquantile(statistic(weights @ rows), [0.025, 0.975])
    return float(low), float(high)


def _matrices(statistic: Callable[[np.ndarray], np.ndarray], totals: np.ndarray) -> np.ndarray:
    return statistic(totals.reshape(*totals.shape[:-1], CLASSES, CLASSES + 1))


def _first_recall(totals: np.ndarray) -> np.ndarray:
    return ratio(totals[..., 0], totals[..., 1])


def holds(interval: tuple[float, float], truth: float) -> bool:
    """Whether the interval holds the truth, ends included."""
    return interval[0] - 1e-9 <= truth <= interval[1] + 1e-9


def coverage(design: Design, studies: int, seed: int = 0) -> dict[str, float]:
    """Share of studies whose interval holds the truth, per interval."""
    rng = np.random.default_rng(seed)
    share = np.array(design.share or _EVEN)
    recall = np.array(design.recall)
    truth = {"accuracy": float(share @ recall), "UAR": float(recall.mean()), "recall": float(recall[0])}
    statistics = {
        "accuracy": partial(_matrices, accuracy),
        "UAR": partial(_matrices, unweighted_average_recall),
    }
    held = {f"{metric}{kind}": 0 for metric in truth for kind in ("", " percentile")}
    for study in range(studies):
        confusion_GCX = draw(design, rng)
        totals_GK = confusion_GCX.reshape(design.people, -1)
        for metric, statistic in statistics.items():
            ours = bootstrap(totals_GK, statistic, resamples=RESAMPLES, seed=study)
            held[metric] += holds((ours.low, ours.high), truth[metric])
            held[f"{metric} percentile"] += holds(percentile_interval(totals_GK, statistic, seed=study), truth[metric])
        first_G2 = np.stack([confusion_GCX[:, 0, 0], confusion_GCX[:, 0].sum(-1)], axis=1)
        ours = clustered_wilson(first_G2[:, 0], first_G2[:, 1])
        held["recall"] += holds((ours.low, ours.high), truth["recall"])
        held["recall percentile"] += holds(percentile_interval(first_G2, _first_recall, seed=study), truth["recall"])
    return {name: count / studies for name, count in held.items()}


def exact_coverage(n: int, share: float) -> dict[str, float]:
    """Coverage for the share of right answers among n independent pictures, summed over all outcomes: no simulation."""
    probability_K = binom.pmf(np.arange(n + 1), n, share)
    likely = np.flatnonzero(probability_K > 1e-7)
    held = {"Wilson": 0.0, "percentile": 0.0, "bootstrap": 0.0}
    for hits in likely.tolist():
        # Resampling n pictures of which some are right draws from a binomial distribution: its quantiles are exact.
        percentile = tuple(binom.ppf([0.025, 0.975], n, hits / n) / n)
        for name, interval in (("Wilson", wilson(hits, n)), ("percentile", percentile), ("bootstrap", _ours(n, hits))):
            held[name] += float(probability_K[hits]) * holds(interval, share)
    return held


@cache
def _ours(n: int, hits: int) -> tuple[float, float]:
    interval = bootstrap(np.repeat([[1, 1], [0, 1]], [hits, n - hits], axis=0), _first_recall)
    return interval.low, interval.high


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    told: dict[str, dict[str, dict[str, float]]] = {"designs": {}, "exact": {}}
    columns = ("accuracy", "accuracy percentile", "UAR", "UAR percentile", "recall", "recall percentile")
    if not options.json:
        print(f"{'design':28}" + "".join(f"{name.replace('percentile', 'perc.'):>16}" for name in columns))
    for design in DESIGNS:
        found = told["designs"][design.name] = coverage(design, options.studies)
        if not options.json:
            print(f"{design.name:28}" + "".join(f"{100 * found[name]:14.1f} %" for name in columns), flush=True)
    for n in (40, 200):
        if not options.json:
            print(f"\n{f'{n} independent pictures, exact':32}{'Wilson':>16}{'percentile':>16}{'bootstrap':>16}")
        rows = {f"{share:.2f} right": exact_coverage(n, share) for share in SHARES}
        mean = [exact_coverage(n, share) for share in np.linspace(0.5, 0.97, 48)]
        rows["mean, .50 to .97 right"] = {name: float(np.mean([row[name] for row in mean])) for name in mean[0]}
        told["exact"] |= {f"{n} pictures, {name}": row for name, row in rows.items()}
        if not options.json:
            for name, row in rows.items():
                print(f"{name:32}" + "".join(f"{100 * value:14.1f} %" for value in row.values()))
    if options.json:
        print(json.dumps(told))


if __name__ == "__main__":
    main()
