"""One small run of `train`, in this process or (`python -m tests.train.tiny_run RUN_DIR`) in one that can be killed."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from expllm_jax.checkpoints import params_fingerprint
from expllm_jax.train import OptimizerConfig, TrainConfig, TrainResult, train
from tests.train.tiny import TinySource, tiny_config, tiny_model

STEPS, RECORDS = 150, 10


def tiny_train_config(**changes) -> TrainConfig:
    settings = {
        "steps": STEPS, "batch": 4, "seed": 3, "checkpoint_every": 7, "log_every": 5,
        "trainable": (r"projector/.*", r"decoder/.*/lora_[ab]"), "optimizer": OptimizerConfig(lr=1e-2),
    }  # fmt: skip
    return TrainConfig(**(settings | changes))


def run(run_dir: Path, stream: io.TextIOBase | None = None, source: TinySource | None = None, **changes) -> TrainResult:
    source = source or TinySource(RECORDS)
    graphdef, params = tiny_model(tiny_config(rank=2))
    return train(
        tiny_train_config(**changes), graphdef, params, source, run_dir, features=source.features, stream=stream
    )


if __name__ == "__main__":
    result = run(Path(sys.argv[1]))
    print(result.loss, params_fingerprint(result.state.params))
