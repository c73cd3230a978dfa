"""Low-rank adapters: their configuration, folding them into the kernels they sit beside, and taking them out again.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021).

The leaves live in `layers.Linear`: `.../lora_a` (inputs, rank) and `.../lora_b` (rank, outputs) beside `.../kernel`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from expllm_jax.errors import ExpllmError

_LEAVES = ("/lora_a", "/lora_b")  # how their paths end

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
    parameters computes the same function (without dropout). With rank 0 the parameters must hold no adapters and come
    back as they are.

    Raises:
      ExpllmError: no path starts with `prefix`; or the adapters there are not those of `config`, neither more nor fewer
        nor of another rank. A merge never leaves out what was trained. Or a kernel is int8: rounding the sum again
        would lose most of a small delta.
    """
    merged = dict(params)
    for stem in _adapted(params, config, prefix):
        delta = _delta(merged.pop(f"{stem}/lora_a"), merged.pop(f"{stem}/lora_b"), config)
        if f"{stem}/kernel_scale" in params:
            raise ExpllmError(
                f"{stem}/kernel is int8, into which no adapter can be folded", "call dequantize_int8 first, or `merged`"
            )
        kernel = params[f"{stem}/kernel"]
        merged[f"{stem}/kernel"] = (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)
    return merged


def unmerge_lora(
    params: Mapping[str, jax.Array], adapters: Mapping[str, jax.Array], config: LoRAConfig, prefix: str = ""
) -> dict[str, jax.Array]:
    """Takes adapters out of kernels that `merge_lora` folded them into; the inverse of it.

    Kernels in float32 come back to within the rounding of one sum and one difference (2^-24 of the larger of kernel and
    merged kernel, each). In bfloat16 the merged kernel was rounded to 8 bits, and what that lost stays lost: keep the
    unmerged kernels where they matter.

    Args:
      params: parameters with the adapters folded in.
      adapters: the `.../lora_a` and `.../lora_b` leaves; those whose path does not start with `prefix` are left alone.
      config: what they were trained with.
      prefix: the part of the model, such as "decoder/".

    Returns:
      `params` with those kernels restored and the adapters' leaves beside them.

    Raises:
      ExpllmError: `params` holds adapters under `prefix` already, or the adapters are not those of `config`.
    """
    if there := sorted(path for path in params if path.startswith(prefix) and path.endswith(_LEAVES)):
        raise ExpllmError(f"the parameters hold adapters already: {', '.join(there)}", "give merged parameters")
    unmerged = dict(params) | {
        path: leaf for path, leaf in adapters.items() if path.startswith(prefix) and path.endswith(_LEAVES)
    }
    for stem in _adapted(unmerged, config, prefix):
        delta = _delta(unmerged[f"{stem}/lora_a"], unmerged[f"{stem}/lora_b"], config)
        kernel = params[f"{stem}/kernel"]
        unmerged[f"{stem}/kernel"] = (kernel.astype(jnp.float32) - delta).astype(kernel.dtype)
    return unmerged


def _delta(a: jax.Array, b: jax.Array, config: LoRAConfig) -> jax.Array:
    """What an adapter adds to its kernel, float32: scaling * A B, layer by layer where there is a layer axis."""
    product = jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision="highest")
    return product * config.scaling


def _adapted(params: Mapping[str, jax.Array], config: LoRAConfig, prefix: str) -> list[str]:
    """Paths of the linear layers under `prefix` that `config` adapts; raises unless exactly these have an adapter."""
    under = [path for path in params if path.startswith(prefix)]
    if not under:
        raise ExpllmError(
            f"no parameter's path starts with {prefix!r}", f"paths look like {', '.join(sorted(params)[:3])} ..."
        )
    kernels = sorted(path.removesuffix("/kernel") for path in under if path.endswith("/kernel"))
    stems = [stem for stem in kernels if config.on(stem.split("/")[-1])]
    expected = {f"{stem}{leaf}" for stem in stems for leaf in _LEAVES}
    found = {path for path in under if path.endswith(_LEAVES)}
    targets = ", ".join(config.targets) if config.rank else "nothing"
    problems = []
    if config.rank and not stems:
        problems.append(f"no linear layer under {prefix!r} is one of {targets}")
    if missing := sorted(expected - found):
        problems.append(f"missing {', '.join(missing)}")
    if unexpected := sorted(found - expected):
        problems.append(f"unexpected {', '.join(unexpected)}")
    for stem in stems:
        for leaf, axis in zip(_LEAVES, (-1, -2), strict=True):
            path = f"{stem}{leaf}"
            if path in found and params[path].shape[axis] != config.rank:
                problems.append(f"{path} has rank {params[path].shape[axis]}")
    if problems:
        raise ExpllmError(
            f"the adapters are not those of the configuration (rank {config.rank} on {targets}): {'; '.join(problems)}",
            "use the LoRAConfig and the paths that the adapters were trained with",
        )
    return stems
