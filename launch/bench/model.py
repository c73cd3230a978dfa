"""Our train step and our generation beside the torch peer's, in one sitting, and how near they come to the arithmetic.

    python launch/bench/model.py --preset small --json

Each measurement is a process of its own, ours and the peer's in turn, so that none finds the other's memory. Same
shapes, random weights and inputs, float32 on CPUs (bfloat16 on a GPU): 256 image tokens and `--text-len` text tokens a
row, all of the text supervised; rank 8 adapters with dropout on q and v of both towers, unmerged, and the projector
train. Generation is one prompt pass over the same rows, pictures included, and `--new-tokens` greedy tokens. Medians
are compared. `gemm_fraction` is the arithmetic of our step (below) per second, over what the largest matrix products of
the step reach alone on this computer in the same sitting.

Both sides run with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 (large pages for large buffers) unless it is set already.
The peer needs torch, transformers and peft: `EXPLLM_VENV=.venv-parity EXPLLM_LOCK=parity ./launch/test.sh -m parity -k
peer` makes such an environment, which is the default of --peer-python.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from expllm_jax.infer import Generator, Prompts
from expllm_jax.models import (
    PAPER_TRAINABLE,
    DecoderConfig,
    ExpLLMConfig,
    LoRAConfig,
    ViTConfig,
    abstract,
    expllm_7b,
    init,
    merge,
    merged,
    select,
    smollm2_135m,
    vit_s14,
)
from expllm_jax.parallel import make_mesh
from expllm_jax.train import OptimizerConfig, build_optimizer, create_state, make_train_step

ROOT = Path(__file__).resolve().parents[2]
PICTURE_SIZE = 224  # pixels a side
PAD = 0


def preset(name: str) -> ExpLLMConfig:
    """The model of a preset; the shapes are those of the peer's."""
    lora = LoRAConfig(rank=8, alpha=16.0, dropout=0.05, targets=("q", "v"))
    adapters: dict[str, Any] = {"vision_lora": lora, "decoder_lora": lora}
    if name == "small":
        config = ExpLLMConfig(vit_s14(remat="dots"), smollm2_135m(max_length=2048, remat="dots"), **adapters)
    elif name == "tiny":
        decoder = DecoderConfig(
            vocab=4096, width=256, depth=4, heads=4, kv_heads=4, head_dim=64, mlp_width=704, remat="dots"
        )
        config = ExpLLMConfig(ViTConfig(width=128, depth=4, heads=4, remat="dots"), decoder, **adapters)
    else:
        bfloat16 = {"dtype": "bfloat16", "param_dtype": "bfloat16", "remat": "dots"}
        whole = expllm_7b()
        config = ExpLLMConfig(
            vision=ViTConfig(width=1024, depth=24, heads=16, **bfloat16),
            decoder=DecoderConfig(**{**vars(whole.decoder), **bfloat16}),
            **adapters,
        )
    return ExpLLMConfig(**{**vars(config), "image_token": config.decoder.vocab})


def step_flops(config: ExpLLMConfig, batch: int, text_len: int) -> float:
    """Floating-point operations of the matrix products of one train step, two per multiplication and addition.

    Forwards, every kernel meets every token. Backwards, frozen kernels pass the gradient on (as much again) and get
    none; the projector gets one as well. Scores and their use are counted for the half of them that causality leaves,
    and three times over; the head for the supervised tokens. Adapters, below a hundredth, are left out.
    """
    down, across = config.vision.grid(PICTURE_SIZE, PICTURE_SIZE)
    patches = down * across
    image, seen = config.projector.tokens(patches), patches + config.vision.extra_tokens
    length = image + text_len
    shapes = abstract(config)[1]

    def kernels(prefix: str) -> int:
        return sum(
            int(np.prod(leaf.shape))
            for path, leaf in shapes.items()
            if path.startswith(prefix) and path.endswith("/kernel")
        )

    decoder, vision = config.decoder, config.vision
    tower = 2 * kernels("vision/blocks") * seen * 2 + 2 * kernels("vision/patch_embed") * patches
    tower += vision.depth * 3 * 4 * seen * seen * vision.width
    projector = 2 * kernels("projector/") * image * 3
    layers = 2 * kernels("decoder/blocks") * length * 2
    layers += decoder.depth * 3 * 4 * decoder.heads * decoder.head_dim * length * (length + 1) / 2
    head = 2 * decoder.vocab * decoder.width * text_len * 2
    return batch * float(tower + projector + layers + head)


