"""The cached loop says what the whole model, run anew for every token, says."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.infer import Prompts, SamplingConfig, generate
from expllm_jax.models import merge
from tests.train.tiny import TinySource, branched_row, tiny_config, tiny_model

PAD, MOST = 0, 9


@pytest.fixture(scope="module")
def model():
    graphdef, params = tiny_model(seed=2)
    # Sharper choices, so that no two tokens come close to a tie.
    params["decoder/lm_head/kernel"] = params["decoder/lm_head/kernel"] * 4
    return graphdef, params


@pytest.fixture(scope="module")
def prompts():
    """Three rows of different lengths, each with a picture of its own."""
    rows = [branched_row([1, 2], [(prompt, [], 0.0)]) for prompt in ([3, 4], [3, 4, 6, 8], [9, 4, 11])]
    return rows, TinySource(3, seed=8).features


@functools.partial(jax.jit, static_argnums=0)
def next_logits(graphdef, params, tokens, positions, segments, features, last):
    net = merge(graphdef, params)
    h = net(tokens[None], positions[None], segments[None], features[None, None].astype(jnp.float32))
    return net.logits(h[0, last][None])[0]


def naive(model, row, feature, eos: int, choose=lambda logits: int(np.argmax(logits))) -> list[int]:
    """No cache: the whole row again for every token."""
    graphdef, params = model
    tokens, positions, segments = (list(getattr(row, name)) for name in ("tokens", "positions", "segments"))
    answer: list[int] = []
    while len(answer) < MOST and eos not in answer:
        fill = 24 - len(tokens)
        arrays = (np.array(values + [0] * fill, np.int32) for values in (tokens, positions, segments))
        answer.append(choose(next_logits(graphdef, params, *arrays, feature, len(tokens) - 1)))
        tokens.append(answer[-1])
        positions.append(positions[-1] + 1)
        segments.append(segments[-1])
    return answer


def answers(generated) -> list[list[int]]:
    return [list(tokens[:length]) for tokens, length in zip(generated.tokens, generated.lengths, strict=True)]


@pytest.mark.parametrize("unroll", [False, True])
def test_greedy_generation_equals_the_naive_loop(model, prompts, unroll: bool) -> None:
    rows, features = prompts
    free = [naive(model, row, feature, eos=-1) for row, feature in zip(rows, features, strict=True)]
    assert len({tuple(answer) for answer in free}) == 3
    eos = free[1][3]  # so that one row ends early
    expected = [naive(model, row, feature, eos) for row, feature in zip(rows, features, strict=True)]
    assert len(expected[1]) <= 4 < max(map(len, expected))
    graphdef = tiny_model(tiny_config(unroll=unroll))[0]
    generated = generate(
        graphdef, model[1], Prompts.of(rows, PAD), features, max_new_tokens=MOST, eos=int(eos), pad=PAD
    )
    assert answers(generated) == expected
    assert list(generated.truncated) == [answer[-1] != eos for answer in expected]
    for tokens, length in zip(generated.tokens, generated.lengths, strict=True):
        assert (tokens[length:] == PAD).all()


def test_other_rows_of_the_batch_do_not_matter(model, prompts) -> None:
    rows, features = prompts
    settings = {"max_new_tokens": MOST, "eos": 1, "pad": PAD}
    together = generate(*model, Prompts.of(rows, PAD), features, **settings)
    alone = [
        generate(*model, Prompts.of([row] * 3, PAD), np.stack([feature] * 3), **settings)
        for row, feature in zip(rows, features, strict=True)
    ]
    assert answers(together) == [answers(single)[0] for single in alone]


def test_generation_stops_as_soon_as_every_row_has_ended(model, prompts) -> None:
    rows, features = prompts
    graphdef, params = model
    first = naive(model, rows[0], features[0], eos=-1)[0]
    generated = generate(
        graphdef, params, Prompts.of(rows[:1] * 3, PAD), np.stack([features[0]] * 3), max_new_tokens=MOST,
        eos=int(first), pad=PAD,
    )  # fmt: skip
    assert list(generated.lengths) == [1, 1, 1] and not generated.truncated.any()


def test_sampling_follows_the_distribution(model, prompts) -> None:
    rows, features = prompts
    graphdef, params = model
    row, feature = rows[0], features[0]
    arrays = [np.pad(getattr(row, name), (0, 24 - len(row))) for name in ("tokens", "positions", "segments")]
    logits = np.asarray(next_logits(graphdef, params, *arrays, feature, len(row) - 1), np.float64)
    hot = 3.0
    probabilities = np.exp(logits / hot - np.max(logits / hot))
    probabilities /= probabilities.sum()
    many = 4000
    batch = Prompts.of([row] * many, PAD), np.stack([feature] * many)
    settings = {"max_new_tokens": 1, "eos": 1, "pad": PAD}
    drawn = generate(graphdef, params, *batch, **settings, sampling=SamplingConfig(temperature=hot, seed=5)).tokens[
        :, 0
    ]
    found = np.bincount(drawn, minlength=len(probabilities)) / many
    assert np.abs(found - probabilities).max() < 5 * np.sqrt(0.25 / many)
    nucleus = SamplingConfig(temperature=hot, top_p=0.5, seed=5)
    drawn = generate(graphdef, params, *batch, **settings, sampling=nucleus).tokens[:, 0]
    order = np.argsort(-probabilities)
    size = int(np.searchsorted(np.cumsum(probabilities[order]), 0.5)) + 1
    assert set(drawn) == set(order[:size])


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_sampling_names_the_field(wrong) -> None:
    with pytest.raises(ExpllmError, match=next(iter(wrong))):
        SamplingConfig(**wrong)
