"""What a compiled program computes and exchanges, and the least time that it can take."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from expllm_jax.fit.collectives import Collective
from expllm_jax.fit.request import Answer
from expllm_jax.fit.roofline import Estimate, estimate, update_bytes
from expllm_jax.models import LoRAConfig, abstract, select
from expllm_jax.parallel import MESH_AXES
from expllm_jax.train import decode_flops_and_bytes, full_work, recomputed_flops, update_flops


class Bound(NamedTuple):
    """Of one update, or of one generated token of every prompt."""

    flops: float  # of the model, on all devices, with every slot of the rows used; nothing computed again
    recomputed: float  # by rematerialisation, besides
    estimate: Estimate  # seconds


def bound_of(answer: Answer) -> Bound:
    """The bound of the last program of an answer: the update, or a turn of the loop over new tokens."""
    request, program = answer.request, answer.programs[-1]
    accelerator = request.topology.accelerator
    if request.task == "train":
        work = full_work(
            request.rows * request.accumulate * request.shards, request.row_length, request.pictures, request.supervised
        )
        trainable = set(select(abstract(request.model)[1], request.trainable)[0])
        encoded = request.picture_input == "features"
        flops = update_flops(request.model, trainable, work, request.picture_size, encoded=encoded).total
        again = recomputed_flops(request.model, trainable, work, request.picture_size, encoded=encoded)
        mesh = dict(zip(MESH_AXES, request.mesh, strict=True))
        moved, turns = update_bytes(request.model, trainable, work, request.picture_size, mesh), 1
        computed = (flops + again) / request.topology.devices
    else:
        plain = dataclasses.replace(request.model, vision_lora=LoRAConfig(), decoder_lora=LoRAConfig())
        turn = decode_flops_and_bytes(plain, request.batch, request.prompt_tokens + request.new_tokens)
        flops, again, turns = turn.flops, 0.0, request.new_tokens
        computed = flops / request.topology.devices
        tensor, shards = request.mesh[2], request.shards
        moved = turn.weight_bytes / tensor + turn.cache_bytes / (tensor * shards)
    exchanged = [
        Collective(one.kind, one.bytes / one.count, one.count / turns, one.network, 0.0, "") for one in program.traffic
    ]
    return Bound(flops, again, estimate(computed, moved, exchanged, accelerator))
