"""Compiling the update: with the options that were asked for, from the cache if it was compiled before, and timed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from expllm_jax.errors import ExpllmError
from expllm_jax.records import Shape

CACHE_VARIABLE = "EXPLLM_COMPILE_CACHE"
"""Environment variable: the folder for compiled programs, or `off`."""


def parsed_options(options: Sequence[str]) -> dict[str, str | bool]:
    """What "key=value" strings are to XLA, which reads numbers itself, but not `true` and `false`."""
    pairs = (option.partition("=")[::2] for option in options)
    return {key.strip(): {"true": True, "false": False}.get(value.strip(), value.strip()) for key, value in pairs}


def compiled(function: Any, arguments: Sequence[Any], options: Sequence[str]) -> tuple[jax.stages.Compiled, float]:
    """Compiles a jitted function for these arguments; the program, and how many seconds it took.

    Raises ExpllmError for an option that the compiler does not know, or a value that it does not take.
    """
    began = time.monotonic()
    lowered = function.lower(*arguments)
    try:
        program = lowered.compile(compiler_options=parsed_options(options) or None)
    except jax.errors.JaxRuntimeError as error:
        message = " ".join(str(error).split())
        if options and "INVALID_ARGUMENT" in message and "option" in message:
            raise ExpllmError(
                f"the compiler for {jax.default_backend()} refuses train.compiler_options {', '.join(options)}: "
                f"{message.removeprefix('INVALID_ARGUMENT: ')}",
                "correct or remove that option; each compiler has its own",
            ) from error
        raise
    return program, time.monotonic() - began


def program_facts(
    program: jax.stages.Compiled, compile_seconds: float, mesh: Mesh, shape: Shape, parts: int
) -> dict[str, Any]:
    """What an update is, for `run.json`: devices, rows, the program's memory on a device, and how long it compiled."""
    device = mesh.devices.flat[0]
    memory = program.memory_analysis()
    return {
        "compile_seconds": compile_seconds,
        "device": device.device_kind,
        "processes": jax.process_count(),
        "mesh": dict(mesh.shape),
        **shape._asdict(),
        "parts": parts,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "program_bytes": memory.generated_code_size_in_bytes,
    }


def use_compile_cache(folder: Path) -> None:
    """Lets JAX keep compiled programs, so that a process which takes up a run does not compile anew.

    EXPLLM_COMPILE_CACHE names another folder, or says `off`. Whoever has set JAX's own cache keeps it. On CPUs there is
    one only if the variable names it: JAX does not tell their instruction sets apart, so that a program from a folder
    which computers share may fail on another of them.
    """
    chosen = os.environ.get(CACHE_VARIABLE, "")
    if chosen == "off" or jax.config.jax_compilation_cache_dir or (not chosen and jax.default_backend() == "cpu"):
        return
    jax.config.update("jax_compilation_cache_dir", str(Path(chosen).expanduser() if chosen else folder))
    compilation_cache.reset_cache()  # programs compiled before have settled that there is none
