"""Training of a unit regressor: what costs nothing, what a stopped run gives, and which runs are refused."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.models import UnitRegressorConfig
from expllm_jax.train import OptimizerConfig, UnitSet, UnitTrainConfig, build_optimizer, train_units
from expllm_jax.train.state import TrainState
from expllm_jax.train.unit_loop import make_unit_step, usual_variances
from tests.train.tiny import tiny_model

HEAD = UnitRegressorConfig(units=2, width=6, tokens=4, heads=1, head_width=4, hidden=4)
CONFIG = UnitTrainConfig(steps=6, batch=4, checkpoint_every=3, log_every=2, optimizer=OptimizerConfig(lr=0.02))


def pictures(count: int, seed: int, weight: float = 1.0) -> UnitSet:
    """Units that can be read off the features, some unknown."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 4, 6)).astype(np.float16)
    values = np.clip(0.5 + 0.3 * features[:, :2, 0], 0, 1).astype(np.float32)
    values[::5, 1] = np.nan
    return UnitSet(features, values, weight)


SETS = [pictures(24, 1, 0.75), pictures(10, 2, 0.25)]


def train(run, config=CONFIG, sets=SETS, **kw):
    run.mkdir(exist_ok=True)
    return train_units(config, *tiny_model(HEAD), sets, run, stream=io.StringIO(), **kw)


def test_an_unknown_unit_has_no_gradient_whatever_is_said_of_it():
    graphdef, params = tiny_model(HEAD)
    optimizer = build_optimizer(OptimizerConfig(lr=0.1, weight_decay=0.0), 10)
    step = jax.jit(make_unit_step(graphdef, optimizer, np.ones(2, np.float32), 0.1))
    batch = {"features": SETS[0].features_RND[:4], "values": np.array([[0.5, np.nan]] * 4, np.float32)}
    state, metrics = step(TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), {}), batch)
    assert np.isfinite(metrics["loss"])
    for path in ("mixing", "unit_kernel1", "unit_bias2"):
        moved = np.abs(np.asarray(state.params[path] - params[path])).reshape(2, -1).max(1)
        assert moved[0] > 0 and moved[1] == 0, path


def test_the_usual_variance_is_that_of_known_values():
    values = np.array([[0.0, np.nan, 0.3], [1.0, 0.2, 0.3], [0.5, 0.4, 0.3]], np.float32)
    found = usual_variances([UnitSet(np.zeros((3, 1, 1), np.float16), values)])
    np.testing.assert_allclose(found, [np.var([0, 1, 0.5]), np.var([0.2, 0.4]), 1.0], rtol=1e-5)


def test_it_learns(tmp_path):
    train(tmp_path / "run", dataclasses.replace(CONFIG, steps=60, checkpoint_every=60))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert np.mean([line["squared_error"] for line in lines[-5:]]) < 0.5 * lines[0]["squared_error"]


def test_a_stopped_run_ends_with_the_same_parameters_bit_for_bit(tmp_path):
    whole, loss = train(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")  # as if it had been killed after update 3 was saved
    again, same_loss = train(tmp_path / "run")
    assert loss == same_loss
    assert all(np.array_equal(whole[path], again[path]) for path in whole)
    finished, nothing = train(tmp_path / "run")
    assert nothing is None and all(np.array_equal(whole[path], finished[path]) for path in whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 6


def test_another_run_is_not_gone_on_with(tmp_path):
    train(tmp_path / "run", identity={"features": "a"})
    with pytest.raises(ExpllmError, match="identity.features was 'a', is 'b'"):
        train(tmp_path / "run", identity={"features": "b"})
    with pytest.raises(ExpllmError, match="config.seed was 0, is 1"):
        train(tmp_path / "run", dataclasses.replace(CONFIG, seed=1), identity={"features": "a"})


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    broken = UnitSet(np.full((8, 4, 6), np.inf, np.float16), np.zeros((8, 2), np.float32))
    with pytest.raises(ExpllmError, match="update 1: the loss is nan"):
        train(tmp_path / "run", sets=[broken])
