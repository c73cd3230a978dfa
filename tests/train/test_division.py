"""Rows are divided among devices, processes and parts, or refused with the nearest choice."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.records import BatchConfig, PackingConfig
from expllm_jax.train.division import check_rows, divided, row_share
from tests.train.tiny import TinySource
from tests.train.tiny_run import tiny_train_config


def mesh_of(shape, processes):
    """A mesh of pretended devices, in the order of their processes."""
    devices = np.array([SimpleNamespace(process_index=number * processes // np.prod(shape))
                        for number in range(np.prod(shape))])  # fmt: skip
    return SimpleNamespace(
        devices=devices.reshape(shape), shape=dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
    )


@pytest.mark.parametrize(
    ("changes", "shards", "named"),
    [
        ({"batch": 30}, 8, "set train.batch=32, or 24"),
        ({"batch": 4}, 8, "set train.batch=8"),
        ({"batch": 12, "accumulate": 3}, 8, "8 devices and 3 parts set train.batch=24"),
        ({"packing": PackingConfig(on=True, rows=6)}, 4, "set train.packing.rows=8, or 4"),
    ],
)
def test_rows_that_do_not_divide_are_refused_with_the_nearest_that_do(changes, shards, named) -> None:
    with pytest.raises(ExpllmError, match=named):
        check_rows(tiny_train_config(**changes), shards)
    check_rows(tiny_train_config(batch=24, accumulate=3), 8)


@pytest.mark.parametrize(
    ("batch", "at_once", "shards", "parts"), [(8, 0, 2, 1), (8, 4, 2, 1), (8, 3, 2, 2), (8, 1, 2, 4), (10, 4, 1, 5)]
)
def test_plain_rows_are_computed_in_the_fewest_parts_that_fit(batch, at_once, shards, parts) -> None:
    config = tiny_train_config(batch=batch, rows_per_device=at_once)
    plan, found = divided(config, BatchConfig(batch=batch, updates=3), TinySource(10), shards)
    assert found == parts and plan.shape.rows == batch


@pytest.mark.parametrize(("at_once", "shards"), [(1, 1), (2, 1), (3, 1), (2, 2)])
def test_the_packer_chooses_rows_that_the_parts_divide(at_once, shards) -> None:
    packing = PackingConfig(on=True, row_length=128, window=1, picture_cost=5.0, attention_length=1e4)
    config = tiny_train_config(batch=40, rows_per_device=at_once, packing=packing)
    rows = BatchConfig(batch=40, updates=3, packing=packing, rows_multiple=shards)
    plan, parts = divided(config, rows, TinySource(50), shards)
    assert plan.shape.rows % (shards * parts) == 0 and plan.shape.rows // (shards * parts) <= at_once
    least, _ = divided(tiny_train_config(batch=40, packing=packing), rows, TinySource(50), shards)
    assert least.shape.rows <= plan.shape.rows < least.shape.rows + shards * parts


def test_processes_read_stretches_of_their_own_and_share_those_of_a_tensor_group() -> None:
    assert row_share(mesh_of((1, 4, 1), processes=2)) == (0, 2)
    assert row_share(mesh_of((1, 2, 4), processes=2)) == (0, 2)
    assert row_share(mesh_of((1, 2, 4), processes=4)) == (0, 2)  # processes 0 and 1 hold halves of one group
    assert row_share(mesh_of((1, 1, 4), processes=2)) == (0, 1)
    with pytest.raises(ExpllmError, match="equal, neighbouring stretches"):
        row_share(mesh_of((1, 2, 3), processes=3))
