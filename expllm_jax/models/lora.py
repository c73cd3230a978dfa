"""Low-rank adapters: their configuration, and folding them into the kernels they sit beside (Hu et al., 2021).

The leaves live in `layers.Linear`: `.../lora_a` (inputs, rank) and `.../lora_b` (rank, outputs) beside `.../kernel`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from expllm_jax.errors import ExpllmError

LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down", "fc1", "fc2")


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Adapters of one tower; the paper's are rank 8, alpha 16, dropout 0.05 on q and v."""

    rank: int = 0  # width of the bottleneck; 0: no adapters at all
    alpha: float = 16.0  # the delta is multiplied by alpha / rank
    dropout: float = 0.05  # probability that an input of the adapter is dropped while training, 0 <= p < 1
    targets: tuple[str, ...] = ("q", "v")  # which linear layers of a block get one, out of LORA_TARGETS

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.rank < 0:
            raise ExpllmError(f"LoRA rank is {self.rank}", "give 0 (no adapters) or a positive rank")
        if self.rank and not self.alpha > 0:
            raise ExpllmError(f"LoRA alpha is {self.alpha}", "give a positive alpha; the paper's is 16")
        if not 0 <= self.dropout < 1:
            raise ExpllmError(f"LoRA dropout is {self.dropout}", "give a probability 0 <= p < 1")
        if unknown := sorted(set(self.targets) - set(LORA_TARGETS)):
            raise ExpllmError(f"LoRA targets {unknown} are not known", f"choose from {', '.join(LORA_TARGETS)}")

    @property
    def scaling(self) -> float:
        """What the product A·B is multiplied by: alpha / rank (0 without adapters)."""
        return self.alpha / self.rank if self.rank else 0.0

    def on(self, target: str) -> LoRAConfig | None:
        """This configuration if the linear layer `target` gets an adapter, else None."""
        return self if self.rank and target in self.targets else None


def merge_lora(params: Mapping[str, jax.Array], config: LoRAConfig, prefix: str = "") -> dict[str, jax.Array]:
    """Folds every adapter whose path starts with `prefix` into its kernel and drops its leaves.

    The sum is made in float32 and cast to the kernel's dtype. A model of the same configuration with rank 0 and these
    parameters computes the same function (without dropout). An int8 kernel is refused, because rounding the sum again
    would lose most of a small delta.
    """
    merged = dict(params)
    for path in [path for path in params if path.startswith(prefix) and path.endswith("/lora_a")]:
        stem = path.removesuffix("/lora_a")
        if f"{stem}/kernel_scale" in params:
            raise ExpllmError(
                f"{stem}/kernel is int8, into which no adapter can be folded", "call dequantize_int8 first, or `merged`"
            )
        a, b, kernel = merged.pop(path), merged.pop(f"{stem}/lora_b"), params[f"{stem}/kernel"]
        if a.shape[-1] != config.rank:
            raise ExpllmError(
                f"{path} has rank {a.shape[-1]}, the configuration says {config.rank}",
                "merge with the LoRAConfig the adapters were trained with",
            )
        delta = jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision="highest") * config.scaling
        merged[f"{stem}/kernel"] = (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)
    return merged
