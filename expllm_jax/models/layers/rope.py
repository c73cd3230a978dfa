"""Rotary position embedding in the "rotate half" layout of Hugging Face LLaMA checkpoints, and its scalings.

A scaling stretches the frequencies of a pre-trained decoder so that it reads longer rows. It is written as one flat
string, which a configuration file or an override can hold:

    ""                                         none
    "linear:FACTOR"                            every frequency divided by FACTOR (Vicuna-16k, LongChat)
    "llama3:FACTOR,LOW,HIGH,ORIGINAL"          LLaMA 3.1: slow frequencies divided, fast ones kept, a ramp between them
    "yarn:FACTOR,ORIGINAL[,NAME=VALUE ...]"    YaRN; names: attention_factor, beta_fast, beta_slow, truncate

ORIGINAL is the number of positions that the decoder was pre-trained with. All of them are computed here as
`transformers` computes them (modeling_rope_utils.py), in float32 and in its order of operations: at position 100,000 a
frequency that is one rounding off turns a head by a hundredth of a radian.
Sources: Su et al., "RoFormer" (2021); Chen et al., "Extending Context Window via Positional Interpolation" (2023);
Peng et al., "YaRN" (2023); "The Llama 3 Herd of Models" (2024).
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from expllm_jax.errors import ExpllmError

_FORMS = {
    "linear": '"linear:FACTOR"',
    "llama3": '"llama3:FACTOR,LOW,HIGH,ORIGINAL"',
    "yarn": '"yarn:FACTOR,ORIGINAL" with any of attention_factor=, beta_fast=, beta_slow=, truncate= behind it',
}
_YARN_OPTIONS = ("attention_factor", "beta_fast", "beta_slow", "truncate")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched; `str` gives the text that `parse_rope_scaling` reads.

    Raises:
      ExpllmError: numbers with which the frequencies make no sense.
    """

    kind: str = ""  # "" for none, "linear", "llama3" or "yarn"
    factor: float = 1.0  # >= 1
    original: int = 0  # positions of the pre-training; llama3 and yarn
    low: float = 0.0  # llama3: wavelengths above original / low are divided by the factor
    high: float = 0.0  # llama3: wavelengths below original / high are kept; above low
    attention_factor: float | None = None  # yarn: multiplies cos and sin; None: 1 + 0.1 ln(factor)
    beta_fast: float = 32.0  # yarn: dimensions that turn more often than this within `original` are kept
    beta_slow: float = 1.0  # yarn: those that turn less often are divided by the factor
    truncate: bool = True  # yarn: whether the ends of the ramp are rounded to whole dimensions

    def __post_init__(self) -> None:
        for holds, name, allowed in (
            (1 <= self.factor < math.inf, "factor", "1 or more"),
            (self.kind not in ("llama3", "yarn") or self.original >= 1, "original", "a positive whole number"),
            (self.kind != "llama3" or 0 < self.low < math.inf, "low", "above 0"),
            (self.kind != "llama3" or self.low < self.high < math.inf, "high", "above low"),
            (self.attention_factor is None or 0 < self.attention_factor < math.inf, "attention_factor", "above 0"),
            (0 < self.beta_slow < math.inf, "beta_slow", "above 0"),
            (self.beta_slow < self.beta_fast < math.inf, "beta_fast", "above beta_slow"),
        ):
            if not holds:
                raise ExpllmError(f"rope_scaling: {name} is {getattr(self, name)}", f"it must be {allowed}")

    def __str__(self) -> str:
        if not self.kind:
            return ""
        if self.kind == "linear":
            return f"linear:{_short(self.factor)}"
        if self.kind == "llama3":
            return f"llama3:{_short(self.factor)},{_short(self.low)},{_short(self.high)},{self.original}"
        defaults = RopeScaling()
        changed = {
            name: getattr(self, name) for name in _YARN_OPTIONS if getattr(self, name) != getattr(defaults, name)
        }
        options = [f"{name}={str(v).lower() if name == 'truncate' else _short(v)}" for name, v in changed.items()]
        return "yarn:" + ",".join([_short(self.factor), str(self.original), *options])


def _short(value: float) -> str:
    """The shortest text that reads as the same number: 8.0 -> "8"."""
    return repr(float(value)).removesuffix(".0")


