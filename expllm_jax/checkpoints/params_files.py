"""Parameters alone as Orbax checkpoints: the frozen part of a run, and exports.

Such a folder opens anywhere with ``orbax.checkpoint.v1.load(folder)``: a flat dict of "/"-joined paths. It is complete
or absent: it is written beside its place and renamed (in a bucket, marked as complete by its last file). Every process
of a run calls these functions, and each reads and writes its own shards of the arrays.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from expllm_jax.checkpoints.fingerprint import params_fingerprint
from expllm_jax.checkpoints.orbax_errors import explained, silence_orbax
from expllm_jax.checkpoints.places import absolute, is_remote
from expllm_jax.errors import ExpllmError
from expllm_jax.files import put_in_place
from expllm_jax.parallel import barrier, is_first

Params = dict[str, jax.Array]

FROZEN = "frozen"
"""Folder of a run that holds the parameters that do not train."""

_FINGERPRINT = "fingerprint"
_PATIENCE = 3600.0  # seconds that processes wait for the first one to move a folder, or for the slowest to write
_MARK = "_CHECKPOINT_METADATA"  # the file by which Orbax knows its own folders


def save_frozen(run_dir: str | Path, params: Mapping[str, jax.Array]) -> str:
    """Writes `run_dir/frozen` unless the very same parameters are there already; returns their fingerprint.

    A 7B base is so written once for all checkpoints of a run; nothing is gathered, on devices or hosts.

    Raises ExpllmError if other parameters are there, or the folder cannot be written.
    """
    folder, fingerprint = epath.Path(run_dir) / FROZEN, params_fingerprint(params)
    if not folder.exists():
        _save(folder, params, {_FINGERPRINT: fingerprint})
    elif (found := _metadata(folder).custom_metadata.get(_FINGERPRINT)) != fingerprint:
        raise ExpllmError(
            f"{folder} holds other frozen parameters ({str(found)[:12]}…, not {fingerprint[:12]}…)",
            "train from the weights this run began with, or choose another run folder",
        )
    return fingerprint


def load_frozen(run_dir: str | Path, shardings: Mapping[str, jax.sharding.Sharding] | None = None) -> Params:
    """Reads `run_dir/frozen`; see `load_params`."""
    return load_params(epath.Path(run_dir) / FROZEN, shardings)[0]


def export_inference(
    folder: str | Path, params: Mapping[str, jax.Array], meta: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Writes the model as one Orbax checkpoint.

    ``orbax.checkpoint.v1.load(folder)`` gives the parameters and ``.metadata(folder).custom_metadata`` gives `meta`,
    with no need for this package.

    Args:
      folder: where it goes; must not exist, or be an Orbax checkpoint and `overwrite` be given.
      params: path → array.
      meta: JSON-able description (configuration, origin).

    Raises:
      ExpllmError: the folder exists, or cannot be written.
    """
    folder = epath.Path(folder)
    if folder.exists() and not overwrite:
        raise ExpllmError(f"{folder} exists already", "choose another folder, or ask to overwrite it")
    if folder.exists() and not (folder / _MARK).is_file():
        raise ExpllmError(f"{folder} exists and is no checkpoint", "choose another folder; it is left as it is")
    _save(folder, params, {**meta, _FINGERPRINT: params_fingerprint(params)})


def load_inference(
    folder: str | Path, shardings: Mapping[str, jax.sharding.Sharding] | None = None
) -> tuple[Params, dict[str, Any]]:
    """Reads what `export_inference` wrote: (params, meta)."""
    params, meta = load_params(folder, shardings)
    return params, {key: value for key, value in meta.items() if key != _FINGERPRINT}


def inference_meta(folder: str | Path) -> dict[str, Any]:
    """The `meta` of what `export_inference` wrote; no parameter is read.

    Raises ExpllmError if the folder is missing, or no such checkpoint.
    """
    meta = _metadata(epath.Path(folder)).custom_metadata or {}
    return {key: value for key, value in meta.items() if key != _FINGERPRINT}


def load_params(
    folder: str | Path, shardings: Mapping[str, jax.sharding.Sharding] | None = None
) -> tuple[Params, dict[str, Any]]:
    """Reads a folder of parameters and its metadata, and checks their fingerprint.

    Args:
      folder: an Orbax checkpoint of a flat dict of arrays.
      shardings: where each parameter goes; None: all to the first device.

    Raises:
      ExpllmError: the folder is missing, damaged, or its content is not what was written.
    """
    folder = epath.Path(folder)
    metadata = _metadata(folder)
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[path] if shardings else first)
        for path, leaf in metadata.metadata.items()
    }
    with explained(f"the parameters in {folder} cannot be read", "they are damaged: write them again"):
        params = ocp.load(absolute(folder), wanted)
    meta = dict(metadata.custom_metadata or {})
    if meta.get(_FINGERPRINT, fingerprint := params_fingerprint(params)) != fingerprint:
        raise ExpllmError(f"the parameters in {folder} are not those that were written", "write them again")
    return params, meta


def _metadata(folder: epath.Path) -> ocp.CheckpointMetadata:
    silence_orbax()
    if not folder.is_dir():
        raise ExpllmError(f"there are no parameters at {folder}", "check the path")
    with explained(f"{folder} is not a readable checkpoint of parameters", "check the path, or write it again"):
        metadata = ocp.metadata(absolute(folder))
        if not isinstance(metadata.metadata, dict) or not metadata.metadata:
            raise ValueError("it holds no flat dict of arrays")
        return metadata


def _save(folder: epath.Path, params: Mapping[str, jax.Array], meta: dict[str, Any]) -> None:
    """Writes beside `folder` and moves it there, so that what `folder` held before stays whole until then."""
    silence_orbax()
    folder = absolute(folder)
    with explained(f"parameters cannot be written to {folder}", "choose a folder on a disk that can be written"):
        if is_remote(folder):  # nothing can be renamed there; Orbax marks what is complete
            ocp.save(folder, dict(params), custom_metadata=meta, overwrite=True)
            return
        building = Path(folder.with_name(f".{folder.name}.partial"))
        if is_first():
            folder.parent.mkdir(parents=True, exist_ok=True)
        barrier(f"{folder} can be written", _PATIENCE)
        try:
            ocp.save(building, dict(params), custom_metadata=meta, overwrite=True)
            if is_first():
                put_in_place(building, Path(folder))
            barrier(f"{folder} is written", _PATIENCE)
        finally:
            if is_first():
                shutil.rmtree(building, ignore_errors=True)
