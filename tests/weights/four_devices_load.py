"""Loads the tiny decoder onto meshes of four fake devices, and compares it with what one device holds; prints JSON."""

from __future__ import annotations

import json

import jax

jax.config.update("jax_num_cpu_devices", 4)

import numpy as np  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

from expllm_jax.errors import ExpllmError  # noqa: E402
from expllm_jax.models import abstract  # noqa: E402
from expllm_jax.parallel import MeshConfig, make_mesh, param_shardings  # noqa: E402
from expllm_jax.weights import ArraysInMemory, load_params  # noqa: E402
from expllm_jax.weights.hugging_face import llama_table  # noqa: E402
from expllm_jax.weights.naming import scatter  # noqa: E402
from tests.models.sizes import DECODER, random_params  # noqa: E402

LARGEST = "blocks/mlp/gate/kernel"


def main() -> None:
    shapes = abstract(DECODER)[1]
    params, table = random_params(DECODER)[1], llama_table(DECODER)
    files = ArraysInMemory("memory", scatter(params, table))
    equal, as_asked, held = True, True, {}
    for sizes, dtype in (((1, 2, 2), "float32"), ((1, 4, 1), "bfloat16"), ((2, 1, 2), "float32")):
        shapes = {path: jax.ShapeDtypeStruct(leaf.shape, dtype) for path, leaf in shapes.items()}
        shardings = param_shardings(shapes, make_mesh(MeshConfig(*sizes)))
        loaded = load_params(files, table, shapes, shardings=shardings).params
        for path, leaf in loaded.items():
            equal &= bool(np.array_equal(leaf, params[path].astype(dtype)))
            as_asked &= leaf.sharding == shardings[path]
        held[str(sizes)] = loaded[LARGEST].addressable_shards[0].data.size / loaded[LARGEST].size
    mesh = make_mesh(MeshConfig(1, 1, 4))
    over_layers = dict.fromkeys(shapes, NamedSharding(mesh, PartitionSpec())) | {
        LARGEST: NamedSharding(mesh, PartitionSpec("fsdp"))
    }
    try:
        load_params(files, table, shapes, shardings=over_layers)
        refused = False
    except ExpllmError as error:
        refused = LARGEST in error.problem
    print(
        json.dumps(
            {"devices": jax.device_count(), "equal": equal, "as_asked": as_asked, "held": held, "refused": refused}
        )
    )


if __name__ == "__main__":
    main()
