"""Everything goes through in one pass or another, in few different sizes, and without empty rows on one device."""

from __future__ import annotations

import pytest

from expllm_jax.infer.passes import passes, rounded


@pytest.mark.parametrize("unit", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 5, 16, 71])
def test_passes_take_all_in_order(count: int, unit: int) -> None:
    found = list(passes(range(count), unit))
    assert [item for some, _ in found for item in some] == list(range(count))
    assert {size for _, size in found} <= {unit, 4 * unit, 16 * unit}
    assert all(len(some) <= size for some, size in found)
    assert sum(size - len(some) for some, size in found) < unit


def test_lengths_are_rounded_up() -> None:
    assert [rounded(length) for length in (1, 32, 33)] == [32, 32, 64]
