"""The paper's model at full size, by the TPU compiler: what must fit, within what the compiler lets a program use.

A minute or two each on two cores. 12 rows of LoRA on v5e:2x4 are in `test_golden_collectives`, which reads the program.
"""

from __future__ import annotations

import pytest

from expllm_jax.fit.asking import decode_request
from expllm_jax.fit.bound import bound_of
from expllm_jax.fit.compiling import TpuCompiler
from expllm_jax.fit.request import GIB
from expllm_jax.fit.table import Cell, cell_request, paper_model
from expllm_jax.fit.topology import parse_topology
from tests.models.sizes import changed

pytestmark = pytest.mark.fit


@pytest.fixture(scope="module")
def compiler():
    with TpuCompiler(time_limit=600) as compiler:
        yield compiler


@pytest.mark.parametrize(
    ("topology", "mode", "rows", "remat"),
    [
        ("v5e:2x2", "LoRA", 8, "full"),
        ("v5e:2x4", "full", 1, "full"),
        ("2xv5e:16x16", "full", 16, "offload"),  # two replicas: a slice holds what it would hold alone
    ],
)
def test_an_update_fits(topology, mode, rows, remat, compiler):
    request = cell_request(Cell(parse_topology(topology), topology, mode), rows)
    model = changed(request.model, decoder=changed(request.model.decoder, remat=remat))
    answer = compiler.compile(changed(request, model=model))
    program, slices = answer.largest, answer.request.topology.slices
    print(f"{topology} {mode}, {rows} rows: {program.peak_bytes / GIB:.2f} GiB, {program.compile_seconds:.0f} s")
    assert answer.fits and program.headroom_bytes >= 0
    assert {one.network for one in program.traffic} == ({"ici", "dcn"} if slices > 1 else {"ici"})
    times = bound_of(answer).estimate
    assert times.compute_s > 0 and times.ici_s > 0 and (times.dcn_s > 0) == (slices > 1)


def test_64_answers_at_once_fit(compiler):
    answer = compiler.compile(decode_request(paper_model("LoRA")[0], parse_topology("v5e:2x4"), batch=64))
    assert answer.fits and [one.program for one in answer.programs] == ["encode", "prefill", "generate"]


def test_a_batch_that_is_far_too_large_is_refused_with_its_size(compiler):
    request = cell_request(Cell(parse_topology("v5e:2x4"), "v5e-8", "LoRA"), 64)
    answer = compiler.compile(request)
    assert not answer.fits and answer.largest.headroom_bytes < 0
