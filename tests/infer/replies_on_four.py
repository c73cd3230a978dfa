"""The replies of tests/infer/test_answering.py with rows shared out over several pretended devices; prints JSON.

`XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m tests.infer.replies_on_four FOLDER`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax

from expllm_jax.infer import PredictConfig, Predictor, Request
from tests.infer.speaking import random_features, speaking_model
from tests.infer.test_answering import PICTURES, REQUESTS


def main(folder: Path) -> None:
    predictor = Predictor(*speaking_model(folder), PredictConfig(batch=3))  # no multiple of the devices
    features = random_features(PICTURES)
    replies = predictor.generate(REQUESTS, features)
    shares = predictor.label_likelihoods([Request(1, "label")], features)[0]
    print(
        json.dumps(
            {
                "devices": jax.device_count(),
                "tokens": [reply.tokens for reply in replies],
                "shares": list(shares.values()),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
