"""How much memory and time it takes to load a sharded LLaMA into sharded parameters; prints one JSON object.

    python launch/bench/weights_import.py --gigabytes 4 --dtype bfloat16

Writes random shards with LLaMA names into a temporary folder, then loads them in a fresh process and compares the peak
of its resident memory with the bytes it loaded. `margin` is what the peak exceeds parameters and one tensor by.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ALLOWED = 1 << 30  # bytes that the peak may exceed parameters and the largest tensor by
SHARD = 512 << 20  # bytes of a shard, about
WIDTH, VOCAB = 1024, 32000


def settings(gigabytes: float, dtype: str) -> dict[str, object]:
    """The config.json of a LLaMA of about that size."""
    item = 2 if dtype == "bfloat16" else 4
    layer = 4 * WIDTH * WIDTH + 3 * WIDTH * 4 * WIDTH
    depth = max(1, round((gigabytes * 2**30 / item - 2 * VOCAB * WIDTH) / layer))
    return {
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": depth,
        "num_attention_heads": WIDTH // 64,
        "num_key_value_heads": WIDTH // 64,
        "rms_norm_eps": 1e-5,
        "torch_dtype": dtype,
    }


def write(folder: Path, gigabytes: float, dtype: str) -> None:
    """Shards, their index and config.json."""
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save_file

    described = settings(gigabytes, dtype)
    depth, wide = described["num_hidden_layers"], 4 * WIDTH
    shapes = {"model.embed_tokens.weight": (VOCAB, WIDTH)}
    for layer in range(depth):
        stem = f"model.layers.{layer}."
        shapes |= {f"{stem}self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
        shapes |= {f"{stem}mlp.{name}_proj.weight": (wide, WIDTH) for name in ("gate", "up")}
        shapes[f"{stem}mlp.down_proj.weight"] = (WIDTH, wide)
        shapes |= {f"{stem}{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")}
    shapes |= {"model.norm.weight": (WIDTH,), "lm_head.weight": (VOCAB, WIDTH)}
    rng = np.random.default_rng(0)
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
    # random bits would hold NaN; one block of normal numbers, rolled, keeps the writing quick
    block = rng.normal(size=VOCAB * WIDTH).astype(kind)
    shards: list[dict[str, np.ndarray]] = [{}]
    for number, (name, shape) in enumerate(shapes.items()):
        if sum(array.nbytes for array in shards[-1].values()) > SHARD:
            shards.append({})
        shards[-1][name] = np.roll(block[: int(np.prod(shape))], number).reshape(shape)
    weight_map = {}
    for number, shard in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
        shard.clear()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(described))


def load(folder: Path, dtype: str, devices: int) -> dict[str, object]:
    """Loads in this process, which has done nothing else."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    from expllm_jax.parallel import MeshConfig, make_mesh, param_shardings
    from expllm_jax.weights import open_foreign

    weights = open_foreign(folder).with_dtype(dtype)
    mesh = make_mesh(MeshConfig(data=1, fsdp=1, tensor=devices))
    shardings = param_shardings(weights.shapes(), mesh)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    loaded = weights.load(shardings=shardings)
    jax.block_until_ready(loaded.params)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    held = sum(leaf.nbytes for leaf in loaded.params.values())
    largest = max(info.nbytes for info in weights.files.tensors.values())
    return {
        "bytes_loaded": held,
        "peak_rss": peak,
        "rss_before": before,
        "largest_tensor": largest,
        "margin": peak - held - largest,
        "allowed_margin": ALLOWED,
        "holds": peak - held - largest <= ALLOWED,
        "devices": devices,
        "seconds": round(seconds, 2),
        "gigabytes_per_second": round(loaded.read_bytes / seconds / 1e9, 2),
    }


def main() -> None:
    """Writes in one process, loads in another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.1, help="size of the set (default: 1.1)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of files and parameters")
    parser.add_argument("--devices", type=int, default=1, help="fake CPU devices the parameters are split over")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(options.write, options.gigabytes, options.dtype)
        return
    if options.load:
        print(json.dumps(load(options.load, options.dtype, options.devices)))
        return
    folder = Path(tempfile.mkdtemp(prefix="expllm-weights-"))
    try:
        # Two processes, for Linux counts the peak of a process that starts another as the other's.
        for step in ("--write", "--load"):
            command = [sys.executable, __file__, step, folder, *sys.argv[1:]]
            subprocess.run([str(part) for part in command], check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
