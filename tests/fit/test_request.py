"""Requests and answers travel between two processes as JSON and come back as they were; nonsense is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.fit.request import Answer, Compiled, FitRequest, Traffic
from expllm_jax.models import expllm_7b
from expllm_jax.train import OptimizerConfig
from tests.fit.fake_compiler import REQUEST, answer


def test_a_request_comes_back_from_json():
    request = dataclasses.replace(
        REQUEST, model=expllm_7b(chained=True), optimizer=OptimizerConfig(lr=1e-3), compiler_options=("a=b",)
    )
    assert FitRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


def test_an_answer_comes_back_from_json():
    traffic = (Traffic("all-gather", "ici", 1e9, 64.0),)
    program = dataclasses.replace(answer(REQUEST, 1.0, 2.0).largest, traffic=traffic)
    whole = Answer(REQUEST, (program,))
    assert Answer.from_json(json.loads(json.dumps(whole.to_json()))) == whole


@pytest.mark.parametrize(
    ("changes", "named"), [({"task": "serve"}, "decode"), ({"rows": 0}, "rows"), ({"picture_input": "x"}, "pixels")]
)
def test_nonsense_is_refused(changes, named):
    with pytest.raises(ExpllmError, match=named):
        dataclasses.replace(REQUEST, **changes)


def test_the_program_that_does_not_fit_decides():
    def program(name: str, fits: bool, peak: int) -> Compiled:
        return Compiled(name, fits, peak, 100, {}, 1.0)

    fitting = Answer(
        REQUEST, (program("encode", True, 30), program("prefill", True, 50), program("generate", True, 40))
    )
    assert fitting.fits and fitting.largest.program == "prefill" and fitting.compile_seconds == 3.0
    refused = Answer(REQUEST, (program("encode", True, 99), program("prefill", False, 98)))
    assert not refused.fits and refused.largest.program == "prefill"
