"""The cached loop says what the whole model, run anew for every token, says."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.infer import Prompts, SamplingConfig, Stop, generate
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


@pytest.mark.parametrize("unroll", [1, 0])
def test_greedy_generation_equals_the_naive_loop(model, prompts, unroll: int) -> None:
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


# ---- stop texts: the tiny model's tokens spelled as letters


def spelled(ids) -> str:
    return "".join(chr(97 + int(token) % 26) for token in ids)


@pytest.mark.parametrize("look_every", [1, 3, 16])
def test_stop_texts_end_a_row_with_the_token_that_completes_them(model, prompts, look_every: int) -> None:
    rows, features = prompts
    settings = {"max_new_tokens": MOST, "eos": -1, "pad": PAD}
    free = generate(*model, Prompts.of(rows, PAD), features, **settings)
    text = spelled(free.tokens[1])[3:5]
    found = generate(
        *model, Prompts.of(rows, PAD), features, **settings, stop=Stop((text, "nowhere"), spelled, look_every)
    )
    for row in range(3):
        full = spelled(free.tokens[row])
        expected = full.find(text) + len(text) if text in full else MOST
        assert found.lengths[row] == expected
        assert found.truncated[row] == (text not in full)
        np.testing.assert_array_equal(found.tokens[row, :expected], free.tokens[row, :expected])
        assert (found.tokens[row, expected:] == PAD).all()
    assert found.lengths[1] <= 5


def test_empty_stop_texts_are_refused() -> None:
    for texts in ((), ("",)):
        with pytest.raises(ExpllmError, match="stop texts"):
            Stop(texts, spelled)


# ---- pictures and their placeholders


def test_image_tokens_that_do_not_fit_the_pictures_name_the_row(model, prompts) -> None:
    rows, features = prompts
    settings = {"max_new_tokens": 2, "eos": 1, "pad": PAD}
    with pytest.raises(ExpllmError, match="prompt 0 has .* image tokens .* 0 picture"):
        generate(*model, Prompts.of(rows, PAD), None, **settings)
    wrong = Prompts.of(rows, PAD)
    place = int(np.flatnonzero(wrong.tokens_BT[1] == merge(*model).config.image_token)[0])
    wrong.tokens_BT[1, place] = 3
    with pytest.raises(ExpllmError, match="prompt 1 has"):
        generate(*model, wrong, features, **settings)


def test_text_without_pictures_and_rows_with_two(model) -> None:
    """No picture: the decoder alone continues. Two: each fills its own span, in order."""
    graphdef, params = model
    config = merge(graphdef, params).config
    settings = {"max_new_tokens": 4, "eos": -1, "pad": PAD}
    rng = np.random.default_rng(1)
    tokens = rng.integers(3, 30, (2, 9)).astype(np.int32)
    places = np.broadcast_to(np.arange(9, dtype=np.int32), (2, 9))
    plain = generate(graphdef, params, Prompts(tokens, places, np.ones_like(tokens)), None, **settings)
    assert (plain.lengths == 4).all()
    features = rng.normal(size=(2, 2, 4, config.vision_width)).astype(np.float32)
    span = config.projector.tokens(4)
    with_two = np.concatenate([tokens[:, :2], np.full((2, span), config.image_token), tokens[:, 2:4],
                               np.full((2, span), config.image_token), tokens[:, 4:]], 1).astype(np.int32)  # fmt: skip
    places = np.broadcast_to(np.arange(with_two.shape[1], dtype=np.int32), with_two.shape)
    two = Prompts(with_two, places, np.ones_like(with_two))
    for pictures in (features, features[:, ::-1]):
        scores = merge(graphdef, params).logits(merge(graphdef, params)(*two, pictures))[:, -1]
        np.testing.assert_array_equal(
            generate(graphdef, params, two, pictures, **settings).tokens[:, 0], np.argmax(scores, -1)
        )
    embedded = merge(graphdef, params).embed(with_two, features)
    pictures = merge(graphdef, params).projector(features.reshape(4, 4, -1)).reshape(2, 2, span, -1)
    np.testing.assert_allclose(embedded[:, 2 : 2 + span], pictures[:, 0], atol=1e-6)
    np.testing.assert_allclose(embedded[:, 4 + span : 4 + 2 * span], pictures[:, 1], atol=1e-6)
