"""The frozen tower's tokens of a split, with the pictures shared out over four pretended devices; prints JSON.

`python -m tests.features_on_four FOLDER`
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 4)

import numpy as np  # noqa: E402

from expllm_jax import stages  # noqa: E402
from expllm_jax.config import PICTURE_SIZE, WeightsConfig, load_experiment  # noqa: E402
from expllm_jax.models import merge  # noqa: E402
from expllm_jax.parallel import MeshConfig, make_mesh, shard_params  # noqa: E402
from expllm_jax.records import normalise, square  # noqa: E402
from tests.train.tiny import TinySource, tiny_config, tiny_model  # noqa: E402

MESHES = {"shared by data and fsdp": (2, 2, 1), "some of them split layers": (1, 2, 2)}
PICTURES = 6  # with 4 at once: 2 of the last call are filling


def main(folder: Path) -> None:
    stages.PICTURES_AT_ONCE = 3  # no multiple of the devices
    graphdef, params = tiny_model()
    source = TinySource(PICTURES)
    pixels = normalise(np.stack([square(picture, PICTURE_SIZE, source.resize) for picture in source.pictures]))
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        by_hand = np.asarray(jax.jit(lambda p, x: merge(graphdef, p).encode(x))(params, pixels))
    experiment = load_experiment("tiny")
    told = {}
    for name, shape in MESHES.items():
        mesh = MeshConfig(*shape)
        asked = dataclasses.replace(
            experiment,
            model=tiny_config(),
            weights=WeightsConfig(vision="random"),
            records=dataclasses.replace(experiment.records, image_tokens=(PICTURE_SIZE // 14) ** 2),
            train=dataclasses.replace(experiment.train, mesh=mesh),
        )
        stages.check_feasible(asked)
        run = stages.RunFolder(folder / name, asked, print)
        features = stages.split_features(run, shard_params(params, make_mesh(mesh)), source, "train", "some")
        told[name] = {"shape": features.shape, "difference": float(np.abs(features - by_hand).max())}
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
