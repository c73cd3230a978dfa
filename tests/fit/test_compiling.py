"""The process with the compiler: what is said if it is not there, dies, hangs, or answers."""

from __future__ import annotations

import dataclasses
import json
import stat
import sys
import time

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.fit.compiling import PYTHON, TpuCompiler
from expllm_jax.fit.request import Answer
from tests.fit.fake_compiler import REQUEST, answer


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Puts a shell script in the place of the child's Python."""

    def install(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv(PYTHON, str(path))

    return install


def said(program) -> str:
    return "echo '" + json.dumps({"event": "program", "program": dataclasses.asdict(program)}) + "'"


DONE = """echo '{"event": "done"}'"""


def test_an_answer_is_read_and_remembered(child, tmp_path):
    expected = answer(REQUEST, 1.0, 2.0)
    child(f"while read line; do echo x >> {tmp_path}/asked; {said(expected.largest)}; {DONE}; done")
    told = []
    with TpuCompiler(say=told.append) as compiler:
        assert compiler.compile(REQUEST) == expected
        assert compiler.compile(REQUEST) == expected
        other = dataclasses.replace(REQUEST, rows=2)
        assert compiler.compile(other) == Answer(other, expected.programs)
    assert (tmp_path / "asked").read_text() == "x\nx\n"  # one process for both, and the same question asked once
    assert "3.00 of 15.75 GiB, fits" in told[0]


def test_a_refusal_is_an_error_and_the_process_goes_on(child):
    refused = """echo '{"event": "refused", "problem": "no such pattern", "remedy": "another"}'"""
    child(f"read line; {refused}; {DONE}; read line; {said(answer(REQUEST, 1.0, 1.0).largest)}; {DONE}; read line")
    with TpuCompiler() as compiler:
        with pytest.raises(ExpllmError, match="no such pattern"):
            compiler.compile(REQUEST)
        assert compiler.compile(REQUEST).fits


def test_a_process_that_dies_is_told_with_its_last_words(child):
    child("read line; echo 'F1121 something broke' >&2; exit 3")
    with TpuCompiler() as compiler, pytest.raises(ExpllmError, match="status 3.*something broke"):
        compiler.compile(REQUEST)


def test_a_process_that_hangs_is_ended(child):
    child("read line; exec sleep 60")
    began = time.monotonic()
    with TpuCompiler(time_limit=0.3) as compiler, pytest.raises(ExpllmError, match="longer than 0 s"):
        compiler.compile(REQUEST)
    assert time.monotonic() - began < 30


def test_a_python_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv(PYTHON, "/nowhere/python")
    with TpuCompiler() as compiler, pytest.raises(ExpllmError, match="/nowhere/python"):
        compiler.compile(REQUEST)


def test_without_the_compiler_the_package_is_named(child):
    # A path hook stands in for an environment without libtpu, whether this one has it or not.
    hide = "import importlib.util as u, runpy; f = u.find_spec; "
    hide += "u.find_spec = lambda n, *a: None if n == 'libtpu' else f(n, *a)"
    child(f"""exec {sys.executable} -c "{hide}; runpy.run_module('expllm_jax.fit.child', run_name='__main__')" """)
    with TpuCompiler() as compiler, pytest.raises(ExpllmError, match="libtpu") as caught:
        compiler.compile(REQUEST)
    assert "expllm_jax[fit]" in caught.value.remedy


def test_what_cannot_be_is_refused_without_a_process(monkeypatch):
    monkeypatch.setenv(PYTHON, "/nowhere/python")
    with TpuCompiler() as compiler, pytest.raises(ExpllmError, match="does not fill"):
        compiler.compile(dataclasses.replace(REQUEST, mesh=(1, 3, 1)))