def gemm_peak(config: ExpLLMConfig, batch: int, text_len: int) -> float:
    """FLOP/s of the step's largest products, alone: of all text and image tokens with the decoder's MLP kernels."""
    down, across = config.vision.grid(PICTURE_SIZE, PICTURE_SIZE)
    rows = batch * (config.projector.tokens(down * across) + text_len)
    width, hidden, dtype = config.decoder.width, config.decoder.mlp_width, config.decoder.dtype
    key = jax.random.key(0)
    x, up, out = (jax.random.normal(key, s, dtype) for s in ((rows, width), (width, hidden), (hidden, width)))
    chain = jax.jit(lambda x: jax.lax.fori_loop(0, 8, lambda _, x: (x @ up) @ out * (width * hidden) ** -0.5, x))
    return 8 * 4.0 * rows * width * hidden / min(_times(lambda: chain(x), 8, 2))


def measure_train(config: ExpLLMConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every update."""
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        graphdef, params = init(config)
        trainable, frozen = select(params, PAPER_TRAINABLE)
        optimizer = build_optimizer(OptimizerConfig(), 1000)
        state = create_state(trainable, optimizer, mesh)
        rows, pixels = _rows(config, options)
        weights = np.where(rows.tokens_BT == config.image_token, 0.0, 1 / options.text_len).astype(np.float32)
        batch = {
            "tokens": rows.tokens_BT, "positions": rows.positions_BT, "segments": rows.segments_BT,
            "loss_weights": weights, "pixels": pixels,
        }  # fmt: skip
        batch = jax.device_put(batch)
        step = jax.jit(make_train_step(graphdef, optimizer, supervised=options.text_len), donate_argnums=0)

        def update() -> jax.Array:
            nonlocal state
            state, metrics = step(state, frozen, batch, jnp.uint32(0))
            return metrics["loss"]

        times = _times(update, options.steps, options.warmup)
        return {"times_s": times, "gemm_flop_per_s": gemm_peak(config, options.batch, options.text_len)}


def measure_generate(config: ExpLLMConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every call: tower, prompts, and all new tokens (no token ends a row)."""
    with jax.set_mesh(make_mesh()):
        config, params = merged(config, init(config)[1])
        graphdef, _ = abstract(config)
        generate = Generator(graphdef, params)
        encode = jax.jit(lambda params, pixels: merge(graphdef, params).encode(pixels))
        rows, pixels = _rows(config, options)
        pixels = jax.device_put(pixels)

        def call() -> np.ndarray:
            features = encode(params, pixels)
            return generate(rows, features, max_new_tokens=options.new_tokens, eos=-1, pad=PAD).tokens

        return {"times_s": _times(call, options.steps, options.warmup)}


def _rows(config: ExpLLMConfig, options: argparse.Namespace) -> tuple[Prompts, np.ndarray]:
    """Image tokens, then random text, in plain causal rows; and random pictures."""
    rng = np.random.default_rng(0)
    image = config.image_tokens(PICTURE_SIZE, PICTURE_SIZE)
    text = rng.integers(3, config.decoder.vocab, (options.batch, options.text_len))
    tokens = np.concatenate([np.full((options.batch, image), config.image_token), text], 1).astype(np.int32)
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    pixels = rng.standard_normal((options.batch, PICTURE_SIZE, PICTURE_SIZE, 3), np.float32)
    return Prompts(tokens, positions, np.ones_like(tokens)), pixels


def _times(call: Callable[[], Any], steps: int, warmup: int) -> list[float]:
    times = []
    for _ in range(warmup + steps):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return times[warmup:]


def _child(python: str, script: str, arguments: list[str]) -> dict[str, Any]:
    """Runs one measurement and reads the JSON of its last line."""
    environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", **os.environ}
    command = [python, str(ROOT / "launch" / "bench" / script), *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All four measurements, and the ratios of their medians."""
    shared = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in
              ("preset", "batch", "text_len", "new_tokens", "steps", "warmup")]  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    for what in ("train", "generate"):
        for who, python, script, more in (
            ("ours", sys.executable, "model.py", ["--only", what]),
            ("peer", options.peer_python, "torch_expllm.py", [what]),
        ):
            print(f"{what}: {who} ...", file=sys.stderr, flush=True)
            found[f"{who}_{what}"] = _child(python, script, [*more, *shared])
    seconds = {name: statistics.median(result["times_s"]) for name, result in found.items()}
    flops = step_flops(preset(options.preset), options.batch, options.text_len)
    peak = found["ours_train"]["gemm_flop_per_s"]
    return {
        "preset": options.preset,
        "batch": options.batch,
        "text_len": options.text_len,
        "new_tokens": options.new_tokens,
        "device": jax.devices()[0].device_kind,
        "train_ratio": seconds["peer_train"] / seconds["ours_train"],
        "generate_ratio": seconds["peer_generate"] / seconds["ours_generate"],
        "gemm_fraction": flops / seconds["ours_train"] / peak,
        "gemm_flop_per_s": peak,
        "step_flop": flops,
        "seconds": seconds,
        "samples_per_s": {who: options.batch / seconds[f"{who}_train"] for who in ("ours", "peer")},
        "new_tokens_per_s": {
            who: options.batch * options.new_tokens / seconds[f"{who}_generate"] for who in ("ours", "peer")
        },
        "times_s": {name: result["times_s"] for name, result in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="example: python launch/bench/model.py --preset small --json"
    )
    parser.add_argument("--preset", default="small", choices=["tiny", "small", "7b"], help="7b needs a GPU")
    parser.add_argument("--batch", type=int, default=4, help="rows (default: 4)")
    parser.add_argument("--text-len", type=int, default=192, help="text tokens of a row (default: 192)")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens to generate (default: 64)")
    parser.add_argument("--steps", type=int, default=5, help="calls that count (default: 5)")
    parser.add_argument("--warmup", type=int, default=2, help="calls before those (default: 2)")
    parser.add_argument("--peer-python", default=str(ROOT / ".venv-parity" / "bin" / "python"),
                        help="an interpreter with torch, transformers and peft (default: .venv-parity's)")  # fmt: skip
    parser.add_argument("--only", choices=["train", "generate"], help="measure ours alone")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    if min(options.batch, options.text_len, options.new_tokens, options.steps) < 1 or options.warmup < 0:
        parser.error("--batch, --text-len, --new-tokens and --steps are 1 or more, --warmup 0 or more")
    if options.only:
        measure = {"train": measure_train, "generate": measure_generate}[options.only]
        print(json.dumps(measure(preset(options.preset), options)))
        return
    if not os.access(options.peer_python, os.X_OK):
        parser.error(f"there is no interpreter {options.peer_python}; see --peer-python, and this file's first lines")
    result = compare(options)
    if not options.json:
        print(f"train     {result['samples_per_s']['ours']:.3f} samples/s, peer {result['samples_per_s']['peer']:.3f}: "
              f"{result['train_ratio']:.2f}x; {result['gemm_fraction']:.0%} of the products' speed\n"
              f"generate  {result['new_tokens_per_s']['ours']:.1f} tokens/s, peer "
              f"{result['new_tokens_per_s']['peer']:.1f}: {result['generate_ratio']:.2f}x")  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
