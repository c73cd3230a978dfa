"""The train step with explicit axes goes through the TPU's compiler, attention kernel and all."""

from __future__ import annotations

import pytest

from expllm_jax.fit.request import FitRequest
from expllm_jax.fit.topology import Topology
from tests.fit.tpu_program import NARROW, compiled
from tests.models.sizes import changed

TOKENS = 640  # like no other size


@pytest.mark.fit
@pytest.mark.slow
def test_an_update_compiles_with_explicit_axes():
    half = {"remat": "full", "dtype": "bfloat16", "param_dtype": "bfloat16"}
    model = changed(NARROW, decoder=changed(NARROW.decoder, **half), vision=changed(NARROW.vision, **half))
    request = FitRequest(model, Topology("v5e", (2, 4)), (1, 4, 2), row_length=TOKENS, pictures=2, supervised=128)
    program = compiled(request, explicit=True)
    assert program.text.count("tpu_custom_call") >= 3  # forward, and the two of the backward pass
    assert f"{TOKENS},{TOKENS}]" not in program.text  # scores
