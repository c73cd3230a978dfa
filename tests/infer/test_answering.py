"""Replies from the pool of rows are those of the whole model, run anew for every token, whatever stands beside them."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expllm_jax.cot import parse_cot, parse_label
from expllm_jax.errors import ExpllmError
from expllm_jax.infer import PredictConfig, Predictor, Request, SamplingConfig
from expllm_jax.infer.requests import begun_row
from expllm_jax.models import abstract, merge
from expllm_jax.records import Round, decode_answer
from tests.infer.speaking import LABELS, random_features, speaking_model, text_of

CLOSE = 1e-5
"""Two scores nearer to each other than this may change places when sums are taken in another order."""

WARM = SamplingConfig(temperature=0.8, top_p=0.9, seed=7)
REQUESTS = [
    Request(0, "label", room=3, stream=0),
    Request(1, "cot", room=11, stream=1),
    Request(1, "label", room=2, stream=2),
    Request(0, "cot", begun="**Key Observations:** A strong", room=9, stream=3),
    Request(2, "cot", room=11, sampling=WARM, stream=4),
    Request(2, "cot", room=11, sampling=WARM, stream=5),
    Request(2, "label", room=3, history=(Round("cot", "The brow is raised."),), stream=6),
    Request(3, "label", room=3, sampling=WARM, stream=7),
]
PICTURES = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return speaking_model(tmp_path_factory.mktemp("answering"))


@pytest.fixture(scope="module")
def predictors(model):
    """One for each number of rows: what is compiled is kept."""
    return {rows: Predictor(*model, PredictConfig(batch=rows)) for rows in (1, 3)}


@pytest.fixture(scope="module")
def alone(predictors):
    """What each request is answered with when nothing else is asked."""
    return [predictors[1].generate([request], random_features(PICTURES))[0] for request in REQUESTS]


@functools.partial(jax.jit, static_argnums=0)
def scores(graphdef, params, tokens_T, positions_T, segments_T, features_ND, last):
    net = merge(graphdef, params)
    h_BTE = net(tokens_T[None], positions_T[None], segments_T[None], features_ND[None, None])
    return net.logits(h_BTE[0, last][None])[0]


def scores_behind(model, request: Request, tokens: list[int]) -> np.ndarray:
    """Scores of the token behind a request's prompt and these tokens, without any cache."""
    files, params = model
    row, _ = begun_row(files.encoder, request)
    count = len(row) + len(tokens)
    arrays = [np.concatenate([getattr(row, name), fill]) for name, fill in (
        ("tokens", tokens),
        ("positions", row.positions[-1] + 1 + np.arange(len(tokens))),
        ("segments", np.full(len(tokens), row.segments[-1])),
    )]  # fmt: skip
    padded = (np.pad(array, (0, 256 - count)).astype(np.int32) for array in arrays)
    features = random_features(PICTURES)[request.picture]
    return np.asarray(scores(abstract(files.config)[0], params, *padded, features, count - 1))


def test_greedy_replies_are_those_of_the_whole_model(model, alone) -> None:
    files = model[0]
    for request, reply in zip(REQUESTS, alone, strict=True):
        if request.sampling is not None:
            continue
        tokens: list[int] = []
        while len(tokens) < request.room and files.encoder.tokenizer.eos not in tokens:
            tokens.append(int(np.argmax(scores_behind(model, request, tokens))))
        row, begun = begun_row(files.encoder, request)
        assert list(reply.tokens) == tokens and reply.prompt_tokens == len(row)
        assert reply.text == decode_answer([*begun, *tokens], files.encoder.tokenizer)
        assert reply.text.startswith(request.begun)
        assert reply.truncated == (tokens[-1] != files.encoder.tokenizer.eos)


def test_chains_of_one_prompt_differ_and_repeat(predictors, alone) -> None:
    assert alone[4].tokens != alone[5].tokens
    again = predictors[1].generate([REQUESTS[4]], random_features(PICTURES))
    assert again[0] == alone[4]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(order=st.permutations(range(len(REQUESTS))), count=st.integers(5, len(REQUESTS)), rows=st.sampled_from([1, 3]))
