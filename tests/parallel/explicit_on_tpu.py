"""Compiles the train step of two layers of the 7B model for eight TPU v5e, with explicit axes; prints JSON.

No TPU is needed, only its compiler.
"""

from __future__ import annotations

import dataclasses
import json
import os

os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_PLATFORMS": "cpu",
}  # fmt: skip

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from expllm_jax.models import PAPER_TRAINABLE, abstract, expllm_7b, select  # noqa: E402
from expllm_jax.parallel import MeshConfig, batch_sharding, make_mesh, shard_params  # noqa: E402
from expllm_jax.train import OptimizerConfig, build_optimizer, make_train_step  # noqa: E402
from expllm_jax.train.state import TrainState, state_shardings  # noqa: E402

MESH = MeshConfig(1, 4, 2)
ROWS, LENGTH, PICTURES, SUPERVISED = 8, 2048, 2, 480


def main() -> None:
    mesh = make_mesh(MESH, topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices, explicit=True)
    config = expllm_7b(chained=True)  # rows that the splash kernel takes
    half = {"depth": 2, "remat": "full", "dtype": "bfloat16", "param_dtype": "bfloat16"}
    config = dataclasses.replace(
        config, decoder=dataclasses.replace(config.decoder, **half), vision=dataclasses.replace(config.vision, **half)
    )
    graphdef, shapes = abstract(config)
    trained, frozen = select(shapes, PAPER_TRAINABLE)
    trained = {path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for path, leaf in trained.items()}
    optimizer = build_optimizer(OptimizerConfig(), 1000)
    state = jax.eval_shape(
        lambda params: TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), {}), trained
    )
    layouts = state_shardings(state, optimizer, mesh)
    state = jax.tree.map(lambda x, layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), state, layouts)
    rows = batch_sharding(mesh)

    def batch_of(dtype: type, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((ROWS, *shape), dtype, sharding=rows)

    batch = {name: batch_of(jnp.int32, LENGTH) for name in ("tokens", "positions", "segments")}
    batch |= {
        "loss_weights": batch_of(jnp.float32, LENGTH), "pixels": batch_of(jnp.float32, PICTURES, 224, 224, 3)
    }  # fmt: skip
    with jax.set_mesh(mesh):
        step = jax.jit(
            make_train_step(graphdef, optimizer, supervised=SUPERVISED), donate_argnums=0, out_shardings=(layouts, None)
        )
        arguments = (state, shard_params(frozen, mesh), batch, jax.ShapeDtypeStruct((), jnp.uint32))
        compiled = step.lower(*arguments).compile()
    program = compiled.as_text()
    report = {
        "peak_gib": compiled.memory_analysis().peak_memory_in_bytes / 2**30,
        "kernels": program.count("tpu_custom_call"),
        "scores": f"{LENGTH},{LENGTH}]" in program,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
