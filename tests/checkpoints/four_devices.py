"""One state saved and restored on meshes of four fake devices; prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 4)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402

from expllm_jax.checkpoints import (  # noqa: E402
    Checkpointer,
    export_inference,
    load_frozen,
    load_inference,
    params_fingerprint,
    save_frozen,
)
from tests.checkpoints.small_run import make_data  # noqa: E402

SHAPE = (8, 12)


def laid_out(rows: int, columns: int) -> NamedSharding:
    mesh = jax.make_mesh((rows, columns), ("a", "b"), (AxisType.Auto,) * 2, devices=jax.devices()[: rows * columns])
    return NamedSharding(mesh, PartitionSpec("a", "b"))


def main(folder: Path) -> None:
    values = jax.random.normal(jax.random.key(0), SHAPE)
    saved = {"params": {"kernel": jax.device_put(values, laid_out(4, 1))}}
    with Checkpointer(folder) as checkpointer:
        checkpointer.save_async(1, saved, make_data(), {})
        checkpointer.wait()
        restored = {}
        for rows, columns, dtype in ((1, 1, "float32"), (2, 2, "float32"), (1, 4, "bfloat16")):
            sharding = laid_out(rows, columns)
            like = {"params": {"kernel": jax.ShapeDtypeStruct(SHAPE, jnp.dtype(dtype), sharding=sharding)}}
            state, _, _ = checkpointer.restore_newest(like, make_data())
            found = state["params"]["kernel"]
            restored[f"{rows}x{columns} {dtype}"] = bool(
                found.sharding == sharding and np.array_equal(found, values.astype(dtype))
            )
    save_frozen(folder, saved["params"])
    frozen = load_frozen(folder, {"kernel": laid_out(2, 2)})["kernel"]
    export_inference(folder / "export", saved["params"], {"a": 1})
    exported, meta = load_inference(folder / "export")
    same = {params_fingerprint(params) for params in (saved["params"], {"kernel": frozen}, exported)}
    print(
        json.dumps(
            {
                "restored": restored,
                "frozen": frozen.sharding == laid_out(2, 2),
                "export": [sorted(exported), meta],
                "fingerprints": len(same),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
