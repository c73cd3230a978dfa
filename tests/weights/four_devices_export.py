"""Exports the tiny model from parameters that lie in parts on four fake devices; prints how many there are."""

from __future__ import annotations

import sys

import jax

jax.config.update("jax_num_cpu_devices", 4)

from expllm_jax.parallel import MeshConfig, make_mesh, shard_params  # noqa: E402
from expllm_jax.weights import export_safetensors  # noqa: E402
from tests.models.sizes import WHOLE, random_params  # noqa: E402


def main(folder: str) -> None:
    params = shard_params(random_params(WHOLE)[1], make_mesh(MeshConfig(1, 2, 2)))
    kernel = params["decoder/blocks/mlp/gate/kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    export_safetensors(params, WHOLE, folder, image_size=28)
    print(len(kernel.addressable_shards))


if __name__ == "__main__":
    main(sys.argv[1])
