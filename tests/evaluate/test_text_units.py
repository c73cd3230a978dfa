"""F1 of units from texts: published readings count denied units, and differ in what their mean leaves out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expllm_jax.cot import stated_units
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.text_units import mentioned_units, unit_f1


def test_a_denied_unit_counts_as_stated_only_as_published():
    text = "There is no AU12 and no cheek raise (AU6). The jaw drop (AU26) is strong."
    assert mentioned_units(text) == {"AU12", "AU6", "AU26"}
    assert set(stated_units(text)) == {"AU26"}


def test_facial_r1_looks_into_the_thinking_only():
    text = "<think>AU4 and AU7</think><answer>anger AU12</answer>"
    assert mentioned_units(text) == {"AU4", "AU7", "AU12"}
    assert mentioned_units(text, thinking_only=True) == {"AU4", "AU7"}
    assert mentioned_units("AU4 <think>AU7", thinking_only=True) == {"AU4", "AU7"}
    assert mentioned_units("au12 AU 12 AUx") == frozenset()


def test_the_means_leave_out_different_units():
    stated = [{"AU1", "AU4"}, {"AU1", "AU6"}, {"AU1"}]
    truth = [{"AU1": 1.0, "AU2": 0.0}, {"AU1": 1.0, "AU2": 1.0}, {"AU1": 1.0}]
    codes = ("AU1", "AU2", "AU4", "AU12")
    assert unit_f1(stated, truth, codes, over="facial-r1").by_unit == {"AU1": 1.0, "AU2": 0.0}
    # AU1 is everywhere in truth and prediction, AU12 nowhere: the published confusion matrix has one cell, and fails.
    assert unit_f1(stated, truth, codes, over="faba").by_unit == {"AU2": 0.0, "AU4": 0.0}
    # AU4 is never known to be absent: nothing can be said of it.
    ours = unit_f1(stated, truth, codes)
    assert ours.by_unit == {"AU1": 1.0, "AU2": 0.0} and ours.mean == 0.5


def test_nothing_to_score():
    assert math.isnan(unit_f1([set()], [{}], ("AU1",)).mean)
    with pytest.raises(ExpllmError, match="0 texts for 0 faces"):
        unit_f1([], [], ("AU1",))


@pytest.mark.parity
def test_f1_is_that_of_scikit_learn():
    from sklearn.metrics import f1_score

    rng, codes = np.random.default_rng(0), tuple(f"AU{number}" for number in (1, 2, 4, 6, 12))
    truth_FU, said_FU = rng.random((60, 5)) < 0.3, rng.random((60, 5)) < 0.4
    truth = [dict(zip(codes, map(float, row), strict=True)) for row in truth_FU]
    stated = [{code for code, said in zip(codes, row, strict=True) if said} for row in said_FU]
    for over in ("faba", "facial-r1", "defined"):
        found = unit_f1(stated, truth, codes, over=over)
        assert found.mean == pytest.approx(f1_score(truth_FU, said_FU, average="macro"))
