"""The least time that a step can take on an accelerator: a bound to plan with, not a forecast.

Four resources work side by side: the multipliers, the memory, the links within a slice (ICI) and the network between
slices (DCN). Whichever is busy longest bounds the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp

from expllm_jax.errors import ExpllmError
from expllm_jax.fit.collectives import Collective
from expllm_jax.models import ExpLLMConfig, abstract
from expllm_jax.parallel import Accelerator
from expllm_jax.train import Work

ASSUMPTIONS = (
    "Products run at the accelerator's bfloat16 peak; what share of it a real program reaches is not assumed.",
    "Arithmetic, memory, ICI and DCN overlap perfectly, so that the step takes as long as the busiest of them.",
    "Memory moves weights once a pass, and each activation that a later product needs once out and once in; what a "
    "kernel keeps on the chip costs nothing.",
    "Every device uses all of its ICI links at once, in one direction, at their published rate; latency is nothing.",
    "DCN is shared out evenly among the devices of a host, and nothing else uses it.",
    "Reading data, checkpoints and the host take no time.",
)


class Estimate(NamedTuple):
    """Seconds of one step on one device."""

    compute_s: float
    memory_s: float
    ici_s: float
    dcn_s: float
    step_s: float  # the largest of them
    assumptions: tuple[str, ...]

    @property
    def bound_by(self) -> str:
        """What the step waits for: "compute", "memory", "ici" or "dcn"."""
        times = {"compute": self.compute_s, "memory": self.memory_s, "ici": self.ici_s, "dcn": self.dcn_s}
        return max(times, key=lambda name: times[name])


def estimate(flops: float, hbm_bytes: float, collectives: Iterable[Collective], accelerator: Accelerator) -> Estimate:
    """The bound of one step; every argument is of one device.

    Args:
      flops: that the hardware computes: the model's (`train.update_flops` of `train.full_work`) and those that
        rematerialisation adds (`train.recomputed_flops`).
      hbm_bytes: see `update_bytes`, or `train.decode_flops_and_bytes`.
      collectives: see `fit.collectives`.
      accelerator: the device.

    Raises:
      ExpllmError: a collective is of a network that is not known.
    """
    moved = {"ici": 0.0, "dcn": 0.0}
    for collective in collectives:
        if collective.network not in moved:
            raise ExpllmError(f"a collective of the network {collective.network!r}", "it is ici or dcn")
        moved[collective.network] += collective.total_bytes
    compute = flops / accelerator.peak_flops
    memory = hbm_bytes / accelerator.memory_bandwidth
    ici = moved["ici"] / accelerator.link_bandwidth
    dcn = moved["dcn"] / accelerator.network_bandwidth
    return Estimate(compute, memory, ici, dcn, max(compute, memory, ici, dcn), ASSUMPTIONS)


def update_bytes(
    config: ExpLLMConfig, trainable: Iterable[str], work: Work, picture_size: int, mesh: Mapping[str, int]
) -> float:
    """Bytes that one device reads from and writes to its memory in an update, at least.

    - Weights: every pass over a layer (forward; recomputation, if any; backward) reads the layer's weights in the
      compute dtype, of which a device sees all but what `tensor` splits. Weights that fsdp shares out are gathered
      before, which writes them once more each pass.
    - Activations: of every layer its input, its queries, keys and values, what attention gives, and the hidden values
      of the MLP, written and read once a pass; the residual stream is not split by `tensor`.
    - Optimiser: Adam reads and writes a float32 weight and its two moments, and reads the gradient: 28 bytes for every
      trained number that the device holds.

    Args:
      config: of the model.
      trainable: paths that train.
      work: of the whole update (`train.full_work`).
      picture_size: pixels a side.
      mesh: sizes of `data`, `fsdp` and `tensor`.
    """
    training, shapes = set(trainable), abstract(config)[1]
    fsdp, tensor = mesh["fsdp"], mesh["tensor"]
    devices_of_rows = mesh["data"] * fsdp
    decoder, vision = config.decoder, config.vision
    down, across = vision.grid(picture_size, picture_size)
    towers = {
        "decoder/": (decoder, work.tokens, 2 * decoder.heads * decoder.head_dim
                     + 2 * decoder.kv_heads * decoder.head_dim + 2 * decoder.mlp_width),
        "vision/": (vision, work.pictures * (down * across + vision.extra_tokens), 4 * vision.width
                    + 2 * vision.mlp_width),
        "projector/": (config.projector, 0.0, 0),
    }  # fmt: skip
    total = 0.0
    for prefix, (part, tokens, split_width) in towers.items():
        size = jnp.dtype(part.dtype).itemsize
        # The tower runs backward only if something in it trains; the decoder always passes a gradient down.
        backward = prefix != "vision/" or any(path.startswith(prefix) for path in training)
        again = backward and getattr(part, "remat", "none") not in ("none", "dots")
        passes = 1 + backward + again
        weights = sum(
            leaf.size for path, leaf in shapes.items() if path.startswith(prefix) and path != "decoder/embedding"
        )
        total += passes * weights / tensor * size * (2 if fsdp > 1 else 1)
        if prefix != "projector/":
            per_token = 2 * part.width + split_width / tensor
            total += 2 * passes * part.depth * tokens / devices_of_rows * per_token * size
    trained = sum(leaf.size for path, leaf in shapes.items() if path in training)
    return total + 28.0 * trained / (fsdp * tensor)
