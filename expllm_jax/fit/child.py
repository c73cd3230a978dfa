"""`python -m expllm_jax.fit.child`: the TPU compiler in a process of its own.

Reads requests on stdin, one JSON value a line, and answers each on stdout with JSON lines:

    {"event": "lowered", "program": NAME}                the model is traced; the compiler begins
    {"event": "program", "program": {…}}                 a `request.Compiled`
    {"event": "refused", "problem": …, "remedy": …}      an ExpllmError, or another error of the compiler
    {"event": "done"}                                    the answer is complete; always the last

It ends at the end of stdin. The environment is set here, before JAX is imported: without it the compiler looks for a
TPU and a metadata server, and waits.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expllm_jax.fit.request import Compiled, FitRequest, Traffic
    from expllm_jax.fit.topology import Topology

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # what computes here; the programs are for devices that are not there
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # any one will do; without it the library prints errors
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several of these processes may run at once
}
MISSING = "libtpu, which holds the TPU compiler, is not installed"
INSTALL = "pip install 'expllm_jax[fit]' (Linux x86-64; no TPU is needed)"

Tell = Callable[[dict[str, Any]], None]


def main() -> None:
    """Answers requests until stdin ends."""
    os.environ.update(ENVIRONMENT)
    # The compiler prints to stdout now and then; answers go where stdout was, all else to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(event: dict[str, Any]) -> None:
        answers.write(json.dumps(event) + "\n")
        answers.flush()

    for line in sys.stdin:
        if importlib.util.find_spec("libtpu") is None:
            tell({"event": "refused", "problem": f"{MISSING} for {sys.executable}", "remedy": INSTALL})
        else:
            _answer(json.loads(line), tell)
        tell({"event": "done"})


def _answer(values: dict[str, Any], tell: Tell) -> None:
    from expllm_jax.errors import ExpllmError
    from expllm_jax.fit.request import FitRequest

    try:
        _compile_all(FitRequest.from_json(values), tell)
    except ExpllmError as error:
        tell({"event": "refused", "problem": error.problem, "remedy": error.remedy})
    except Exception as error:  # whatever the compiler raises: the process stays ready for the next request
        text = " ".join(str(error).split())[:600]
        tell({"event": "refused", "problem": f"the compiler failed: {type(error).__name__}: {text}", "remedy": ""})


def _compile_all(request: FitRequest, tell: Tell) -> None:
    import dataclasses

    from expllm_jax.fit.programs import mesh_of, programs

    mesh = mesh_of(request, devices_of(request.topology))
    shardings: Any = None
    for name, lower in programs(request, mesh):
        began = time.monotonic()
        lowered = lower(shardings)
        tell({"event": "lowered", "program": name})
        compiled, shardings = _compile(request, lowered, began)
        tell({"event": "program", "program": dataclasses.asdict(compiled)})
        if not compiled.fits:
            return


def devices_of(topology: Topology) -> list[Any]:
    """The devices of a topology that is not there, slice by slice."""
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if topology.generation == "v4":  # as v4 is used: both cores of a chip as one device
        options |= {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}
    if topology.shape == (1, 1):
        options["chips_per_host_bounds"] = (1, 1, 1)
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options).devices)


def _compile(request: FitRequest, lowered: Any, began: float) -> tuple[Compiled, Any]:
    """(what the compiler says, how the results are laid out)."""
    from expllm_jax.fit.memory import parse_out_of_memory
    from expllm_jax.fit.request import Compiled
    from expllm_jax.train import parsed_options

    options = parsed_options(request.compiler_options)
    limit, arguments = int(request.topology.accelerator.memory), sum(lowered.categories.values()) - lowered.beside
    program_bytes, shardings, traffic = 0, None, ()
    try:
        compiled = lowered.lowered.compile(compiler_options=options or None)
    except Exception as error:  # a JaxRuntimeError; what kind of failure it is stands in its text alone
        refusal = parse_out_of_memory(str(error))
        if refusal is None:
            raise
        needed = refusal.needed_bytes + (0 if refusal.arguments else arguments)
    else:
        refusal = None
        memory = compiled.memory_analysis()
        needed, program_bytes = memory.peak_memory_in_bytes, memory.generated_code_size_in_bytes
        shardings = compiled.output_shardings
        traffic = _traffic(compiled.as_text(), request)
    needed += lowered.beside
    seconds = time.monotonic() - began
    rest = max(0, needed - arguments - lowered.beside)
    return Compiled(
        program=lowered.name,
        fits=refusal is None and needed <= limit,
        peak_bytes=needed,
        limit_bytes=limit,
        categories={**lowered.categories, "activations and temporaries": rest},
        compile_seconds=round(seconds, 2),
        program_bytes=program_bytes,
        traffic=traffic,
    ), shardings


def _traffic(text: str, request: FitRequest) -> tuple[Traffic, ...]:
    """What the program exchanges, added up by kind and network."""
    from expllm_jax.fit.collectives import collectives
    from expllm_jax.fit.request import Traffic

    totals: dict[tuple[str, str], tuple[float, float]] = {}
    # The loop over new tokens ends when all rows have: it is counted to its last turn.
    for one in collectives(text, request.topology.devices_per_slice, unknown_trips=request.new_tokens):
        moved, times = totals.get((one.kind, one.network), (0.0, 0.0))
        totals[one.kind, one.network] = (moved + one.total_bytes, times + one.count)
    return tuple(Traffic(*key, *value) for key, value in sorted(totals.items()))


if __name__ == "__main__":
    main()
