"""`expllm engine run --narrator llm`, from the command to the files."""

from __future__ import annotations

import argparse
import json

import pytest

from expllm_jax.cli.engine_llm_options import add_llm_options, llm_config
from expllm_jax.engine.llm import LlmConfig
from expllm_jax.faces import read_annotations, write_annotations
from tests.cli.commands import assert_refused, expllm
from tests.engine.llm.endpoint import completion, refusal, serving
from tests.engine.llm.faces import faces, well


@pytest.fixture
def source(tmp_path):
    write_annotations(tmp_path / "faces.jsonl", faces(8))
    return tmp_path / "faces.jsonl"


def engine_run(source, out, url, *more):
    llm = ("--narrator", "llm", "--endpoint", url, "--model", "scripted", "--backoff", "0.002", "--retries", "1")
    return expllm("engine", "run", source, "--out", out, *llm, *more)


def angry_faces_fail_and_sad_ones_are_wrong(served):
    if served.step == "infer" and "lip corner depression" in served.user:
        return completion("Disgust")
    if "lip press" in served.user:
        return refusal(503)
    return well(served)


def test_accepted_rejected_and_failed_and_then_the_failed_again(source, tmp_path):
    out = tmp_path / "texts"
    with serving(angry_faces_fail_and_sad_ones_are_wrong) as endpoint:
        outcome = engine_run(source, out, endpoint.url, "--json")
    assert outcome.status == 1
    told = json.loads(outcome.out)
    assert (told["accepted"], told["rejected"], told["failed"], told["pending"]) == (4, 2, 2, 0)
    accepted = list(read_annotations(out / "annotations.jsonl"))
    assert [face.expression for face in accepted] == ["Happiness", "Surprise"] * 2
    assert all(face.cot and face.provenance["engine.narrator"] == "llm" for face in accepted)
    letters = [json.loads(line) for line in (out / "dead_letters.jsonl").read_text().splitlines()]
    assert [letter["status"] for letter in letters] == ["rejected", "failed"] * 2
    report = json.loads((out / "summary.json").read_text())["narrator_report"]
    assert report["requests"] == len(endpoint.served) == report["spent"]["calls"] + report["requests_unanswered"]

    with serving(well) as endpoint:  # at another address, which changes nothing
        told = json.loads(engine_run(source, out, endpoint.url, "--json").out)
        assert (told["accepted"], told["rejected"], told["failed"]) == (6, 2, 0)
        assert len(endpoint.served) == 2 * 4  # the failed ones alone
        told = json.loads(engine_run(source, out, endpoint.url, "--json", "--retry-rejected").out)
        assert (told["rejected"], len(endpoint.served)) == (2, 2 * 4)  # the same answers, from the cache
        told = json.loads(engine_run(source, out, endpoint.url, "--json", "--retry-rejected", "--draw", "1").out)
        assert (told["accepted"], len(endpoint.served)) == (8, 2 * 4 + 2 * 4)


def test_a_budget_stops_the_run_which_then_goes_on(source, tmp_path):
    with serving(well) as endpoint:
        outcome = engine_run(source, tmp_path / "texts", endpoint.url, "--budget-tokens", "4000", "--concurrency", "1")
        assert outcome.status == 1 and "the budget does not allow another call" in outcome.out
        before = len(endpoint.served)
        outcome = engine_run(source, tmp_path / "texts", endpoint.url, "--budget-tokens", "100000")
    assert outcome.status == 0 and 0 < before < len(endpoint.served) == 8 * 4


def test_what_cannot_be_asked_is_refused(source, tmp_path, monkeypatch):
    out = tmp_path / "texts"
    monkeypatch.delenv("EXPLLM_NO_KEY", raising=False)
    run = ("engine", "run", source, "--out", out)
    assert_refused(expllm(*run, "--narrator", "llm", "--model", "a"), "--endpoint and --model")
    assert_refused(expllm(*run, "--endpoint", "http://localhost:8000/v1"), "--endpoint", "--narrator llm")
    url = "http://127.0.0.1:1/v1"
    assert_refused(engine_run(source, out, "localhost:8000"), "localhost:8000")
    assert_refused(engine_run(source, out, url, "--style", "brief"), "--style")
    assert_refused(engine_run(source, out, url, "--prompts", "v9"), "v9", "v1")
    assert_refused(engine_run(source, out, url, "--api-key-env", "EXPLLM_NO_KEY"), "EXPLLM_NO_KEY")
    with serving(lambda _: refusal(401, "bad key")) as endpoint:
        outcome = engine_run(source, out, endpoint.url)
    assert outcome.status == 2 and "401" in outcome.err and "--api-key-env" in outcome.err


def test_flags_that_are_left_out_leave_the_defaults_alone():
    parser = argparse.ArgumentParser()
    add_llm_options(parser)
    needed = ["--endpoint", "http://localhost:8000/v1", "--model", "a"]
    assert llm_config(parser.parse_args(needed)) == LlmConfig("http://localhost:8000/v1", "a")
    flags = (
        "--api-key-env K --temperature none --max-tokens 9 --length-key max_completion_tokens --timeout 2 --retries 0 "
    )
    flags += "--backoff 3 --concurrency 4 --requests-per-minute 5 --picture-mode picture --budget-tokens 6 --budget 7 "
    flags += "--price-in 8 --price-out 9 --prompts v1 --draw 10"
    assert llm_config(parser.parse_args([*needed, *flags.split()])) == LlmConfig(
        "http://localhost:8000/v1", "a", api_key_env="K", temperature=None, max_tokens=9,
        length_key="max_completion_tokens", timeout=2.0, retries=0, backoff=3.0, concurrency=4,
        requests_per_minute=5.0, picture_mode="picture", budget_tokens=6, budget=7.0, price_in=8.0, price_out=9.0,
        prompts="v1", draw=10,
    )  # fmt: skip


def test_the_help_repeats_the_defaults(capsys):
    parser = argparse.ArgumentParser()
    add_llm_options(parser)
    parser.print_help()
    told = " ".join(capsys.readouterr().out.split())
    config = LlmConfig("http://localhost:8000/v1", "a")
    for flag in (
        "temperature",
        "max_tokens",
        "length_key",
        "timeout",
        "retries",
        "concurrency",
        "picture_mode",
        "prompts",
    ):
        value = getattr(config, flag)
        assert f"(default: {value:g})" in told if isinstance(value, float) else f"(default: {value})" in told
