"""The flat dictionary: its keys, its arithmetic, its file."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import summarise, write_metrics
from expllm_jax.faces import BASIC_7, PROTOTYPES

HEADLINE = (
    "accuracy_clean",
    "accuracy_mild",
    "accuracy_hard",
    "macro_f1",
    "unparsable",
    "unit_f1",
    "unit_f1_label_only",
    "added_gap",
    "dropped_gap",
)


@pytest.fixture(scope="module")
def faces_by_split(make_face):
    """80 people × 7 expressions × 3 splits of a model that is mostly right and mostly looks."""
    rng = np.random.default_rng(7)
    splits = {}
    for split, drop, add in (("clean", 0.0, 0.0), ("mild", 0.1, 0.04), ("hard", 0.2, 0.08)):
        faces = []
        for person in range(80):
            for expression in BASIC_7:
                units = {code: 0.7 for code in PROTOTYPES[expression] if rng.random() >= drop}
                units |= {code: 0.5 for code in ("AU9", "AU14", "AU18", "AU43") if rng.random() < add}
                stated = {code: None for code in units if rng.random() < 0.9}
                predicted = expression if rng.random() < 0.85 else str(rng.choice(BASIC_7))
                faces.append(
                    make_face(
                        record=f"{split}-{person}-{expression}",
                        identity=f"p{person}",
                        split=split,
                        expression=expression,
                        units=units,
                        stated=stated,
                        predicted=predicted,
                    )
                )
        splits[split] = faces
    return splits


def test_headline_numbers_have_ordered_intervals(faces_by_split):
    values = summarise(faces_by_split, resamples=500).values
    for key in HEADLINE:
        assert values[f"{key}_low"] <= values[key] <= values[f"{key}_high"], key
    assert values["dropped_gap_low"] > 0.2 and values["added_gap_low"] > 0.2
    assert values["unit_f1_gain"] == pytest.approx(values["unit_f1"] - values["unit_f1_label_only"])
    assert values["n_mild"] == 560 and values["identities_mild"] == 80
    assert values["chance"] == pytest.approx(1 / 7)


def test_headline_comes_from_the_main_split(faces_by_split):
    metrics = summarise(faces_by_split, resamples=100)
    for key in ("macro_f1", "unit_f1", "added_gap", "dropped_gap"):
        assert metrics.values[key] == metrics.values[f"{key}_mild"]
    assert metrics.values["macro_f1"] == metrics.splits["mild"].labels.macro_f1
    other = summarise(faces_by_split, main_split="hard", resamples=100)
    assert other.values["macro_f1"] == metrics.values["macro_f1_hard"]


def test_nothing_is_dropped_on_clean_so_its_gap_is_null(faces_by_split):
    metrics = summarise(faces_by_split, resamples=100)
    assert metrics.values["dropped_gap_clean"] is None
    assert metrics.values["dropped_gap_stratified_clean"] is None
    assert not metrics.interval("dropped_gap_clean").defined


def test_unparsable_is_counted_over_splits_and_both_answers(make_face):
    faces = {
        "mild": [make_face(predicted=None), make_face(), make_face(cot_failure="cut off")],
        "hard": [make_face(predicted=None, cot_failure="empty")],
    }
    values = summarise(faces, resamples=50).values
    assert values["unparsable"] == 4 and values["answers"] == 8
    assert values["unparsable_label_hard"] == 1 and values["unparsable_cot_mild"] == 1
    assert values["accuracy_mild"] == pytest.approx(2 / 3)


def test_none_unparsable_is_not_claimed_to_be_certain(faces_by_split):
    values = summarise(faces_by_split, resamples=50).values
    assert values["unparsable"] == 0 and values["unparsable_low"] == 0.0 and values["unparsable_high"] > 0


def test_all_intervals_in_less_than_two_seconds(faces_by_split):
    start = time.perf_counter()
    summarise(faces_by_split)
    assert time.perf_counter() - start < 4.0  # 2 s alone on a core; the allowance is for a busy computer


def test_same_seed_same_numbers(faces_by_split):
    first, second = (summarise(faces_by_split, resamples=100, seed=3).values for _ in range(2))
    assert first == second


def test_metrics_file_is_strict_json(faces_by_split, tmp_path):
    metrics = summarise(faces_by_split, resamples=50)
    path = write_metrics(tmp_path / "run" / "metrics.json", metrics)
    read = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert read == metrics.values
    assert all(value is None or isinstance(value, str) or math.isfinite(value) for value in read.values())
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_an_unwritable_place_is_one_clear_error_and_leaves_nothing(faces_by_split, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ExpllmError, match="cannot be written"):
        write_metrics(tmp_path / "file" / "metrics.json", summarise(faces_by_split, resamples=10))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("splits", [{}, {"clean": []}, {"mild": []}])
def test_missing_and_empty_splits_are_refused(splits):
    with pytest.raises(ExpllmError, match="split"):
        summarise(splits)


def test_a_record_evaluated_twice_is_refused(make_face):
    with pytest.raises(ExpllmError, match="'one' is twice"):
        summarise({"mild": [make_face(record="one"), make_face(record="one")]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity": ""}, "no identity"),
        ({"units": {"AU12": 1.2}}, "AU12 is 1.2"),
        ({"units": {"AU12": math.nan}}, "AU12 is nan"),
        ({"cot_failure": "cut off", "concluded": "Fear"}, "cut off"),
        ({"concluded": None}, "concluded=None"),
    ],
)
def test_contradictory_faces_are_refused(make_face, changes, message):
    with pytest.raises(ExpllmError, match=message):
        make_face(**changes)
