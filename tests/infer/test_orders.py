"""Which questions are asked about a face, in which order, and what the replies come to; with replies by hand."""

from __future__ import annotations

import pytest

from expllm_jax.cot import parse_cot
from expllm_jax.errors import ExpllmError
from expllm_jax.infer import PredictConfig, Reply, Request, SamplingConfig, Weighing
from expllm_jax.infer.conversations import Conversations, renamed, shares
from expllm_jax.records import Round
from tests.infer.speaking import LABELS, speaking_model, text_of

WARM = SamplingConfig(temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orders")
    return {layout: speaking_model(folder, layout)[0] for layout in ("branched", "chained")}


def reply(text: str, truncated: bool = False) -> Reply:
    return Reply(text, truncated, tuple(range(len(text.split()))), 10)


def held(files, script, **config):
    """(what was asked, the answer) of a conversation whose questions `script` answers: each a list, in order."""
    talk = Conversations(files, PredictConfig(**config)).about(5, "face.png")
    asked, replies = [], None
    for answers in [*script, None]:
        try:
            questions = talk.send(replies)
        except StopIteration as end:
            assert answers is None
            return asked, end.value
        asked.append(questions)
        assert all(question.picture == 5 for question in questions)
        replies = [reply(answer) if isinstance(answer, str) else answer for answer in answers]
    raise AssertionError("it goes on")


def tasks(asked):
    return [[(question.task, question.history) for question in questions] for questions in asked]


@pytest.mark.parametrize("layout", ["branched", "chained"])
def test_label_first_asks_for_the_text_behind_the_label_where_rounds_see_each_other(files, layout: str) -> None:
    asked, answer = held(files[layout], [["Anger"], [text_of("Surprise")]])
    history = (Round("label", "Anger"),) if layout == "chained" else ()
    assert tasks(asked) == [[("label", ())], [("cot", history)]]
    assert (answer.order, answer.label, answer.predicted, answer.parsed.expression) == (
        "label-first", "Anger", "Anger", "Surprise",
    )  # fmt: skip
    assert answer.prompt_tokens == 20 and answer.new_tokens == 1 + len(text_of("Surprise").split())
    assert answer.votes == {} and answer.label_probabilities == {} and not answer.truncated


def test_reasoning_first_concludes_itself_or_is_asked_behind_the_text(files) -> None:
    asked, answer = held(files["branched"], [[text_of("Surprise")]], order="reasoning-first")
    assert tasks(asked) == [[("cot", ())]]
    assert (answer.predicted, answer.label_text, answer.label, answer.label_failure) == ("Surprise", None, None, None)
    asked, answer = held(files["chained"], [[text_of("Surprise")], ["Anger"]], order="reasoning-first")
    assert tasks(asked) == [[("cot", ())], [("label", (Round("cot", text_of("Surprise")),))]]
    assert (answer.predicted, answer.label_text, answer.parsed.expression) == ("Anger", "Anger", "Surprise")


def test_label_only_asks_for_no_text(files) -> None:
    asked, answer = held(files["chained"], [["Happiness"]], order="label-only")
    assert tasks(asked) == [[("label", ())]]
    assert (answer.predicted, answer.cot_text, answer.cot_failure, answer.stated_units) == ("Happiness", None, None, {})
    assert answer.unparsable is None


def test_what_does_not_parse_is_asked_again_and_keeps_its_first_text(files) -> None:
    script = [["none"], ["nothing"], ["Anger"]]
    asked, answer = held(files["branched"], script, order="label-only", retries=2)
    assert [question.sampling.seed for [question] in asked] == [0, 1, 2]
    assert [question.sampling.temperature > 0 for [question] in asked] == [False, True, True]
    assert (answer.label_text, answer.predicted, answer.tries, answer.new_tokens) == ("Anger", "Anger", 3, 3)
    _, answer = held(files["branched"], [["none"], [reply("Anger", True)]], order="label-only", retries=1)
    assert (answer.label_text, answer.predicted, answer.tries) == ("none", None, 2)
    assert "none of the labels" in answer.unparsable
    _, answer = held(files["branched"], [[reply("Anger", True)]], order="label-only", retries=0)
    assert answer.truncated and answer.predicted is None and answer.unparsable == "cut off before its end"


def test_chains_are_asked_side_by_side_and_their_majority_decides(files) -> None:
    config = {"order": "reasoning-first", "samples": 3, "sampling": WARM, "retries": 0}
    texts = [text_of("Surprise"), text_of("Anger"), text_of("Anger")]
    asked, answer = held(files["branched"], [texts], **config)
    assert len({question.stream for question in asked[0]}) == 3
    assert (answer.predicted, answer.cot_text) == ("Anger", texts[1])
    assert dict(answer.votes) == {"Surprise": 1, "Anger": 2}
    assert answer.prompt_tokens == 10  # one question, drawn three times
    _, answer = held(files["branched"], [["a", text_of("Surprise"), "b"]], **config)
    assert answer.predicted == "Surprise" and dict(answer.votes) == {"Surprise": 1}
    _, answer = held(files["branched"], [["a", "b", "c"]], **config)
    assert answer.predicted is None and answer.cot_text == "a" and dict(answer.votes) == {}


def test_ties_go_to_the_more_probable_label_and_then_to_the_first(files) -> None:
    config = {"order": "label-only", "samples": 2, "sampling": WARM}
    assert held(files["branched"], [["Surprise", "Happiness"]], **config)[1].predicted == "Happiness"
    asked, answer = held(
        files["branched"], [["Surprise", "Happiness"], [(-9.0, -2.0, -1.0), (-9.0, -2.0, -1.0)]],
        label_likelihood=True, **config,
    )  # fmt: skip
    assert all(isinstance(question, Weighing) and question.answers == LABELS for question in asked[1])
    assert answer.predicted == "Surprise"
    assert sum(answer.label_probabilities.values()) == pytest.approx(1)


def test_a_text_is_weighed_with_every_label_in_the_place_of_the_one_it_concludes(files) -> None:
    asked, answer = held(
        files["branched"], [[text_of("Anger")], [(0.0, -1.0, -1.0)]], order="reasoning-first", label_likelihood=True
    )
    assert asked[1][0].answers == tuple(text_of(label) for label in LABELS)
    assert list(answer.label_probabilities) == list(LABELS)
    assert answer.label_probabilities["Anger"] == pytest.approx(1 / (1 + 2 * 2.718281828**-1))
    _, answer = held(files["branched"], [["no text"]], order="reasoning-first", label_likelihood=True, retries=0)
    assert answer.label_probabilities == {}


@pytest.mark.parametrize(
    ("conclusion", "new", "expected"),
    [
        ("The face shows anger.", "Happiness", "The face shows happiness."),
        ("This is an angry face.", "Happiness", "This is a happy face."),
        ("Anger, an anger.", "Surprise", "Surprise, a surprise."),
        ("An angry look", "Anger", "An angry look"),
    ],
)
def test_a_conclusion_is_renamed_word_for_word(conclusion: str, new: str, expected: str) -> None:
    assert renamed(conclusion, "Anger", new) == expected
    whole = text_of("Anger").rpartition("**Conclusion:** ")[0] + "**Conclusion:** " + expected
    assert parse_cot(whole, allowed=LABELS).expression == new


def test_shares_stand_any_size_of_likelihood() -> None:
    assert shares([-1e5, -1e5]) == [0.5, 0.5]
    assert shares([0.0, -1e9]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"order": "text-first"}, "order is 'text-first'"),
        ({"samples": 0}, "samples is 0"),
        ({"samples": 2}, "the same"),
    ],
)
def test_impossible_settings_are_refused(wrong, said: str) -> None:
    with pytest.raises(ExpllmError, match=said):
        PredictConfig(**wrong)


def test_requests_that_ask_for_nothing_are_refused() -> None:
    with pytest.raises(ExpllmError, match="room for 0 tokens"):
        Request(0, "label", room=0)
    with pytest.raises(ExpllmError, match="answers to weigh"):
        Weighing(0, "label", ("Anger",))
