"""Intervals hold the truth as often as they say: a small part of what launch/bench/interval_coverage.py simulates."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "launch" / "bench" / "interval_coverage.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("coverage_bench", BENCH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by its name
    spec.loader.exec_module(module)
    return module


def test_few_people_are_covered_where_percentiles_are_not(bench):
    design = next(d for d in bench.DESIGNS if d.name == "10 people x 7")
    found = bench.coverage(design, 200)
    # Two standard errors of 200 studies are 3 percentage points.
    for metric in ("accuracy", "UAR"):
        assert found[metric] == pytest.approx(0.95, abs=0.04)
        assert found[f"{metric} percentile"] < found[metric] - 0.02


def test_the_exact_coverage_of_a_class_of_forty(bench):
    shares = np.linspace(0.5, 0.97, 24)
    wilson = [bench.exact_coverage(40, share)["Wilson"] for share in shares]
    assert np.mean(wilson) == pytest.approx(0.95, abs=0.015)
    # The percentile bootstrap's is too narrow where a class is nearly always right.
    assert bench.exact_coverage(40, 0.95)["percentile"] < 0.88
