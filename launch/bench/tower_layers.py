"""Which block of the frozen tower tells expressions and action units best: a small regressor on each block's tokens.

The regressor (one projection per token, one hidden layer over all tokens) learns the expression and the presence of
every
unit from the training split and is scored on people it never saw. It says what the tokens hold, whatever a decoder
makes of
them.

example: python launch/bench/tower_layers.py --run runs/demo --blocks 6 8 10 12
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from expllm_jax.assets import asset_path
from expllm_jax.faces import RENDERED_UNITS
from expllm_jax.models import abstract, merge, vit_s14
from expllm_jax.records import RecordSource, open_records
from expllm_jax.train import extract_features
from expllm_jax.weights import dinov2_from_onnx

SPLITS = ("clean", "mild", "hard")
POOL, HIDDEN, PER_TOKEN = 2, 256, 48


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="example: " + __doc__.split("example: ")[1].strip()
    )
    parser.add_argument("--run", type=Path, required=True, help="a run folder that holds records")
    parser.add_argument("--blocks", type=int, nargs="+", default=[6, 8, 10, 12], help="block numbers from 1")
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    sources = {split: open_records(options.run / "records", split) for split in ("train", *SPLITS)}
    truth = {split: _truth(source) for split, source in sources.items()}
    config = vit_s14(unroll=0)
    params = {path: jnp.asarray(leaf) for path, leaf in dinov2_from_onnx(asset_path("dinov2-s"), config).items()}
    tower, _ = abstract(config)
    for block in options.blocks:
        encode = jax.jit(lambda p, x, layer=block - 1: merge(tower, p)(x, layers=(layer,)))
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            tokens = {
                split: _pooled(
                    extract_features(
                        lambda pixels, encode=encode: encode(params, pixels),
                        source,
                        Path(scratch) / f"{split}.npy",
                        fingerprint="bench",
                    )
                )
                for split, source in sources.items()
            }
        per_picture = (time.perf_counter() - began) / sum(map(len, sources.values()))
        scores = _regress(tokens, truth, options.steps)
        print(json.dumps({"block": block, "ms_per_picture": round(1e3 * per_picture, 1), **scores}), flush=True)


def _truth(source: RecordSource) -> tuple[np.ndarray, np.ndarray]:
    """(expression number [R], unit presence [R, U])."""
    faces = [source[index].annotation for index in range(len(source))]
    names = sorted({face.expression for face in faces})
    present = [[face.units["facs"].get(code, 0.0) >= 0.1 for code in RENDERED_UNITS] for face in faces]
    return np.array([names.index(face.expression) for face in faces]), np.array(present, np.float32)


def _pooled(tokens_RND: np.ndarray) -> np.ndarray:
    """Space to depth, as the projector does it: [R, 256, D] -> [R, 64, 4 D]."""
    records, count, width = tokens_RND.shape
    side = int(count**0.5) // POOL
    grid = tokens_RND.reshape(records, side, POOL, side, POOL, width).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(grid.reshape(records, side * side, POOL * POOL * width))


def _regress(tokens: dict[str, np.ndarray], truth: dict[str, tuple[np.ndarray, np.ndarray]], steps: int) -> dict:
    classes, units = int(truth["train"][0].max()) + 1, len(RENDERED_UNITS)
    _, count, width = tokens["train"].shape
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((width, PER_TOKEN), (count * PER_TOKEN, HIDDEN), (HIDDEN, classes + units))
    params = [jax.random.normal(key, shape) * shape[0] ** -0.5 for key, shape in zip(keys, shapes, strict=True)]
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-3, steps), weight_decay=0.05)
    state = optimizer.init(params)

    def forward(params: list[jax.Array], x: jax.Array) -> jax.Array:
        hidden = jax.nn.gelu(x.astype(jnp.float32) @ params[0]).reshape(len(x), -1)
        return jax.nn.gelu(hidden @ params[1]) @ params[2]

    def loss(params: list[jax.Array], x: jax.Array, label: jax.Array, present: jax.Array) -> jax.Array:
        scores = forward(params, x)
        of_label = optax.softmax_cross_entropy_with_integer_labels(scores[:, :classes], label).mean()
        return of_label + optax.sigmoid_binary_cross_entropy(scores[:, classes:], present).sum(1).mean()

    @jax.jit
    def step(params, state, x, label, present):
        updates, state = optimizer.update(jax.grad(loss)(params, x, label, present), state, params)
        return optax.apply_updates(params, updates), state

    rng = np.random.default_rng(0)
    for number in range(steps):
        rows = rng.choice(len(tokens["train"]), 64)
        params, state = step(params, state, tokens["train"][rows], *(array[rows] for array in truth["train"]))
        if number % 100 == 0:
            print(f"regressor {number}/{steps}", file=sys.stderr)
    scores = {}
    for split in SPLITS:
        found = np.concatenate([np.asarray(forward(params, part)) for part in np.array_split(tokens[split], 12)])
        label, present = truth[split]
        stated = found[:, classes:] > 0
        hits = (stated & (present > 0)).sum()
        scores[f"accuracy_{split}"] = round(float((found[:, :classes].argmax(1) == label).mean()), 3)
        scores[f"unit_f1_{split}"] = round(float(2 * hits / (stated.sum() + present.sum())), 3)
    return scores


if __name__ == "__main__":
    main()
