"""What this computer has, what is missing for which purpose, and what to install for it: behind `expllm doctor`."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from expllm_jax import __version__, assets
from expllm_jax.errors import ExpllmError

TESTED_PYTHON = (3, 11)
TESTED = {  # package -> the version that the tests run with; the same as in launch/lock/base.txt
    "jax": "0.10.2",
    "jaxlib": "0.10.2",
    "flax": "0.12.8",
    "optax": "0.2.8",
    "orbax-checkpoint": "0.12.8",
    "grain": "0.2.18",
    "tensorflow-datasets": "4.9.10",
    "array_record": "0.8.6",
    "numpy": "2.4.6",
    "sentencepiece": "0.2.3",
    "tokenizers": "0.23.3",
    "gguf": "0.19.0",
    "pillow": "13.0.0",
    "numba": "0.68.1",
    "matplotlib": "3.11.2",
    "safetensors": "0.8.0",
    "tensorboardX": "2.6.5",
}
EXTRAS = {  # extra of setup.cfg -> what it is for, and the packages that show it is there (any one line of them)
    "tpu": ("training on TPUs", (("libtpu",),)),
    "cuda": ("training on NVIDIA GPUs", (("jax-cuda12-plugin",), ("jax-cuda13-plugin",))),
    "fit": ("compiling for a pod one does not have", (("libtpu",),)),
    "parity": ("comparing numbers with other implementations", (("torch", "transformers", "onnx", "onnxruntime"),)),
    "dev": ("running the tests", (("pytest", "hypothesis", "pytest-xdist", "ruff", "mypy"),)),
}
MEMORY_NEEDED = 6e9  # bytes; with less a note warns, nothing is refused
DISK_NEEDED = 3e9  # bytes for all assets, one set of renders, their features and checkpoints; likewise


@dataclasses.dataclass(frozen=True)
class Package:
    """A package the project uses; `version` is "" where it is not installed."""

    name: str
    version: str
    tested: str


@dataclasses.dataclass(frozen=True)
class Device:
    """An accelerator (or the CPU) as JAX sees it; `memory_bytes` is 0 where the backend does not say."""

    kind: str
    platform: str
    memory_bytes: int


@dataclasses.dataclass(frozen=True)
class CachedAsset:
    """One entry of `assets.ASSETS`; state is "ready", "absent" or "damaged"."""

    name: str
    what: str
    licence: str
    state: str
    path: str
    download_bytes: int


@dataclasses.dataclass(frozen=True)
class Extra:
    """An optional part of the installation."""

    name: str
    purpose: str
    installed: bool


@dataclasses.dataclass(frozen=True)
class DoctorReport:
    """Everything that was looked at. `problems` keep the project from working here, `notes` are good to know."""

    version: str
    python: str
    system: str
    packages: tuple[Package, ...]
    extras: tuple[Extra, ...]
    devices: tuple[Device, ...]
    cores: int
    memory_bytes: int  # of the computer, or of the container if that is less; 0 if unknown
    memory_free_bytes: int  # 0 if unknown
    cache: str
    disk_free_bytes: int  # on the disk of the cache
    verified: bool  # whether every byte of the assets was read
    assets: tuple[CachedAsset, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether the project works here."""
        return not self.problems

    def to_json(self) -> dict:
        """The report as plain values."""
        return dataclasses.asdict(self) | {"healthy": self.healthy}


