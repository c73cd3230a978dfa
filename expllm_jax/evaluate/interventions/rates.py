"""How often answers follow what was changed: rates with 95 % intervals that respect who is in the pictures.

Every rate stands beside that of a control, and their difference is what tells: of a covered region, the same shape
elsewhere on the face; of an edited observation, two observations that change places.

Shape letters: O outcomes, K summed counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from expllm_jax.cot import STATED_FROM
from expllm_jax.evaluate.bootstrap import Interval, bootstrap, cluster_totals, clustered_wilson
from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.evaluate.interventions.outcomes import Outcome
from expllm_jax.evaluate.interventions.text_edits import CONTROL_EDIT, TEXT_EDITS
from expllm_jax.evaluate.scores import ratio
from expllm_jax.evaluate.units import BAND_ORDER, micro_f1, unit_table
from expllm_jax.faces import FACS, PROTOTYPES

RIGHT_BAR = 0.8
"""The share of counterfactual renders that are to move the statement of a unit in the right direction."""

F1_BAR = 0.8
"""… of the units that the model states with at least this F1 on faces of people it never saw."""


@dataclass(frozen=True)
class UnitF1:
    """How well the texts state one unit, on one split of held-out faces."""

    f1: float
    recited: float  # of an oracle that knows the true label and states its prototype
    present: int  # faces that show it


def unit_f1(faces: Sequence[EvaluatedFace]) -> dict[str, UnitF1]:
    """How well the texts of held-out faces state each unit that some face shows, a unit present from STATED_FROM."""
    table = unit_table(faces)
    present_PU, absent_PU = table.intensity_PU >= STATED_FROM, table.intensity_PU < STATED_FROM

    def f1_U(stated_PU: np.ndarray) -> np.ndarray:
        cells = (stated_PU & present_PU, stated_PU & absent_PU, ~stated_PU & present_PU)
        return micro_f1(np.stack([cell.sum(0) for cell in cells], axis=-1))

    told_U, recited_U = f1_U(table.stated_PU), f1_U(table.prototype_PU)
    return {
        code: UnitF1(float(told_U[column]), float(recited_U[column]), int(present_PU[:, column].sum()))
        for column, code in enumerate(table.codes)
        if present_PU[:, column].any()
    }


def rank(stated: Mapping[str, str | None], code: str) -> int:
    """How strongly a text states a unit: -1 not at all, else the band's place from the weakest; without a band 0."""
    if code not in stated:
        return -1
    band = stated[code]
    return 0 if band is None else BAND_ORDER.index(band)


def moved_right(outcome: Outcome) -> bool:
    """After a counterfactual: whether the unit is stated as stronger than before if it was added, or weaker (or not at
    all) if it was taken away."""
    before, after = (rank(said.stated, outcome.done.unit) for said in (outcome.base.said, outcome.said))
    return after > before if outcome.done.edit == "added" else after < before


def share(outcomes: Sequence[Outcome], hit: Callable[[Outcome], bool]) -> dict[str, Any]:
    """The share of outcomes that are a hit, with its interval and how many there are; null without any."""
    if not outcomes:
        return _told(Interval(math.nan, math.nan, math.nan), 0)
    counts = np.array([[hit(outcome), 1] for outcome in outcomes], np.float64)
    totals_GK = cluster_totals([outcome.base.identity for outcome in outcomes], counts)
    return _told(clustered_wilson(totals_GK[:, 0], totals_GK[:, 1]), len(outcomes))


def mean(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> dict[str, Any]:
    """The mean of a number over the outcomes that have it (no nan), with its interval."""
    values = [(outcome.base.identity, value(outcome)) for outcome in outcomes]
    values = [(identity, number) for identity, number in values if not math.isnan(number)]
    if not values:
        return _told(Interval(math.nan, math.nan, math.nan), 0)
    counts = np.array([[number, 1.0] for _, number in values])
    totals = cluster_totals([identity for identity, _ in values], counts)
    return _told(bootstrap(totals, lambda sums: ratio(sums[..., 0], sums[..., 1])), len(values))


def difference(
    outcomes: Sequence[Outcome], controls: Sequence[Outcome], value: Callable[[Outcome], float]
) -> dict[str, Any]:
    """The mean over the outcomes minus that over the controls, people resampled for both together."""
    both = [(outcome, 0) for outcome in outcomes] + [(outcome, 2) for outcome in controls]
    rows, identities = [], []
    for outcome, column in both:
        number = float(value(outcome))
        if not math.isnan(number):
            row = [0.0] * 4
            row[column : column + 2] = number, 1.0
            rows.append(row)
            identities.append(outcome.base.identity)
    if not rows:
        return _told(Interval(math.nan, math.nan, math.nan), 0)

    def gap(sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1]) - ratio(sums[..., 2], sums[..., 3])

    return _told(bootstrap(cluster_totals(identities, np.array(rows)), gap), len(rows))


def probability_drop(outcome: Outcome) -> float:
    """By how much the probability of what was answered before has fallen; nan where it is not known."""
    return outcome.probability_before - outcome.said.probability


