"""Which files there are: each folder is listed once, however many pictures are asked about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from posixpath import join, split

from expllm_jax.errors import ExpllmError

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"))
# What file managers leave behind; they say nothing about a dataset.
_LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))


def is_picture(name: str) -> bool:
    """Whether a file name ends as pictures do."""
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def inside(path: str) -> str:
    """The same relative path, without "." parts and doubled slashes.

    Raises:
        ExpllmError: the path is empty, absolute, or leads out of the dataset's folder.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith(("/", "\\")) or path[1:3] in (":\\", ":/"):
        raise ExpllmError(f"The path {path!r} is absolute.", "Paths are relative to the dataset's folder.")
    if "\\" in path:
        raise ExpllmError(f"The path {path!r} has backslashes.", "Write it with '/' between folders.")
    if ".." in parts:
        raise ExpllmError(f"The path {path!r} leads out of the dataset's folder.", "Remove its '..'.")
    if not parts:
        raise ExpllmError("The path of the picture is empty.", "Give the picture's name.")
    return "/".join(parts)


class Listing:
    """The files and folders below a root, listed on demand and remembered. Hidden ones do not count."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, tuple[frozenset[str], tuple[str, ...]]] = {}

    def _list(self, folder: str) -> tuple[frozenset[str], tuple[str, ...]]:
        known = self._known.get(folder)
        if known is None:
            files: list[str] = []
            folders: list[str] = []
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        if not entry.name.startswith(".") and entry.name.lower() not in _LITTER:
                            (folders if self._is_folder(entry) else files).append(entry.name)
            except (FileNotFoundError, NotADirectoryError):
                pass  # no such folder holds no such file
            except OSError as error:
                raise ExpllmError(
                    f"Cannot list {self.root / folder}: {error.strerror}.", "Check its rights."
                ) from error
            known = self._known[folder] = frozenset(files), tuple(sorted(folders))
        return known

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        """Links count as what they lead to; one that leads nowhere is a file, which cannot be read.

        Raises:
            ExpllmError: a link leads back to a folder that it lies in, so that there would be no end of files.
        """
        if not entry.is_symlink():
            return entry.is_dir()
        if not os.path.isdir(entry.path):
            return False
        here, there = os.path.realpath(os.path.dirname(entry.path)), os.path.realpath(entry.path)
        if os.path.commonpath((here, there)) == there:
            raise ExpllmError(f"{entry.path} is a link to a folder that it lies in, {there}.", "Remove the link.")
        return True

    def files(self, folder: str) -> frozenset[str]:
        """Names of the files directly in a folder; empty if there is no such folder."""
        return self._list(folder)[0]

    def folders(self, folder: str) -> tuple[str, ...]:
        """Names of the folders directly in a folder, in order."""
        return self._list(folder)[1]

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        folder, name = split(path)
        return name in self._list(folder)[0]

    def pictures_in(self, folder: str) -> list[str]:
        """Paths of the pictures directly in a folder, in order."""
        return [join(folder, name) for name in sorted(self.files(folder)) if is_picture(name)]

    def walk(self, folder: str) -> Iterator[str]:
        """Paths of all files in a folder and the folders below it, in order."""
        for name in sorted(self.files(folder)):
            yield join(folder, name)
        for name in self.folders(folder):
            yield from self.walk(join(folder, name))

    def pictures(self, folder: str) -> Iterator[str]:
        """Those of them that are pictures."""
        return filter(is_picture, self.walk(folder))


def first_of(names: list[str], most: int = 5) -> str:
    """A list for a message: the first few names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
