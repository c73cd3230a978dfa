"""Operations per update, against counting by hand and against what XLA counts in the compiled program."""

from __future__ import annotations

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.models import (
    PAPER_TRAINABLE,
    DecoderConfig,
    ExpLLMConfig,
    LoRAConfig,
    ProjectorConfig,
    ViTConfig,
    abstract,
    attention_mask,
    expllm_7b,
    select,
)
from expllm_jax.train import (
    Work,
    decode_flops_and_bytes,
    full_work,
    recomputed_flops,
    update_flops,
    work_of,
)
from expllm_jax.train import step as step_module

SIZE, ROWS, LENGTH, SUPERVISED = 28, 2, 64, 16
LORA = LoRAConfig(rank=8, dropout=0.0)
# Wide enough for the products to be nearly all there is; unrolled, for XLA counts a loop's body once.
CONFIG = ExpLLMConfig(
    vision=ViTConfig(width=192, depth=2, heads=3, patch=14, native_grid=2, registers=12, unroll=True),
    decoder=DecoderConfig(
        vocab=512, width=256, depth=2, heads=4, kv_heads=2, head_dim=64, mlp_width=512, unroll=True
    ),
    projector=ProjectorConfig(depth=2),
    vision_lora=LORA,
    decoder_lora=LORA,
    image_token=512,
)
EVERYTHING = (".*",)
PROJECTOR = ("projector/.*",)
DECODER_ADAPTERS = ("decoder/.*/lora_[ab]",)


def trainable(config, patterns):
    return set(select(abstract(config)[1], patterns)[0])


def compiled_flops(monkeypatch, config, patterns):
    """XLA's count of the loss, or of its gradient by what `patterns` name."""
    # Row by row, as CPUs do it, attention is a loop.
    module = importlib.import_module("expllm_jax.parallel.attention")  # the function hides the module of its name
    monkeypatch.setattr(module, "_attend_on_cpu", lambda operands, causal: module._attend(operands))
    graphdef, shapes = abstract(config)
    chosen, frozen = select(shapes, patterns)
    array = jax.ShapeDtypeStruct
    ids = array((ROWS, LENGTH), jnp.int32)
    batch = {"tokens": ids, "positions": ids, "segments": ids, "loss_weights": array((ROWS, LENGTH), jnp.float32)}
    batch["pixels"] = array((ROWS, 3, SIZE, SIZE, 3), jnp.float32)

    def loss(chosen, frozen, batch):
        return step_module._sums(graphdef, {**chosen, **frozen}, batch, SUPERVISED, None).nll

    function = jax.grad(loss) if patterns else loss
    return jax.jit(function).lower(chosen, frozen, batch).compile().cost_analysis()["flops"]


def test_xla_counts_the_same(monkeypatch):
    work = full_work(ROWS, LENGTH, 3, SUPERVISED, masked=True)
    for patterns in (EVERYTHING, PAPER_TRAINABLE, DECODER_ADAPTERS, PROJECTOR):
        flops = update_flops(CONFIG, trainable(CONFIG, patterns), work, SIZE)
        counted = compiled_flops(monkeypatch, CONFIG, patterns)
        print(patterns, flops, flops.total, counted, counted/flops.total)
    full = dataclasses.replace(CONFIG,vision=dataclasses.replace(CONFIG.vision,remat="full"),decoder=dataclasses.replace(CONFIG.decoder,remat="full"))
    for patterns in (EVERYTHING, PAPER_TRAINABLE, DECODER_ADAPTERS, PROJECTOR):
        t=trainable(CONFIG, patterns)
        flops = update_flops(full, t, work, SIZE).total+recomputed_flops(full, t, work, SIZE)
        counted = compiled_flops(monkeypatch, full, patterns)
        print("remat", patterns, flops, counted, counted/flops)
    f=compiled_flops(monkeypatch, CONFIG, ())
    print("forward", f, f/update_flops(CONFIG, (), work, SIZE).total)
