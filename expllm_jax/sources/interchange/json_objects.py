"""JSON files that hold objects: one list, or one object a line. Which it is shows in the first character.

A byte order mark and Windows line ends are taken as they come. Every object comes with the place it stands at, which
every complaint about it begins with: the line of a file of lines, the index (from 0) in a list.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.faces.annotation import parsed_json
from expllm_jax.files import text_file
from expllm_jax.sources.dataset import Problems
from expllm_jax.sources.listing import Listing, inside


@dataclass(frozen=True)
class Entry:
    """One object of a file."""

    file: Path
    counted: str  # "line" or "index": how its place is counted
    number: int
    value: dict[str, Any]

    @property
    def place(self) -> str:
        """As in "line 3"."""
        return f"{self.counted} {self.number}"

    @property
    def where(self) -> str:
        """File and place, as complaints begin."""
        return f"{self.file}, {self.place}"

    def provenance(self) -> dict[str, str]:
        """What an annotation says of where it stood: "label_file", and "line" or "index"."""
        return {"label_file": self.file.name, self.counted: str(self.number)}

    def error(self, problem: str, remedy: str) -> ExpllmError:
        """An error about this object."""
        return ExpllmError(f"{self.where}: {problem}", remedy)

    def check_keys(self, known: Collection[str]) -> None:
        """Raises ExpllmError for a key that the format has not: what it says would be lost."""
        unknown = [key for key in self.value if key not in known]
        if unknown:
            raise self.error(f"unknown key {unknown[0]!r}.", f"The keys are {', '.join(known)}.")

    def text(self, key: str) -> str:
        """The text at a key; raises ExpllmError if there is none."""
        value = self.value.get(key)
        if not isinstance(value, str):
            raise self.error(f"the key {key!r} holds {_short(value)} and no text.", "Mend the entry.")
        return value

    def numbers(self, key: str, count: int) -> list[float]:
        """The `count` numbers at a key; raises ExpllmError if it holds anything else."""
        value = self.value.get(key)
        if not (isinstance(value, list) and len(value) == count and all(map(_is_number, value))):
            raise self.error(f"the key {key!r} holds {_short(value)} and not {count} numbers.", "Mend the entry.")
        return [float(number) for number in value]

    def picture(self, key: str, *, rooted: bool = False) -> str:
        """The path at a key, relative to the folder of pictures. `rooted`: it may begin with a "/", which is taken off:
        some formats write paths as they stand behind the folder of all data sets.

        Raises ExpllmError for no path, or one that leads out of the folder of pictures.
        """
        path = self.text(key)
        try:
            return inside(path.removeprefix("/") if rooted else path)
        except ExpllmError as error:
            raise self.error(error.problem, error.remedy) from error


def read_objects(path: str | os.PathLike[str], problems: Problems) -> Iterator[Entry]:
    """The objects of a file, in its order: lines as they are read, a list once it is read. `problems` is told of every
    line or element that is no object.

    Raises:
        ExpllmError: the file cannot be read, is not UTF-8, or is one list that is not JSON.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
            file.seek(0)
            if first.lstrip().startswith("["):
                yield from _listed(path, file.read(), problems)
            else:
                yield from _lines(path, file, problems)
    except OSError as error:
        raise ExpllmError(f"Cannot read {path}: {error.strerror}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise ExpllmError(f"{path} is not UTF-8 text.", "Save it as UTF-8.") from error


def read_annotated(
    path: str | os.PathLike[str],
    annotation_of: Callable[[Entry], Annotation],
    *,
    pictures: str | os.PathLike[str] | None,
    problems: Problems,
    name_of: Callable[[Entry], object] | None = None,
) -> Iterator[Annotation]:
    """The annotations that a file's entries make.

    Args:
        path: the file.
        annotation_of: turns an entry into an annotation, or raises ExpllmError (which need not say where).
        pictures: the folder of the pictures; every picture that is named must lie there. None checks nothing.
        problems: is told of every entry that is left out.
        name_of: what no two entries may share; by default the picture. None stands for an entry without a name.

    Raises:
        ExpllmError: as :func:`read_objects`, or from `problems`.
    """
    listing = None if pictures is None else Listing(Path(pictures))
    seen: dict[object, str] = {}
    for entry in read_objects(path, problems):
        try:
            try:
                annotation = annotation_of(entry)
            except ExpllmError as error:
                told = error.problem.startswith(entry.where)
                raise error if told else entry.error(error.problem, error.remedy) from error
            name = annotation.picture if name_of is None else name_of(entry)
            if name is not None and name in seen:
                raise entry.error(f"{name!r} stands at {seen[name]} already.", "Remove one of the two.")
            if listing is not None and not listing.has(annotation.picture):
                raise entry.error(
                    f"there is no picture {annotation.picture!r} in {listing.root}.",
                    "Check the folder of pictures, or remove the entry.",
                )
        except ExpllmError as error:
            problems(error)
            continue
        seen[name] = entry.place
        yield annotation


def write_json_list(path: str | os.PathLike[str], objects: Iterable[dict[str, Any]]) -> int:
    """Writes one JSON list and returns how many objects it holds; see :func:`write_json_lines`."""
    return _write(path, objects, "[", ", ", "]")


def write_json_lines(path: str | os.PathLike[str], objects: Iterable[dict[str, Any]]) -> int:
    """Writes one JSON object a line and returns how many. The file appears under its name only when it is complete.

    Raises:
        ExpllmError: the folder cannot be written to, or what `objects` raises.
    """
    return _write(path, objects, "", "\n", "\n")


def _listed(path: Path, text: str, problems: Problems) -> Iterator[Entry]:
    try:
        values = parsed_json(text)
    except json.JSONDecodeError as error:
        raise ExpllmError(
            f"{path}, line {error.lineno}: not JSON ({error.msg} at column {error.colno}).", "Mend the file."
        ) from error
    for index, value in enumerate(values):
        if isinstance(value, dict):
            yield Entry(path, "index", index, value)
        else:
            problems(ExpllmError(f"{path}, index {index}: {_short(value)} is no object.", "Remove or mend it."))


def _lines(path: Path, lines: Iterable[str], problems: Problems) -> Iterator[Entry]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = parsed_json(line)
        except json.JSONDecodeError as error:
            problems(
                ExpllmError(
                    f"{path}, line {number}: not JSON ({error.msg} at column {error.colno}).",
                    "Mend or remove the line.",
                )
            )
            continue
        if isinstance(value, dict):
            yield Entry(path, "line", number, value)
        else:
            problems(ExpllmError(f"{path}, line {number}: {_short(value)} is no object.", "Remove or mend it."))


def _write(path: str | os.PathLike[str], objects: Iterable[dict[str, Any]], start: str, between: str, end: str) -> int:
    count = 0
    with text_file(path) as file:
        file.write(start)
        for value in objects:
            file.write((between if count else "") + json.dumps(value, ensure_ascii=False, allow_nan=False))
            count += 1
        file.write(end)
    return count


def _is_number(value: object) -> bool:
    """A finite number that a float can hold; Python's JSON knows others."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
