"""How the presets of GPUs lay the 7B model over eight fake devices; prints JSON. Nothing is allocated."""

from __future__ import annotations

import json
import math

import jax

jax.config.update("jax_num_cpu_devices", 8)

from expllm_jax.config import WeightsConfig, load_experiment, with_preset  # noqa: E402
from expllm_jax.models import abstract, expllm_7b, mesh_splits  # noqa: E402
from expllm_jax.parallel import check_mesh, make_mesh, shard_params  # noqa: E402
from tests.models.sizes import changed  # noqa: E402

LARGE = 1e6  # values


def main() -> None:
    report = {}
    paper = changed(
        load_experiment("small"), model=expllm_7b(), weights=WeightsConfig(vision="./absent", decoder="./absent")
    )
    for name in ("h100", "h200"):
        experiment = with_preset(paper, name)
        check_mesh(experiment.train.mesh, jax.devices(), splits=mesh_splits(experiment.model), rows=8)
        mesh = make_mesh(experiment.train.mesh)
        laid_out = shard_params(abstract(experiment.model)[1], mesh)
        held = {path: math.prod(leaf.sharding.shard_shape(leaf.shape)) for path, leaf in laid_out.items()}
        report[name] = {
            "whole": [p for p, leaf in laid_out.items() if leaf.size > LARGE and held[p] * 8 != leaf.size],
            "decoder_bytes": sum(
                held[p] * leaf.dtype.itemsize
                for p, leaf in laid_out.items()
                if p.startswith("decoder/") and "/lora_" not in p
            ),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
