"""Where the weights of an experiment or a command may come from: another tool's files, or Orbax folders of ours."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from expllm_jax.checkpoints import inference_meta, load_inference
from expllm_jax.errors import ExpllmError
from expllm_jax.models import DecoderConfig, ExpLLMConfig, ViTConfig, abstract
from expllm_jax.weights import PARTS, ArraysInMemory, ForeignWeights, open_foreign
from expllm_jax.weights.naming import Source

_MARK = "_CHECKPOINT_METADATA"  # the file by which Orbax knows its own folders
_CHUNK = 1 << 22


def is_path(value: str) -> bool:
    """Whether the value of a key is meant as a path, and not as the name of an asset."""
    return "/" in value or "\\" in value or value.endswith((".gguf", ".onnx", ".safetensors")) or Path(value).exists()


def open_weights(path: str | Path) -> ForeignWeights:
    """Opens everything that `weights.open_foreign` does, and the Orbax folders that `expllm weights import` and
    `expllm export` write (whose content is read at once, and its fingerprint checked).

    Raises:
      ExpllmError: it is none of these, or damaged.
    """
    path = Path(path)
    if (path / _MARK).is_file():
        return _open_orbax(path)
    return open_foreign(path)


@functools.lru_cache(maxsize=8)
def described_config(path: str, part: str) -> ViTConfig | DecoderConfig:
    """The configuration of a part ("vision" or "decoder") as the weights at `path` describe it.

    Cached, since a configuration is checked whenever a key of it changes.
    """
    if (Path(path) / _MARK).is_file():
        kind, config = _orbax_config(Path(path))
        if kind == "model":
            return getattr(config, part)
        if kind != part:
            raise ExpllmError(f"{path} holds a {kind} part, not the {part} part", "give the weights of the right part")
        return config
    return open_foreign(path).part_of(part).config


def digest(weights: ForeignWeights, progress: Callable[[int, int], None] | None = None) -> str:
    """SHA-256 over the files: of the one file, or of the listing of all ("<sha256>  <name>", sorted, one a line)."""
    root = Path(weights.files.origin)
    root = root if root.is_dir() else root.parent
    total = sum(path.stat().st_size for path in weights.paths)
    sums, done = {}, 0
    for path in weights.paths:
        found = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
        sums[str(path.relative_to(root)) if path.is_relative_to(root) else path.name] = found.hexdigest()
    if len(sums) == 1:
        return next(iter(sums.values()))
    return hashlib.sha256("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()).hexdigest()


def orbax_meta(weights: ForeignWeights, **more: Any) -> dict[str, Any]:
    """What an Orbax folder must say of its parameters for `open_weights` to open it, and `more`."""
    return json.loads(json.dumps({"part": weights.part, "config": dataclasses.asdict(weights.config), **more}))


def _open_orbax(folder: Path) -> ForeignWeights:
    part, config = _orbax_config(folder)
    wanted = abstract(config)[1]
    on_host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    # also parameters that the configuration does not know are read: they are an error that is told with all others
    everywhere = collections.defaultdict(lambda: on_host, dict.fromkeys(wanted, on_host))
    params = load_inference(folder, everywhere)[0]
    arrays = ArraysInMemory(str(folder), {path: np.asarray(leaf) for path, leaf in params.items()})
    files = tuple(sorted(path for path in folder.rglob("*") if path.is_file()))
    return ForeignWeights(part, "Orbax", config, arrays, {path: Source(path) for path in wanted}, files)


def _orbax_config(folder: Path) -> tuple[str, ViTConfig | DecoderConfig | ExpLLMConfig]:
    """(part, its configuration) as the metadata of an Orbax folder say."""
    meta = inference_meta(folder)
    try:
        if "model" in meta:  # of `expllm export`
            return "model", ExpLLMConfig.from_json(meta["model"])
        part, settings = meta["part"], meta["config"]
        if part not in PARTS:
            raise ValueError(f"it holds the unknown part {part!r}")
        make = {"vision": ViTConfig, "decoder": DecoderConfig}.get(part)
        return part, ExpLLMConfig.from_json(settings) if make is None else make(**settings)
    except (KeyError, TypeError, ValueError) as error:
        raise ExpllmError(
            f"{folder} is an Orbax folder that does not say which model it holds ({error!r})",
            "give a folder that `expllm weights import` or `expllm export` wrote",
        ) from error
