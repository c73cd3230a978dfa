"""The bound of a step, against counting by hand."""

from __future__ import annotations

import dataclasses

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.fit.collectives import Collective
from expllm_jax.fit.roofline import estimate, update_bytes
from expllm_jax.models import PAPER_TRAINABLE, abstract, expllm_7b, select
from expllm_jax.parallel import ACCELERATORS
from expllm_jax.train import full_work

V5E = ACCELERATORS["v5e"]


def moved(network: str, size: float, count: float = 1.0) -> Collective:
    return Collective("all-gather", size, count, network, size, "")


def test_the_busiest_resource_bounds_the_step():
    found = estimate(197e12, 8.1e11 / 2, [moved("ici", 18e9, 2), moved("ici", 9e9), moved("dcn", 3.125e9 / 8)], V5E)
    assert found[:5] == pytest.approx((1.0, 0.5, 0.25, 0.125, 1.0))
    assert found.bound_by == "compute"
    assert found.assumptions
    assert estimate(0, 1, [moved("dcn", 1e9)], V5E).bound_by == "dcn"


def test_an_unknown_network_is_an_error():
    with pytest.raises(ExpllmError, match="network 'wifi'"):
        estimate(1, 1, [moved("wifi", 1)], V5E)


def test_memory_of_an_update():
    model = expllm_7b()
    half = {"dtype": "bfloat16", "param_dtype": "bfloat16", "remat": "full"}
    model = dataclasses.replace(
        model,
        vision=dataclasses.replace(model.vision, **half),
        decoder=dataclasses.replace(model.decoder, **half),
        projector=dataclasses.replace(model.projector, dtype="bfloat16"),
    )
    shapes = abstract(model)[1]
    trainable = set(select(shapes, PAPER_TRAINABLE)[0])
    nothing = full_work(0, 2048, 6, 480)
    alone = {"data": 1, "fsdp": 1, "tensor": 1}
    weights = update_bytes(model, trainable, nothing, 224, alone)
    # Three passes over 6.6e9 + 0.3e9 numbers, two over the projector's 21e6, which train (28 bytes) as 4.2e6 + 0.8e6
    # of adapters do.
    assert weights == pytest.approx(3 * 2 * (6.61e9 + 0.305e9) + 2 * 2 * 21e6 + 28 * 26e6, rel=0.01)
    rows = full_work(8, 2048, 1, 480)
    activations = update_bytes(model, trainable, rows, 224, alone) - weights
    per_layer = 2 * 2 * (2 * 4096 + 4 * 4096 + 2 * 11008)  # in and out, bfloat16
    tower = 24 * 8 * 257 * 3 * 2 * 2 * (2 * 1024 + 4 * 1024 + 2 * 4096)
    assert activations == pytest.approx(32 * 8 * 2048 * 3 * per_layer + tower)
    shared = update_bytes(model, trainable, nothing, 224, {"data": 1, "fsdp": 8, "tensor": 1})
    assert weights < shared < 2 * weights  # every weight is also written where it is gathered
    split = update_bytes(model, trainable, nothing, 224, {"data": 1, "fsdp": 1, "tensor": 8})
    assert split == pytest.approx(weights / 8)


def test_a_frozen_tower_runs_forward_only():
    model = expllm_7b()
    shapes = abstract(model)[1]
    nothing, alone = full_work(0, 2048, 6, 480), {"data": 1, "fsdp": 1, "tensor": 1}
    projector = set(select(shapes, ["projector/.*"])[0])
    tower = sum(leaf.size for path, leaf in shapes.items() if path.startswith("vision/"))
    adapters = [path for path in shapes if path.startswith("vision/") and "/lora_" in path]
    both = update_bytes(model, projector | set(adapters), nothing, 224, alone)
    trained = sum(shapes[path].size for path in adapters)
    assert both - update_bytes(model, projector, nothing, 224, alone) == pytest.approx(4 * tower + 28 * trained)
