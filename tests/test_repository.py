"""What may be in the repository: small text, no weights, no paths of one computer; and packaging that agrees."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from expllm_jax import assets

ROOT = Path(__file__).parent.parent
TOP_LEVEL = {"expllm_jax", "configs", "launch", "tests", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"}
HIDDEN = {".ci", ".gitignore", ".ruff.toml"}
WEIGHTS_AND_DATA = set(".onnx .gguf .safetensors .pth .pt .bin .task .tflite .whl .zip .pkl .pickle .model".split())
# Split so that this file does not find itself.
MACHINE_PATHS = re.compile(r"(?<![\w.~}/])/(?:" + "|".join(["root", "home", "Users", "work"]) + r")/[\w.]+")


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """All that is, or would be, committed; relative to the root."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [Path(name) for name in sorted(set(listed)) if name and (ROOT / name).is_file()]


def test_the_top_level_holds_only_what_belongs_there(files):
    assert {path.parts[0] for path in files} <= TOP_LEVEL | HIDDEN


def test_nothing_is_large(files):
    assert [str(path) for path in files if (ROOT / path).stat().st_size > 1_000_000] == []


def test_no_weights_and_no_downloads(files):
    assert [str(path) for path in files if path.suffix.lower() in WEIGHTS_AND_DATA] == []


def test_no_path_of_one_computer(files):
    found = []
    for path in files:
        try:
            lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:  # a picture or an array
            continue
        found += [f"{path}:{number}: {line}" for number, line in enumerate(lines, 1) if MACHINE_PATHS.search(line)]
    assert found == []


def test_the_code_is_clean():
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "."]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_pyproject_holds_only_the_build_system():
    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text())) == {"build-system"}


def read_lock(name: str) -> dict[str, str]:
    """Package (in lower case, with dashes) -> version, of one lock file and those it includes."""
    pins: dict[str, str] = {}
    for line in (ROOT / "launch/lock" / f"{name}.txt").read_text().splitlines():
        if line.startswith("-r "):
            pins |= read_lock(line.removeprefix("-r ").removesuffix(".txt"))
        elif not line.startswith("#"):
            package, version = line.split("==")  # anything but an exact pin fails here
            pins[re.sub(r"[-_.]+", "-", package).lower()] = version
    return pins


@pytest.mark.parametrize(("lock", "extra"), [("base", None), ("dev", "dev"), ("parity", "parity")])
def test_the_lock_pins_what_setup_cfg_asks_for(lock, extra):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    section = setup["options.extras_require"][extra] if extra else setup["options"]["install_requires"]
    pins = read_lock(lock)
    for requirement in section.split():
        package, minimum = re.fullmatch(r"([\w.-]+)[>=]=([\w.]+)", requirement).groups()
        assert pins[re.sub(r"[-_.]+", "-", package).lower()] == minimum, requirement


def test_the_lock_for_beam_differs_only_where_beam_asks_for_it():
    tested, beam = read_lock("dev"), read_lock("beam")
    differing = {package for package in tested.keys() & beam.keys() if tested[package] != beam[package]}
    assert differing == {"pillow", "protobuf", "pyarrow", "python-dateutil", "sentencepiece"}


def test_the_packaged_assets_are_not_dependencies():
    assert not {asset.package for asset in assets.ASSETS.values()} & set(read_lock("parity"))


SCRIPTS = "launch/demo.sh launch/test.sh launch/install.sh launch/tpu_vm.sh launch/on_tpu_worker.sh launch/gke.sh"
SCRIPTS += " launch/slurm.sh tests/launch/one_node_slurm.sh tests/launch/slurm_run.sh .ci/run"


@pytest.mark.parametrize("script", SCRIPTS.split())
def test_scripts_are_executable_and_parse(script):
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", path], check=True)
