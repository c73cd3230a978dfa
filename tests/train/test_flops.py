"""Operations per update, against counting by hand and against what XLA counts in the compiled program."""

from __future__ import annotations

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
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
    decoder=DecoderConfig(vocab=512, width=256, depth=2, heads=4, kv_heads=2, head_dim=64, mlp_width=512, unroll=True),
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


@pytest.mark.parametrize("patterns", [EVERYTHING, PAPER_TRAINABLE, DECODER_ADAPTERS, PROJECTOR], ids=str)
def test_xla_counts_the_same(monkeypatch, patterns):
    work = full_work(ROWS, LENGTH, 3, SUPERVISED, masked=True)
    paths = trainable(CONFIG, patterns)
    expected = update_flops(CONFIG, paths, work, SIZE).total
    if patterns is EVERYTHING:  # where the head trains, its scores are made a second time
        expected += 2 * work.supervised * CONFIG.decoder.width * CONFIG.decoder.vocab
    found = compiled_flops(monkeypatch, CONFIG, patterns)
    print(f"{patterns}: {expected:.4g} expected, {found:.4g} counted by XLA, {found / expected - 1:+.2%}")
    assert found == pytest.approx(expected, rel=0.05)


def test_xla_counts_the_same_with_rematerialisation(monkeypatch):
    config = dataclasses.replace(
        CONFIG,
        vision=dataclasses.replace(CONFIG.vision, remat="full"),
        decoder=dataclasses.replace(CONFIG.decoder, remat="full"),
    )
    work = full_work(ROWS, LENGTH, 3, SUPERVISED, masked=True)
    paths = trainable(config, PAPER_TRAINABLE)
    again = recomputed_flops(config, paths, work, SIZE)
    expected = update_flops(config, paths, work, SIZE).total + again
    found = compiled_flops(monkeypatch, config, PAPER_TRAINABLE)
    print(f"full: {expected:.4g} expected, {found:.4g} counted by XLA, {found / expected - 1:+.2%}")
    assert again > 0.2 * expected
    assert found == pytest.approx(expected, rel=0.05)
    assert recomputed_flops(CONFIG, paths, work, SIZE) == 0


SMALL = ExpLLMConfig(
    vision=ViTConfig(width=4, depth=2, heads=2, mlp_ratio=2, patch=2, native_grid=2),
    decoder=DecoderConfig(vocab=11, width=6, depth=2, heads=2, kv_heads=1, head_dim=2, mlp_width=5),
    projector=ProjectorConfig(depth=2),
    vision_lora=LoRAConfig(rank=1, targets=("q",)),
    decoder_lora=LoRAConfig(rank=1, targets=("v",)),
    image_token=11,
)
# Multiply-adds by hand. Tower, 4 patches and CLS: q k v o 4 x 4 each, fc1 and fc2 4 x 8 each, 5 keys of 2 x 4; the
# patch embedding 12 x 4. Projector: 4 x 6, then 6 x 6, 4 tokens. Decoder: q o 6 x 4 each, k v 6 x 2 each, 3 x 6 x 5.
BLOCK, TOWER_KEYS, EMBED = 5 * (4 * 16 + 2 * 32), 5 * 5 * 8, 4 * 48
LAYER, KEYS, HEAD = 2 * 24 + 2 * 12 + 3 * 30, 2 * 4, 66
WORK = Work(rows=1, tokens=7, keys=20, pictures=2, supervised=3)


def test_forward_alone_by_hand():
    plain = dataclasses.replace(SMALL, vision_lora=LoRAConfig(), decoder_lora=LoRAConfig())
    flops = update_flops(plain, (), WORK, 4)
    assert flops.tower == 2 * 2 * (EMBED + 2 * (BLOCK + TOWER_KEYS))
    assert flops.projector == 2 * 2 * 4 * (24 + 36)
    assert flops.decoder == 2 * 7 * 2 * LAYER
    assert flops.attention == 2 * 20 * 2 * KEYS
    assert flops.head == 2 * 3 * HEAD
    assert flops.total == sum(flops)


def test_projector_alone_by_hand():
    plain = dataclasses.replace(SMALL, vision_lora=LoRAConfig(), decoder_lora=LoRAConfig())
    flops = update_flops(plain, trainable(plain, PROJECTOR), WORK, 4)
    forward = update_flops(plain, (), WORK, 4)
    assert flops.tower == forward.tower  # frozen, and nothing before it trains
    assert flops.projector == 2 * 2 * 4 * (24 + 36 + 36 + 24 + 36)  # both weights, but only the second's activations
    assert flops.decoder == 2 * forward.decoder
    assert flops.attention == 3 * forward.attention
    assert flops.head == 2 * forward.head
    assert update_flops(plain, trainable(plain, PROJECTOR), WORK, 4, encoded=True).tower == 0


