"""Calibration against arithmetic on paper and models whose calibration is known; scikit-learn with `-m parity`."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import wilson
from expllm_jax.evaluate.calibration import (
    abstaining,
    brier,
    calibrate,
    calibration_scores,
    expected_calibration_error,
    fit_temperature,
    forecasts,
    log_loss,
    reliability,
    risk_by_coverage,
    tempered,
)


def known_study(n, temperature, seed=0, classes=7):
    """Probabilities that would be right at `temperature`, and truths drawn so."""
    rng = np.random.default_rng(seed)
    right_PC = rng.dirichlet(np.full(classes, 0.3), size=n)
    truth_P = (right_PC.cumsum(1) < rng.random((n, 1))).sum(1).clip(max=classes - 1)
    return tempered(right_PC, 1 / temperature), truth_P


def test_scores_by_hand():
    probability = np.array([[0.8, 0.2], [0.6, 0.4]])
    truth = np.array([0, 1])
    assert log_loss(probability, truth) == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2)
    assert brier(probability, truth) == pytest.approx((0.04 + 0.04 + 0.36 + 0.36) / 2)


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.95, 0.95, 0.55])
    right = np.array([True, True, False, True])
    # |2 - 3·0.95| of the first range and |1 - 0.55| of the second, over four faces
    assert expected_calibration_error(confidence, right, bins=10) == pytest.approx((0.85 + 0.45) / 4)


def test_reliability_ranges_hold_every_face_once():
    table = reliability(np.array([0.0, 0.1, 0.1001, 1.0]), np.array([False, True, True, True]), bins=10)
    assert [row.n for row in table] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert table[0].accuracy.value == 0.5 and table[0].accuracy.low == wilson(1, 2)[0]
    assert math.isnan(table[2].confidence) and not table[2].accuracy.defined


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_used_is_found(temperature):
    probability, truth = known_study(4000, temperature)
    assert fit_temperature(probability, truth) == pytest.approx(temperature, rel=0.06)


def test_a_temperature_changes_no_label():
    probability, _ = known_study(200, 1.0)
    assert (tempered(probability, 3.0).argmax(1) == probability.argmax(1)).all()
    assert tempered(probability, 3.0).max() < probability.max()
    assert np.isfinite(tempered(np.array([[1.0, 0.0]]), 0.05)).all()


def test_calibrated_probabilities_have_the_error_that_chance_makes():
    probability, truth = known_study(500, 1.0, seed=3)
    found = calibration_scores(probability, truth)
    assert found.ece == pytest.approx(found.ece_if_calibrated, abs=0.02)
    assert found.ece_p > 0.05
    overconfident = calibration_scores(tempered(probability, 0.3), truth)
    assert overconfident.ece > 2 * overconfident.ece_if_calibrated
    assert overconfident.ece_p < 0.01


def test_abstaining_by_hand():
    confidence = np.array([0.9, 0.8, 0.8, 0.4])
    right = np.array([True, True, False, False])
    coverage, error, threshold = risk_by_coverage(confidence, right)
    assert coverage.tolist() == [0.25, 0.75, 1.0]  # the two at 0.8 cannot be parted
    assert error.tolist() == [0.0, pytest.approx(1 / 3), 0.5]
    assert threshold.tolist() == [0.9, 0.8, 0.4]
    full, half = abstaining(confidence, right, (1.0, 0.5))
    assert (full.n, full.accuracy.value) == (4, 0.5)
    assert (half.n, half.coverage, half.threshold, half.accuracy.value) == (3, 0.75, 0.8, pytest.approx(2 / 3))


def test_knowing_when_one_is_wrong_lowers_the_risk():
    probability, truth = known_study(800, 1.0, seed=1)
    found = calibration_scores(probability, truth)
    assert found.area_under_risk < 0.75 * (1 - found.accuracy)
    assert found.abstaining[-1].accuracy.value > found.accuracy


def faces_of(make_face, probability, truth, names):
    return [
        make_face(
            expression=names[label],
            identity=f"p{row // 4}",
            predicted=names[int(shares.argmax())],
            probabilities=dict(zip(names, map(float, shares), strict=True)),
        )
        for row, (shares, label) in enumerate(zip(probability, truth, strict=True))
    ]


def test_a_temperature_of_other_people_mends_overconfidence(make_face):
    names = ("Happiness", "Anger", "Fear")
    faces = faces_of(make_face, *known_study(600, 0.4, classes=3), names)
    silent = make_face(probabilities={})
    found = calibrate([*faces, silent], names)
    assert found.temperatures == pytest.approx((0.4, 0.4), rel=0.25)
    assert found.mended.log_loss < found.raw.log_loss
    assert found.mended.ece < found.raw.ece
    assert found.mended.accuracy == found.raw.accuracy
    assert (found.missing, found.disagreeing) == (1, 0)
    assert calibrate([silent, *reversed(faces)], names).temperatures == pytest.approx(found.temperatures)


def test_faces_that_cannot_be_judged_are_refused(make_face):
    with pytest.raises(ExpllmError, match="no answer has probabilities"):
        calibrate([make_face()])
    sure = {"Happiness": 1.0}
    with pytest.raises(ExpllmError, match="'Joy' is not one of"):
        forecasts([make_face(probabilities={"Joy": 1.0})])
    with pytest.raises(ExpllmError, match="evaluate at least two"):
        calibrate([make_face(identity="p", probabilities=sure), make_face(identity="p", probabilities=sure)])


@pytest.mark.parity
def test_scores_equal_scikit_learn():
    from sklearn.metrics import brier_score_loss
    from sklearn.metrics import log_loss as theirs

    probability, truth = known_study(300, 1.3, seed=7)
    assert log_loss(probability, truth) == pytest.approx(theirs(truth, probability, labels=range(7)), rel=1e-6)
    ours = brier(probability, truth)
    assert ours == pytest.approx(brier_score_loss(truth, probability, labels=range(7), scale_by_half=False), rel=1e-9)
