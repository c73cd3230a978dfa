"""Calibration of units: lines, and intervals that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from expllm_jax.engine.unit_calibration import LEVEL, UnitCalibration, fit_calibration, interval
from expllm_jax.errors import ExpllmError

RNG = np.random.default_rng(0)


def test_a_line_is_undone_and_intervals_hold_their_share():
    truth = RNG.uniform(0.3, 0.7, (4000, 1))
    noise = RNG.uniform(0.01, 0.03, truth.shape)  # known to the model, but for its scale
    mean = (truth + noise * RNG.standard_normal(truth.shape) - 0.2) / 0.5
    calibrate = fit_calibration(mean[:2000], 7 * noise[:2000], truth[:2000])
    assert calibrate.slope[0] == pytest.approx(0.5, rel=0.05) and calibrate.intercept[0] == pytest.approx(0.2, abs=0.02)
    value, deviation = calibrate(mean[2000:], 7 * noise[2000:])
    assert deviation.mean() == pytest.approx(noise.mean(), rel=0.1)
    for level in (0.5, LEVEL, 0.95):
        low, high = interval(value, deviation, level)
        assert np.mean((low <= truth[2000:]) & (truth[2000:] <= high)) == pytest.approx(level, abs=0.03)


def test_what_cannot_be_calibrated_is_left_as_it_is():
    unknown, constant = np.full(30, np.nan), np.zeros(30)
    mean = RNG.uniform(size=(30, 2))
    calibrate = fit_calibration(mean, np.ones((30, 2)), np.stack([unknown, constant], 1))
    assert calibrate == UnitCalibration((1.0, 1.0), (0.0, 0.0), (1.0, 1.0))


def test_values_and_intervals_stay_within_0_and_1():
    value, deviation = UnitCalibration((3.0,), (-0.5,), (2.0,))(np.array([[0.0], [0.9]]), np.array([[0.1], [0.4]]))
    assert value.ravel().tolist() == [0.0, 1.0] and deviation[0, 0] == pytest.approx(0.6, abs=0.01)
    low, high = interval(value, deviation)
    assert low.min() == 0.0 and high.max() == 1.0


def test_a_calibration_that_lacks_units_is_refused():
    with pytest.raises(ExpllmError, match="not as many slopes"):
        UnitCalibration((1.0,), (), (1.0,))
