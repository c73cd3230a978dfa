"""The table: its cells, that it goes on where it was, and how it is written."""

from __future__ import annotations

import itertools

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.fit.table import MODES, TOPOLOGIES, Answers, cell_request, cells, fill_table, render_table
from tests.fit.fake_compiler import FakeCompiler


def test_every_topology_is_compiled_in_both_modes():
    assert {(cell.name, cell.mode) for cell in cells()} == set(itertools.product(TOPOLOGIES, MODES))


def test_full_training_has_float32_masters_and_lora_a_bfloat16_base():
    lora, full = (cell_request(cell, 3) for cell in cells()[:2])
    assert (lora.model.decoder.param_dtype, full.model.decoder.param_dtype) == ("bfloat16", "float32")
    assert lora.model.decoder_lora.rank == 8 and full.model.decoder_lora.rank == 0
    assert lora.rows == 3 and (lora.row_length, lora.pictures, lora.supervised) == (2048, 6, 480)


class Interrupted(FakeCompiler):
    """Fails at the third question, once."""

    def compile(self, request):
        if len(self.asked) == 2:
            self.asked.append(request)
            raise KeyboardInterrupt
        return super().compile(request)


def test_an_interrupted_table_goes_on_where_it_was(tmp_path):
    path, compiler = tmp_path / "table.json", Interrupted(1.0, 0.5)
    with pytest.raises(KeyboardInterrupt):
        list(fill_table(compiler, Answers(path), lambda text: None))
    done = list(fill_table(compiler, Answers(path), lambda text: None))
    assert len(done) == len(cells())
    questions = [request for number, request in enumerate(compiler.asked) if number != 2]
    assert len(questions) == len(set(questions))
    asked = len(compiler.asked)
    assert list(fill_table(compiler, Answers(path), lambda text: None)) == done and len(compiler.asked) == asked


def test_a_failing_cell_is_told_and_the_others_are_filled(tmp_path):
    class Failing(FakeCompiler):
        def compile(self, request):
            if request.topology.generation == "v6e":
                raise ExpllmError("the compiler failed")
            return super().compile(request)

    found = dict(
        ((cell.name, cell.mode), what)
        for cell, what in fill_table(Failing(1.0, 0.5), Answers(tmp_path / "a.json"), lambda text: None)
    )
    lines = {line.split(" ")[1]: line for line in render_table(found).splitlines()}
    assert "the compiler failed" in lines["v6e-8"]
    assert "| 28 (168) | 15.00 | 2 s |" in lines["v5e-8"]
    assert "| 56 (336) | 15.00 |" in lines["tpu7x-128"]  # a chip is two devices
