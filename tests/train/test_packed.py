"""Packing changes where records stand, and nothing else: loss, gradients, updates."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.models import attention_mask, merge
from expllm_jax.parallel import make_mesh
from expllm_jax.records import BatchConfig, PackingConfig, batches, plan_of
from expllm_jax.train import OptimizerConfig, TrainConfig, read_metrics, train, with_row_costs
from expllm_jax.train.step import _sums
from tests.train.tiny import PICTURE_SIZE, TinySource, tiny_config, tiny_model

RECORDS = 12
# Without windows, so that updates take the very records that they would without packing.
PACKING = PackingConfig(on=True, row_length=128, window=1, picture_cost=5.0, attention_length=1e4)
# Programs that run once: compiling them takes longer than running them.
FAST_TO_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def one_batch(source, *, packed, features=True):
    config = BatchConfig(
        batch=RECORDS, seed=3, updates=2, row_length=0 if packed else 40, picture_size=PICTURE_SIZE, threads=0,
        packing=PACKING if packed else PackingConfig(),
    )  # fmt: skip
    return plan_of(source, config), next(batches(source, config, source.features if features else None))


@pytest.mark.parametrize("features", [True, False], ids=["features", "pixels"])
def test_loss_and_gradients_of_packed_and_unpacked_batches_agree(features) -> None:
    source = TinySource(RECORDS)
    graphdef, params = tiny_model(tiny_config(rank=4))
    rng = np.random.default_rng(0)  # adapters that do something
    params = {
        path: jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype) if path.endswith("lora_b") else x
        for path, x in params.items()
    }

    def loss(params, batch, supervised):
        sums = _sums(graphdef, params, batch, supervised, None)
        return sums.nll / sums.weight

    found = {}
    for packed in (False, True):
        plan, batch = one_batch(source, packed=packed, features=features)
        rows, pictures = plan.shape.rows, plan.shape.pictures
        assert (rows < RECORDS and pictures > 1) if packed else (rows, pictures) == (RECORDS, 1)
        value_and_grad = jax.jit(jax.value_and_grad(loss), static_argnums=2, compiler_options=FAST_TO_COMPILE)
        found[packed] = value_and_grad(params, {k: v for k, v in batch.items() if k != "record"}, plan.shape.supervised)
        assert float(batch["loss_weights"].sum()) == pytest.approx(RECORDS, abs=1e-4)
    assert float(found[True][0]) == pytest.approx(float(found[False][0]), rel=1e-5)
    for path, gradient in found[False][1].items():
        if path.endswith(
            "attn/k/bias"
        ):  # shifts all scores of a query alike: its gradient is 0, and rounding what is left
            continue
        size = np.linalg.norm(gradient)
        apart = np.linalg.norm(np.asarray(found[True][1][path]) - np.asarray(gradient))
        assert apart <= 1e-5 * max(size, 1e-6), (path, apart / max(size, 1e-12))
    assert sum(float(np.linalg.norm(g)) > 0 for g in found[True][1].values()) > 10


def test_attention_never_crosses_records() -> None:
    """Whatever one record of a row says and shows, the states of the others are the same, bit for bit."""
    source = TinySource(RECORDS)
    _, batch = one_batch(source, packed=True)
    graphdef, params = tiny_model()
    line = int(np.argmax((batch["record"] >= 0).sum(1)))
    segments = batch["segments"][line : line + 1]
    record = np.where(segments > 0, (segments - 1) // 64, -1)[0]
    assert record.max() >= 2
    mask = np.asarray(attention_mask(segments))[0]
    inside = (record[:, None] == record[None]) & (record >= 0)[:, None]
    assert not mask[record >= 0][:, record >= 0][~inside[record >= 0][:, record >= 0]].any()
    assert not mask[:, record < 0].any()

    @jax.jit
    def states(tokens, features):
        return merge(graphdef, params)(tokens, batch["positions"][line : line + 1], segments, features)[0]

    tokens, features = batch["tokens"][line : line + 1].copy(), np.float32(batch["features"][line : line + 1])
    before = np.asarray(states(tokens, features))
    other = record == 1
    words = other & (tokens[0] != tiny_config().image_token)
    tokens[0, words] = 1 + tokens[0, words] % 40
    features = features.copy()
    features[0, 1] += 1
    after = np.asarray(states(tokens, features))
    np.testing.assert_array_equal(before[(record >= 0) & ~other], after[(record >= 0) & ~other])
    assert np.abs(before[other] - after[other]).max() > 1e-3


def packed_run(folder: Path, *, packed: bool, steps: int = 6):
    source = TinySource(30)
    graphdef, params = tiny_model(tiny_config(rank=2))
    config = TrainConfig(
        steps=steps, batch=10, seed=4, trainable=(".*lora_[ab]", "projector/.*"),
        packing=PACKING if packed else PackingConfig(),
        optimizer=OptimizerConfig(lr=1e-2, warmup_ratio=0.0), checkpoint_every=3,
    )  # fmt: skip
    result = train(config, graphdef, params, source, folder, features=source.features, stream=io.StringIO())
    return result, [line["loss"] for line in read_metrics(folder)]


def test_a_packed_run_is_the_run_and_goes_on_either_way(tmp_path: Path) -> None:
    whole, losses = packed_run(tmp_path / "plain", packed=False)
    packed, packed_losses = packed_run(tmp_path / "packed", packed=True)
    np.testing.assert_allclose(packed_losses, losses, rtol=1e-4)
    for path, value in whole.state.params.items():
        np.testing.assert_allclose(packed.state.params[path], value, atol=2e-4, err_msg=path)
    # Which records an update takes does not depend on their rows: a run may change its packing in the middle.
    shutil.rmtree(tmp_path / "plain" / "checkpoints" / "6")
    again, resumed_losses = packed_run(tmp_path / "plain", packed=True)
    assert again.loss is not None and len(resumed_losses) == 6
    np.testing.assert_allclose(resumed_losses, losses, rtol=1e-4)


def test_costs_come_from_the_model() -> None:
    """Counted by hand for the 7B: 202 million products a token and layer, 8,192 for each token of attention."""
    from expllm_jax.models import expllm_7b

    costs = with_row_costs(PackingConfig(on=True), expllm_7b(), 224)
    token = 4 * 4096**2 + 3 * 4096 * 11008
    assert costs.attention_length == pytest.approx(token / 8192, abs=1)
    tower = 24 * (256 * 12 * 1024**2 + 2 * 256**2 * 1024)
    projector = 256 * (1024 * 4096 + 4096**2)
    assert costs.picture_cost == pytest.approx((tower + projector) / (32 * token), rel=1e-3)
    assert with_row_costs(dataclasses.replace(PACKING, picture_cost=7.0), expllm_7b(), 224).picture_cost == 7
    assert with_row_costs(PackingConfig(on=True), expllm_7b(), 224, encoded=True).picture_cost < costs.picture_cost


def test_packing_on_a_mesh_gives_every_device_its_rows() -> None:
    assert make_mesh().size == 1  # the suite's own process; tests/parallel runs four
    config = BatchConfig(batch=10, updates=3, packing=PACKING, rows_multiple=4)
    assert plan_of(TinySource(30), config).shape.rows % 4 == 0
    with pytest.raises(ExpllmError, match="does not divide"):
        BatchConfig(batch=10, updates=3, packing=PACKING, rows_multiple=3, process_count=2)
