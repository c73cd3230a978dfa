"""What suits each kind of device: one row of settings for the paper's model (7B, rows of 2,048 tokens), to begin from.

Options of the TPU compiler and of XLA are few, and each is known to the compiler that `launch/lock/` pins: the tests
compile a training step of 7B width with every row here. What they do is documented at
https://openxla.org/xla/flags_guidance.
"""

from __future__ import annotations

import dataclasses

from expllm_jax.errors import ExpllmError
from expllm_jax.parallel.accelerators import ACCELERATORS, Accelerator
from expllm_jax.parallel.mesh import MeshConfig


@dataclasses.dataclass(frozen=True)
class Preset:
    """The settings that a kind of device runs best, or at all, with; `config.with_preset` puts them into a run."""

    name: str
    accelerator: Accelerator | None  # what is known of the device; None for a CPU
    mesh: MeshConfig
    decoder_remat: str  # of models.layers.REMAT_POLICIES
    vision_remat: str
    attention: str  # of ATTENTION
    rows_per_device: int  # most rows of 2,048 tokens computed at a time; 0: all of a batch
    dtype: str  # of computation, and of parameters that are frozen; those that train are float32
    compiler_options: tuple[str, ...] = ()  # "key=value"


# Fetch the next layer's parameters while this one is computed.
_TPU_OVERLAP = (
    "xla_tpu_enable_latency_hiding_scheduler=true",
    "xla_tpu_enable_async_collective_fusion=true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
)
_GPU_OVERLAP = (
    "xla_gpu_enable_latency_hiding_scheduler=true",
    "xla_gpu_enable_while_loop_double_buffering=true",  # so that a loop over layers can fetch ahead
    "xla_gpu_enable_pipelined_all_gather=true",
    "xla_gpu_enable_pipelined_reduce_scatter=true",
)


def _tpu(name: str, rows: int, *, decoder_remat: str = "full", vmem_kib: int = 0) -> Preset:
    """`vmem_kib`: fast memory that one fused operation may take; 0: the compiler's default."""
    vmem = (f"xla_tpu_scoped_vmem_limit_kib={vmem_kib}",) if vmem_kib else ()
    return Preset(
        name, ACCELERATORS[name], MeshConfig(), decoder_remat, "full", "platform", rows, "bfloat16",
        (*_TPU_OVERLAP, *vmem),
    )  # fmt: skip


def _gpu(name: str, rows: int) -> Preset:
    return Preset(
        name, ACCELERATORS[name], MeshConfig(), "dots", "full", "platform", rows, "bfloat16", _GPU_OVERLAP
    )  # fmt: skip


_PRESETS = (
    _tpu("v4", 16),
    _tpu("v5e", 16, decoder_remat="offload"),  # 9.8 GiB a chip on 2x4, 6 pictures a row; "full" takes 15.3
    _tpu("v5p", 8, decoder_remat="dots", vmem_kib=65536),
    _tpu("v6e", 24, vmem_kib=65536),
    _tpu("tpu7x", 8, decoder_remat="dots", vmem_kib=49152),
    _gpu("h100", 4),
    _gpu("h200", 12),
    Preset("cpu", None, MeshConfig(), "none", "none", "platform", 0, "float32"),
)
PRESETS = {preset.name: preset for preset in _PRESETS}


def preset(name: str) -> Preset:
    """The preset of that name; raises ExpllmError, listing them, if there is none."""
    if name not in PRESETS:
        raise ExpllmError(f"there is no accelerator '{name}'", f"use one of: {', '.join(PRESETS)}")
    return PRESETS[name]
