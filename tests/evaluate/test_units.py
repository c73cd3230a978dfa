"""Unit metrics on four faces whose counts fit on a sheet of paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.cot import STATED_FROM, band_of
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import score_units
from expllm_jax.evaluate.units import (
    BAND_MIDDLES,
    BAND_ORDER,
    added_counts,
    detection_counts,
    dropped_counts,
    gap,
    micro_f1,
    score_intensities,
    stratified_counts,
    stratified_gap,
    unit_table,
)
from expllm_jax.evaluate.unit_values import icc_3_1
from expllm_jax.faces import FACS, PROTOTYPES


@pytest.fixture
def faces(make_face):
    """Happiness is AU6 + AU12, Anger is AU4 + AU5 + AU7 + AU24; AU9 is added to two faces, AU15 faintly to one."""
    return [
        # AU6 dropped and not stated, AU12 stated; AU9 added and stated.
        make_face(units={"AU12": 0.8, "AU9": 0.5}, stated={"AU12": band_of(0.8), "AU9": band_of(0.3)}),
        # all of the prototype, all stated; AU15 at 0.15, neither clearly present nor absent, is stated; AU9 invented.
        make_face(
            units={"AU6": 0.7, "AU12": 0.9, "AU15": 0.15},
            stated={"AU6": band_of(0.7), "AU12": band_of(0.01), "AU15": None, "AU9": band_of(0.3)},
        ),
        # AU5 dropped but stated; AU7 present but not stated; AU9 added but not stated.
        make_face(
            expression="Anger",
            units={"AU4": 0.9, "AU7": 0.6, "AU24": 0.8, "AU9": 0.3},
            stated={"AU4": band_of(0.9), "AU5": band_of(0.5), "AU24": band_of(0.8)},
        ),
        # broken text: gets no credit for the units found in it.
        make_face(
            expression="Anger",
            units={"AU4": 0.9, "AU5": 0.4, "AU7": 0.6, "AU24": 0.8},
            stated={"AU4": band_of(0.9)},
            cot_failure="no conclusion",
        ),
    ]


def test_the_paper_assumes_these_prototypes():
    assert set(PROTOTYPES["Happiness"]) == {"AU6", "AU12"}
    assert set(PROTOTYPES["Anger"]) == {"AU4", "AU5", "AU7", "AU24"}
    assert STATED_FROM == 0.1


def test_detection_counts_per_picture(faces):
    # columns: right, invented, missed
    assert detection_counts(unit_table(faces)).tolist() == [[2, 0, 0], [3, 1, 0], [2, 1, 2], [0, 0, 4]]


def test_the_oracle_recites_the_true_prototype(faces):
    counts = detection_counts(unit_table(faces), label_only=True)
    assert counts.tolist() == [[1, 1, 1], [2, 0, 1], [3, 1, 1], [4, 0, 0]]


def test_f1_precision_recall(faces):
    scores = score_units(faces)
    assert scores.f1 == pytest.approx(2 * 7 / (2 * 7 + 2 + 6))
    assert scores.precision == pytest.approx(7 / 9)
    assert scores.recall == pytest.approx(7 / 13)
    assert scores.f1_label_only == pytest.approx(2 * 10 / (2 * 10 + 2 + 3))


def test_a_higher_threshold_makes_faint_units_absent(faces):
    counts = detection_counts(unit_table(faces), present_from=0.2)
    assert counts[1].tolist() == [2, 2, 0]


def test_added_gap(faces):
    # Only AU9 is ever clearly added, so the other units do not pad the absent side. Present in faces 0 and 2, stated in
    # one of them; absent in faces 1 and 3, stated in one of them.
    table = unit_table(faces)
    assert added_counts(table).sum(0).tolist() == [1, 2, 1, 2]
    assert score_units(faces).added_gap == 0.0


def test_dropped_gap(faces):
    # Present: 1 of face 0 (stated), 2 of face 1 (both), 3 of face 2 (two), 4 of face 3 (none credited). Dropped: AU6 of
    # face 0 (not stated), AU5 of face 2 (stated).
    assert dropped_counts(unit_table(faces)).sum(0).tolist() == [5, 10, 1, 2]
    assert score_units(faces).dropped_gap == pytest.approx(5 / 10 - 1 / 2)


def test_stratified_gap_compares_within_expression_and_unit(faces):
    # (Happiness, AU9): 1/1 − 1/1 = 0; (Anger, AU9): 0/1 − 0/1 = 0.
    added = stratified_counts(unit_table(faces), prototype=False)
    assert added.sum(0).reshape(-1, 4).tolist() == [[0, 1, 0, 1], [1, 1, 1, 1]]
    assert stratified_gap(added.sum(0)) == 0.0
    # (Happiness, AU6): present 1/1, dropped 0/1; (Anger, AU5): present 0/1, dropped 1/1. Others were never dropped.
    dropped = stratified_counts(unit_table(faces), prototype=True)
    assert dropped.sum(0).reshape(-1, 4).tolist() == [[0, 1, 1, 1], [1, 1, 0, 1]]
    assert stratified_gap(dropped.sum(0)) == pytest.approx((1.0 - 1.0) / 2)


def test_a_habit_per_expression_raises_the_pooled_gap_but_not_the_stratified_one(make_face):
    # AU9 is usually added to Happiness and hardly ever to Sadness; the model states it for every happy face, blindly.
    def face(expression, present):
        units = {"AU9": 0.6} if present else {}
        return make_face(expression=expression, units=units, stated={"AU9": None} if expression == "Happiness" else {})

    faces = [face("Happiness", True)] * 8 + [face("Happiness", False)] * 2
    faces += [face("Sadness", True)] * 2 + [face("Sadness", False)] * 8
    table = unit_table(faces)
    assert gap(added_counts(table).sum(0)) == pytest.approx(8 / 10 - 2 / 10)
    assert stratified_gap(stratified_counts(table, prototype=False).sum(0)) == 0.0


def test_looking_and_reciting_are_told_apart(make_face):
    rng = np.random.default_rng(0)
    looking, reciting = [], []
    for number in range(200):
        expression = ("Happiness", "Sadness", "Anger")[number % 3]
        units = {code: 0.7 for code in PROTOTYPES[expression] if rng.random() > 0.2}
        units |= {code: 0.5 for code in ("AU9", "AU14", "AU43") if rng.random() < 0.2}
        looking.append(make_face(expression=expression, units=units, stated=dict.fromkeys(units)))
        stated = dict.fromkeys(PROTOTYPES[expression])
        reciting.append(make_face(expression=expression, units=units, stated=stated))
    looks, recites = score_units(looking), score_units(reciting)
    assert (looks.added_gap, looks.dropped_gap, looks.f1) == (1.0, 1.0, 1.0)
    assert (recites.added_gap, recites.dropped_gap) == (0.0, 0.0)
    assert recites.f1 == recites.f1_label_only == looks.f1_label_only < 0.9


def test_bands(faces):
    # Rightly stated: AU12 and AU9 of face 0 (0.5 called moderate: one off), AU6, AU12 (0.9 called minimal: far off) and
    # AU15 (no word) of face 1, AU4 and AU24 of face 2.
    scores = score_units(faces)
    assert BAND_ORDER[0] == band_of(0.0) and BAND_ORDER[-1] == band_of(1.0) and len(BAND_ORDER) == 5
    assert scores.band_exact == pytest.approx(4 / 7)
    assert scores.band_within_one == pytest.approx(5 / 7)


def test_hallucinated_and_omitted(faces):
    scores = score_units(faces)
    assert scores.hallucinated == pytest.approx(2 / 9)  # AU9 of face 1, AU5 of face 2; faint AU15 is not invented
    assert scores.hallucinated_per_picture == pytest.approx(2 / 4)
    assert scores.omitted == pytest.approx(6 / 12)  # AU7, AU9 of face 2 and all four of face 3


def test_rows_of_the_chart(faces):
    rows = {row.code: row for row in score_units(faces).rows}
    assert (rows["AU9"].present, rows["AU9"].absent) == (2, 2)
    assert (rows["AU9"].stated_present, rows["AU9"].stated_absent) == (0.5, 0.5)
    assert rows["AU15"].present == 0 and math.isnan(rows["AU15"].stated_present)
    assert rows["AU15"].absent == 3  # 0.15 is neither
    assert "AU27" not in rows


@pytest.fixture
def half_known(make_face):
    """Two happy faces of which one unit each is unknown: AU12, which belongs to Happiness, and AU9, which does not."""
    return [
        make_face(units={"AU6": 0.7}, unknown=("AU12",), stated={"AU6": None, "AU12": None, "AU4": None}),
        make_face(units={"AU6": 0.7, "AU12": 0.5}, unknown=("AU9",), stated={"AU12": None, "AU9": None}),
    ]


def test_unknown_units_are_in_no_score(half_known):
    table = unit_table(half_known)
    assert detection_counts(table).tolist() == [[1, 1, 0], [1, 0, 1]]
    assert detection_counts(table, label_only=True).tolist() == [[1, 0, 0], [2, 0, 0]]
    # Present: AU6 of both faces, AU12 of the second. Nothing is known to be dropped.
    assert dropped_counts(table).sum(0).tolist() == [2, 3, 0, 0]
    scores = score_units(half_known)
    assert (scores.precision, scores.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert scores.hallucinated == pytest.approx(1 / 3)  # AU4, of the three stated units whose truth is known
    assert scores.hallucinated_per_picture == pytest.approx(1 / 2)
    rows = {row.code: row for row in scores.rows}
    assert (rows["AU12"].present, rows["AU12"].absent) == (1, 0)
    assert (rows["AU9"].present, rows["AU9"].absent, rows["AU9"].stated_absent) == (0, 1, 0.0)


def test_statements_about_unknown_units_are_counted(half_known, faces):
    assert score_units(half_known).stated_unknown == 2
    assert score_units(faces).stated_unknown == 0


def test_unknown_is_not_absent(make_face):
    """The same texts: where AU9 is known to be absent it is invented, where it is unknown nobody can say."""
    told, absent = {"AU6": None, "AU12": None, "AU9": None}, {"AU6": 0.7, "AU12": 0.5}
    assert score_units([make_face(units=absent, stated=told)]).precision == pytest.approx(2 / 3)
    assert score_units([make_face(units=absent, unknown=("AU9",), stated=told)]).precision == 1.0


def test_faces_of_which_nothing_is_known_have_no_unit_scores(make_face):
    scores = score_units([make_face(unknown=FACS.codes, stated={"AU12": None})])
    for name in ("f1", "precision", "recall", "added_gap", "hallucinated", "hallucinated_per_picture", "omitted"):
        assert math.isnan(getattr(scores, name)), name
    assert scores.stated_unknown == 1


def test_nothing_to_state_and_nothing_stated_is_undefined(make_face):
    scores = score_units([make_face(expression="Neutral")])
    assert math.isnan(scores.f1) and math.isnan(scores.added_gap) and math.isnan(scores.dropped_gap)
    assert scores.rows == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": {"AU99": 0.5}}, "AU99"),
        ({"stated": {"mouthSmileLeft": None}}, "mouthSmileLeft"),
        ({"stated": {"AU12": "gigantic"}}, "gigantic"),
        ({"expression": "Boredom"}, "Boredom"),
    ],
)
def test_unknown_names_are_refused_with_the_record(make_face, changes, message):
    with pytest.raises(ExpllmError, match=message) as caught:
        unit_table([make_face(record="face-7", **changes)])
    assert "face-7" in str(caught.value)


@given(st.lists(st.tuples(*[st.integers(0, 30)] * 3), min_size=1, max_size=5))
def test_f1_is_a_fraction_between_precision_and_recall(rows):
    hits, false, missed = np.array(rows).sum(0)
    f1 = float(micro_f1(np.array([hits, false, missed])))
    if hits + false + missed == 0:
        assert math.isnan(f1)
    else:
        assert 0.0 <= f1 <= 1.0
        if hits:
            parts = hits / (hits + false), hits / (hits + missed)
            assert min(parts) - 1e-12 <= f1 <= max(parts) + 1e-12


@given(st.lists(st.integers(0, 20), min_size=4, max_size=4))
def test_gap_is_between_minus_one_and_one(cells):
    stated_present, present, stated_absent, absent = cells
    counts = np.array([min(stated_present, present), present, min(stated_absent, absent), absent])
    value = float(gap(counts))
    assert math.isnan(value) == (present == 0 or absent == 0)
    assert math.isnan(value) or -1.0 <= value <= 1.0


# --- intensities --------------------------------------------------------------------------------------------------


def test_words_stand_for_the_middles_of_their_bands():
    assert BAND_MIDDLES == pytest.approx((0.03, 0.13, 0.3, 0.475, 0.775))
    assert len(BAND_MIDDLES) == len(BAND_ORDER)


def test_intensity_error_by_hand(make_face):
    faces = [
        make_face(units={"AU12": 0.7}, stated={"AU12": "moderate"}),  # said .3, and "strong" would have been .775
        make_face(units={"AU12": 0.0}, stated={"AU12": "slight"}),  # said .13, and "minimal" would have been .03
        make_face(units={"AU12": 0.4}, stated={"AU12": None}),
        make_face(unknown=("AU12",), stated={"AU12": "strong"}),
    ]
    found = score_intensities(faces)
    assert (found.n, found.wordless) == (2, 1)
    assert found.mae == pytest.approx((0.4 + 0.13) / 2)
    assert found.mae_of_true_words == pytest.approx((0.075 + 0.03) / 2)


def test_agreement_counts_what_is_not_stated_as_absent(make_face):
    truth, said = [0.0, 0.475, 0.775, 0.3], [0.0, 0.475, 0.775, 0.0]
    bands = {0.475: "significant", 0.775: "strong"}
    faces = [
        make_face(units={"AU6": value}, stated={"AU6": bands[word]} if word else {})
        for value, word in zip(truth, said, strict=True)
    ]
    found = score_intensities(faces)
    assert found.icc_per_unit == {"AU6": pytest.approx(icc_3_1(np.array(truth), np.array(said)))}
    assert found.icc == found.icc_per_unit["AU6"]


def test_intensities_of_texts_that_state_nothing(make_face):
    found = score_intensities([make_face(), make_face(cot_failure="no heading", stated={"AU6": "strong"})])
    assert found.n == 0 and math.isnan(found.mae) and math.isnan(found.icc) and found.icc_per_unit == {}
