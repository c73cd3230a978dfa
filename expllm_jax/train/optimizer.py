"""AdamW with warm-up, cosine decay, clipping, and no weight decay where it does harm.

Defaults are ExpLLM's released recipe (`scripts/train_rafdb.sh`, and Hugging Face's Trainer where the script is silent).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from expllm_jax.errors import ExpllmError

SCHEDULES = ("cosine", "constant")

DECAYED = ("kernel", "lora_a", "lora_b")
"""Last parts of the paths that weight decay pulls on; biases, norms, embeddings, tokens and layer scales stay free."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """One group of parameters, one learning rate."""

    lr: float = 5e-4  # peak learning rate, > 0
    betas: tuple[float, float] = (0.9, 0.999)  # decay of the first and second moment, each in [0, 1)
    eps: float = 1e-8  # added to the root of the second moment, > 0
    weight_decay: float = 0.05  # decoupled, times the learning rate; >= 0
    clip: float = 1.0  # largest global norm of the gradient; 0 does not clip
    warmup_ratio: float = 0.03  # share of all updates with a rising learning rate, in [0, 1)
    schedule: str = "cosine"  # after the warm-up: "cosine" to 0, or "constant"

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        for holds, name, allowed in (
            (0 < self.lr < math.inf, "lr", "above 0"),
            (len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "betas", "two numbers in [0, 1)"),
            (0 < self.eps < math.inf, "eps", "above 0"),
            (0 <= self.weight_decay < math.inf, "weight_decay", "0 or more"),
            (0 <= self.clip < math.inf, "clip", "above 0, or 0 for no clipping"),
            (0 <= self.warmup_ratio < 1, "warmup_ratio", "in [0, 1)"),
            (self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}"),
        ):
            if not holds:
                raise ExpllmError(f"optimizer {name} is {getattr(self, name)!r}", f"it must be {allowed}")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optax transformation together with the schedule it follows."""

    init: Callable[[Mapping[str, jax.Array]], optax.OptState]
    update: Callable[..., tuple[optax.Updates, optax.OptState]]
    learning_rate: Callable[[optax.OptState], jax.Array]  # of the next update from this state, float32 scalar


def build_optimizer(config: OptimizerConfig, total_steps: int) -> Optimizer:
    """The optimiser of a run of `total_steps` updates (>= 1)."""
    if total_steps < 1:
        raise ExpllmError(f"the run has {total_steps} updates", "train for at least 1")
    schedule = _schedule(config, total_steps)
    transform = optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.adamw(schedule, *config.betas, eps=config.eps, weight_decay=config.weight_decay, mask=decay_mask),
    )
    return Optimizer(transform.init, transform.update, lambda state: schedule(_updates_made(state)))


def decay_mask(params: Mapping[str, jax.Array]) -> dict[str, bool]:
    """path → whether weight decay pulls on it."""
    return {path: path.rpartition("/")[2] in DECAYED for path in params}


def _updates_made(opt_state: optax.OptState) -> jax.Array:
    """int32: the updates that the schedule has counted. Those that a run leaves out are not among them."""

    def is_schedule(path: tuple[Any, ...], _: jax.Array) -> bool:
        return getattr(path[-1], "tuple_name", "") == "ScaleByScheduleState"

    return optax.tree_utils.tree_get(opt_state, "count", filtering=is_schedule)


def _schedule(config: OptimizerConfig, total_steps: int) -> Callable[[jax.Array | int], jax.Array]:
    """Linear rise over ceil(warmup_ratio * total) updates, then the schedule.

    The rise starts at 1/warm-up rather than 0, so that the first update is not lost; the cosine would reach 0 one
    update after the last.
    """
    warmup = math.ceil(config.warmup_ratio * total_steps)

    def learning_rate(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rise = jnp.minimum(1.0, (step + 1) / max(1, warmup))
        if config.schedule == "constant":
            return config.lr * rise
        progress = jnp.clip((step - warmup) / max(1, total_steps - warmup), 0.0, 1.0)
        return config.lr * rise * 0.5 * (1 + jnp.cos(jnp.pi * progress))

    return learning_rate
