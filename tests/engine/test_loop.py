"""The loop ends for every face, with a true text or with the reason why there is none."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from expllm_jax.cot import verify
from expllm_jax.engine.loop import EngineConfig, ExpCotLoop
from expllm_jax.engine.narration import BudgetSpent, Inference, NarratorFailed, UnusableReply, Verdict
from expllm_jax.engine.narrator import NarratorConfig
from expllm_jax.engine.offline_narrator import OfflineNarrator
from expllm_jax.engine.outcome import Outcome
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import BASIC_7, FACS, Annotation
from expllm_jax.sources.rendered.regimes import sample_units
from tests.engine.scripted import ScriptedNarrator

SMILE = {"facs": {"AU6": 0.7, "AU12": 0.8}}
HAPPY = Annotation("happy.png", "Happiness", SMILE, provenance={"source": "rendered"})
NO_CONCLUSION = "**Key Observations:** strong smile (AU12).\n\n**Overall Emotional Interpretation:** Typical."


def run(script, annotation=HAPPY, **config) -> tuple[Outcome, ScriptedNarrator]:
    narrator = ScriptedNarrator({(annotation.picture, step): replies for step, replies in script.items()})
    return asyncio.run(ExpCotLoop(narrator, EngineConfig(**config)).run(annotation)), narrator


def test_a_face_that_shows_its_label_is_accepted_at_once():
    outcome, narrator = run({})
    assert (outcome.status, outcome.rounds, outcome.reason, outcome.history) == ("accepted", 1, "", ())
    assert narrator.steps("happy.png") == ["describe", "infer", "confirm", "refine"]
    told = outcome.annotation
    assert verify(told.cot, units=SMILE["facs"], expression="Happiness") == ()
    assert (told.picture, told.units, told.expression) == (HAPPY.picture, HAPPY.units, "Happiness")
    assert told.provenance.items() >= {
        "source": "rendered",
        "engine.narrator": "scripted",
        "engine.fingerprint": "scripted",
        "engine.rounds": "1",
        "engine.findings": "none",
        "engine.label": "compared",
        "engine.vocabulary": "facs",
        "engine.units": "rendered",
    }.items()  # fmt: skip
    assert told.provenance["engine.version"]


@pytest.mark.parametrize(
    ("provenance", "source"),
    [({"units": "OpenFace", "source": "x"}, "OpenFace"), ({"dataset": "raf-db"}, "raf-db"), ({}, "unknown")],
)
def test_a_text_says_where_its_units_come_from(provenance, source):
    outcome, _ = run({}, Annotation("happy.png", "Happiness", SMILE, provenance=provenance))
    assert outcome.annotation.provenance["engine.units"] == source


def test_a_wrong_inference_is_reflected_on_and_the_next_description_knows_of_it():
    outcome, narrator = run({"infer": [Inference("Fear", "eyes")], "reflect": ["look at the mouth"]})
    assert (outcome.status, outcome.rounds) == ("accepted", 2)
    second = [asked for _, step, asked in narrator.calls if step == "describe"][1]
    (attempt,) = second[0]
    assert (attempt.inferred, attempt.feedback) == ("Fear", "look at the mouth")
    assert "suggests Fear" in attempt.problem and "label is Happiness" in attempt.problem
    assert outcome.history == (attempt,) and outcome.annotation.provenance["engine.rounds"] == "2"


def test_units_that_do_not_confirm_the_label_cost_a_round_although_the_label_is_met():
    outcome, narrator = run({"confirm": [Verdict(False, "the smile is one-sided")]})
    assert (outcome.status, outcome.rounds) == ("accepted", 2)
    assert outcome.history[0].problem == "the smile is one-sided" and not outcome.history[0].agrees
    assert "refine" not in narrator.steps("happy.png")[:4]


def test_a_face_that_never_agrees_is_rejected_with_all_that_was_tried():
    outcome, narrator = run({"infer": [Inference("Fear")] * 3})
    assert (outcome.status, outcome.rounds, outcome.annotation) == ("rejected", 3, HAPPY)
    assert "suggests Fear" in outcome.reason and len(outcome.history) == 3
    assert narrator.steps("happy.png").count("reflect") == 2  # nobody would read what the last round teaches
    letter = outcome.dead_letter()
    assert letter["annotation"] == HAPPY.to_json() and len(letter["history"]) == 3


def test_the_limit_of_rounds_is_a_setting():
    outcome, _ = run({"infer": [Inference("Fear")] * 3}, rounds=1)
    assert (outcome.status, outcome.rounds) == ("rejected", 1)
    with pytest.raises(ExpllmError, match="rounds is 0"):
        EngineConfig(rounds=0)


def test_without_a_label_nothing_is_compared_and_the_provenance_says_so():
    unlabelled = Annotation("who.png", None, SMILE)
    outcome, _ = run({"infer": [Inference("Happiness")]}, unlabelled)
    assert outcome.status == "accepted" and outcome.annotation.expression is None
    assert outcome.annotation.provenance["engine.label"] == "none to compare with; inferred Happiness"
    assert verify(outcome.annotation.cot, units=SMILE["facs"], expression="Happiness") == ()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"describe": ["  \n"]}, "the description is empty"),
        ({"describe": [UnusableReply("no JSON")]}, "no JSON"),
        ({"describe": ["half a \ud83d"]}, "cannot be stored"),
        ({"infer": [Inference("Joy")]}, "'Joy' is none of the allowed"),
        ({"infer": [UnusableReply("two labels")]}, "two labels"),
        ({"confirm": [UnusableReply("neither yes nor no")]}, "neither yes nor no"),
        ({"refine": ["a\0b"]}, "cannot be stored"),
        ({"refine": [UnusableReply("cut off")]}, "cut off"),
    ],
)
def test_an_unusable_reply_costs_a_round_and_nothing_else(script, reason):
    outcome, narrator = run(script)
    assert (outcome.status, outcome.rounds) == ("accepted", 2)
    (attempt,) = outcome.history
    assert attempt.problem.startswith("unusable reply: ") and reason in attempt.problem and attempt.feedback
    again, _ = run({step: replies * 3 for step, replies in script.items()})
    assert again.status == "rejected" and reason in again.reason


def test_unusable_feedback_is_replaced_by_the_problem():
    outcome, _ = run({"infer": [Inference("Fear")], "reflect": [UnusableReply("nothing")]})
    assert outcome.status == "accepted" and outcome.history[0].feedback == outcome.history[0].problem


def test_a_text_with_findings_is_written_again_with_them():
    outcome, narrator = run({"refine": [NO_CONCLUSION]})
    assert (outcome.status, outcome.rounds) == ("accepted", 1)
    first, second = [asked for _, step, asked in narrator.calls if step == "refine"]
    assert first[2] == () and "missing-part" in {finding.code for finding in second[2]}
    assert "missing-part ×1" in outcome.annotation.provenance["engine.findings"]


def test_findings_that_stay_go_into_memory_and_then_into_the_dead_letter():
    outcome, narrator = run({"refine": [NO_CONCLUSION] * 2})
    assert (outcome.status, outcome.rounds) == ("accepted", 2)
    assert "missing-part" in {finding.code for finding in outcome.history[0].findings}
    assert "missing-part ×2" in outcome.annotation.provenance["engine.findings"]
    outcome, _ = run({"refine": [NO_CONCLUSION] * 6})
    assert outcome.status == "rejected" and "missing-part" in {finding.code for finding in outcome.findings}
    assert [attempt.text for attempt in outcome.history] == [NO_CONCLUSION] * 3


def test_a_narrator_that_does_not_answer_leaves_the_face_failed():
    outcome, _ = run({"infer": [Inference("Fear")], "refine": [NarratorFailed("time-out")]})
    assert (outcome.status, outcome.reason, outcome.rounds) == ("failed", "time-out", 2)
    assert len(outcome.history) == 1 and outcome.annotation == HAPPY
    outcome, _ = run({"infer": [Inference("Fear")], "reflect": [NarratorFailed("time-out")]})
    assert (outcome.status, outcome.rounds) == ("failed", 1)


def test_a_spent_budget_is_no_outcome():
    with pytest.raises(BudgetSpent, match="5 dollars"):
        run({"confirm": [BudgetSpent("5 dollars")]})


def test_outcomes_survive_json():
    for script in ({}, {"refine": [NO_CONCLUSION] * 6}, {"describe": [NarratorFailed("gone")]}):
        outcome, _ = run(script)
        again = Outcome.from_json(HAPPY, outcome.to_json())
        assert again.to_json() == outcome.to_json() and again.annotation == outcome.annotation


def test_a_face_that_the_config_has_no_place_for_is_named():
    with pytest.raises(ExpllmError, match="happy.png has no feafa units"):
        run({}, vocabulary="feafa")
    with pytest.raises(ExpllmError, match="Happiness, which is none of Fear"):
        run({}, allowed=("Fear",))


def offline(annotation: Annotation, style="brief", **config) -> Outcome:
    narrator = OfflineNarrator(NarratorConfig(config.get("vocabulary", "facs"), style))
    return asyncio.run(ExpCotLoop(narrator, EngineConfig(**config)).run(annotation))


def test_the_offline_narrator_weighs_what_the_label_asks_for_in_a_later_round():
    tense = Annotation("tense.png", "Anger", {"facs": {"AU4": 0.5, "AU24": 0.45, "AU9": 0.9}})
    outcome = offline(tense)
    assert (outcome.status, outcome.rounds) == ("accepted", 2)
    assert outcome.history[0].inferred == "Disgust"
    assert "brow lowering and lip press should weigh more" in outcome.history[0].feedback


def test_the_offline_narrator_rejects_a_label_that_no_unit_goes_with():
    outcome = offline(Annotation("posed.png", "Anger", SMILE))
    assert outcome.status == "rejected" and "suggests Happiness" in outcome.reason
    assert "no visible movement goes with anger" in outcome.history[0].feedback


def test_the_offline_narrator_rejects_a_neutral_face_that_moves_strongly():
    outcome = offline(Annotation("grin.png", "Neutral", {"facs": {"AU16": 0.9}}))
    assert outcome.status == "rejected"


def test_the_wording_follows_from_seed_and_picture_alone():
    texts = {name: offline(Annotation(name, "Happiness", SMILE), "full").annotation.cot for name in ("a", "b")}
    assert texts["a"] == offline(Annotation("a", "Happiness", SMILE, split="x"), "full").annotation.cot
    assert texts["a"] != texts["b"]
    assert texts["a"] != offline(Annotation("a", "Happiness", SMILE), "full", seed=1).annotation.cot


@pytest.mark.parametrize("style", ["brief", "full"])
def test_what_the_offline_narrator_gets_accepted_is_true(style):
    rng = np.random.default_rng(3)
    ended = {}
    for number in range(60):
        label, regime = BASIC_7[number % 7], ("clean", "mild", "hard")[number % 3]
        units = sample_units(label, regime, rng)
        outcome = offline(Annotation(f"{number}", label, {"facs": units}), style)
        ended.setdefault(regime, []).append(outcome.status)
        if outcome.status == "accepted":
            assert verify(outcome.annotation.cot, units=units, vocabulary=FACS, expression=label) == ()
    assert set(ended["clean"]) == {"accepted"}
    assert sum(statuses.count("accepted") for statuses in ended.values()) >= 50
