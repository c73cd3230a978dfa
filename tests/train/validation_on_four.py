"""The validation loss of a tiny model, on one and on four pretended devices, plain and packed; prints JSON."""

from __future__ import annotations

import json

import jax

jax.config.update("jax_num_cpu_devices", 4)

import numpy as np  # noqa: E402

from expllm_jax.models import merge, select  # noqa: E402
from expllm_jax.parallel import MeshConfig, make_mesh, shard_params  # noqa: E402
from expllm_jax.records import PackingConfig  # noqa: E402
from expllm_jax.train import Validation  # noqa: E402
from tests.train.tiny import PICTURE_SIZE, TinySource, tiny_config, tiny_model  # noqa: E402
from tests.train.tiny_run import tiny_train_config  # noqa: E402

PACKED = PackingConfig(on=True, row_length=128)


def main() -> None:
    source = TinySource(11)
    graphdef, params = tiny_model(tiny_config(rank=2))

    def loss(shape, packing, batch):
        mesh = make_mesh(MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])
        with jax.set_mesh(mesh):
            trainable, frozen = select(shard_params(params, mesh), ("projector/.*",))
            validation = Validation(
                graphdef, source, source.features, config=tiny_train_config(batch=batch, packing=packing),
                model=merge(graphdef, params).config, mesh=mesh, picture_size=PICTURE_SIZE,
            )  # fmt: skip
            return validation(trainable, frozen)["validation_loss"]

    plain = PackingConfig()
    print(json.dumps({
        "by hand": loss((1, 1, 1), plain, 1),  # one record a call: a plain mean
        "four records a call, over four devices": loss((2, 2, 1), plain, 4),
        "packed, over four devices": loss((1, 2, 2), PACKED, 11),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
