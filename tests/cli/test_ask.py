"""`expllm ask` and `expllm judge` against an endpoint on the loopback: asked, counted, scored, gone on after a stop."""

from __future__ import annotations

import base64
import json

import pytest

from expllm_jax.cot import HEADINGS, write_parts
from expllm_jax.faces import Annotation, write_annotations
from tests.cli.commands import assert_refused, expllm
from tests.engine.llm.endpoint import completion, in_turn, refusal, serving

pytest.importorskip("openai")

PNG = b"\x89PNG\r\n\x1a\n"
COT = write_parts("A strong AU12 and a strong AU6.", "This suggests joy.", "The person expresses happiness.")


@pytest.fixture
def truth(tmp_path):
    labels = ["Happiness", "Happiness", "Anger", "Fear"]
    for number in range(len(labels)):
        (tmp_path / f"{number}.png").write_bytes(PNG + bytes([number]))
    faces = [Annotation(f"{n}.png", label, identity=str(n), split="mild") for n, label in enumerate(labels)]
    return write_annotations(tmp_path / "annotations.jsonl", faces) and tmp_path / "annotations.jsonl"


def llm(url, *more):
    return ("--endpoint", url, "--model", "scripted", "--backoff", "0.002", "--retries", "0", "--json", *more)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def picture_of(served):
    """Which of the pictures a question shows: their last bytes differ."""
    url = served.body["messages"][-1]["content"][0]["image_url"]["url"]
    return base64.b64decode(url.partition(",")[2])[-1]


def test_every_face_is_asked_once_and_the_answers_are_scored(truth, tmp_path):
    out = tmp_path / "answers" / "model.jsonl"
    with serving(in_turn(completion(COT))) as endpoint:
        outcome = expllm("ask", truth, "--out", out, *llm(endpoint.url))
        assert outcome.status == 0, outcome.err
        again = json.loads(expllm("ask", truth, "--out", out, *llm(endpoint.url)).out)
    assert len(endpoint.served) == 4 and again["answered"] == 4 and again["report"]["questions_from_cache"] == 4
    assert sorted(map(picture_of, endpoint.served)) == [0, 1, 2, 3]
    served = endpoint.served[0]
    assert served.body["temperature"] == 0.0 and "Neutral, Happiness, Sadness" in served.user
    assert all(heading in served.user for heading in HEADINGS)
    assert "png" not in served.user and "Conclusion" in served.user
    first = lines_of(out)[0]
    assert (first["picture"], first["text"], first["prompt_tokens"], first["new_tokens"]) == ("0.png", COT, 100, 50)
    assert first["model"] == "scripted" and first["prompt"] == "ask-v1/cot" and len(first["prompt_sha256"]) == 64
    scored = json.loads(expllm("score", out, "--truth", truth, "--json").out)
    assert (scored["n"], scored["accuracy"], scored["missing"], scored["unparsable"]) == (4, 0.5, 0, 0)


def test_what_fails_is_tried_again_and_what_is_refused_is_scored(truth, tmp_path):
    out = tmp_path / "model.jsonl"

    def answer(served):
        failing = {1: refusal(503), 2: refusal(400, "not that", "content_filter")}
        return failing.get(picture_of(served), completion("Happiness", finish="length"))

    with serving(answer) as endpoint:
        outcome = expllm("ask", truth, "--task", "label", "--out", out, *llm(endpoint.url))
    told = json.loads(outcome.out)
    assert outcome.status == 1 and (told["answered"], list(told["failed"]), list(told["refused"])) == (
        2,
        ["1.png"],
        ["2.png"],
    )
    assert [line["picture"] for line in lines_of(out)] == ["0.png", "2.png", "3.png"]
    scored = json.loads(expllm("score", out, "--truth", truth, "--json").out)
    assert (scored["missing"], scored["unparsable"], scored["truncated"], scored["accuracy"]) == (1, 2, 2, 0.25)
    with serving(in_turn(completion("Happiness"))) as endpoint:
        outcome = expllm("ask", truth, "--task", "label", "--out", out, *llm(endpoint.url))
    assert outcome.status == 0 and sorted(map(picture_of, endpoint.served)) == [1, 2]  # only those


def test_a_budget_stops_and_the_same_command_goes_on(truth, tmp_path):
    out = tmp_path / "model.jsonl"
    with serving(in_turn(completion(COT))) as endpoint:
        # A question counts 2,400 tokens at most (a picture 1,500 and 700 of answer among them) and takes 150.
        limited = llm(endpoint.url, "--budget-tokens", "2900", "--concurrency", "1")
        outcome = expllm("ask", truth, "--out", out, *limited)
        told = json.loads(outcome.out)
        assert outcome.status == 1 and 0 < told["answered"] < 4 and "budget" in told["stopped"]
        assert len(lines_of(out)) == told["answered"]
        outcome = expllm("ask", truth, "--out", out, *llm(endpoint.url))
    assert outcome.status == 0 and len(endpoint.served) == 4 and len(lines_of(out)) == 4


