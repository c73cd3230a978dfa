"""A process that compiles one train step for absent TPUs: `python compiled_text.py REQUEST.json TEXT.txt`.

Writes the optimised program to TEXT.txt and prints seconds, and bytes of machine code, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from expllm_jax.fit.child import ENVIRONMENT


def main() -> None:
    os.environ.update(ENVIRONMENT)
    from expllm_jax.fit.child import devices_of
    from expllm_jax.fit.programs import mesh_of, programs
    from expllm_jax.fit.request import FitRequest

    request = FitRequest.from_json(json.loads(Path(sys.argv[1]).read_text()))
    began = time.monotonic()
    ((_, lower),) = programs(request, mesh_of(request, devices_of(request.topology)))
    compiled = lower(None).lowered.compile()
    seconds = time.monotonic() - began
    Path(sys.argv[2]).write_text(compiled.as_text())
    machine_code = compiled.memory_analysis().generated_code_size_in_bytes
    print(json.dumps({"seconds": seconds, "machine_code": machine_code}))


if __name__ == "__main__":
    main()
