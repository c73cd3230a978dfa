"""How the rows of an update are divided: among devices, among processes, and into parts computed one after another."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import jax
from jax.sharding import Mesh

from expllm_jax.errors import ExpllmError
from expllm_jax.records import BatchConfig, Plan, RowSource, plan_of
from expllm_jax.train.train_config import TrainConfig


def row_shards(mesh: Mesh) -> int:
    """Over how many devices the rows are split; those of one `tensor` group compute the same rows."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def row_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count): which of `count` equal stretches of the rows this process reads.

    Processes that share a `tensor` group read the same one. Raises ExpllmError for a mesh on which the devices of a
    process hold no stretch of their own.
    """
    held: dict[int, set[int]] = defaultdict(set)
    for shard, group in enumerate(mesh.devices.reshape(row_shards(mesh), -1)):
        for device in group:
            held[device.process_index].add(shard)
    stretches = sorted({(min(shards), max(shards) + 1) for shards in held.values()})
    size = row_shards(mesh) // len(stretches)
    even = stretches == [(at * size, (at + 1) * size) for at in range(len(stretches))]
    if not even or any(len(shards) != size for shards in held.values()):
        raise ExpllmError(
            f"on the mesh {dict(mesh.shape)} the processes cannot read equal, neighbouring stretches of the rows",
            "choose a tensor axis that divides, or is a multiple of, the devices of a process",
        )
    mine = held[jax.process_index()]
    return min(mine) // size, len(stretches)


def check_rows(config: TrainConfig, shards: int) -> None:
    """Raises ExpllmError, with the nearest valid choice, if the rows that are asked for do not divide."""
    key, rows = ("packing.rows", config.packing.rows) if config.packing.on else ("batch", config.batch)
    multiple = shards * config.accumulate
    if rows % multiple:
        lower, upper = rows // multiple * multiple, -(-rows // multiple) * multiple
        nearest = f"{upper}, or {lower}" if lower else f"{upper}"
        parts = f" and {config.accumulate} parts" if config.accumulate > 1 else ""
        raise ExpllmError(
            f"train.{key} is {rows}, which does not divide among {shards} devices{parts}",
            f"set train.{key}={nearest}",
        )


def divided(config: TrainConfig, rows: BatchConfig, source: RowSource, shards: int) -> tuple[Plan, int]:
    """The plan of a run, and how many parts its updates are computed in.

    With `rows_per_device`, they are the fewest that keep to it. A packer that is free to choose the number of rows
    chooses one that these parts divide evenly.

    Args:
      config: of the run.
      rows: how its batches are made; `rows_multiple` is that of an update in one part.
      source: its records.
      shards: of the mesh (`row_shards`).

    Raises:
      ExpllmError: as `check_rows` and `plan_of`.
    """
    check_rows(config, shards)
    parts = config.accumulate
    while True:
        plan = plan_of(source, dataclasses.replace(rows, rows_multiple=rows.rows_multiple * parts))
        on_a_device = plan.shape.rows // shards
        limit = config.rows_per_device or on_a_device
        if config.packing.on and not config.packing.rows:
            if on_a_device <= limit * parts:
                return plan, parts
            parts = max(parts + 1, -(-on_a_device // limit))
        else:
            if config.rows_per_device:
                parts = next(count for count in range(1, on_a_device + 1)
                             if on_a_device % count == 0 and on_a_device // count <= limit)  # fmt: skip
            return plan, parts
