"""What leaves a run for others: the model alone, as an Orbax checkpoint or as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from expllm_jax.errors import ExpllmError
from expllm_jax.infer import export_run, read_model_files, read_run_params
from expllm_jax.stages import RunFolder
from expllm_jax.weights import SHARD_BYTES, AdapterForm, export_safetensors


def export_model(run: RunFolder) -> Path:
    """The inference checkpoint in the run's `export/`; one that is there already is written anew."""
    export_run(run.path, run.export, overwrite=run.export.exists())
    return run.export


def export_weights(
    run_dir: str | Path,
    folder: str | Path,
    *,
    adapters: AdapterForm = "merged",
    image_size: int | Literal["run", "stored"] = "run",
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Safetensors of a run or an export: vision, projector and decoder in the layouts that other tools open.

    Args:
      run_dir: the run or export.
      folder: must not exist yet.
      adapters: "merged" into the kernels, or "peft" for adapters beside the plain parts.
      image_size: pixels a side that the tower's position table is fitted to; "run": those of the run's own pictures;
        "stored": the table stays as it is.
      shard_bytes: largest weight file.

    Raises:
      ExpllmError: as `weights.export_safetensors` and `infer.read_run_params` do, or the folder cannot be written.
    """
    files = read_model_files(run_dir)
    params = read_run_params(run_dir, files.config)[0]
    pixels = {"run": files.pictures.size, "stored": None}.get(image_size, image_size)
    try:
        return export_safetensors(
            params, files.config, folder, adapters=adapters, image_size=pixels, shard_bytes=shard_bytes
        )
    except OSError as error:
        raise ExpllmError(
            f"the weights cannot be written to {folder} ({error.strerror or error})",
            "choose a folder on a disk that has room and that you may write to",
        ) from error
