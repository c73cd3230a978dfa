"""`expllm faithfulness` on a run whose texts are those of the narrator, so that there is something to change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from expllm_jax.cot import parse_cot, stated_units
from expllm_jax.faces import read_annotations
from tests.cli.commands import assert_refused, expllm, unchanged


@pytest.fixture(scope="module")
def told_run(run, tmp_path_factory) -> Path:
    """A copy of the run in whose answers every face was described truly. Its model has learnt next to nothing."""
    folder = tmp_path_factory.mktemp("faithfulness") / "run"
    shutil.copytree(run, folder)
    texts = {face.picture: face.cot for face in read_annotations(folder / "faces" / "annotations.jsonl")}
    lines = []
    for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)
        text = texts[answer["record"]]
        answer |= {"cot": text, "cot_failure": None, "stated": stated_units(text), "tries": 1}
        answer |= {"concluded": parse_cot(text).expression, "label_text": answer["expression"]}
        lines.append(json.dumps(answer | {"predicted": answer["expression"]}))
    (folder / "answers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_everything_is_measured_once_and_grows(told_run):
    small = ("faithfulness", "--run", told_run, "--faces", 2, "--renders", 1, "--split", "mild")
    first = expllm(*small, "--json")
    assert first.status == 0, first.err
    metrics = json.loads(first.out)
    folder = told_run / "faithfulness"
    assert metrics == json.loads((folder / "metrics.json").read_text())
    answers = (folder / "answers.jsonl").read_text().splitlines()
    counts = {kind: sum(f'"kind": "{kind}"' in line for line in answers) for kind in ("mask", "text", "counterfactual")}
    assert counts["mask"] == 2 * metrics["mask"]["pairs"] > 0
    assert counts["text"] == sum(row["conclusion_flips"]["n"] for row in metrics["text"].values()) > 0
    assert counts["counterfactual"] == metrics["counterfactual"]["all"]["right"]["n"] > 22
    assert (folder / "counterfactuals.png").is_file() and (folder / "masks.png").is_file()
    # What the narrator states truly has an F1 of 1; what a model that learnt nothing says after it is another matter.
    assert metrics["counterfactual"]["units"]["AU12"]["f1"]["mild"] == 1.0

    again = expllm(*small)
    assert again.status == 0 and again.err.count("all answered already") == 3
    assert str(folder / "metrics.json") in again.out
    assert sorted((folder / "answers.jsonl").read_text().splitlines()) == sorted(answers)

    # A killed process leaves a line that is not finished.
    (folder / "answers.jsonl").write_text("\n".join(answers[:-1]) + "\n" + answers[-1][:20])
    grown = expllm("faithfulness", "--run", told_run, "--faces", 3, "--renders", 1, "--split", "mild",
                   "--interventions", "mask", "--json")  # fmt: skip
    assert grown.status == 0, grown.err
    assert json.loads(grown.out)["mask"]["pairs"] > metrics["mask"]["pairs"]


def test_what_cannot_be_measured_is_refused(run, told_run, tmp_path):
    with unchanged(told_run):
        assert_refused(expllm("faithfulness", "--run", told_run, "--split", "wild"), "wild", "mild")
    empty = tmp_path / "run"
    shutil.copytree(told_run, empty, ignore=shutil.ignore_patterns("answers.jsonl"))
    assert_refused(expllm("faithfulness", "--run", empty), "expllm eval")
