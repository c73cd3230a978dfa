"""Files and folders that appear under their name whole, or not at all.

What is written stands beside its place under a hidden name of its own, `.NAME.*.partial`, until it is complete; the
step that shows it is a rename. Readers never meet half a file, an error leaves what was there before, and two writers
do not mix. Only a killed process leaves its hidden file behind.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from expllm_jax.errors import ExpllmError


def write_whole(path: str | os.PathLike[str], content: bytes | str, *, sync: bool = True) -> Path:
    """Writes `content`, text as UTF-8, to `path` and returns it; missing folders are made.

    Args:
      path: the file; one that is there is replaced.
      content: all of it.
      sync: waits until it is on the disk, so that not even a power cut leaves a name without its content. Costs
        milliseconds: leave it out for many small files that can be made again.

    Raises:
      ExpllmError: it cannot be written; an old file is as it was.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    with _explained(path), unfinished(path, sync=sync) as partial:
        partial.write_bytes(data)
    return path


@contextmanager
def text_file(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """A file to write text into, as UTF-8 with "\\n" at line ends; it becomes `path` when the block ends well.

    Raises ExpllmError if it cannot be written, and whatever the block raises; either way an old file is as it was.
    """
    path = Path(path)
    with (
        _explained(path),
        unfinished(path) as partial,
        partial.open("x", encoding="utf-8", newline="\n") as file,
    ):
        yield file


@contextmanager
def unfinished(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A path in the same folder to make a file at; it becomes `path` when the block ends well. For writers that want a
    path; see `write_whole` for `sync`.

    Raises OSError, and whatever the block raises; the half-made file is removed then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        if sync:
            _sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def put_in_place(building: Path, folder: Path) -> None:
    """Makes the folder `building` the folder `folder`, beside it, whatever stood there before.

    Raises OSError, and then leaves both as they were.
    """
    replaced = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        os.replace(folder, replaced)  # a folder that is not empty cannot be replaced in one step
    try:
        os.replace(building, folder)
    except OSError:
        if replaced.exists():
            os.replace(replaced, folder)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExpllmError(
            f"{path} cannot be written ({error.strerror or error})",
            "choose a folder that you may write to, on a disk with room",
        ) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