def mask_rates(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Of covered regions; only pairs of a unit's region and its control count.

    Keys `unit`, `elsewhere` and `difference`, each with `unstated` (the unit is no longer stated), `label_flips`,
    `conclusion_flips` and `probability_drop` (of the label answered before); and the first two per unit.
    """
    sides: dict[str, dict[tuple[str, str], Outcome]] = {"unit": {}, "elsewhere": {}}
    for outcome in outcomes:
        sides[outcome.done.edit][(outcome.done.record, outcome.done.unit)] = outcome
    pairs = sorted(sides["unit"].keys() & sides["elsewhere"].keys())
    units, controls = ([sides[side][pair] for pair in pairs] for side in ("unit", "elsewhere"))
    plan: dict[str, Callable[[Outcome], bool]] = {
        "unstated": lambda outcome: outcome.done.unit not in outcome.said.stated,
        "label_flips": lambda outcome: outcome.label_flipped,
        "conclusion_flips": lambda outcome: outcome.conclusion_flipped,
    }
    rates: dict[str, Any] = {"pairs": len(pairs)}
    for side, of in (("unit", units), ("elsewhere", controls)):
        rates[side] = {name: share(of, hit) for name, hit in plan.items()}
        rates[side]["probability_drop"] = mean(of, probability_drop)
    rates["difference"] = {name: difference(units, controls, hit) for name, hit in plan.items()}
    rates["difference"]["probability_drop"] = difference(units, controls, probability_drop)
    rates["units"] = {}
    for code in (code for code in FACS.codes if any(pair[1] == code for pair in pairs)):
        of, beside = ([o for o in side if o.done.unit == code] for side in (units, controls))
        rates["units"][code] = {
            "unstated": share(of, plan["unstated"]),
            "unstated_elsewhere": share(beside, plan["unstated"]),
            "difference": difference(of, beside, plan["unstated"]),
        }
    return rates


def text_rates(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Of edited texts: per edit `conclusion_flips` and `probability_drop` (of the expression concluded before), and the
    difference of both to the control; for deletions and swaps also

    - `follows`: where the interpretation argued with the unit, it no longer does;
    - `typical` and `unrelated`: the flips where the unit belongs to the concluded expression, and where not;

    for a swap `takes_up` (the interpretation argues with the new unit), and for a transplant `follows` (the conclusion
    is that of the observations' own face).
    """
    rates: dict[str, Any] = {}
    by_edit = {edit: [outcome for outcome in outcomes if outcome.done.edit == edit] for edit in TEXT_EDITS}
    control = by_edit[CONTROL_EDIT]
    for edit, of in by_edit.items():
        found: dict[str, Any] = {
            "conclusion_flips": share(of, lambda outcome: outcome.conclusion_flipped),
            "probability_drop": mean(of, probability_drop),
        }
        if edit != CONTROL_EDIT:
            found["flips_beyond_control"] = difference(of, control, lambda outcome: outcome.conclusion_flipped)
            found["drop_beyond_control"] = difference(of, control, probability_drop)
        if edit in ("delete", "swap"):
            argued = [outcome for outcome in of if outcome.done.unit in outcome.base.said.named]
            found["follows"] = share(argued, lambda outcome: outcome.done.unit not in outcome.said.named)
            for name, belongs in (("typical", True), ("unrelated", False)):
                part = [outcome for outcome in of if _typical(outcome) == belongs]
                found[name] = share(part, lambda outcome: outcome.conclusion_flipped)
        if edit == "swap":
            found["takes_up"] = share(of, lambda outcome: outcome.done.instead in outcome.said.named)
        if edit == "transplant":
            found["follows"] = share(of, lambda outcome: outcome.said.concluded == outcome.done.instead)
        rates[edit] = found
    return rates


def counterfactual_rates(
    outcomes: Sequence[Outcome], f1: Mapping[str, Mapping[str, UnitF1]], split: str
) -> dict[str, Any]:
    """Of counterfactual renders: per unit how often its statement moves in the right direction.

    Args:
      outcomes: of one split's faces.
      f1: split → unit → how well held-out texts state it.
      split: whose F1 decides which units the bar is for.

    Returns:
      `units` (per unit `right`, `right_added`, `right_removed`, its F1 per split and whether the bar is for it),
      `all` and `well_stated` (the same over all units, and over those that the bar is for), `others_kept` (the answer
      states the same other units), `label_flips`, the bars, and `reached`.
    """
    rates: dict[str, Any] = {"split": split, "f1_bar": F1_BAR, "right_bar": RIGHT_BAR, "units": {}}
    held_out = f1[split]
    chosen = [code for code in FACS.codes if code in held_out and held_out[code].f1 >= F1_BAR]
    for code in (code for code in FACS.codes if any(outcome.done.unit == code for outcome in outcomes)):
        of = [outcome for outcome in outcomes if outcome.done.unit == code]
        rates["units"][code] = {
            **_directions(of),
            "f1": {name: _number(units[code].f1) for name, units in f1.items() if code in units},
            "f1_recited": {name: _number(units[code].recited) for name, units in f1.items() if code in units},
            "well_stated": code in chosen,
        }
    rates["all"] = _directions(outcomes)
    rates["well_stated"] = _directions([outcome for outcome in outcomes if outcome.done.unit in chosen])
    rates["others_kept"] = share(outcomes, _others_kept)
    rates["label_flips"] = share(outcomes, lambda outcome: outcome.label_flipped)
    right = rates["well_stated"]["right"]["value"]
    rates["reached"] = None if right is None else right >= RIGHT_BAR
    return rates


def _directions(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "right": share(outcomes, moved_right),
        **{
            f"right_{edit}": share([outcome for outcome in outcomes if outcome.done.edit == edit], moved_right)
            for edit in ("added", "removed")
        },
    }


def _others_kept(outcome: Outcome) -> bool:
    before, after = (set(said.stated) - {outcome.done.unit} for said in (outcome.base.said, outcome.said))
    return before == after


def _typical(outcome: Outcome) -> bool:
    return outcome.done.unit in PROTOTYPES.get(outcome.base.said.concluded or "", {})


def _told(interval: Interval, n: int) -> dict[str, Any]:
    return {"value": _number(interval.value), "low": _number(interval.low), "high": _number(interval.high), "n": n}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
