"""`expllm score` from files to a table, and what it leaves behind."""

from __future__ import annotations

import json

import pytest

from expllm_jax.cli.score import _PROTOCOLS
from expllm_jax.cot import PROTOCOLS, write_parts
from expllm_jax.evaluate.answer_files import read_answers
from expllm_jax.faces import PROTOTYPES, Annotation, write_annotations
from tests.cli.commands import assert_refused, expllm

NOUNS = {"Happiness": "happiness", "Anger": "anger", "Surprise": "surprise"}
UNITS = {label: tuple(PROTOTYPES[label]) for label in NOUNS}
CODES = {code for codes in UNITS.values() for code in codes}


def cot(label, codes=None):
    observations = " ".join(f"There is a strong {code}." for code in codes or UNITS[label])
    return write_parts(observations, "Such a face is told easily.", f"The person expresses {NOUNS[label]}.")


@pytest.fixture
def files(tmp_path):
    labels = [label for label in NOUNS for _ in range(4)]
    truth = [
        Annotation(f"{n}.png", label, {"facs": {code: 0.7 * (code in UNITS[label]) for code in CODES}},
                   cot=cot(label), identity=f"person {n % 3}", split="mild")
        for n, label in enumerate(labels)
    ]  # fmt: skip
    write_annotations(tmp_path / "annotations.jsonl", [*truth, Annotation("unlabelled.png")])
    lines = [{"picture": f"{n}.png", "label": label, "cot": cot(label)} for n, label in enumerate(labels)]
    lines[0] |= {"label": "It is not anger but happiness."}
    lines[1] |= {"cot": cot("Happiness", UNITS["Anger"]), "finish_reason": "length"}
    lines[2] |= {"cot": "There is no AU12"}
    del lines[3]
    lines.append({"picture": "stranger.png", "label": "Anger"})
    (tmp_path / "predictions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "predictions.jsonl", tmp_path / "annotations.jsonl"


def test_every_protocol_has_its_flag():
    assert tuple(PROTOCOLS) == _PROTOCOLS


def test_scores_with_what_did_not_fit(files, tmp_path):
    predictions, truth = files
    outcome = expllm("score", predictions, "--truth", truth, "--out", tmp_path / "scored", "--json")
    assert outcome.status == 0, outcome.err
    told = json.loads(outcome.out)
    assert (told["n"], told["missing"], told["unknown"], told["truth_without_label"]) == (12, 1, 1, 1)
    assert told["accuracy"] == pytest.approx(10 / 12) and told["unparsable"] == 2
    assert told["accuracy_low"] <= told["accuracy"] <= told["accuracy_high"]
    assert (told["truncated"], told["unparsable_cot"], told["recall_Anger"]) == (1, 1, 1.0)
    # Of twelve texts one states other units, one does not parse and denies a unit, one is missing.
    assert told["unit_recall"] == pytest.approx(1 - 3 * len(UNITS["Happiness"]) / sum(map(len, UNITS.values())) / 4)
    assert (told["eea"], told["verifier_on_references"]) == (pytest.approx(9 / 12), 1.0)
    assert (told["right_both"], told["right_label"], told["right_neither"]) == (8, 2, 1)
    assert told["rege_corrected_recognition"] == pytest.approx(1000 / 12) and told["references"] == 12
    # FABA-Bench finds its keyword in ten texts; it stops at the one without a full stop and at the one that is missing.
    assert told["rege_published_recognition"] == pytest.approx(1000 / 12) and told["rege_published_left_out"] == 1
    assert (told["n_strong"], told["accuracy_strong"]) == (12, told["accuracy"]) and "n_weak" not in told
    assert json.loads((tmp_path / "scored" / "metrics.json").read_text())["accuracy"] == told["accuracy"]
    assert len(read_answers(tmp_path / "scored" / "answers.jsonl")) == 12


def test_the_table_says_how_it_was_read(files):
    predictions, truth = files
    outcome = expllm("score", predictions, "--truth", truth, "--parser", "unifer", "--verifier-texts", truth)
    assert outcome.status == 0, outcome.err
    assert "12 faces of 3 people, read as by FERBench (UniFER)" in outcome.out
    assert "accuracy 91.7% as published, 0.0% as meant: 11 answers are read otherwise" in outcome.out
    assert "stranger.png (line 12)" in outcome.out and "3.png" in outcome.out


def test_a_reading_shows_what_its_faults_come_to(files):
    predictions, truth = files
    told = json.loads(expllm("score", predictions, "--truth", truth, "--parser", "unifer", "--json").out)
    assert told["reading"] == "published" and told["read_otherwise"] == 11
    assert told["accuracy"] == told["accuracy_as_published"] == pytest.approx(11 / 12)
    corrected = json.loads(
        expllm("score", predictions, "--truth", truth, "--parser", "unifer", "--corrected", "--json").out
    )
    assert corrected["accuracy"] == told["accuracy_corrected"] == 0.0  # no answer has the tag


def test_labels_of_another_order_are_pointed_out(tmp_path):
    labels = ["Happiness", "Anger", "Surprise", "Fear"] * 12
    write_annotations(tmp_path / "truth.jsonl", [Annotation(f"{n}.png", label) for n, label in enumerate(labels)])
    swapped = {"Happiness": "Anger", "Anger": "Happiness"}
    lines = [{"picture": f"{n}.png", "label": swapped.get(label, label)} for n, label in enumerate(labels)]
    (tmp_path / "predictions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    outcome = expllm("score", tmp_path / "predictions.jsonl", "--truth", tmp_path / "truth.jsonl")
    assert "warning: The labels look as if numbered in another order" in outcome.out


def test_what_cannot_be_scored_is_refused(files, tmp_path):
    predictions, truth = files
    assert_refused(expllm("score", tmp_path / "none.jsonl", "--truth", truth), "none.jsonl")
    assert_refused(expllm("score", predictions, "--truth", truth, "--split", "hard"), "hard")
    assert_refused(expllm("score", predictions, "--truth", predictions), "line 1")
    write_annotations(tmp_path / "texts.jsonl", [Annotation("a.png", "Anger", cot=cot("Anger"))])
    verifier = ("--verifier-texts", tmp_path / "texts.jsonl")
    assert_refused(expllm("score", predictions, "--truth", truth, *verifier), "no text of Happiness")