def parse_rope_scaling(text: str) -> RopeScaling:
    """Reads one of the forms in the module's text.

    Raises:
      ExpllmError: another form or kind; numbers that are none, missing, too many or out of range; "dynamic", which is
        refused for a reason.
    """
    if not text:
        return RopeScaling()
    kind, _, rest = text.partition(":")
    if kind == "dynamic":
        raise ExpllmError(
            f"rope_scaling {text!r}: dynamic frequencies depend on how long the row has grown, not on a token's "
            "position alone, so keys already in a cache would have to be turned again",
            'use "" with max_length at most the original length, where dynamic scaling does nothing; or use yarn',
        )
    if kind not in _FORMS:
        raise ExpllmError(f"rope_scaling {text!r} is not known", f'use "" for none, or {"; ".join(_FORMS.values())}')
    parts = [part.strip() for part in rest.split(",")]
    try:
        if kind == "linear":
            (factor,) = parts
            return RopeScaling(kind, float(factor))
        if kind == "llama3":
            factor, low, high, original = parts
            return RopeScaling(kind, float(factor), int(original), float(low), float(high))
        factor, original, *options = parts
        return RopeScaling(kind, float(factor), int(original), **_yarn_options(options))
    except ValueError as error:
        raise ExpllmError(f"rope_scaling {text!r} cannot be read: {error}", f"write it as {_FORMS[kind]}") from error


def _yarn_options(options: list[str]) -> dict[str, float | bool]:
    values: dict[str, float | bool] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or name not in _YARN_OPTIONS:
            raise ValueError(f"{option!r} is no option of yarn")
        if name in values:
            raise ValueError(f"{name} is given twice")
        if name != "truncate":
            values[name] = float(value)
        elif value in ("true", "false"):
            values[name] = value == "true"
        else:
            raise ValueError(f"truncate is {value!r}, neither true nor false")
    return values


def yarn_attention_factor(factor: float, mscale: float = 1.0, mscale_all_dim: float = 0.0) -> float:
    """What YaRN multiplies cos and sin by unless told otherwise: 1 + 0.1 ln(factor).

    With both `mscale` and `mscale_all_dim` (DeepSeek) it is the ratio of 1 + 0.1 mscale ln(factor) for the two.
    """

    def grown(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    return grown(mscale) / grown(mscale_all_dim) if mscale and mscale_all_dim else grown(1.0)


def rope_frequencies(width: int, theta: float, scaling: str = "") -> tuple[np.ndarray, float]:
    """(float32 radians per position of every pair (width // 2,), the factor on cos and sin)."""
    parsed = parse_rope_scaling(scaling)
    exponent = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    # Correctly rounded powers: NumPy's own in float32 are off by one more often than PyTorch's, whose values we need.
    period = np.power(float(theta), exponent.astype(np.float64)).astype(np.float32)
    plain = np.float32(1.0) / period
    if parsed.kind == "llama3":
        return _llama3(plain, parsed), 1.0
    if parsed.kind == "yarn":
        attention = parsed.attention_factor
        return _yarn(period, width, theta, parsed), (
            yarn_attention_factor(parsed.factor) if attention is None else attention
        )
    return plain / np.float32(parsed.factor), 1.0


def _llama3(plain: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    wavelength = 2 * math.pi / plain
    ramp = (scaling.original / wavelength - scaling.low) / (scaling.high - scaling.low)
    between = (1 - ramp) * plain / scaling.factor + ramp * plain
    slow, fast = wavelength > scaling.original / scaling.low, wavelength < scaling.original / scaling.high
    return np.where(slow, plain / scaling.factor, np.where(fast, plain, between)).astype(np.float32)


def _yarn(period: np.ndarray, width: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    def dimension(turns: float) -> float:
        """The (fractional) pair that turns this often within the original length."""
        return width * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    last += 0.001 if first == last else 0  # a step instead of a ramp
    ramp = np.clip((np.arange(width // 2, dtype=np.float32) - np.float32(first)) / np.float32(last - first), 0, 1)
    kept = 1 - ramp
    return (1 / (scaling.factor * period) * (1 - kept) + 1 / period * kept).astype(np.float32)


def rope_tables(positions_BT: jax.Array, width: int, theta: float, scaling: str = "") -> tuple[jax.Array, jax.Array]:
    """(cos, sin), both float32 (B, T, 1, width // 2), of position times frequency."""
    frequency, attention = rope_frequencies(width, theta, scaling)
    angle = positions_BT[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return (cos, sin) if attention == 1.0 else (cos * attention, sin * attention)


def apply_rope(x_BTHh: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the pairs (i, i + h/2) of every head, in float32."""
    cos, sin = tables
    first, second = jnp.split(x_BTHh.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x_BTHh.dtype)
