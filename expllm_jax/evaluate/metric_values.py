"""How numbers stand in a metrics.json: flat, intervals as three keys, what is undefined as null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from expllm_jax.evaluate.bootstrap import Interval


def with_interval(key: str, interval: Interval) -> dict[str, Any]:
    """A number and the ends of its interval."""
    return {key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high}


def undefined_as_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with None for every nan, which JSON does not know."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()}
