"""Every TPU preset, compiled by the TPU's own compiler: an update of two narrow layers, no TPU.

Programs of full size are in `tests/fit/test_bars.py`; one with every preset would take ten minutes.
"""

from __future__ import annotations

import pytest

from expllm_jax.config import WeightsConfig, load_experiment, with_preset
from expllm_jax.errors import ExpllmError
from expllm_jax.fit.asking import RowShape, train_request
from expllm_jax.fit.compiling import TpuCompiler
from expllm_jax.fit.topology import parse_topology
from expllm_jax.parallel import PRESETS
from tests.fit.fake_compiler import REQUEST
from tests.fit.tpu_program import NARROW, compiled
from tests.models.sizes import changed

pytestmark = [pytest.mark.fit, pytest.mark.slow]

SLICES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}


@pytest.mark.parametrize("name", SLICES)
def test_an_update_compiles_with_the_preset(name):
    weights = WeightsConfig("./absent", "./absent")
    experiment = with_preset(changed(load_experiment("small"), model=NARROW, weights=weights), name)
    topology = parse_topology(SLICES[name])
    request = train_request(
        experiment.model, experiment.train, topology, rows=1, row=RowShape(length=512, pictures=1, supervised=128)
    )
    assert request.mesh == (1, topology.devices, 1) and request.compiler_options == PRESETS[name].compiler_options
    program = compiled(request)
    assert program.peak_bytes < PRESETS[name].accelerator.memory
    assert "splash" in program.text, "the attention kernel is not in the program"
    assert ("S(5)" in program.text) == (PRESETS[name].decoder_remat == "offload")  # space 5: the host's memory


def test_every_tpu_has_a_preset_here():
    assert set(SLICES) == {name for name, preset in PRESETS.items() if "tpu" in str(preset.compiler_options)}


def test_an_option_that_the_compiler_does_not_know_is_refused():
    with TpuCompiler() as compiler, pytest.raises(ExpllmError, match="xla_tpu_no_such_option"):
        compiler.compile(changed(REQUEST, compiler_options=("xla_tpu_no_such_option=True",)))
