"""Scores by group against arithmetic on paper, and the permutation test against studies without and with a gap."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import wilson
from expllm_jax.evaluate.fairness import SMALL, attributes, fairness

TWO = ("Happiness", "Fear")


def study(make_face, accuracies, people=40, pictures=1, seed=0, fear=None):
    """Faces of groups with known accuracies; `fear` is the share of fearful faces of each group."""
    rng = np.random.default_rng(seed)
    faces = []
    for group, accuracy in accuracies.items():
        for person in range(people):
            right_rate = np.clip(accuracy + (rng.normal(0, 0.25) if pictures > 1 else 0), 0, 1)
            for _ in range(pictures):
                true = TWO[int(rng.random() < (fear or {}).get(group, 0.5))]
                # with `fear` given, fearful faces are the hard ones, in every group alike
                rate = right_rate if fear is None else (0.3 if true == "Fear" else 0.95)
                named = true if rng.random() < rate else TWO[true == "Happiness"]
                faces.append(
                    make_face(identity=f"{group}{person}", expression=true, predicted=named, groups={"age": group})
                )
    return faces


def test_groups_by_hand(make_face):
    old = [make_face(groups={"age": "old"}, predicted=p) for p in ("Happiness",) * 30 + (None,) * 10]
    young = [make_face(groups={"age": "young"})] * 1
    found = fairness([*old, *young, make_face()], "age", TWO, deals=19)
    assert [(row.group, row.n, row.small) for row in found.groups] == [("old", 40, False), ("young", 1, True)]
    assert found.groups[0].accuracy.value == 0.75
    assert (found.groups[0].accuracy.low, found.groups[0].accuracy.high) == wilson(30, 40)
    assert found.unknown == 1
    assert all(math.isnan(gap.value) and math.isnan(gap.p) for gap in found.gaps)  # one large group has no gap


def test_a_real_gap_is_found_and_its_groups_are_named(make_face):
    found = fairness(study(make_face, {"a": 0.95, "b": 0.6, "c": 0.9}, people=60), "age", TWO, deals=199)
    accuracy, uar, macro_f1 = found.gaps
    assert (accuracy.metric, uar.metric, macro_f1.metric) == ("accuracy", "uar", "macro_f1")
    assert (accuracy.best, accuracy.worst) == ("a", "b")
    assert accuracy.value == pytest.approx(0.35, abs=0.12)
    assert accuracy.p < 0.05


@pytest.mark.parametrize("pictures", [1, 6])
def test_equal_groups_are_accused_in_one_of_twenty_studies(make_face, pictures):
    accused = [
        fairness(
            study(make_face, {"a": 0.7, "b": 0.7}, 30, pictures, seed), "age", TWO, resamples=2, deals=39, seed=seed
        )
        .gaps[0]
        .p
        <= 0.05
        for seed in range(60)
    ]
    assert np.mean(accused) < 0.14  # three standard errors above .05


def test_a_group_that_shows_more_of_a_hard_expression_is_not_a_gap(make_face):
    faces = study(make_face, {"a": 0, "b": 0}, people=150, fear={"a": 0.2, "b": 0.8})
    found = fairness(faces, "age", TWO, deals=199)
    assert found.gaps[0].value > 0.2
    assert found.gaps[0].p > 0.05
    assert found.strata == "expression profile"


def test_people_with_profiles_of_their_own_are_dealt_by_commonest_expression(make_face):
    found = fairness(study(make_face, {"a": 0.8, "b": 0.8}, people=8, pictures=9), "age", TWO, deals=19)
    assert found.strata == "commonest expression"


def test_who_is_perceived_differently_counts_in_each_group(make_face):
    faces = [make_face(identity="p", groups={"age": age}) for age in ("a", "b") for _ in range(SMALL)]
    found = fairness(faces, "age", TWO, deals=19)
    assert [row.people for row in found.groups] == [1, 1]
    assert found.gaps[0].value == 0.0 and found.gaps[0].p == 1.0


def test_attributes_and_their_absence(make_face):
    faces = [make_face(groups={"age": "a"}), make_face(groups={"race": "x", "age": "b"})]
    assert attributes(faces) == ["age", "race"]
    with pytest.raises(ExpllmError, match="'hair' \\(there is age, race\\)"):
        fairness(faces, "hair")
