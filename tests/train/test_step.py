"""The update does what its docstring says: weighted means over supervised tokens, and only what is trainable moves."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.models import abstract, merge, select
from expllm_jax.parallel import MeshConfig, make_mesh
from expllm_jax.records import BatchConfig, batches
from expllm_jax.train import (
    Optimizer,
    OptimizerConfig,
    build_optimizer,
    create_state,
    decay_mask,
    make_eval_step,
    make_train_step,
)
from tests.train.tiny import (
    IMAGE_TOKEN,
    IMAGE_TOKENS,
    PICTURE_SIZE,
    TOWER_WIDTH,
    TinySource,
    branched_row,
    tiny_config,
    tiny_model,
)

SEED = np.uint32(7)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@functools.cache
def jitted(function, *args, **kwargs):
    """One compiled program for all tests that want the same; unoptimised, which compiles twice as fast."""
    return jax.jit(function(*args, **kwargs), compiler_options={"xla_backend_optimization_level": 0})


def batch_of(rows, features, length=40) -> dict[str, np.ndarray]:
    rows = [*rows, *[branched_row([], [])] * (4 - len(rows))]  # all batches of one shape, so of one program
    features = np.concatenate([features, np.zeros((len(rows) - len(features), *features.shape[1:]), features.dtype)])
    batch = {name: np.zeros((len(rows), length), np.int32) for name in ("tokens", "positions", "segments")}
    batch["loss_weights"] = np.zeros((len(rows), length), np.float32)
    for line, row in enumerate(rows):
        for name, values in batch.items():
            values[line, : len(row)] = getattr(row, name)
    return {**batch, "features": features}


def reference_loss(graphdef, params, batch) -> jax.Array:
    """The definition, straight: logits everywhere, log-softmax, weighted mean."""
    net = merge(graphdef, params)
    h = net(batch["tokens"], batch["positions"], batch["segments"], jnp.float32(batch["features"])[:, None])
    log_probabilities = jax.nn.log_softmax(net.logits(h))[:, :-1]
    nll = -jnp.take_along_axis(log_probabilities, batch["tokens"][:, 1:, None], 2)[..., 0]
    weights = batch["loss_weights"][:, 1:]
    return jnp.sum(jnp.where(weights > 0, weights * nll, 0)) / weights.sum()


def evaluate(model, batch, supervised: int = 16) -> float:
    graphdef, params = model
    sums = jitted(make_eval_step, graphdef, supervised=supervised)({}, params, batch)
    return float(sums["nll"] / sums["weight"])


def test_loss_and_gradient_agree_with_the_definition(model) -> None:
    graphdef, params = model
    source = TinySource(4)
    batch = batch_of(source.rows, source.features)
    trainable, frozen = select(params, [r"projector/.*", r"decoder/.*"])
    # A plain gradient step of size 1 shows the gradient itself.
    optimizer = Optimizer(optax.sgd(1.0).init, optax.sgd(1.0).update, learning_rate=lambda state: jnp.float32(1.0))
    state = create_state(trainable, optimizer, make_mesh(MeshConfig()))
    step = jitted(make_train_step, graphdef, optimizer, supervised=int(source.lengths.supervised.max()))
    after, metrics = step(state, frozen, batch, SEED)
    by_definition = jax.value_and_grad(lambda part: reference_loss(graphdef, {**part, **frozen}, batch))
    loss, gradient = jitted(lambda: by_definition)(trainable)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)
    for path, leaf in gradient.items():
        np.testing.assert_allclose(trainable[path] - after.params[path], leaf, atol=2e-6, err_msg=path)


def test_a_branched_row_loses_what_separate_rows_lose(model) -> None:
    features = TinySource(1, seed=3).features
    label, cot = ([3, 4], [21, 5], 0.75), ([6, 7], [30, 31, 32, 5], 0.25)
    both = evaluate(model, batch_of([branched_row([1, 2], [label, cot])], features))
    alone = [evaluate(model, batch_of([branched_row([1, 2], [branch])], features)) for branch in (label, cot)]
    assert both == pytest.approx(0.75 * alone[0] + 0.25 * alone[1], rel=1e-5)
    assert abs(alone[0] - alone[1]) > 1e-3  # or the weights would not matter


def test_padding_rows_and_longer_rows_change_nothing(model) -> None:
    source = TinySource(4)
    plain = evaluate(model, batch_of(source.rows, source.features))
    padded = batch_of([*source.rows, branched_row([], [])], source.features, length=64)
    padded["segments"][4] = padded["tokens"][4] = 0
    assert evaluate(model, padded) == pytest.approx(plain, rel=1e-5)


def test_more_supervised_tokens_than_there_is_room_for_are_never_dropped(model) -> None:
    source = TinySource(2)
    batch = batch_of(source.rows, source.features)
    need = int(source.lengths.supervised.max())
    assert np.isfinite(evaluate(model, batch, need))
    assert np.isnan(evaluate(model, batch, need - 1))


def test_logits_are_made_for_supervised_tokens_only(model) -> None:
    graphdef, params = model
    source = TinySource(2)
    batch = batch_of(source.rows, source.features, length=40)
    text = jax.jit(make_eval_step(graphdef, supervised=9)).lower({}, params, batch).as_text()
    assert "36x1x48x" in text  # B * S x parts x V
    assert "4x40x48x" not in text and "160x48x" not in text and "160x1x48x" not in text


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(model, parts: int) -> None:
    graphdef, params = model
    source = TinySource(8, seed=5)
    batch = batch_of(source.rows, source.features)
    batch["loss_weights"] = batch["loss_weights"] * np.linspace(0.2, 2.0, 8, dtype=np.float32)[:, None]
    trainable, frozen = select(params, [r"projector/.*"])
    optimizer = build_optimizer(OptimizerConfig(lr=1e-2, clip=0.5), 10)
    mesh = make_mesh(MeshConfig())
    results = []
    for accumulate in (1, parts):
        step = jitted(make_train_step, graphdef, optimizer, supervised=16, accumulate=accumulate)
        state, metrics = step(create_state(trainable, optimizer, mesh), frozen, batch, SEED)
        results.append((metrics["loss"], metrics["grad_norm"], state.opt_state))
    (loss, norm, moments), (loss_parts, norm_parts, moments_parts) = results
    assert loss_parts == pytest.approx(float(loss), rel=1e-5)
    assert norm_parts == pytest.approx(float(norm), rel=1e-4)
    for a, b in zip(jax.tree.leaves(moments), jax.tree.leaves(moments_parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_only_what_is_trainable_changes_and_the_callers_arrays_survive_donation() -> None:
    graphdef, params = tiny_model(tiny_config(rank=2))
    before = {path: np.array(leaf) for path, leaf in params.items()}
    source = TinySource(4)
    batch = batch_of(source.rows, source.features)
    trainable, frozen = select(params, [r"decoder/.*/lora_[ab]", r"projector/.*"])
    optimizer = build_optimizer(OptimizerConfig(lr=1e-2), 10)
    state = create_state(trainable, optimizer, make_mesh(MeshConfig()))
    step = jax.jit(make_train_step(graphdef, optimizer, supervised=16), donate_argnums=0)
    for _ in range(2):  # B of an adapter starts at 0, so A moves from the second update on
        state, _ = step(state, frozen, batch, SEED)
    for path, leaf in params.items():
        np.testing.assert_array_equal(leaf, before[path], err_msg=path)
    assert set(state.params) == set(trainable) and int(state.step) == 2
    unchanged = [path for path, leaf in state.params.items() if np.array_equal(leaf, before[path])]
    assert unchanged == []


def test_dropout_is_a_function_of_seed_and_step() -> None:
    config = tiny_config(rank=2)
    config = dataclasses.replace(config, decoder_lora=dataclasses.replace(config.decoder_lora, dropout=0.5))
    graphdef, params = tiny_model(config)
    params = {path: leaf + 0.1 if path.endswith("lora_b") else leaf for path, leaf in params.items()}
    source = TinySource(4)
    batch = batch_of(source.rows, source.features)
    trainable, frozen = select(params, [r"decoder/.*/lora_[ab]"])
    optimizer = build_optimizer(OptimizerConfig(), 10)
    state = create_state(trainable, optimizer, make_mesh(MeshConfig()))
    step = jitted(make_train_step, graphdef, optimizer, supervised=16)
    loss = {
        (seed, at): float(
            step(dataclasses.replace(state, step=jnp.int32(at)), frozen, batch, np.uint32(seed))[1]["loss"]
        )
        for seed in (1, 2)
        for at in (0, 1)
    }
    assert len(set(loss.values())) == 4
    assert float(step(state, frozen, batch, np.uint32(1))[1]["loss"]) == loss[1, 0]


def test_pixels_and_their_features_give_the_same_loss() -> None:
    model = tiny_model()
    source = TinySource(4)
    config = BatchConfig(batch=4, shuffle=False, epochs=1, picture_size=28, threads=0)
    pixels = dict(next(batches(source, config)))
    features = np.asarray(merge(*model).encode(pixels["pixels"]))
    encoded = dict(next(batches(source, config, features)))
    assert evaluate(model, pixels) == pytest.approx(evaluate(model, encoded), rel=1e-5)


def test_rows_with_two_pictures_each(model) -> None:
    """As pixels or as features; the order of the pictures matters, and the same places as one wide picture do not."""
    rng = np.random.default_rng(3)
    row = branched_row([1, 2] + [IMAGE_TOKEN] * IMAGE_TOKENS, [([3, 4], [21, 5], 1.0)])
    batch = batch_of([row] * 4, rng.normal(size=(4, IMAGE_TOKENS, TOWER_WIDTH)))
    pixels = rng.normal(size=(4, 2, PICTURE_SIZE, PICTURE_SIZE, 3)).astype(np.float32)
    features = np.stack([np.asarray(merge(*model).encode(pair)) for pair in pixels])
    del batch["features"]
    loss = evaluate(model, batch | {"pixels": pixels})
    assert loss == pytest.approx(evaluate(model, batch | {"features": features}), rel=1e-5)
    joined = features.reshape(4, 2 * IMAGE_TOKENS, TOWER_WIDTH)
    assert loss == pytest.approx(evaluate(model, batch | {"features": joined}), rel=1e-5)
    assert loss != pytest.approx(evaluate(model, batch | {"features": features[:, ::-1]}), rel=1e-3)


def test_another_branchs_text_leaves_a_loss_alone(model) -> None:
    features = TinySource(1).features
    label = ([3, 4], [21, 5], 1.0)
    rows = [branched_row([1, 2], [([6, 7], [token, 5], 0.0), label]) for token in (30, 31)]
    assert evaluate(model, batch_of(rows[:1], features)) == evaluate(model, batch_of(rows[1:], features))


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_learning_rate_rises_then_follows_the_schedule(schedule: str) -> None:
    optimizer = build_optimizer(OptimizerConfig(lr=2.0, warmup_ratio=0.1, schedule=schedule), 100)
    params = {"a/kernel": jnp.ones(1)}
    update, state, rates = jax.jit(optimizer.update), optimizer.init(params), []
    for _ in range(100):
        rates.append(float(optimizer.learning_rate(state)))
        _, state = update(params, state, params)
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10 * 2.0, rtol=1e-5)
    if schedule == "constant":
        np.testing.assert_allclose(rates[10:], 2.0)
    else:
        np.testing.assert_allclose(rates[10:], 1 + np.cos(np.pi * np.arange(90) / 90), atol=1e-5)
        assert 0 < rates[-1] < 0.01


def test_the_optimiser_is_adamw_by_hand(model) -> None:
    config = OptimizerConfig(lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.5, clip=1.0, warmup_ratio=0.0,
                             schedule="constant")  # fmt: skip
    optimizer = build_optimizer(config, 10)
    params = {"a/kernel": jnp.array([1.0, -2.0]), "a/bias": jnp.array([3.0])}
    opt_state = optimizer.init(params)
    expected = {path: np.array(leaf, np.float64) for path, leaf in params.items()}
    m = {path: np.zeros_like(leaf) for path, leaf in expected.items()}
    v = {path: np.zeros_like(leaf) for path, leaf in expected.items()}
    for t in (1, 2, 3):
        grads = {"a/kernel": np.array([3.0, 0.4]) * t, "a/bias": np.array([4.0])}
        updates, opt_state = optimizer.update({k: jnp.float32(g) for k, g in grads.items()}, opt_state, params)
        params = optax.apply_updates(params, updates)
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        for path, grad in grads.items():
            grad = grad / max(1.0, norm)
            m[path] = 0.8 * m[path] + 0.2 * grad
            v[path] = 0.9 * v[path] + 0.1 * grad**2
            direction = m[path] / (1 - 0.8**t) / (np.sqrt(v[path] / (1 - 0.9**t)) + 1e-3)
            decay = 0.5 * expected[path] if path.endswith("kernel") else 0.0
            expected[path] = expected[path] - 0.1 * (direction + decay)
    for path, leaf in expected.items():
        np.testing.assert_allclose(params[path], leaf, rtol=1e-5)


def test_weight_decay_spares_biases_norms_and_embeddings() -> None:
    mask = decay_mask(abstract(tiny_config(rank=2))[1])
    assert (
        mask["decoder/blocks/attn/q/kernel"] and mask["decoder/blocks/attn/q/lora_a"] and mask["decoder/lm_head/kernel"]
    )
    spared = {path.rpartition("/")[2] for path, decayed in mask.items() if not decayed}
    assert {"bias", "scale", "embedding", "position_embedding", "cls_token"} <= spared
    assert not spared & {"kernel", "lora_a", "lora_b"}


@pytest.mark.parametrize(
    "wrong", [{"lr": 0}, {"betas": (0.9, 1.0)}, {"clip": -1}, {"warmup_ratio": 1.0}, {"schedule": "linear"}, {"eps": 0}]
)
def test_impossible_settings_name_the_field(wrong) -> None:
    with pytest.raises(ExpllmError, match=next(iter(wrong))):
        OptimizerConfig(**wrong)
