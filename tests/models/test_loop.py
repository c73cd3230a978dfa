"""The loop over layers: every policy and every number of layers a step computes the same, in programs that differ."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.models.layers import REMAT_POLICIES, run_layers, unroll_count

DEPTH, WIDTH = 5, 4
KERNELS = jax.random.normal(jax.random.key(0), (DEPTH, WIDTH, WIDTH))
X = jax.random.normal(jax.random.key(1), (2, WIDTH))


def loss(kernels, remat, unroll):
    out = run_layers(lambda x, kernel: jnp.tanh(x @ kernel), X, kernels, depth=DEPTH, unroll=unroll, remat=remat)
    return jnp.sum(out**2)


def gradient(remat="none", unroll=1):
    return jax.jit(jax.grad(lambda kernels: loss(kernels, remat, unroll)))


@pytest.mark.parametrize("remat", REMAT_POLICIES)
@pytest.mark.parametrize("unroll", [0, 1, 2, DEPTH + 1])
def test_gradients_do_not_depend_on_how_layers_run(remat, unroll):
    np.testing.assert_allclose(gradient(remat, unroll)(KERNELS), gradient()(KERNELS), rtol=1e-6, atol=1e-7)


def test_a_step_of_the_loop_holds_as_many_layers_as_asked_for():
    def layers(unroll):
        program = jax.jit(lambda kernels: loss(kernels, "none", unroll)).lower(KERNELS).compile().as_text()
        return program.count(" tanh("), program.count(" while(")

    assert layers(1) == (1, 1)
    assert layers(0) == layers(DEPTH) == (DEPTH, 0)
    assert layers(2) == (3, 1)  # two in the loop, and the fifth behind it


def test_offloading_moves_what_enters_a_layer_and_nothing_else():
    program = gradient("offload").trace(KERNELS).lower(lowering_platforms=("tpu",)).as_text()
    parked = [line for line in program.splitlines() if "annotate_device_placement" in line and "pinned_host" in line]
    assert parked and all(f"tensor<2x{WIDTH}xf32>" in line for line in parked)
    full = gradient("full").trace(KERNELS).lower(lowering_platforms=("tpu",)).as_text()
    assert "annotate_device_placement" not in full


def test_files_of_earlier_versions_say_true_or_false():
    assert (unroll_count(True), unroll_count(False), unroll_count(3)) == (0, 1, 3)


@pytest.mark.parametrize("unroll", [-1, 2.5, "all"])
def test_what_is_no_number_of_layers_is_refused(unroll):
    with pytest.raises(ExpllmError, match="unroll is"):
        unroll_count(unroll)
