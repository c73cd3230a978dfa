"""The train step of a request as the TPU compiler leaves it: its text, its peak of memory, its machine code.

`compiled(request)` for tests; as a program, `python tpu_program.py REQUEST.json TEXT.txt [explicit]`, the process that
compiles. It ends with its one program, so that the memory of the compiler is free again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from expllm_jax.fit.child import ENVIRONMENT
from expllm_jax.fit.collectives import Collective, collectives
from expllm_jax.fit.compiling import PYTHON
from expllm_jax.fit.request import FitRequest
from expllm_jax.models import ExpLLMConfig, expllm_7b

ROOT = Path(__file__).parents[2]


def _narrow() -> ExpLLMConfig:
    model = expllm_7b(chained=True)
    decoder = dataclasses.replace(
        model.decoder, vocab=4096, width=512, depth=2, heads=4, kv_heads=4, mlp_width=1024, max_length=2048
    )
    vision = dataclasses.replace(model.vision, width=256, depth=2, heads=4)
    return dataclasses.replace(model, decoder=decoder, vision=vision, image_token=4096)


NARROW = _narrow()
"""The 7B model with two layers and an eighth of its widths; heads as wide as the attention kernel wants them."""


class Program(NamedTuple):
    request: FitRequest
    text: str
    peak_bytes: int
    machine_code: int

    def collectives(self) -> list[Collective]:
        return collectives(self.text, self.request.topology.devices_per_slice)


def compiled(request: FitRequest, *, explicit: bool = False) -> Program:
    """Compiles an update by the Python of EXPLLM_FIT_PYTHON, or this one; `explicit`: with explicit mesh axes."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
    with tempfile.TemporaryDirectory() as folder:
        asked, text = Path(folder, "request.json"), Path(folder, "program.txt")
        asked.write_text(json.dumps(request.to_json()))
        command = [os.environ.get(PYTHON) or sys.executable, __file__, asked, text, *["explicit"] * explicit]
        environment = kept | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
        answer = json.loads(done.stdout.splitlines()[-1])
        decoder = request.model.decoder
        print(
            f"{request.topology.name}, mesh {request.mesh}, {decoder.depth} layers, unroll {decoder.unroll}: "
            f"{answer['seconds']:.0f} s, {answer['cpu_seconds']:.0f} s of CPU"
        )
        return Program(request, text.read_text(), answer["peak_bytes"], answer["machine_code"])


def main() -> None:
    os.environ.update(ENVIRONMENT)
    from expllm_jax.fit.child import devices_of
    from expllm_jax.fit.programs import programs
    from expllm_jax.parallel import MeshConfig, make_mesh
    from expllm_jax.train import parsed_options

    request = FitRequest.from_json(json.loads(Path(sys.argv[1]).read_text()))
    mesh = make_mesh(MeshConfig(*request.mesh), devices_of(request.topology), explicit=sys.argv[3:] == ["explicit"])
    began = time.monotonic()
    ((_, lower),) = programs(request, mesh)
    options = parsed_options(request.compiler_options)
    program = lower(None).lowered.compile(compiler_options=options or None)
    seconds = time.monotonic() - began
    Path(sys.argv[2]).write_text(program.as_text())
    memory, used = program.memory_analysis(), resource.getrusage(resource.RUSAGE_SELF)
    answer = {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": memory.peak_memory_in_bytes,
        "machine_code": memory.generated_code_size_in_bytes,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
