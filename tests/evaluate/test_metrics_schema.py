"""What a summary writes keeps to the schema, and what does not is named; scores equal other packages' (`-m parity`)."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import score, summarise
from expllm_jax.evaluate.metrics_schema import check_metrics, metrics_schema
from expllm_jax.evaluate.unit_values import icc_3_1
from expllm_jax.faces import BASIC_7


@pytest.fixture
def values(make_face):
    sure = {name: 1.0 if name == "Fear" else 0.0 for name in BASIC_7}
    faces = [
        make_face(expression=name, predicted=name, stated={"AU12": "strong"}, probabilities=sure, groups={"race": race})
        for name in BASIC_7
        for race in ("Asian", "White")
    ]
    return dict(summarise({"mild": faces}, resamples=20).values)


def test_a_summary_keeps_to_the_schema(values):
    check_metrics(json.loads(json.dumps(values)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"accuracy_mild": 1.5}, "at most 1"),
        ({"recall_mild_Fear": "high"}, "number or null"),
        ({"n_mild": 3.5}, "integer"),
        ({"unparsable": -1}, "at least 0"),
        ({"added_gap": -2.0}, "at least -1"),
        ({"main_split": None}, "string"),
        ({"uar_mild": float("nan")}, "number or null"),
        ({"extra": [1]}, "number or string or null"),
        ({"accuracy_mild_low": 0.9, "accuracy_mild": 0.5, "accuracy_mild_high": 1.0}, "outside its interval"),
    ],
)
def test_what_does_not_fit_is_named(values, change, told):
    with pytest.raises(
        ExpllmError, match=re.escape(f"{next(reversed(change)) if len(change) == 1 else 'accuracy_mild'!r}")
    ) as caught:
        check_metrics(values | change)
    assert told in str(caught.value)


def test_a_missing_key_is_named(values):
    del values["chance"]
    with pytest.raises(ExpllmError, match="lack 'chance'"):
        check_metrics(values)


def test_every_pattern_matches_something_that_is_written(values):
    unused = [p for p in metrics_schema()["patternProperties"] if not any(re.search(p, key) for key in values)]
    assert unused == []


@pytest.mark.parity
def test_label_scores_equal_scikit_learn(make_face):
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score

    rng = np.random.default_rng(0)
    for _ in range(5):
        truth, named = rng.choice(BASIC_7, 90), rng.choice(BASIC_7, 90)
        found = score([make_face(expression=str(t), predicted=str(p)) for t, p in zip(truth, named, strict=True)])
        assert found.accuracy == pytest.approx(accuracy_score(truth, named))
        assert found.uar == pytest.approx(balanced_accuracy_score(truth, named))
        assert found.macro_f1 == pytest.approx(f1_score(truth, named, average="macro"))
        theirs = recall_score(truth, named, labels=list(BASIC_7), average=None)
        assert [row.recall for row in found.per_class] == pytest.approx(theirs.tolist())


@pytest.mark.parity
def test_agreement_of_intensities_equals_pingouin():
    import pandas
    import pingouin

    rng = np.random.default_rng(1)
    truth, said = rng.random(40), rng.random(40)
    told = pandas.DataFrame({"face": [*range(40)] * 2, "rater": ["a"] * 40 + ["b"] * 40, "value": [*truth, *said]})
    table = pingouin.intraclass_corr(told, targets="face", raters="rater", ratings="value")
    single_fixed = table[table["Type"].isin(["ICC3", "ICC(C,1)"])]["ICC"].iloc[0]
    assert icc_3_1(truth, said) == pytest.approx(float(single_fixed), abs=1e-6)