def test_adapters_by_hand():
    decoder = {path for path in abstract(SMALL)[1] if path.startswith("decoder/") and "/lora_" in path}
    flops = update_flops(SMALL, decoder, WORK, 4)
    # The first layer: v's A (6 x 1) by weights, B (1 x 2) by both; then weights by v, o, and the MLP by activations.
    first = (LAYER + 6 + 2) + (6 + 2 * 2) + (24 + 90)
    second = 2 * (LAYER + 6 + 2) + (6 + 2)
    assert flops.decoder == 2 * 7 * (first + second)
    assert flops.attention == 2 * 20 * (KEYS + 4 + 3 * KEYS)  # no gradient by the first layer's scores
    tower = {path for path in abstract(SMALL)[1] if path.startswith("vision/") and "/lora_" in path}
    assert update_flops(SMALL, tower, WORK, 4).tower > update_flops(SMALL, decoder, WORK, 4).tower


def test_everything_that_trains_costs_three_passes():
    plain = dataclasses.replace(SMALL, vision_lora=LoRAConfig(), decoder_lora=LoRAConfig())
    flops = update_flops(plain, trainable(plain, EVERYTHING), WORK, 4)
    forward = update_flops(plain, (), WORK, 4)
    for part in ("projector", "decoder", "attention", "head"):
        assert getattr(flops, part) == 3 * getattr(forward, part)
    assert flops.tower == 3 * forward.tower - 2 * 2 * EMBED  # no gradient by the pixels


def test_blocks_behind_the_last_layer_read_are_not_run():
    early = dataclasses.replace(SMALL, vision_layers=(0,))
    later = update_flops(SMALL, (), WORK, 4).tower - update_flops(early, (), WORK, 4).tower
    assert later == 2 * 2 * (BLOCK + TOWER_KEYS + 5 * 2 * 4)


def test_a_7b_update_is_as_large_as_known():
    config = expllm_7b()
    flops = update_flops(config, trainable(config, EVERYTHING), full_work(1, 2048, 1, 2048), 224)
    parameters = 6_738_415_616 - 32000 * 4096
    assert flops.decoder + flops.head == pytest.approx(6 * parameters * 2048, rel=0.002)


def test_decoding_reads_every_weight_once():
    config = expllm_7b()
    half = dataclasses.replace(
        config, decoder=dataclasses.replace(config.decoder, param_dtype="bfloat16", dtype="bfloat16")
    )
    work = decode_flops_and_bytes(half, rows=64, slots=1024)
    parameters = 6_738_415_616 - 32000 * 4096
    adapters = 32 * 2 * 2 * 4096 * 8
    assert work.weight_bytes == 2 * parameters + 4 * adapters
    assert work.cache_bytes == 64 * 1025 * 32 * 2 * 4096 * 2
    norms = (2 * 32 + 1) * 4096
    assert work.flops == 2 * 64 * (parameters - norms + adapters + 32 * 2 * 4096 * 1024)


def batch_of(segments, weights=0.0, record=0):
    segments = np.array(segments, np.int32)
    return {
        "segments": segments,
        "loss_weights": np.broadcast_to(np.float32(weights), segments.shape),
        "record": np.array(record, np.int32),
    }


def test_work_of_packed_rows_is_what_the_mask_says():
    rng = np.random.default_rng(0)
    segments = np.zeros((5, 40), np.int32)
    for row in segments[:4]:
        end = 0
        for record in range(3):
            for segment in range(1, rng.integers(2, 5)):
                length = rng.integers(1, 5)
                row[end : end + length] = 64 * record + segment
                end += length
    weights = (rng.random(segments.shape) < 0.3) * (segments > 0)
    work = work_of(batch_of(segments, weights, [[3, 4, 5]] * 4 + [[-1, -1, -1]]))
    mask = np.asarray(attention_mask(jnp.asarray(segments)))
    assert work.rows == 5
    assert work.tokens == np.sum(segments > 0)
    assert work.keys == mask[segments > 0].sum()
    assert work.pictures == 12
    assert work.supervised == weights.sum()


def test_work_of_nothing_but_padding():
    assert work_of(batch_of(np.zeros((2, 8)), record=[-1, -1])) == (2, 0, 0, 0, 0)


def test_full_work_counts_every_slot():
    assert full_work(2, 8, 3, 4) == (2, 16, 72, 6, 8)
    assert full_work(2, 8, 3, 4, masked=True).keys == 128
    assert work_of(batch_of(np.ones((2, 8)), 1.0, np.zeros((2, 3)))) == full_work(2, 8, 3, 8)


def test_a_batch_without_records_is_an_error():
    batch = batch_of(np.ones((1, 4)))
    del batch["record"]
    with pytest.raises(ExpllmError, match="the batch has no record"):
        work_of(batch)
