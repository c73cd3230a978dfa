"""`expllm fit` refuses before it compiles, and tells what it found."""

from __future__ import annotations

import json

import pytest

from expllm_jax.fit import compiling
from tests.cli.commands import assert_refused, expllm
from tests.fit.fake_compiler import FakeCompiler


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["small", "--topology", "v5e:3x3"], ["v5e:3x3", "v5e:2x4"]),
        (["smal", "--topology", "v5e:2x4"], ["small"]),
        (["small", "--topology", "v5e:2x4", "--mesh", "1,3,1"], ["fsdp=3", "data=1 fsdp=8 tensor=1"]),
        (["small", "--topology", "v5e:2x4", "--mesh", "8"], ["--mesh", "1,-1,1"]),
        (["small", "--topology", "v5e:2x4", "--mesh", "1,2,4"], ["heads is 9"]),
        (["small", "--topology", "v5e-8", "--slices", "2", "--mesh", "1,16,1"], ["2 slices", "data=2 fsdp=8 tensor=1"]),
        (["small"], ["--topology"]),
        (["small", "--topology", "v5e-8", "--decode", "--find-batch"], ["--find-batch"]),
        (["small", "--topology", "v5e-8", "--decode", "--mesh", "1,8,1", "--batch", "4"], ["batch of 4"]),
        (["small", "--topology", "v5e-8", "--pictures", "99"], ["99 pictures"]),
    ],
)
def test_bad_input_is_refused_without_a_compiler(arguments, named, monkeypatch):
    monkeypatch.setenv(compiling.PYTHON, "/nowhere/python")
    assert_refused(expllm("fit", *arguments), *named)


@pytest.fixture
def fake(monkeypatch):
    """The compiler replaced by a line: 1 GiB, and half a GiB a row."""

    class Fake(FakeCompiler):
        def __init__(self, **settings):
            super().__init__(1.0, 0.5)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(compiling, "TpuCompiler", Fake)


def test_the_largest_batch_as_json(fake):
    found = expllm("fit", "small", "--topology", "v5e:2x4", "--find-batch", "--json")
    told = json.loads(found.out)
    assert found.status == 0
    wanted = {"rows_per_chip": 28, "peak_gib": 15.0, "limit_gib": 15.75, "compile_s": 1.5, "fits": True, "chips": 8}
    assert {key: told[key] for key in wanted} == wanted
    assert [one["rows"] for one in told["tried"]][0] == 256


def test_what_does_not_fit_is_told_with_what_would(fake):
    found = expllm("fit", "small", "--topology", "v5e:2x4", "--rows", "40")
    assert found.status == 1
    assert "does not fit: update takes 21.00 of 15.75 GiB, 5.25 GiB too much" in found.out
    assert "--rows 28" in found.out and "(-6.00), fits" in found.out


def test_what_fits_is_told_by_category(fake):
    found = expllm("fit", "small", "--topology", "v5e:2x4", "--rows", "4")
    assert found.status == 0 and "fits: 3.00 of 15.75 GiB, 12.75 GiB left" in found.out
    assert "frozen weights" in found.out and "activations and temporaries" in found.out
