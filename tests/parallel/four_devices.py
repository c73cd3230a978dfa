"""One training gradient of the tiny model on meshes of four fake devices, compared with one device; prints JSON."""

from __future__ import annotations

import json

import jax

jax.config.update("jax_num_cpu_devices", 4)

import numpy as np  # noqa: E402

from expllm_jax.errors import ExpllmError  # noqa: E402
from expllm_jax.models import PAPER_TRAINABLE, abstract, init, merge, select  # noqa: E402
from expllm_jax.parallel import MeshConfig, batch_sharding, make_mesh, param_shardings, shard_params  # noqa: E402
from tests.models.sizes import WHOLE, changed, random_params  # noqa: E402

CONFIG = changed(WHOLE, vision_layers=())
LARGEST = "decoder/blocks/mlp/gate/kernel"
MESHES = {(1, 2, 2): 1 / 4, (2, 2, 1): 1 / 2}  # (data, fsdp, tensor), and the part of LARGEST a device holds


def main() -> None:
    graphdef, params = random_params(CONFIG)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, (4, 12))
    tokens[:, 2:6] = CONFIG.image_token
    batch = {
        "tokens": tokens,
        "positions": np.broadcast_to(np.arange(12), (4, 12)),
        "segments": np.broadcast_to([1] * 7 + [2] * 3 + [3] * 2, (4, 12)),
        "pixels": rng.normal(size=(4, 16, 16, 3)).astype(np.float32),
    }

    def loss(trainable, frozen, batch):
        model = merge(graphdef, trainable | frozen)
        features = model.encode(batch["pixels"])[:, None]
        h = model(batch["tokens"], batch["positions"], batch["segments"], features)
        return (
            -jax.nn.log_softmax(model.logits(h))[..., 3].mean() + model.token_losses(h, batch["tokens"] % 48).nll.mean()
        )

    def run(shape):
        mesh = make_mesh(MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])
        with jax.set_mesh(mesh):
            placed = shard_params(params, mesh)
            on_devices = jax.device_put(batch, batch_sharding(mesh))
            value, gradient = jax.jit(jax.value_and_grad(loss))(*select(placed, PAPER_TRAINABLE), on_devices)
            jax.block_until_ready((value, gradient))
        shard = placed[LARGEST].addressable_shards[0].data
        return float(value), jax.device_get(gradient), shard.size / placed[LARGEST].size

    report = {"devices": jax.device_count(), "meshes": {}}
    value, gradient, _ = run((1, 1, 1))
    for shape, fraction in MESHES.items():
        other, other_gradient, held = run(shape)
        report["meshes"][str(shape)] = {
            "loss_difference": abs(value - other),
            "gradient_difference": max(float(np.abs(gradient[k] - other_gradient[k]).max()) for k in gradient),
            "shard_fraction": held,
            "expected_fraction": fraction,
        }
    shardings = param_shardings(abstract(CONFIG)[1], make_mesh(MeshConfig(1, 2, 2)))
    whole, drawn = init(CONFIG, 5)[1], init(CONFIG, 5, shardings=shardings)[1]
    report["init_where_it_lies"] = {
        "equal": all(np.array_equal(whole[path], drawn[path]) for path in whole),
        "placed": all(drawn[path].sharding == shardings[path] for path in whole),
    }
    try:
        loss(*select(params, PAPER_TRAINABLE), batch)
    except ExpllmError as error:
        report["without_mesh"] = error.problem
    print(json.dumps(report))


if __name__ == "__main__":
    main()
