"""The paper's train step, compiled for TPUs: what every decoder layer moves, against the count on paper.

Widths are those of the 7B model; layers are few. Select with `-m fit`, and a Python that has libtpu (see
`tpu_program.compiled`).
"""

from __future__ import annotations

from collections import Counter

import pytest

from expllm_jax.fit.collectives import KINDS
from expllm_jax.fit.request import FitRequest
from expllm_jax.fit.table import Cell, cell_request
from expllm_jax.fit.topology import Topology
from expllm_jax.models import expllm_7b
from tests.fit.tpu_program import Program, compiled
from tests.models.sizes import changed

pytestmark = [pytest.mark.fit, pytest.mark.slow]

ROWS, TOKENS, SUPERVISED = 3, 2048, 480
WIDTH, MLP_WIDTH, VOCABULARY, TOWER_WIDTH = 4096, 11008, 32000, 1024
KERNELS = 2 * (4 * WIDTH**2 + 3 * WIDTH * MLP_WIDTH)  # bytes of a layer's kernels in bfloat16
RESIDUAL = 2 * ROWS * TOKENS * WIDTH  # of the rows that a device computes
SMALL = 2**20  # bytes; every kernel of the decoder is larger
DEVICES = 8
BAR = 1.25


def program(mesh: tuple[int, int, int], depth: int) -> Program:
    """An update of the decoder without a loop over its layers; features are given, so that no tower is in it."""
    model = expllm_7b(chained=True)
    half = {"dtype": "bfloat16", "param_dtype": "bfloat16", "remat": "full"}
    model = changed(
        model,
        vision=changed(model.vision, **half),
        decoder=changed(model.decoder, depth=depth, unroll=0, **half),
        projector=changed(model.projector, dtype="bfloat16"),
    )
    # Nothing of the tower may train, because what trains is an argument, used or not.
    request = FitRequest(
        model, Topology("v5e", (2, 4)), mesh, rows=ROWS, row_length=TOKENS, pictures=1, supervised=SUPERVISED,
        trainable=("decoder/.*/lora_[ab]", "projector/.*"), picture_input="features",
    )  # fmt: skip
    return compiled(request)


def difference(fewer: Program, more: Program) -> dict[str, float]:
    """Bytes that a device receives for the layers which one program has and the other has not, by family."""
    moved = Counter(dict.fromkeys(KINDS, 0.0))
    for one, sign in ((more, 1), (fewer, -1)):
        for part in one.collectives():
            moved[part.kind] += sign * part.total_bytes
    print({kind: f"{bytes_ / 2**20:.1f} MiB" for kind, bytes_ in moved.items()})
    return moved


def check_only_weights_are_gathered(program: Program) -> None:
    """No activations are gathered, and no scores: their sizes are multiples of 3 as the rows are, those of weights not.

    What is small may be anything.
    """
    assert program.request.rows % 3 == 0
    assert all(size % 3 for size in (WIDTH, MLP_WIDTH, VOCABULARY, TOWER_WIDTH, DEVICES))
    gathered = [one for one in program.collectives() if one.kind == "all-gather"]
    large = [(one.result_bytes, one.origin) for one in gathered if one.result_bytes > SMALL]
    assert [found for found in large if found[0] % 3 == 0] == []


def test_fsdp_gathers_every_kernel_once_a_pass():
    fewer, more = (program((1, DEVICES, 1), depth) for depth in (2, 3))
    layer = difference(fewer, more)
    # Once for the forward pass, and once for recomputation and backward together. Of unrolled layers the compiler may
    # keep what the forward pass gathered. Frozen kernels have no gradient: what is reduced is of adapters only.
    once = KERNELS * (DEVICES - 1) / DEVICES
    assert once / BAR < layer["all-gather"] + layer["collective-permute"] < 2 * once * BAR
    assert layer["reduce-scatter"] + layer["all-reduce"] + layer["all-to-all"] < 0.05 * once
    check_only_weights_are_gathered(more)


def test_a_loop_over_layers_gathers_every_kernel_twice_and_does_not_grow_with_depth():
    """The whole model, tower and all, which has to fit as well."""
    request = cell_request(Cell(Topology("v5e", (2, 4)), "v5e-8", "LoRA"), rows=12)
    deep = compiled(request)
    assert deep.peak_bytes < request.topology.accelerator.memory
    check_only_weights_are_gathered(deep)
    model = request.model
    towers = {"vision": changed(model.vision, depth=2), "decoder": changed(model.decoder, depth=2)}
    shallow = compiled(changed(request, model=changed(model, **towers)))
    assert len(deep.text) < 1.3 * len(shallow.text)
    assert deep.machine_code < 1.3 * shallow.machine_code
    # 30 layers of the decoder, and 22 of the tower: four kernels of its width squared, and eight in its MLP.
    paper = 2 * (DEVICES - 1) / DEVICES * (30 * KERNELS + 22 * 2 * 12 * TOWER_WIDTH**2)
    moved = difference(shallow, deep)
    assert paper / BAR < moved["all-gather"] + moved["collective-permute"] < paper * BAR
    assert moved["reduce-scatter"] + moved["all-reduce"] + moved["all-to-all"] < 0.05 * paper


def test_tensor_parallel_layers_sum_the_residual():
    fsdp, tensor = 2, 4
    fewer, more = (program((1, fsdp, tensor), depth) for depth in (2, 3))
    layer = difference(fewer, more)
    # Forward: what attention and what the MLP give. Recomputed: the first of them, which the norm before the MLP reads.
    # Backward: the gradients by what attention and the MLP read.
    paper = 5 * 2 * RESIDUAL * (tensor - 1) / tensor
    assert paper / BAR < layer["all-reduce"] + layer["reduce-scatter"] < paper * BAR
    gathers = 2 * KERNELS / tensor * (fsdp - 1) / fsdp
    assert layer["all-gather"] + layer["collective-permute"] < gathers * BAR + 0.05 * paper
    assert layer["all-to-all"] < 0.05 * paper
    check_only_weights_are_gathered(more)
