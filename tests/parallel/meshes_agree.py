"""One update of the tiny model, by SGD, on many meshes of four fake devices, compared with one device; prints JSON.

The rows are packed: several records each, with two pictures. Dropout is off, because micro-batches draw their own.
"""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any, NamedTuple

# Devices of a CPU wait for each other on the threads that they compute with: with fewer threads than collectives that
# may be under way at once, they wait for ever. Read when JAX starts.
os.environ["PJRT_NPROC"] = "32"

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)

import numpy as np  # noqa: E402
import optax  # noqa: E402

from expllm_jax.models import (  # noqa: E402
    PAPER_TRAINABLE,
    SEGMENTS,
    DecoderConfig,
    ExpLLMConfig,
    LoRAConfig,
    ProjectorConfig,
    ViTConfig,
    abstract,
    decoder,  # noqa: E402
    select,
)
from expllm_jax.parallel import MeshConfig, batch_sharding, constrain, make_mesh, shard_params  # noqa: E402
from expllm_jax.train import Optimizer, create_state, make_train_step  # noqa: E402
from tests.models.sizes import random_params  # noqa: E402

LORA = LoRAConfig(rank=2, alpha=8.0, dropout=0.0, targets=("q", "k", "v", "o"))
CONFIG = ExpLLMConfig(
    vision=ViTConfig(width=16, depth=2, heads=4, patch=4, native_grid=2),
    decoder=DecoderConfig(vocab=48, width=32, depth=2, heads=4, kv_heads=2, head_dim=8, mlp_width=64, remat="dots"),
    projector=ProjectorConfig(pool=2),
    vision_lora=LORA,
    decoder_lora=LORA,
    image_token=48,
)
ROWS, LENGTH, PICTURES, SUPERVISED = 8, 24, 2, 12
# Programs that run once: compiling them takes longer than running them, six times so with the usual options.
FAST_TO_COMPILE = {
    "xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1,
}  # fmt: skip


class Case(NamedTuple):
    """A way to compute the same update."""

    data: int
    fsdp: int
    tensor: int
    accumulate: int = 1
    trainable: tuple[str, ...] = (".*",)
    explicit: bool = False


CASES = {
    "fsdp 2": Case(1, 2, 1),
    "fsdp 4": Case(1, 4, 1),
    "data 2 x fsdp 2": Case(2, 2, 1),
    "data 2 x tensor 2": Case(2, 1, 2),
    "fsdp 2 x tensor 2": Case(1, 2, 2),
    "tensor 4": Case(1, 1, 4),
    "fsdp 2 x tensor 2, two parts, adapters and projector only": Case(1, 2, 2, 2, PAPER_TRAINABLE),
    "fsdp 4, explicit": Case(1, 4, 1, explicit=True),
    "fsdp 2 x tensor 2, explicit": Case(1, 2, 2, explicit=True),
    "data 2 x fsdp 2, explicit, two parts": Case(2, 2, 1, 2, PAPER_TRAINABLE, explicit=True),
}


def packed_batch() -> dict[str, np.ndarray]:
    """Rows of two records, each a picture's token, a prefix and two branches; then padding."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 48, (ROWS, LENGTH))
    segments, positions, weights = np.zeros((3, ROWS, LENGTH))
    for row in range(ROWS):
        start = 0
        for record in range(2):
            prefix, *branches = rng.integers(2, 5, 3)
            tokens[row, start] = CONFIG.image_token
            for number, (length, first) in enumerate(((prefix, 0), *((branch, prefix) for branch in branches)), 1):
                here = slice(start, start + length)
                segments[row, here] = record * SEGMENTS + number
                positions[row, here] = first + np.arange(length)
                if number > 1:
                    weights[row, here] = [0.0, *rng.uniform(0.1, 1.0, length - 1)]
                start += length
    pixels = rng.normal(size=(ROWS, PICTURES, 8, 8, 3))
    return {
        "tokens": tokens.astype(np.int32), "positions": positions.astype(np.int32),
        "segments": segments.astype(np.int32), "loss_weights": weights.astype(np.float32),
        "pixels": pixels.astype(np.float32),
    }  # fmt: skip


def sgd() -> Optimizer:
    """Plain SGD for one update; its momentum then holds that update's gradient, unrounded by the parameters."""
    transform = optax.sgd(0.1, momentum=0.9)
    return Optimizer(transform.init, transform.update, lambda step: np.float32(0.1))


class Outcome(NamedTuple):
    loss: float
    gradient: dict[str, np.ndarray]
    params: dict[str, np.ndarray]
    layouts: dict[str, str]  # of activations inside the decoder, if the mesh is explicit


def noted(layouts: dict[str, str], x: jax.Array, name: str) -> jax.Array:
    """`constrain`, which keeps down how an explicit activation lay before, if that was not the same everywhere."""
    spec = str(jax.typeof(x).sharding.spec)
    layouts[name] = spec if layouts.get(name, spec) == spec else f"{layouts[name]} and {spec}"
    return constrain(x, name)


def update(case: Case) -> Outcome:
    """One update on the case's mesh."""
    layouts: dict[str, str] = {}
    decoder.constrain = partial(noted, layouts) if case.explicit else constrain
    graphdef, params = random_params(CONFIG)
    optimizer = sgd()
    mesh = make_mesh(MeshConfig(*case[:3]), jax.devices()[: int(np.prod(case[:3]))], explicit=case.explicit)
    with jax.set_mesh(mesh):
        trained, frozen = select(params, case.trainable)
        state = create_state(trained, optimizer, mesh)
        step = make_train_step(graphdef, optimizer, supervised=SUPERVISED, accumulate=case.accumulate)
        compiled = jax.jit(step, compiler_options=FAST_TO_COMPILE)
        batch = jax.device_put(packed_batch(), batch_sharding(mesh))
        state, metrics = jax.block_until_ready(compiled(state, shard_params(frozen, mesh), batch, np.uint32(0)))
    gradient, params = jax.device_get((state.opt_state[0].trace, state.params))
    return Outcome(float(metrics["loss"]), gradient, params, layouts)


def compared(found: Outcome, expected: Outcome) -> dict[str, Any]:
    """Largest relative differences, and in which leaf."""
    gradient = {path: _relative(found, expected, path) for path in found.gradient}
    params = {p: float(np.linalg.norm(x - expected.params[p]) / np.linalg.norm(x)) for p, x in found.params.items()}
    return {
        "loss": (abs(found.loss / expected.loss - 1), "loss"),
        "gradient": max((value, path) for path, value in gradient.items()),
        "params": max((value, path) for path, value in params.items()),
        "leaves": len(gradient),
        "layouts": found.layouts,
    }


def _relative(found: Outcome, expected: Outcome, path: str) -> float:
    # The same number added to all scores of a query changes nothing: by the keys' bias there is no gradient, but for
    # rounding, which is held against the gradient by the queries' bias.
    scale = expected.gradient[path.replace("attn/k/bias", "attn/q/bias")]
    return float(np.linalg.norm(found.gradient[path] - expected.gradient[path]) / np.linalg.norm(scale))


def main() -> None:
    expected = update(Case(1, 1, 1))
    # A gradient that is zero agrees with anything.
    smallest = min((float(np.linalg.norm(x)), p) for p, x in expected.gradient.items() if not p.endswith("k/bias"))
    report = {
        "devices": jax.device_count(), "parameters": len(abstract(CONFIG)[1]), "smallest_gradient": smallest,
        "cases": {},
    }  # fmt: skip
    for name, case in CASES.items():
        report["cases"][name] = compared(update(case), expected)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
