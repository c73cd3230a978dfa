"""A state of a few small arrays, a position, and runs of them to save, damage and restore."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from expllm_jax.checkpoints import Checkpointer


@functools.partial(jax.tree_util.register_dataclass, data_fields=["step", "params", "opt_state"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    params: dict[str, jax.Array]
    opt_state: optax.OptState


def make_params(seed: int = 0) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "decoder/blocks/kernel": jax.random.normal(keys[0], (2, 3, 4)),
        "decoder/embedding": jax.random.normal(keys[1], (5, 4)).astype(jnp.bfloat16),
        "projector/bias": jax.random.normal(keys[2], (4,)),
    }


def make_state(step: int, seed: int = 0) -> State:
    params = make_params(seed)
    return State(jnp.int32(step), params, optax.adamw(1e-3).init(params))


def make_data() -> grain.DatasetIterator:
    return iter(grain.MapDataset.range(100).seed(3).shuffle().repeat().to_iter_dataset())


def save_run(run_dir: Path, steps: tuple[int, ...] = (1, 2, 3), losses: dict[int, float] | None = None, **options):
    """Saves `steps`, the data advanced by one element a step, the state and meta made from the step's number."""
    data = make_data()
    with Checkpointer(run_dir, **options) as checkpointer:
        for step in steps:
            next(data)
            metrics = None if losses is None or step not in losses else {"validation_loss": losses[step]}
            meta = {"step": step, "nested": [1, {"none": None}], "text": "a"}
            checkpointer.save_async(step, make_state(step, seed=step), data, meta, metrics=metrics)


def assert_same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