def run(verify: bool = False) -> DoctorReport:
    """Looks at everything; with `verify`, reads cached assets in full. Starts JAX, fetches nothing, changes nothing."""
    problems: list[str] = []
    notes: list[str] = []
    packages = tuple(Package(name, _installed(name), tested) for name, tested in TESTED.items())
    extras = tuple(
        Extra(name, purpose, any(all(map(_installed, line)) for line in lines))
        for name, (purpose, lines) in EXTRAS.items()
    )
    devices, backend_problem = _devices()
    memory, memory_free = _memory()
    cache = assets.cache_dir()
    disk_free = _disk_free(cache)
    cached, damage = _cached_assets(verify)

    missing = [package.name for package in packages if not package.version]
    if missing:
        problems.append(f"not installed: {', '.join(missing)}; run `pip install -e .` in the checkout")
    others = [f"{p.name} {p.version} (tested: {p.tested})" for p in packages if p.version not in ("", p.tested)]
    if others:
        notes.append(f"untested versions: {', '.join(others)}; launch/lock/base.txt pins the tested ones")
    if sys.version_info[:2] != TESTED_PYTHON:
        notes.append(f"Python {platform.python_version()} is untested; the tests run on {_dotted(TESTED_PYTHON)}")
    if backend_problem and "jax" not in missing:
        problems.append(f"JAX finds no device: {backend_problem}; with JAX_PLATFORMS=cpu it uses the processor")
    notes += _accelerator_notes(devices)
    problems += damage
    if 0 < memory < MEMORY_NEEDED:
        notes.append(f"{_gb(memory)} of memory: the demo may need {_gb(MEMORY_NEEDED)}")
    if disk_free < DISK_NEEDED:
        notes.append(
            f"{_gb(disk_free)} free on the disk of {cache}: assets and the demo need about {_gb(DISK_NEEDED)}; "
            f"free some, or set EXPLLM_CACHE to a folder on another disk"
        )
    if not os.access(_existing(cache), os.W_OK):
        notes.append(f"{cache} cannot be written: nothing more can be fetched; set EXPLLM_CACHE to a folder of yours")
    return DoctorReport(
        version=__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=packages,
        extras=extras,
        devices=devices,
        cores=_cores(),
        memory_bytes=memory,
        memory_free_bytes=memory_free,
        cache=str(cache),
        disk_free_bytes=disk_free,
        verified=verify,
        assets=cached,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def render(report: DoctorReport) -> str:
    """The report as text for a terminal, without a trailing newline."""
    memory_free = f", {_gb(report.memory_free_bytes)} free" if report.memory_free_bytes else ""
    lines = [
        f"expllm_jax {report.version}",
        f"  python    {report.python}",
        f"  system    {report.system}",
        f"  computer  {report.cores} cores, {_gb(report.memory_bytes)} memory{memory_free}",
        f"  cache     {report.cache}, {_gb(report.disk_free_bytes)} free on its disk",
        "devices",
        *(
            f"  {device.platform:<9} {device.kind}" + (f", {_gb(device.memory_bytes)}" if device.memory_bytes else "")
            for device in report.devices
        ),
        "packages",
        *_table(
            (p.name, p.version or "missing", "" if p.version == p.tested else f"tested: {p.tested}")
            for p in report.packages
        ),
        "extras",
        *_table(
            (extra.name, "installed" if extra.installed else "-", extra.purpose)
            + (() if extra.installed else (f"pip install -e '.[{extra.name}]'",))
            for extra in report.extras
        ),
        "assets" + (" (every byte checked)" if report.verified else " (sizes checked; --verify reads every byte)"),
        *_table((a.name, a.state, f"{a.download_bytes / 1e6:.1f} MB", a.what, a.licence) for a in report.assets),
    ]
    if any(asset.state == "absent" for asset in report.assets):
        lines.append("  absent ones are fetched from PyPI when they are first needed")
    for heading, entries in (("to know", report.notes), ("to mend", report.problems)):
        if entries:
            lines += [heading, *(f"  - {entry}" for entry in entries)]
    lines.append("all is well" if report.healthy else f"{len(report.problems)} to mend")
    return "\n".join(line.rstrip() for line in lines)


def _installed(package: str) -> str:
    """The installed version of a package, or ""."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _devices() -> tuple[tuple[Device, ...], str]:
    """What JAX finds, and why it finds nothing if that is so."""
    try:
        import jax  # here, because a report has to come even where JAX is missing or broken

        found = jax.devices()
    except (ImportError, RuntimeError) as error:
        return (), str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return tuple(
        Device(device.device_kind, device.platform, int((device.memory_stats() or {}).get("bytes_limit", 0)))
        for device in found
    ), ""


def _accelerator_notes(devices: Sequence[Device]) -> list[str]:
    """Accelerators that the computer has and JAX does not use."""
    platforms = {device.platform for device in devices}
    if "cpu" in platforms and os.environ.get("JAX_PLATFORMS", "") != "cpu":
        if Path("/dev/nvidiactl").exists():
            return ["there is an NVIDIA GPU that JAX does not use; run `pip install -e '.[cuda]'`"]
        if Path("/dev/accel0").exists():
            return ["there is a TPU that JAX does not use; run `pip install -e '.[tpu]'`"]
    return []


def _cached_assets(verify: bool) -> tuple[tuple[CachedAsset, ...], list[str]]:
    """The state of each asset, and what is wrong with those that are damaged."""
    cached, damage = [], []
    for name, asset in assets.ASSETS.items():
        folder = assets.asset_folder(name)
        state = "ready" if assets.is_cached(name) else "absent"
        if folder.exists() and (verify or state == "absent"):
            try:
                assets.verify(name)
            except ExpllmError as error:
                state = "damaged"
                damage.append(f"{error.problem}; {error.remedy}")
        cached.append(CachedAsset(name, asset.what, asset.licence, state, str(folder), asset.wheel_bytes))
    return tuple(cached), damage


def _cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> tuple[int, int]:
    """Bytes of memory in all and free; 0 where the system does not say. A container's limit counts as the memory."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0, 0
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())  # "max" if there is no limit
    except (OSError, ValueError):
        limit = total
    try:
        free = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        free = None
    total = min(total, limit)
    return total, min(total, int(free[1]) * 1024) if free else 0


def _existing(path: Path) -> Path:
    """The nearest folder above (or at) `path` that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _disk_free(path: Path) -> int:
    return shutil.disk_usage(_existing(path)).free


def _table(rows) -> list[str]:
    """Rows of strings as indented lines with aligned columns."""
    rows = list(rows)
    columns = max(map(len, rows))
    widths = [max((len(row[column]) for row in rows if column < len(row)), default=0) for column in range(columns)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
