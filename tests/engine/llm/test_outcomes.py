"""The loop against an endpoint that misbehaves in every way: each face ends accepted, rejected or failed."""

from __future__ import annotations

import asyncio
import json

import pytest

from expllm_jax.engine.llm import LlmNarrator
from expllm_jax.engine.loop import EngineConfig, ExpCotLoop
from expllm_jax.engine.narration import BudgetSpent
from expllm_jax.engine.outcome import Outcome
from expllm_jax.errors import ExpllmError
from tests.engine.llm.endpoint import Sent, completion, refusal, serving
from tests.engine.llm.faces import counted, faces, quick, scripted, well


def run(answer, folder, annotations, **settings) -> tuple[list[Outcome], list[str]]:
    """The outcomes, and the steps that the endpoint served."""

    async def all_faces(url):
        narrator = LlmNarrator(quick(url, **settings), folder / "replies.sqlite")
        loop = ExpCotLoop(narrator, EngineConfig(rounds=3))
        try:
            return await asyncio.gather(*(loop.run(annotation) for annotation in annotations))
        finally:
            await narrator.close()

    with serving(answer) as endpoint:
        return asyncio.run(all_faces(endpoint.url)), endpoint.steps


def wrong_label(label="Fear") -> Sent:
    return completion(json.dumps({"expression": label, "reason": "so it seems"}))


def test_a_model_that_does_well_is_accepted(tmp_path):
    outcomes, steps = run(well, tmp_path, faces(4))
    assert [(outcome.status, outcome.rounds) for outcome in outcomes] == [("accepted", 1)] * 4
    assert counted(sorted(steps)) == {"confirm": 4, "describe": 4, "infer": 4, "refine": 4}
    told = outcomes[0].annotation.provenance
    assert (told["engine.narrator"], told["engine.model"], told["engine.prompts"]) == ("llm", "scripted", "v1")
    assert len(told["engine.prompts_sha256"]) == 64


def test_a_wrong_label_is_reflected_on_and_the_next_round_is_right(tmp_path):
    (outcome,), steps = run(scripted("infer", wrong_label()), tmp_path, faces(1))
    assert (outcome.status, outcome.rounds) == ("accepted", 2)
    assert steps == ["describe", "infer", "confirm", "reflect", "describe", "infer", "confirm", "refine"]
    assert outcome.history[0].feedback == "Give the mouth more weight."


def test_a_label_that_is_never_right_ends_as_a_dead_letter(tmp_path):
    (outcome,), steps = run(scripted("infer", *[wrong_label()] * 3), tmp_path, faces(1))
    assert (outcome.status, outcome.rounds) == ("rejected", 3)
    letter = outcome.dead_letter()
    assert letter["reason"] == "the description suggests Fear, the label is Happiness"
    assert [attempt["inferred"] for attempt in letter["history"]] == ["Fear"] * 3
    assert "refine" not in steps


def test_a_doubt_of_the_model_costs_a_round(tmp_path):
    doubt = completion("No: the brows are at rest.")
    (outcome,), _ = run(scripted("confirm", doubt), tmp_path, faces(1))
    assert (outcome.status, outcome.rounds) == ("accepted", 2)
    assert outcome.history[0].problem == "the brows are at rest."


def test_a_text_that_is_not_true_is_written_again(tmp_path):
    def untrue(served):
        text = json.loads(well(served).body)["choices"][0]["message"]["content"]
        return completion(text.replace("happiness", "anger")) if served.user.count("faults") == 0 else well(served)

    def answer(served):
        return untrue(served) if served.step == "refine" else well(served)

    (outcome,), steps = run(answer, tmp_path, faces(1))
    assert (outcome.status, outcome.rounds) == ("accepted", 1)
    assert steps.count("refine") == 2 and outcome.annotation.provenance["engine.findings"] != "none"


UNUSABLE = {
    "another format": completion("I think that it might be sadness, but also fear."),
    "empty": completion(""),
    "null": completion(None),
    "held back": completion(None, finish="content_filter"),
    "cut off": completion('{"expression": "Happ', finish="length"),
    "refused": refusal(400, "not that", "content_filter"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_reply_that_cannot_be_used_costs_a_round(tmp_path, kind):
    (outcome,), steps = run(scripted("infer", UNUSABLE[kind]), tmp_path, faces(1))
    assert (outcome.status, outcome.rounds) == ("accepted", 2)
    assert outcome.history[0].problem.startswith("unusable reply: ")
    assert steps.count("infer") == 2


@pytest.mark.parametrize("step", ["describe", "infer", "confirm", "refine"])
def test_replies_that_can_never_be_used_end_as_a_dead_letter(tmp_path, step):
    def answer(served):
        return completion("") if served.step == step else well(served)

    (outcome,), steps = run(answer, tmp_path, faces(1))
    assert (outcome.status, outcome.rounds) == ("rejected", 3)
    assert outcome.reason == "unusable reply: the answer is empty"
    assert steps.count(step) == 3  # each round asked anew, although each got an answer that was kept


def test_feedback_that_cannot_be_used_costs_nothing(tmp_path):
    answers = iter([wrong_label()])

    def answer(served):
        if served.step == "reflect":
            return completion("")
        return next(answers, None) or well(served) if served.step == "infer" else well(served)

    (outcome,), _ = run(answer, tmp_path, faces(1))
    assert (outcome.status, outcome.rounds) == ("accepted", 2)


BROKEN = {
    "500": refusal(500),
    "429": refusal(429, Retry_After="0.01"),
    "no JSON": Sent(b"<html>bad gateway</html>", content_type="text/html"),
    "no choices": Sent(b"{}"),
    "cut short": Sent(completion("a face").body, cut=40),
    "hangs": completion("Yes: but late.", hang=1.0),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_server_that_recovers_loses_nothing_and_one_that_does_not_is_tried_again(tmp_path, kind):
    settings = {"timeout": 0.5, "retries": 1} if kind == "hangs" else {}
    annotations = faces(3)

    def broken(served):
        return BROKEN[kind] if served.step == "confirm" else well(served)

    outcomes, steps = run(broken, tmp_path, annotations, **settings)
    assert [outcome.status for outcome in outcomes] == ["failed"] * 3
    assert all("no answer in" in outcome.reason for outcome in outcomes)
    assert [outcome.annotation for outcome in outcomes] == annotations

    # The next run on the same cache asks what is missing, and that alone.
    outcomes, steps = run(scripted("confirm", BROKEN[kind]), tmp_path, annotations, **(settings | {"timeout": 20.0}))
    assert [outcome.status for outcome in outcomes] == ["accepted"] * 3
    assert "describe" not in steps and steps.count("refine") == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_every_face_would_meet_stops_the_run(tmp_path, status):
    with pytest.raises(ExpllmError, match=f"refuses the call: the endpoint answers {status}"):
        run(lambda _: refusal(status), tmp_path, faces(2))


def test_a_budget_stops_the_run_and_more_of_it_goes_on(tmp_path):
    annotations = faces(8)
    with pytest.raises(BudgetSpent, match="raise it"):
        run(well, tmp_path, annotations, budget_tokens=3_000)
    outcomes, steps = run(well, tmp_path, annotations, budget_tokens=1_000_000)
    assert [outcome.status for outcome in outcomes] == ["accepted"] * 8
    assert 0 < len(steps) < 8 * 4
