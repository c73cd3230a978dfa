"""The paper's train step, compiled for TPUs: what every decoder layer moves, against the count on paper.

Widths are those of the 7B model; layers are few. One layer is the program with three unrolled layers less that with
two. Select with `-m fit`, and a Python that has libtpu (launch/lock/fit.txt); a program takes 10 to 200 s.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from expllm_jax.fit.collectives import KINDS, Collective, collectives
from expllm_jax.fit.request import FitRequest
from expllm_jax.fit.topology import Topology
from expllm_jax.models import expllm_7b

pytestmark = pytest.mark.fit

ROWS, TOKENS, SUPERVISED = 2, 2048, 480
WIDTH, MLP_WIDTH, VOCABULARY = 4096, 11008, 32000
KERNELS = 2 * (4 * WIDTH**2 + 3 * WIDTH * MLP_WIDTH)  # bytes of a layer's kernels in bfloat16
DEVICES = 8
BAR = 1.25


class Program(NamedTuple):
    text: str
    seconds: float
    machine_code: int

    @property
    def collectives(self) -> list[Collective]:
        return collectives(self.text, DEVICES)


def compiled(folder: Path, mesh: tuple[int, int, int], depth: int, *, unroll: bool = True) -> Program:
    model = expllm_7b(chained=True)
    half = {"dtype": "bfloat16", "param_dtype": "bfloat16", "remat": "full"}
    model = dataclasses.replace(
        model,
        vision=dataclasses.replace(model.vision, depth=2, **half),
        decoder=dataclasses.replace(model.decoder, depth=depth, unroll=unroll, **half),
        projector=dataclasses.replace(model.projector, dtype="bfloat16"),
    )
    request = FitRequest(
        model, Topology("v5e", (2, 4)), mesh, rows=ROWS, row_length=TOKENS, pictures=1, supervised=SUPERVISED
    )
    asked, text = folder / "request.json", folder / "program.txt"
    asked.write_text(json.dumps(request.to_json()))
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [os.environ.get("EXPLLM_FIT_PYTHON") or sys.executable, root / "tests/fit/compiled_text.py", asked, text],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    print(f"mesh {mesh}, {depth} layers, unrolled {unroll}: {answer['seconds']:.0f} s")
    return Program(text.read_text(), answer["seconds"], answer["machine_code"])


def per_layer(folder: Path, mesh: tuple[int, int, int]) -> tuple[dict[str, float], Program]:
    """Bytes that a device receives for one decoder layer, by family; and a program."""
    totals = []
    for depth in (2, 3):
        program = compiled(folder, mesh, depth)
        moved = Counter(dict.fromkeys(KINDS, 0.0))
        for one in program.collectives:
            moved[one.kind] += one.total_bytes
        totals.append(moved)
    layer = {kind: totals[1][kind] - totals[0][kind] for kind in KINDS}
    print({kind: f"{moved / 2**20:.1f} MiB" for kind, moved in layer.items()})
    return layer, program


def check_nothing_large_is_gathered(program: Program, rows: int) -> None:
    """No gather as large as the residual stream of all rows together, nor as the scores of the supervised tokens."""
    residual = 2 * rows * TOKENS * WIDTH
    scores = 4 * rows * SUPERVISED * VOCABULARY
    gathered = [one for one in program.collectives if one.kind == "all-gather"]
    assert max((one.result_bytes for one in gathered), default=0) < min(residual, scores)


def test_fsdp_gathers_every_kernel_once_a_pass(tmp_path):
    layer, program = per_layer(tmp_path, (1, DEVICES, 1))
    # Once for the forward pass, and once for recomputation and backward together. Frozen kernels have no gradient.
    paper = 2 * KERNELS * (DEVICES - 1) / DEVICES
    assert paper / BAR < layer["all-gather"] + layer["collective-permute"] < paper * BAR
    assert layer["reduce-scatter"] + layer["all-reduce"] + layer["all-to-all"] < 0.05 * paper  # of adapters only
    check_nothing_large_is_gathered(program, ROWS * DEVICES)


@pytest.mark.parametrize(("fsdp", "tensor"), [(1, 8), (2, 4)])
def test_tensor_parallel_layers_sum_the_residual(tmp_path, fsdp, tensor):
    layer, program = per_layer(tmp_path, (1, fsdp, tensor))
    residual = 2 * ROWS * TOKENS * WIDTH
    # Forward: what attention and what the MLP give. Recomputed: the first of them, which the norm before the MLP reads.
    # Backward: the gradients by what attention and the MLP read.
    paper = 5 * 2 * residual * (tensor - 1) / tensor
    assert paper / BAR < layer["all-reduce"] + layer["reduce-scatter"] < paper * BAR
    gathers = 2 * KERNELS / tensor * (fsdp - 1) / fsdp
    assert layer["all-gather"] + layer["collective-permute"] < gathers * BAR + 0.05 * paper
    assert layer["all-to-all"] < 0.05 * paper
    check_nothing_large_is_gathered(program, ROWS * fsdp)


def test_the_program_does_not_grow_with_depth(tmp_path):
    shallow, deep = (compiled(tmp_path, (1, DEVICES, 1), depth, unroll=False) for depth in (2, 32))
    assert len(deep.text) < 1.3 * len(shallow.text)
    assert deep.machine_code < 1.3 * shallow.machine_code
