"""Compiles an update of the 7B model, two layers deep, with one TPU preset for a small topology; prints JSON."""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from expllm_jax.config import WeightsConfig, load_experiment, with_preset
from expllm_jax.models import abstract, expllm_7b, select
from expllm_jax.parallel import batch_sharding, make_mesh, shard_params
from expllm_jax.train import build_optimizer, make_train_step
from expllm_jax.train.state import TrainState, state_shardings
from tests.models.sizes import changed

TOPOLOGIES = {
    "v4": ("v4:2x2x1", {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}),
    "v5e": ("v5e:2x2", {}),
    "v5p": ("v5p:2x2x1", {}),
    "v6e": ("v6e:2x2", {}),
    "tpu7x": ("tpu7x:2x2x1", {}),
}
ROW, PICTURES, SUPERVISED = 2048, 2, 128


def main(name: str) -> None:
    topology, options = TOPOLOGIES[name]
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    model = expllm_7b(chained=True)
    model = changed(model, decoder=changed(model.decoder, depth=2), vision=changed(model.vision, depth=2))
    experiment = changed(load_experiment("small"), model=model, weights=WeightsConfig("./absent", "./absent"))
    experiment = with_preset(experiment, name)
    mesh = make_mesh(experiment.train.mesh, devices)
    graphdef, shapes = abstract(experiment.model)
    trainable, frozen = select(shapes, experiment.train.trainable)
    optimizer = build_optimizer(experiment.train.optimizer, 1000)
    state = jax.eval_shape(lambda p: TrainState(jnp.zeros((), jnp.int32), p, optimizer.init(p), {}), trainable)
    shardings = state_shardings(state, optimizer, mesh)
    rows = len(devices)

    def of_batch(*shape: int, dtype: str = "int32") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=batch_sharding(mesh))

    batch = {key: of_batch(ROW) for key in ("tokens", "positions", "segments")}
    batch["loss_weights"] = of_batch(ROW, dtype="float32")
    batch["pixels"] = of_batch(PICTURES, 224, 224, 3, dtype="float32")
    with jax.set_mesh(mesh):
        state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
        step = jax.jit(
            make_train_step(graphdef, optimizer, supervised=SUPERVISED),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )
        seed = jax.ShapeDtypeStruct((), jnp.uint32)
        lowered = step.lower(state, shard_params(frozen, mesh), batch, seed)
        options = dict(option.split("=", 1) for option in experiment.train.compiler_options)
        compiled = lowered.compile(compiler_options=options)
        try:
            jax.jit(lambda x: x + 1).lower(batch["tokens"]).compile(compiler_options={"xla_tpu_no_such_option": "true"})
            unknown = ""
        except jax.errors.JaxRuntimeError as error:
            unknown = str(error)
    print(
        json.dumps(
            {
                "devices": rows,
                "mesh": list(mesh.devices.shape),
                "peak": compiled.memory_analysis().peak_memory_in_bytes,
                "kernel": "splash" in compiled.as_text(),
                "unknown": unknown,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
