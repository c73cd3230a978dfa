"""`expllm eval`: ways of asking, records of one's own, killed and taken up again, and what is left behind."""

from __future__ import annotations

import json
import shutil

import pytest

from expllm_jax import assessment
from expllm_jax.evaluate.answer_files import read_answers
from expllm_jax.infer import Predictor
from tests.cli.commands import assert_refused, expllm, unchanged


@pytest.fixture(scope="module")
def ours(run, tmp_path_factory):
    """The shared run, to be evaluated without a trace."""
    copy = tmp_path_factory.mktemp("evaluation") / "run"
    shutil.copytree(run, copy)
    return copy


def test_all_orders_have_folders_of_their_own_and_a_table(ours):
    answers = (ours / "answers.jsonl").stat().st_mtime_ns
    outcome = expllm("eval", "--run", ours, "--order", "all", "--json")
    assert (ours / "answers.jsonl").stat().st_mtime_ns == answers  # as the paper asks was done by the demo already
    assert outcome.status == 0, outcome.err
    told = json.loads(outcome.out)
    assert list(told) == ["label-first", "reasoning-first", "label-only"]
    for name in ("reasoning-first", "label-only"):
        folder = ours / "evaluations" / name
        assert json.loads((folder / "metrics.json").read_text()) == told[name]
        faces = read_answers(folder / "answers.jsonl")
        assert len(faces) == 14 and {face.order for face in faces} == {name}
        assert all((face.cot is None) == (name == "label-only") for face in faces)
        assert all(face.prompt_tokens > 16 and face.new_tokens > 0 for face in faces)
        assert (folder / "report.html").stat().st_size > 10_000
    assert told["label-only"]["unit_f1"] is None and "conclusion_agreement_mild" not in told["label-only"]
    shown = expllm("eval", "--run", ours, "--order", "all")
    assert "is there already" in shown.err and "reasoning-first  " in shown.out and "text agrees" in shown.out
    page = (ours / "report.html").read_text()
    assert "Asked in other ways" in page and "reasoning first" in page


def test_a_killed_evaluation_goes_on_where_it_was(ours, monkeypatch):
    assert expllm("eval", "--run", ours, "--order", "label-only").status == 0
    folder = ours / "evaluations" / "label-only"
    whole = (folder / "answers.jsonl").read_text()
    answer, asked = Predictor.answer_stored, []

    def until_killed(self, contents, names, **settings):
        if len(asked) >= 7:
            raise KeyboardInterrupt
        asked.extend(names)
        return answer(self, contents, names, **settings)

    def to_the_end(self, contents, names, **settings):
        asked.extend(names)
        return answer(self, contents, names, **settings)

    monkeypatch.setattr(assessment, "_CHUNK", 5)
    monkeypatch.setattr(Predictor, "answer_stored", until_killed)
    assert expllm("eval", "--run", ours, "--order", "label-only", "--again").status == 130
    (partial,) = folder.glob(".answers-*")
    partial.write_text(partial.read_text() + '{"torn')
    monkeypatch.setattr(Predictor, "answer_stored", to_the_end)
    outcome = expllm("eval", "--run", ours, "--order", "label-only", "--again")
    assert outcome.status == 0 and "7 were answered before" in outcome.err
    assert len(asked) == 14 == len(set(asked)) and not list(folder.glob(".answers-*"))
    assert (folder / "answers.jsonl").read_text() == whole == (folder / "answers.previous.jsonl").read_text()


def test_records_of_ones_own_are_asked_about(ours, tmp_path):
    outcome = expllm("eval", "--run", ours, "--records", f"{ours}/records:mild", "--out", tmp_path / "mine", "--json")
    assert outcome.status == 0, outcome.err
    told, usual = json.loads(outcome.out), json.loads((ours / "metrics.json").read_text())
    assert told["main_split"] == "mild" and told["accuracy_mild"] == usual["accuracy_mild"] and told["n_mild"] == 7
    assert str(ours / "records") in (tmp_path / "mine" / "report.html").read_text()
    with unchanged(ours):
        for wrong, named in (
            ("nowhere", "nowhere"),
            (f"{ours}/records:rare", "rare"),
            (f"{ours}/records:mild*2", "*2"),
        ):
            assert_refused(expllm("eval", "--run", ours, "--records", wrong, "--out", tmp_path / "no"), named)
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "thesis.tex").write_text("five years of work")
        told = expllm("eval", "--run", ours, "--order", "label-only", "--again", "--out", tmp_path / "thesis")
        assert_refused(told, "thesis", "not empty")
        assert_refused(expllm("eval", "--run", ours, "--order", "all", "--out", tmp_path / "all"), "--out", "several")


def test_the_model_card_says_what_it_must(ours):
    card = (ours / "model_card.md").read_text()
    for needed in ("Article 50(3)", "5(1)(f)", "Prohibited use", "CC0", "Neutral, Happiness", "manifest", "energy"):
        assert needed in card, needed
    assert "$" not in card