def test_replies_depend_neither_on_order_nor_on_company(model, predictors, alone, order, count: int, rows: int) -> None:
    chosen = order[:count]
    predictor = predictors[rows]
    replies = predictor.generate([REQUESTS[place] for place in chosen], random_features(PICTURES))
    for place, reply in zip(chosen, replies, strict=True):
        assert same_but_for_ties(model, REQUESTS[place], reply.tokens, alone[place].tokens)
        assert reply.prompt_tokens == alone[place].prompt_tokens


def same_but_for_ties(model, request: Request, found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether two replies are the same up to the first place where the two best scores are too close to tell."""
    if found == expected:
        return True
    same = next(place for place, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1])
    best = np.sort(scores_behind(model, request, list(expected[:same])))[-2:]
    return bool(best[1] - best[0] < CLOSE)


def test_replies_do_not_depend_on_the_number_of_devices(model, predictors, alone, tmp_path: Path) -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.infer.replies_on_four", tmp_path], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["devices"] == 4
    for request, found, expected in zip(REQUESTS, told["tokens"], alone, strict=True):
        assert same_but_for_ties(model, request, tuple(found), expected.tokens)
    shares = predictors[1].label_likelihoods([Request(1, "label")], random_features(PICTURES))[0]
    assert told["shares"] == pytest.approx(list(shares.values()), abs=1e-4)


def test_likelihoods_are_those_of_the_whole_model(model, predictors) -> None:
    files = model[0]
    text = text_of("Anger")
    requests = [Request(1, "label"), Request(2, "cot", begun=text), Request(0, "cot", begun="no text")]
    found = predictors[3].label_likelihoods(requests, random_features(PICTURES))
    assert found[2] == {}
    for request, shares, answers in ((requests[0], found[0], LABELS), (requests[1], found[1], map(text_of, LABELS))):
        likelihoods = []
        for answer in answers:
            ids = [*files.encoder.answer_tokens(request.task, answer), files.encoder.tokenizer.eos]
            whole = Request(request.picture, request.task)
            total = 0.0
            for place, token in enumerate(ids):
                row = scores_behind(model, whole, ids[:place]).astype(np.float64)
                total += row[token] - row.max() - np.log(np.exp(row - row.max()).sum())
            likelihoods.append(total)
        weights = np.exp(np.array(likelihoods) - max(likelihoods))
        assert list(shares) == list(LABELS)
        np.testing.assert_allclose(list(shares.values()), weights / weights.sum(), atol=1e-4)


def test_held_to_their_form_even_an_untrained_models_answers_parse(model) -> None:
    config = PredictConfig(batch=8, constrained=True, label_tokens=12, cot_tokens=90, order="reasoning-first")
    predictor = Predictor(*model, config)
    told: list[int] = []
    answers = predictor.answer_features(
        random_features(3), list("abc"), done=lambda number, answer: told.append((number, answer.picture))
    )
    assert sorted(told) == [(0, "a"), (1, "b"), (2, "c")]
    assert all(answer.unparsable is None and answer.predicted in LABELS and answer.tries == 1 for answer in answers)
    begun = text_of("Anger").partition("It fits.")[0] + "It"
    replies = predictor.generate(
        [Request(0, "label", sampling=WARM), Request(1, "cot", begun=begun)], random_features(2)
    )
    assert parse_label(replies[0].text, LABELS)
    assert replies[1].text.startswith(begun) and parse_cot(replies[1].text, allowed=LABELS)
    with pytest.raises(ExpllmError, match="room for 3 tokens: needs"):
        predictor.generate([Request(0, "cot", room=3)], random_features(1))
    with pytest.raises(ExpllmError, match="cannot be continued"):
        predictor.generate([Request(0, "cot", begun="No heading.")], random_features(1))


def test_a_request_has_to_name_a_picture(predictors) -> None:
    with pytest.raises(ExpllmError, match="names picture 4, and there are 4"):
        predictors[1].generate([Request(4, "label")], random_features(4))
    assert predictors[1].generate([], random_features(1)) == []
