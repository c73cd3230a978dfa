"""How the next token is chosen."""

from __future__ import annotations

import dataclasses

from expllm_jax.errors import ExpllmError


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How the next token is chosen."""

    temperature: float = 0.0  # 0: always the most probable token (greedy); above: logits are divided by it
    top_p: float = 1.0  # sample from the most probable tokens that together have this probability, in (0, 1]
    seed: int = 0  # of the sampling; greedy generation has no chance in it

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ExpllmError(f"temperature is {self.temperature}", "use 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ExpllmError(f"top_p is {self.top_p}", "use a share above 0, up to 1")


GREEDY = SamplingConfig()
