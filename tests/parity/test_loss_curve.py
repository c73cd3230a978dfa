"""A tiny model trained here and by the benchmarks' peer: same weights, records and hyper-parameters, same losses."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.models import PAPER_TRAINABLE, select
from expllm_jax.parallel import MeshConfig, make_mesh, shard_params
from expllm_jax.train.optimizer import OptimizerConfig, build_optimizer
from expllm_jax.train.state import create_state
from expllm_jax.train.step import make_train_step
from expllm_jax.weights.naming import scatter
from tests.models.sizes import random_params
from tests.parity.agreement import agree, relative_error
from tests.train.tiny import IMAGE_TOKENS, PICTURE_SIZE, branched_row, tiny_config

pytestmark = pytest.mark.parity

STEPS, RECORDS, BATCH, TEXT = 50, 12, 4, 10
OPTIMIZER = OptimizerConfig(lr=5e-3, weight_decay=0.05, clip=1.0, warmup_ratio=0.1)


def records() -> dict[str, np.ndarray]:
    """Random pictures and token rows; of each row the last 2 to 7 tokens are supervised, all with the same weight."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(RECORDS):
        text, answer = rng.integers(0, 40, TEXT).tolist(), 2 + number % 6
        rows.append(branched_row([], [(text[:-answer], text[-answer:], float(answer))]))
    names = ("tokens", "positions", "segments", "loss_weights")
    pixels = rng.normal(size=(RECORDS, PICTURE_SIZE, PICTURE_SIZE, 3)).astype(np.float32)
    return {name: np.stack([getattr(row, name) for row in rows]) for name in names} | {"pixels": pixels}


def batches() -> list[dict[str, np.ndarray]]:
    """The records of every update: epochs of three batches, each in an order of its own."""
    data, rng = records(), np.random.default_rng(1)
    order = np.concatenate([rng.permutation(RECORDS) for _ in range(-(-STEPS * BATCH // RECORDS))])
    return [{name: array[order[i * BATCH : (i + 1) * BATCH]] for name, array in data.items()} for i in range(STEPS)]


def learning_rate(step: int) -> float:
    """Linear warm-up over a tenth of the updates, then a cosine to 0."""
    warmup = math.ceil(OPTIMIZER.warmup_ratio * STEPS)
    share = max(0, step - warmup) / (STEPS - warmup)
    return OPTIMIZER.lr * min(1, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * share))


def test_fifty_updates(torch_models):
    """Losses agree to 1e-4 of their size, and the adapters and the projector at the end to 1e-3."""
    import torch

    from launch.bench.torch_expllm import NOT_SUPERVISED, make_optimizer, train_step

    config = tiny_config(rank=2)
    graphdef, params = random_params(config, spread=0.2, zero=("lora_b",))
    peer = torch_models.expllm(params, config).train()

    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        trained, frozen = select({path: jnp.asarray(leaf) for path, leaf in params.items()}, PAPER_TRAINABLE)
        optimizer = build_optimizer(OPTIMIZER, STEPS)
        state = create_state(shard_params(trained, mesh), optimizer, mesh)
        step = jax.jit(make_train_step(graphdef, optimizer, supervised=7), donate_argnums=0)
        ours, norms = [], []
        for batch in batches():
            state, metrics = step(state, frozen, batch, np.uint32(0))
            ours.append(float(metrics["loss"]))
            norms.append(float(metrics["grad_norm"]))

    torch_optimizer = make_optimizer(peer, OPTIMIZER.lr, OPTIMIZER.weight_decay)
    theirs = []
    for number, batch in enumerate(batches()):
        for group in torch_optimizer.param_groups:
            group["lr"] = learning_rate(number)
        ids = torch_models.tensor(batch["tokens"][:, IMAGE_TOKENS:]).long()
        supervised = torch_models.tensor(batch["loss_weights"][:, IMAGE_TOKENS:] > 0)
        labels = torch.where(supervised, ids, NOT_SUPERVISED)
        theirs.append(float(train_step(peer, torch_optimizer, torch_models.pixels(batch["pixels"]), ids, labels)))

    errors = np.abs(np.array(ours) / np.array(theirs) - 1)
    print(f"norms {min(norms):.2f} to {max(norms):.2f}, {sum(norm > OPTIMIZER.clip for norm in norms)} clipped")
    print(f"losses {ours[0]:.3f} -> {ours[-1]:.3f}; relative error {errors.max():.1e}, at the end {errors[-1]:.1e}")
    assert ours[-1] < 0.7 * ours[0]  # else agreeing would say little
    assert max(norms) > OPTIMIZER.clip  # clipping takes part
    assert errors.max() < 1e-4

    table = torch_models.trained_table(config)
    started, ended = scatter(params, table), scatter(jax.device_get(state.params), table)
    expected = {name: weight.detach().numpy() for name, weight in peer.named_parameters() if weight.requires_grad}
    assert set(expected) == set(table)
    for name in table:
        assert relative_error(expected[name] + 1, started[name] + 1) > 1e-2, f"{name} has hardly moved"
        agree(name, ended[name], expected[name], within=1e-3)
