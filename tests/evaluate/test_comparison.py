"""Runs against each other: what is common, what differs, and what the command says of it."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from expllm_jax.cli import main
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.answer_files import answer_line
from expllm_jax.evaluate.comparison import Candidate, common_splits, compare, plain, read_candidates
from expllm_jax.evaluate.comparison_page import comparison_lines, render_comparison
from expllm_jax.faces import BASIC_7

FAST = {"resamples": 100, "deals": 199}


@pytest.fixture
def runs(make_face):
    """A run, one that is right about 18 more of 140 faces, and the first one without texts and its first ten faces."""
    first = [
        make_face(
            record=f"r{i}",
            identity=f"p{i // 7}",
            expression=BASIC_7[i % 7],
            predicted=BASIC_7[i % 7] if i % 4 else None,
            units={"AU12": 0.6},
            stated={"AU12": "strong"} if i % 3 else {},
        )
        for i in range(140)
    ]
    better = [dataclasses.replace(f, predicted=f.expression) if i % 8 == 0 else f for i, f in enumerate(first)]
    silent = [dataclasses.replace(face, cot=None, concluded=None, stated={}) for face in first[10:]]
    return [Candidate("first", first), Candidate("better", better), Candidate("silent", silent)]


def test_only_common_pictures_are_compared_and_the_others_counted(runs):
    found = compare(runs, "mild", **FAST)
    assert (found.common, found.people, found.people_repeat) == (130, 19, True)
    assert [(run.answered, run.left_out) for run in found.runs] == [(140, 10), (140, 10), (130, 0)]
    right = sum(face.correct for face in runs[0].faces[10:])
    assert found.runs[0].metrics["accuracy"].value == right / 130


def test_pairs_differ_where_the_runs_do(runs):
    found = compare(runs, "mild", **FAST)
    to_better, to_silent, _ = found.pairs
    gained = sum(face.correct for face in runs[1].faces[10:]) - sum(face.correct for face in runs[0].faces[10:])
    assert to_better.right.second_only == gained and to_better.right.first_only == 0
    difference = to_better.differences["accuracy"]
    assert difference.interval.value == pytest.approx(gained / 130)
    assert difference.p < difference.p_holm < 0.05
    assert to_silent.differences["accuracy"].interval.value == 0 and to_silent.differences["accuracy"].p == 1.0
    assert math.isnan(to_silent.differences["unit_f1"].p_holm)  # the silent run stated nothing


def test_the_order_of_the_answers_changes_nothing(runs):
    shuffled = [
        Candidate(run.name, [run.faces[i] for i in np.random.default_rng(seed).permutation(len(run.faces))])
        for seed, run in enumerate(runs)
    ]
    assert json.dumps(plain(compare(shuffled, "mild", **FAST))) == json.dumps(plain(compare(runs, "mild", **FAST)))


def test_runs_that_cannot_be_compared(runs, make_face):
    with pytest.raises(ExpllmError, match="only one run"):
        compare(runs[:1], "mild")
    other = Candidate("other", [make_face(split="clean")])
    with pytest.raises(ExpllmError, match="no split in common \\(first: mild; other: clean\\)"):
        common_splits([runs[0], other])
    with pytest.raises(ExpllmError, match="no picture of the split 'clean' was answered by all"):
        compare([runs[0], other], "clean")
    relabelled = Candidate("new labels", [dataclasses.replace(runs[0].faces[0], expression="Fear")])
    with pytest.raises(ExpllmError, match="1 of 1 pictures have another truth in new labels"):
        compare([runs[0], relabelled], "mild")


def test_the_page_and_the_lines_hold_the_numbers_and_escape_names(runs):
    odd = [dataclasses.replace(runs[0], name="<script>"), runs[1]]
    found = compare(odd, "mild", **FAST)
    html = render_comparison([found])
    assert "<script>" not in html and "&lt;script&gt;" in html
    lines = "\n".join(comparison_lines(found))
    accuracy = f"{100 * found.runs[0].metrics['accuracy'].value:.1f} ["
    assert accuracy in lines and accuracy in html
    assert "differs" in lines


def write(folder, faces):
    folder.mkdir(parents=True)
    (folder / "answers.jsonl").write_text("\n".join(answer_line(face, folder) for face in faces))
    return folder


def test_the_command(tmp_path, runs, capsys):
    one = write(tmp_path / "a" / "run", runs[0].faces)
    two = write(tmp_path / "b" / "run", runs[1].faces)
    page = tmp_path / "compare.html"
    assert main(["compare", str(one), str(two / "answers.jsonl"), "--json", "--html", str(page)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in told["splits"]["mild"]["runs"]] == ["a/run", "b/run"]
    assert told["splits"]["mild"]["common"] == 140
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_the_command_refuses_what_is_no_pair_of_runs(tmp_path, runs, capsys):
    one = write(tmp_path / "run" / "evaluations" / "label-only", runs[0].faces)
    assert main(["compare", str(one)]) == 2
    assert main(["compare", str(one), str(one / "answers.jsonl")]) == 2
    assert main(["compare", str(one), str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "only one run" in told and "is there twice" in told and f"name one of {one}" in told


def test_names_are_as_short_as_they_can_be(tmp_path, runs):
    places = [write(tmp_path / "runs" / name, runs[0].faces) for name in ("a", "b/evaluations/label-only")]
    assert [run.name for run in read_candidates(places)] == ["a", "b/evaluations/label-only"]