def test_an_unreadable_picture_fails_alone(truth, tmp_path):
    (tmp_path / "2.png").write_bytes(b"no picture")
    with serving(in_turn(completion(COT))) as endpoint:
        outcome = expllm("ask", truth, "--out", tmp_path / "model.jsonl", *llm(endpoint.url))
    told = json.loads(outcome.out)
    assert outcome.status == 1 and told["answered"] == 3 and "neither JPEG" in told["failed"]["2.png"]


def test_an_endpoint_that_refuses_all_is_an_error(truth, tmp_path):
    with serving(in_turn(refusal(401, "bad key"))) as endpoint:
        outcome = expllm("ask", truth, "--out", tmp_path / "m.jsonl", *llm(endpoint.url))
    assert outcome.status == 2 and "401" in outcome.err
    assert_refused(expllm("ask", truth, "--out", tmp_path / "m.jsonl"), "--endpoint")


@pytest.fixture
def answers(truth, tmp_path):
    lines = [{"picture": f"{n}.png", "text": text} for n, text in enumerate([COT, COT, COT, "Fear"])]
    (tmp_path / "predictions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    scored = expllm("score", tmp_path / "predictions.jsonl", "--truth", truth, "--out", tmp_path / "scored")
    assert scored.status == 0, scored.err
    return tmp_path / "scored" / "answers.jsonl"


def test_a_judge_reads_explanations_alone_and_every_reply_is_kept(answers, tmp_path):
    out = tmp_path / "judge"
    with serving(in_turn(completion("<think>AU12</think> Happiness."))) as endpoint:
        outcome = expllm("judge", answers, "--out", out, *llm(endpoint.url))
    assert outcome.status == 0, outcome.err
    told = json.loads(outcome.out)
    # Four faces, three explanations: two lead to the truth, all three to the model's own label.
    assert (told["n"], told["explanations"], told["eea"], told["epc"], told["fcr"]) == (4, 3, 0.5, 0.75, 0.5)
    assert told["explanations_unread"] == 1 and told["judge_failed"] == 0
    (served,) = endpoint.served  # the three texts are one question
    assert "happiness." not in served.user and "joy" not in served.user and "AU12" in served.user
    assert (told["judge"], told["prompt"], len(told["prompt_sha256"])) == ("scripted", "judge-v1", 64)
    kept = lines_of(out / "judge_replies.jsonl")
    assert [line["record"] for line in kept] == ["0.png", "1.png", "2.png"]
    assert {line["reply"] for line in kept} == {"<think>AU12</think> Happiness."}
    assert json.loads((out / "judge_metrics.json").read_text())["epc"] == 0.75


def test_a_judge_that_fails_or_rambles_counts_as_wrong(answers, tmp_path):
    with serving(in_turn(refusal(503))) as endpoint:
        outcome = expllm("judge", answers, "--out", tmp_path / "judge", *llm(endpoint.url))
    told = json.loads(outcome.out)
    assert outcome.status == 1 and (told["judge_failed"], told["eea"]) == (3, 0.0)
    assert all("503" in line["problem"] for line in lines_of(tmp_path / "judge" / "judge_replies.jsonl"))
    with serving(in_turn(completion("Happiness or perhaps fear"))) as endpoint:
        outcome = expllm("judge", answers, "--out", tmp_path / "judge", *llm(endpoint.url))
    told = json.loads(outcome.out)
    assert outcome.status == 0 and (told["judge_failed"], told["explanations_unread"], told["eea"]) == (0, 4, 0.0)


def test_a_folder_belongs_to_one_judge(answers, tmp_path):
    with serving(in_turn(completion("Happiness"))) as endpoint:
        assert expllm("judge", answers, "--out", tmp_path / "judge", *llm(endpoint.url)).status == 0
        outcome = expllm("judge", answers, "--out", tmp_path / "judge", *llm(endpoint.url, "--temperature", "1"))
        assert outcome.status == 2 and "belongs to another judge" in outcome.err
    (tmp_path / "judge" / "judge_metrics.json").write_text("[")
    with serving(in_turn(completion("Happiness"))) as endpoint:
        outcome = expllm("judge", answers, "--out", tmp_path / "judge", *llm(endpoint.url))
    assert outcome.status == 2 and "damaged" in outcome.err


def test_answers_without_explanations_are_refused(answers, tmp_path):
    with serving(in_turn(completion("Happiness"))) as endpoint:
        outcome = expllm("judge", answers, "--split", "hard", "--out", tmp_path / "judge", *llm(endpoint.url))
    assert outcome.status == 2 and "no explanations of the split 'hard'" in outcome.err
