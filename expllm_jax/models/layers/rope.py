"""Rotary position embedding in the "rotate half" layout of Hugging Face LLaMA checkpoints."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from expllm_jax.errors import ExpllmError


def parse_rope_scaling(text: str) -> float:
    """ "" -> 1.0; "linear:4" -> 4.0, by which positions are divided (Vicuna-16k, LongChat). Else ExpllmError."""
    if not text:
        return 1.0
    kind, _, factor = text.partition(":")
    try:
        value = float(factor)
    except ValueError:
        value = 0.0
    if kind != "linear" or not value >= 1.0:
        raise ExpllmError(f"rope_scaling {text!r} is not known", 'use "" for none, or "linear:FACTOR" with FACTOR >= 1')
    return value


def rope_tables(positions_BT: jax.Array, width: int, theta: float, scaling: str = "") -> tuple[jax.Array, jax.Array]:
    """(cos, sin), both float32 (B, T, 1, width // 2), of position / theta^(2 i / width)."""
    frequency = theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width) / parse_rope_scaling(scaling)
    angle = positions_BT[..., None, None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def apply_rope(x_BTHh: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the pairs (i, i + h/2) of every head, in float32."""
    cos, sin = tables
    first, second = jnp.split(x_BTHh.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x_BTHh.dtype)
