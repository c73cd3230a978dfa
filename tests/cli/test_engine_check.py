"""`expllm engine check`."""

from __future__ import annotations

import dataclasses
import io
import json
import sys

import pytest

from expllm_jax.cot import write_parts
from expllm_jax.faces import FEAFA_24, Annotation, write_annotations
from tests.cli.commands import assert_refused, expllm

GOOD = write_parts("Strong brow lowering (AU4).", "It is telling.", "The expression is anger.")
BAD = write_parts("Strong brow lowering (AU4) and strong jaw drop.", "It is telling.", "The expression is fear.")


def face(name: str, text: str | None, **units) -> Annotation:
    return Annotation(name, "Anger", cot=text, units=units or {"facs": {"AU4": 0.7}})


@pytest.fixture
def annotations(tmp_path):
    def written(*faces: Annotation):
        path = tmp_path / "faces.jsonl"
        write_annotations(path, faces)
        return path

    return written


def test_texts_without_findings(annotations):
    done = expllm("engine", "check", annotations(face("a.png", GOOD)), "--strict")
    assert done.status == 0, done
    assert "1 text, 0 with findings" in done.out


def test_texts_with_findings(annotations, tmp_path):
    listed = tmp_path / "findings.jsonl"
    done = expllm("engine", "check", annotations(face("a.png", GOOD), face("b.png", BAD)), "--findings", listed)
    assert done.status == 1
    assert "2 texts, 1 with findings" in done.out and "[[jaw drop]]" in done.out and str(listed) in done.out
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [line["code"] for line in lines] == ["unsupported-unit", "wrong-conclusion"]
    assert {line["picture"] for line in lines} == {"b.png"}
    assert BAD[lines[0]["start"] : lines[0]["end"]] == "jaw drop" and "jaw drop" in lines[0]["reason"]


def test_which_units_a_text_speaks_of(annotations):
    both = dataclasses.replace(face("a.png", GOOD), units={**face("a.png", GOOD).units, "feafa": {"FEAFA9": 0.9}})
    refused = expllm("engine", "check", annotations(both))
    assert refused.status == 2 and "--units" in refused.err
    said = dataclasses.replace(both, provenance={"engine.vocabulary": "facs"})  # as `engine run` writes it
    assert expllm("engine", "check", annotations(said), "--strict").status == 0
    assert expllm("engine", "check", annotations(said), "--strict", "--units", "feafa").status == 1


def test_json(annotations):
    done = expllm(
        "engine", "check", annotations(face("a.png", GOOD), face("b.png", BAD), face("c.png", None)), "--json"
    )
    told = json.loads(done.out)
    assert done.status == 1 and done.err == ""
    assert (told["n"], told["three_parts"], told["exact_headings"]) == (2, 1.0, 1.0)
    assert told["conclusion_names_label"] == {"Anger": 0.5}
    assert told["findings"] == {"unsupported-unit": 1, "wrong-conclusion": 1}
    assert (told["without_text"], told["without_values"], told["texts_with_findings"]) == (1, 0, 1)


def test_the_released_format(tmp_path):
    path = tmp_path / "released.json"
    text = write_parts("The jaw is dropped (0.35).", "It is so.", "It conveys joy.")
    values = [0.0] * 24
    values[8] = 0.35
    path.write_text(json.dumps([{"file_name": "a.jpg", "emo": "Happiness", "au": values, "description": text}]))
    told = json.loads(expllm("engine", "check", path, "--json").out)
    assert (told["quoted_numbers"], told["quoted_numbers_matching"], told["findings"]) == (1, 1, {})
    assert told["conclusion_names_label"] == {"Happiness": 1.0}


def test_one_text_on_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode())))
    assert expllm("engine", "check", "-", "--label", "angry").status == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode())))
    done = expllm("engine", "check", "-", "--label", "Fear", "--json")
    assert done.status == 1 and json.loads(done.out)["findings"] == {"wrong-conclusion": 1}


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ((), {"unsupported-unit", "wrong-conclusion"}),
        (("--no-values",), {"wrong-conclusion"}),
        (("--no-conclusion",), {"unsupported-unit"}),
        (("--words", "30-60"), {"unsupported-unit", "wrong-conclusion", "wrong-length"}),
        (("--no-values", "--no-conclusion"), set()),
        (("--no-values", "--no-conclusion", "--no-label-in-observations"), set()),
    ],
)
def test_rules_are_switched_by_flags(annotations, flags, found):
    done = expllm("engine", "check", annotations(face("b.png", BAD)), "--json", *flags)
    assert set(json.loads(done.out)["findings"]) == found
    assert done.status == (1 if found else 0)


def test_slack_and_omissions(annotations):
    path = annotations(face("a.png", GOOD, facs={"AU4": 0.45, "AU26": 0.5}))
    assert expllm("engine", "check", path, "--slack", "0.2").status == 0
    assert "wrong-intensity" in expllm("engine", "check", path, "--slack", "0.05").out
    assert "omitted-unit" in expllm("engine", "check", path, "--slack", "0.2", "--omitted-from", "0.4").out


def test_whose_units(annotations):
    path = annotations(face("a.png", GOOD, facs={"AU4": 0.7}, feafa=dict.fromkeys(FEAFA_24.codes, 0.0)))
    assert_refused(expllm("engine", "check", path), "a.png")
    assert expllm("engine", "check", path, "--units", "facs").status == 0
    assert expllm("engine", "check", path, "--units", "feafa").status == 1


def test_refusals(annotations, tmp_path):
    assert_refused(expllm("engine", "check", tmp_path / "none.jsonl"), "none.jsonl")
    assert_refused(expllm("engine", "check", tmp_path / "none.txt"), "none.txt")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\xff")
    assert_refused(expllm("engine", "check", tmp_path / "odd.txt"), "odd.txt")
    (tmp_path / "odd.json").write_text("{")
    assert_refused(expllm("engine", "check", tmp_path / "odd.json"), "odd.json")
    (tmp_path / "empty.jsonl").write_text("")
    assert_refused(expllm("engine", "check", tmp_path / "empty.jsonl"), "empty.jsonl")
    path = annotations(face("a.png", None))
    assert_refused(expllm("engine", "check", path), "no text")
    assert_refused(expllm("engine", "check", path, "--label", "Anger"), "--label")
    path = annotations(face("a.png", GOOD))
    assert_refused(expllm("engine", "check", path, "--findings", path), "exists already")
    (tmp_path / "text.txt").write_text(GOOD)
    assert_refused(expllm("engine", "check", tmp_path / "text.txt", "--label", "tired"), "tired")
    assert expllm("engine", "check", path, "--slack", "2").status == 2
    assert expllm("engine", "check", path, "--words", "9").status == 2
