"""Turns a file of torch.save into safetensors, which everything else here reads:

    python -m expllm_jax.weights.torch_pickle dinov2_vitl14_pretrain.pth dinov2_vitl14.safetensors

A pickle can run any code when it is loaded. This is the only place that opens one, in a process of its own, and only in
torch's weights-only mode, which makes tensors and plain containers and refuses everything else. torch is no dependency
of the package; it has to be installed for this command alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expllm_jax.errors import ExpllmError


def convert(source: str | Path, target: str | Path) -> int:
    """Writes the tensors of `source` to `target` under their names; returns how many.

    Tensors inside nested dictionaries get their keys joined by dots; a single outer key such as "state_dict" or "model"
    stays, so that nothing is renamed without a word. Tensors that share memory are written in full each.

    Raises:
      ExpllmError: torch is not installed, the target exists, or the source is no such file, holds anything but
        tensors in dictionaries, or would run code.
    """
    source, target = Path(source), Path(target)
    try:
        import torch
        from safetensors.torch import save_file
    except ImportError as error:
        raise ExpllmError(
            "torch is not installed, and only it can read its own files",
            "pip install torch, here or on another computer",
        ) from error
    if target.exists():
        raise ExpllmError(f"{target} exists already", "name another file; nothing is overwritten")
    if not source.is_file():
        raise ExpllmError(f"{source} is no file", "check the path")
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler, zip reader or storages meet
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExpllmError(
            f"{source} is not loaded: {reason[0][:300]}",
            "only files that hold nothing but tensors are converted; save the model's state_dict() alone",
        ) from error
    tensors: dict[str, Any] = {}
    _collect(loaded, "", tensors, str(source))
    if not tensors:
        raise ExpllmError(f"{source} holds no tensors", "check that it is the right file")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return len(tensors)


def _collect(value: Any, prefix: str, tensors: dict[str, Any], source: str) -> None:
    """Adds all tensors of nested dictionaries to `tensors`."""
    import torch

    if isinstance(value, torch.Tensor):
        name = prefix.removesuffix(".")
        if name in tensors:
            raise ExpllmError(f"{source} holds two tensors called {name!r}", "save the model's state_dict() alone")
        tensors[name] = value.detach()
    elif isinstance(value, dict):
        for key, inner in value.items():
            _collect(inner, f"{prefix}{key}.", tensors, source)
    else:
        raise ExpllmError(
            f"{source} holds a {type(value).__name__} at {prefix.removesuffix('.')!r}",
            "only tensors in dictionaries are converted; save the model's state_dict() alone",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m expllm_jax.weights.torch_pickle",
        description="Turns a file of torch.save into safetensors, without running what it may hold.",
        epilog="example: python -m expllm_jax.weights.torch_pickle dinov2_vitl14_pretrain.pth dinov2.safetensors",
    )
    parser.add_argument("source", help="a .pth, .pt or .bin file")
    parser.add_argument("target", help="the .safetensors file to write; it must not exist")
    options = parser.parse_args(arguments)
    try:
        written = convert(options.source, options.target)
    except ExpllmError as error:
        print(f"error: {error.problem}\n  to mend it: {error.remedy}", file=sys.stderr)
        return error.exit_status
    print(f"{written:,} tensors in {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
