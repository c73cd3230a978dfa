"""Presets: that every row can be used, and what the GPUs' rows hold on each of eight devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from expllm_jax.config import load_experiment, with_preset
from expllm_jax.errors import ExpllmError
from expllm_jax.models import DecoderConfig
from expllm_jax.models.layers import REMAT_POLICIES
from expllm_jax.parallel import ACCELERATORS, ATTENTION, PRESETS

ROOT = Path(__file__).parent.parent.parent


def test_there_is_one_for_every_accelerator_and_the_cpu():
    assert set(PRESETS) == {*ACCELERATORS, "cpu"}


@pytest.mark.parametrize("name", PRESETS)
def test_names_what_there_is(name):
    preset = PRESETS[name]
    assert preset.decoder_remat in REMAT_POLICIES and preset.vision_remat in REMAT_POLICIES
    assert preset.attention in ATTENTION
    assert jnp.dtype(preset.dtype).itemsize in (2, 4)


@pytest.mark.parametrize("name", ["h100", "h200"])
def test_options_for_gpus_are_known_to_the_compiler(name):
    """XLA reads the options of all its platforms, whichever it compiles for; those of the TPU need its compiler."""
    options = dict(option.split("=") for option in PRESETS[name].compiler_options)
    jax.jit(lambda x: x + 1).lower(1.0).compile(compiler_options=options)
    with pytest.raises(Exception, match="xla_gpu_enable_nothing"):
        jax.jit(lambda x: x + 1).lower(1.0).compile(compiler_options={"xla_gpu_enable_nothing": "true"})


def test_what_a_preset_sets():
    before = load_experiment("small")
    after = with_preset(before, "v5e")
    preset = PRESETS["v5e"]
    assert after.train.rows_per_device == preset.rows_per_device
    assert after.train.compiler_options == preset.compiler_options
    assert (after.model.decoder.remat, after.model.vision.remat) == (preset.decoder_remat, preset.vision_remat)
    # the base is frozen: adapters and projector alone train
    assert after.model.decoder.param_dtype == after.model.vision.param_dtype == "bfloat16"
    assert after.model.decoder.dtype == after.model.vision.dtype == after.model.projector.dtype == "bfloat16"
    assert after.data == before.data and after.train.optimizer == before.train.optimizer


def test_what_trains_is_stored_in_float32():
    decoder = load_experiment("small", ["train.trainable=projector/.*, decoder/.*"], accelerator="v5e").model.decoder
    assert (decoder.dtype, decoder.param_dtype) == ("bfloat16", "float32")


def test_overrides_win_over_a_preset():
    after = load_experiment("small", ["train.rows_per_device=3", "model.decoder.remat=dots"], accelerator="v5e")
    assert (after.train.rows_per_device, after.model.decoder.remat) == (3, "dots")


def test_an_unknown_accelerator_is_refused():
    with pytest.raises(ExpllmError, match="no accelerator 'v9'"):
        load_experiment("small", accelerator="v9")


def test_both_attentions_are_the_same_function_of_a_configuration():
    with pytest.raises(ExpllmError, match="attention is 'quick'"):
        DecoderConfig(vocab=8, width=8, depth=1, heads=1, kv_heads=1, head_dim=8, mlp_width=8, attention="quick")


def test_the_gpus_rows_share_out_the_7b_model_over_eight_devices():
    """On fake devices, in a process of its own, because their number is fixed when JAX starts."""
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    command = [sys.executable, "-m", "tests.parallel.eight_devices"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    for name, found in json.loads(result.stdout.splitlines()[-1]).items():
        assert found["whole"] == [], name
        # Vicuna-7B by hand: per layer 4 products of 4096 x 4096 and 3 of 4096 x 11008, 32 layers, an embedding and a
        # head of 32000 x 4096. bfloat16, an eighth of it; norms (65 x 4096) are whole everywhere.
        products = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 2 * 32000 * 4096
        assert found["decoder_bytes"] == products * 2 // 8 + 65 * 4096 * 2, name
