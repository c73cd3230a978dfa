"""One small run that all tests of the command share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.cli.commands import Outcome, expllm


@pytest.fixture(scope="package")
def compiled(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Compiled programs are shared by all commands here; gives the environment for those that run as processes."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    settings = {"jax_compilation_cache_dir": folder, "jax_persistent_cache_min_compile_time_secs": 0.3}
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield {**os.environ, **{name.upper(): str(value) for name, value in settings.items()}}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="package")
def first(tmp_path_factory, compiled) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("cli") / "demo"
    return folder, expllm("demo", "--experiment", "tiny", "--out", folder)


@pytest.fixture(scope="package")
def run(first) -> Path:
    folder, outcome = first
    assert outcome.status == 0, outcome.err
    return folder
