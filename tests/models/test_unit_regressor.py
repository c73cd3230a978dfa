"""The head of Img2AU: shapes, what its loss is, and what it must not be moved by."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.models import UnitEstimates, UnitRegressorConfig, abstract, merge, unit_losses
from expllm_jax.parallel import logical_axes
from tests.train.tiny import tiny_model

CONFIG = UnitRegressorConfig(units=3, width=8, tokens=4, heads=2, head_width=5, hidden=6)


@pytest.fixture(scope="module")
def head():
    return tiny_model(CONFIG)


def test_a_mean_and_a_variance_for_every_unit(head):
    graphdef, params = head
    params = params | {"mixing": jnp.array([[1.0, 0, 0], [0, 1, 0.2], [0.3, 0, 0.9]])}
    features = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float16)
    estimates = merge(graphdef, params)(features)
    assert estimates.mean_BU.shape == estimates.log_variance_BU.shape == (2, 3)
    assert estimates.mean_BU.dtype == jnp.float32
    # the same by hand, for the last unit of the first picture
    p = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    x = features[0].astype(np.float64)
    keys = (x @ p["keys/kernel"] + p["keys/bias"] + p["positions"]).reshape(4, 2, 5)
    values = (x @ p["values/kernel"] + p["values/bias"]).reshape(4, 2, 5)

    def seen(unit: int) -> np.ndarray:
        found = []
        for head in range(2):
            share = np.exp(keys[:, head] @ p["queries"][unit].reshape(2, 5)[head] / np.sqrt(5))
            found.append(share / share.sum() @ values[:, head])
        return np.concatenate(found)

    mixed = 0.3 * seen(0) + 0.9 * seen(2)
    hidden = jax.nn.gelu(mixed @ p["unit_kernel1"][2] + p["unit_bias1"][2], approximate=False)
    by_hand = np.asarray(hidden) @ p["unit_kernel2"][2] + p["unit_bias2"][2]
    np.testing.assert_allclose([each[0, 2] for each in estimates], by_hand, atol=1e-5)


def test_every_parameter_has_a_sharding_rule():
    shapes = abstract(CONFIG)[1]
    assert {path: len(logical_axes(path)) for path in shapes} == {path: leaf.ndim for path, leaf in shapes.items()}


def test_a_rare_unit_counts_as_much_as_a_frequent_one():
    estimates = UnitEstimates(jnp.array([[0.2, 0.02]]), jnp.zeros((1, 2)))
    losses = unit_losses(estimates, jnp.zeros((1, 2)), jnp.array([0.04, 0.0004]), 0.0)
    np.testing.assert_allclose(losses, [[1.0, 1.0]], rtol=1e-6)


def test_the_variance_moves_no_mean_and_settles_at_the_squared_error():
    def misfit(mean, log_variance):
        estimates = UnitEstimates(jnp.full((1, 1), mean), jnp.full((1, 1), log_variance))
        whole = unit_losses(estimates, jnp.full((1, 1), 0.5), jnp.ones(1), 1.0)
        return jnp.sum(whole - jnp.square(estimates.mean_BU - 0.5))

    of_mean, of_variance = jax.grad(misfit, (0, 1))(0.8, float(np.log(0.09)))
    assert of_mean == pytest.approx(0.0, abs=1e-6) and of_variance == pytest.approx(0.0, abs=1e-6)
    assert jax.grad(misfit, 1)(0.8, float(np.log(0.2))) > 0 > jax.grad(misfit, 1)(0.8, float(np.log(0.01)))


def test_a_bad_size_is_named():
    with pytest.raises(ExpllmError, match="unit regressor heads is 0"):
        UnitRegressorConfig(units=1, width=1, heads=0)
