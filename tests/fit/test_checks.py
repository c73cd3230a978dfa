"""What cannot be, said before a compiler is started, with the nearest choice that can."""

from __future__ import annotations

import dataclasses

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.fit.asking import RowShape, decode_request, train_request
from expllm_jax.fit.checks import check, resolve_mesh
from expllm_jax.fit.topology import parse_topology
from expllm_jax.models import expllm_7b
from expllm_jax.parallel import MeshConfig
from expllm_jax.records import PackingConfig
from expllm_jax.train import TrainConfig

V5E_8, TWO_PODS = parse_topology("v5e-8"), parse_topology("2xv5e-256")
MODEL = expllm_7b(chained=True)
PACKED = PackingConfig(on=True)


def test_a_mesh_fills_the_devices_of_all_slices():
    assert resolve_mesh(MeshConfig(), V5E_8) == (1, 8, 1)
    assert resolve_mesh(MeshConfig(2, -1, 4), TWO_PODS) == (2, 64, 4)
    assert resolve_mesh(MeshConfig(), parse_topology("tpu7x-8")) == (1, 8, 1)


@pytest.mark.parametrize(
    ("mesh", "topology", "near"),
    [
        (MeshConfig(1, 3, 1), V5E_8, MeshConfig(1, 8, 1)),
        (MeshConfig(4, 4, 1), V5E_8, MeshConfig(4, 2, 1)),
        (MeshConfig(1, 512, 1), TWO_PODS, MeshConfig(2, 256, 1)),
    ],
)
def test_a_mesh_that_does_not_is_answered_with_the_nearest(mesh, topology, near):
    with pytest.raises(ExpllmError) as caught:
        resolve_mesh(mesh, topology)
    assert str(near) in caught.value.remedy and resolve_mesh(near, topology)


def test_a_model_that_does_not_divide_over_the_mesh_is_refused():
    request = train_request(MODEL, TrainConfig(steps=1, packing=PACKED), TWO_PODS, mesh=MeshConfig(2, -1, 64))
    with pytest.raises(ExpllmError, match="heads.*tensor=64") as caught:
        check(request)
    assert "data=2 fsdp=64 tensor=4" in caught.value.remedy


def test_pictures_that_do_not_fit_in_a_row_are_refused():
    request = train_request(MODEL, TrainConfig(steps=1), V5E_8, row=RowShape(1024, 6, 100))
    with pytest.raises(ExpllmError, match="1536 tokens") as caught:
        check(request)
    assert "--pictures 4" in caught.value.remedy


def test_prompts_that_do_not_divide_are_refused():
    request = decode_request(MODEL, V5E_8, mesh=MeshConfig(1, 8, 1), batch=12)
    with pytest.raises(ExpllmError, match="batch of 12") as caught:
        check(request)
    assert "8 or 16" in caught.value.remedy


def test_rows_that_do_not_divide_are_refused():
    train = TrainConfig(steps=1, packing=PackingConfig(on=True, rows=20))
    with pytest.raises(ExpllmError, match="train.packing.rows is 20") as caught:
        train_request(MODEL, train, V5E_8)
    assert "train.packing.rows=24, or 16" in caught.value.remedy


def test_the_row_is_the_experiments_or_the_usual_one():
    usual = train_request(MODEL, TrainConfig(steps=1, batch=128, packing=PACKED), V5E_8)
    assert (usual.row_length, usual.pictures, usual.supervised, usual.rows) == (2048, 6, 480, 3)
    said = PackingConfig(on=True, row_length=1024, pictures=2, rows=64)
    train = TrainConfig(steps=1, packing=said, accumulate=2, augment="auto")
    own = train_request(MODEL, train, V5E_8)
    assert (own.row_length, own.pictures, own.rows, own.accumulate, own.picture_input) == (1024, 2, 4, 2, "pictures")
    single = train_request(MODEL, TrainConfig(steps=1, batch=16, row_length=640), V5E_8, features=True)
    assert (single.row_length, single.pictures, single.rows, single.picture_input) == (640, 1, 2, "features")


def test_replicas_spread_over_slices_unless_told_otherwise():
    assert train_request(MODEL, TrainConfig(steps=1), TWO_PODS).mesh == (2, 256, 1)
    assert decode_request(MODEL, parse_topology("v5e-8", 2)).mesh == (2, 1, 8)
    with pytest.raises(ExpllmError, match="slices"):
        train_request(MODEL, TrainConfig(steps=1), TWO_PODS, mesh=MeshConfig(1, -1, 1))


def test_generation_is_in_bfloat16_without_rematerialisation():
    request = decode_request(MODEL, V5E_8)
    assert request.mesh == (1, 1, 8) and request.prompt_tokens == 384
    assert (request.model.decoder.param_dtype, request.model.decoder.remat) == ("bfloat16", "none")
    assert dataclasses.replace(request, batch=1).shards == 1
