"""The sharding table: that it covers everything, what it says, and that four devices compute what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from expllm_jax.errors import ExpllmError
from expllm_jax.models import (
    ExpLLMConfig,
    LoRAConfig,
    ProjectorConfig,
    abstract,
    expllm_7b,
    smollm2_135m,
    vicuna_7b,
    vit_b14,
    vit_l14,
    vit_s14,
)
from expllm_jax.parallel import ACTIVATION_RULES, LOGICAL_AXES, PARAM_RULES, constrain, make_mesh, partition_spec
from expllm_jax.parallel.sharding import _spec
from tests.models.sizes import DECODER, VISION, WHOLE, changed

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent.parent / "golden" / "sharding_7b.json"
IN_TOWER = LoRAConfig(rank=8, targets=("q", "k", "v", "o", "fc1", "fc2"))
IN_DECODER = LoRAConfig(rank=8, targets=("q", "k", "v", "o", "gate", "up", "down"))
CONFIGS = {
    "vit_s14": vit_s14(registers=4),
    "vit_b14": vit_b14(),
    "vit_l14": vit_l14(layer_scale=False),
    "smollm2_135m": smollm2_135m(),
    "vicuna_7b": vicuna_7b(qkv_bias=True),
    "tiny": WHOLE,
    "small": ExpLLMConfig(vit_s14(), smollm2_135m(), projector=ProjectorConfig(depth=3, pool=2)),
    "7b": expllm_7b(),
    "7b, all adapters": expllm_7b(vision_lora=IN_TOWER, decoder_lora=IN_DECODER),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_of_every_size_has_a_rule_of_its_rank(name):
    for path, leaf in abstract(CONFIGS[name])[1].items():
        assert len(partition_spec(path, leaf.shape)) == leaf.ndim, path


def test_the_table_of_the_7b_model_is_the_recorded_one():
    """A change here moves memory and traffic of every large run: it has to be meant.

    To record it again, write `specs` to the golden file with `json.dump(specs, file, indent=1)`.
    """
    specs = {path: str(partition_spec(path, leaf.shape)) for path, leaf in abstract(expllm_7b())[1].items()}
    assert specs == json.loads(GOLDEN.read_text())


def test_nothing_large_is_left_whole():
    for path, leaf in abstract(expllm_7b())[1].items():
        split_over = [axis for axis in partition_spec(path, leaf.shape) if axis]
        if leaf.size > 2e6:
            assert "fsdp" in split_over, path


def test_rules_name_known_axes():
    for _, axes in (*PARAM_RULES, *ACTIVATION_RULES.items()):
        assert {axis.removesuffix("?") for axis in axes} <= set(LOGICAL_AXES)


class FakeMesh:
    """Only what the table asks a mesh: the sizes of its axes."""

    shape = {"data": 1, "fsdp": 4, "tensor": 2}


def test_an_axis_that_may_stay_whole_does_so_only_where_it_does_not_divide():
    assert partition_spec("embedding", (10, 8), FakeMesh()) == P("tensor", "fsdp")
    assert partition_spec("embedding", (11, 8), FakeMesh()) == P(None, "fsdp")
    with pytest.raises(ExpllmError, match="size 6 does not divide over 4 devices"):
        partition_spec("embedding", (10, 6), FakeMesh())
    axes = ACTIVATION_RULES["kv_heads_BSKh"]
    assert _spec("x", axes, (4, 7, 3, 8), FakeMesh.shape) == P(("data", "fsdp"), None, None, None)


def test_unknown_paths_and_ranks_are_refused():
    with pytest.raises(ExpllmError, match="no sharding rule for the parameter 'decoder/new_part/kernel'"):
        partition_spec("decoder/new_part/kernel", (3, 4))
    with pytest.raises(ExpllmError, match="has 2 axes"):
        partition_spec("decoder/embedding", (3, 4, 5))


def test_constrain_keeps_values_with_and_without_a_mesh():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        np.testing.assert_array_equal(jax.jit(lambda x: constrain(x, "residual_BTD"))(x), x)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])), pytest.raises(ExpllmError, match="has 3 axes"):
        jax.jit(lambda x: constrain(x[0], "residual_BTD"))(x)


def test_four_devices_compute_what_one_does():
    """In a process of its own, because the number of devices is fixed when JAX starts."""
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    command = [sys.executable, "-m", "tests.parallel.four_devices"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["devices"] == 4
    for shape, found in report["meshes"].items():
        assert found["loss_difference"] < 1e-5, shape
        assert found["gradient_difference"] < 1e-4, shape
        # what the table promises: the largest kernel really lies in parts
        assert found["shard_fraction"] == pytest.approx(found["expected_fraction"]), shape
    assert report["init_where_it_lies"] == {"equal": True, "placed": True}
    assert "no mesh" in report["without_mesh"]


def test_sizes_of_the_tests_divide():
    """The four-device comparison would be empty if the tiny model could not be split."""
    assert DECODER.width % 4 == 0 and VISION.width % 4 == 0 and changed(DECODER, heads=6).heads % 2 == 0
