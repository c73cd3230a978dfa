"""List files: which annotation sets make up an epoch, and how often each comes.

The released code mixes its data by them (`data_list/train/*.txt`): one set a line, three fields with commas between::

    annotations.json,folder/of/pictures,repeat

`repeat` 1 or more takes the whole set int(repeat) times, so 2.7 is twice; below 1 it takes a random part, int(records x
repeat) of them. Without a third field the set comes once. ExpLLM's 3 : 1 of labels to texts on RAF-DB is one line with
3 and one with 1. `mixture.MixedRows` takes such repeats.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.records.order import check_repeat


@dataclass(frozen=True)
class ListEntry:
    """One line of a list file."""

    annotations: Path
    pictures: Path
    repeat: float = 1.0  # above 0

    def __post_init__(self) -> None:
        check_repeat(self.repeat)


def read_list_file(path: str | Path, *, root: str | Path = ".") -> tuple[ListEntry, ...]:
    """The entries of a list file, in order. Empty lines and those that begin with "#" are passed over.

    Args:
      path: the list file.
      root: what relative paths in it start from, as the released code starts from the folder that it is called in.

    Raises:
      ExpllmError: the file cannot be read or lists nothing; or, with file and line, a line has not two or three fields,
        a bad repeat, or names what does not exist.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ExpllmError(f"list file {path} cannot be read ({why})", "check the path") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            entries.append(_entry(line, Path(root)))
        except ExpllmError as error:
            raise ExpllmError(f"{path}, line {number}: {error.problem}", error.remedy) from error
    if not entries:
        raise ExpllmError(f"list file {path} lists nothing", "give it one annotation set a line")
    return tuple(entries)


def _entry(line: str, root: Path) -> ListEntry:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) not in (2, 3) or not all(fields):
        raise ExpllmError(f"{line.strip()!r} has not two or three fields", "write: annotations.json,pictures,repeat")
    try:
        repeat = float(fields[2]) if len(fields) == 3 else 1.0
    except ValueError as error:
        raise ExpllmError(f"repeat {fields[2]!r} is no number", "use 3 for three times, 0.2 for a fifth") from error
    annotations, pictures = root / fields[0], root / fields[1]
    for path, there, what in ((annotations, annotations.is_file(), "file"), (pictures, pictures.is_dir(), "folder")):
        if not there:
            raise ExpllmError(f"there is no {what} {path}", "correct the path, or start where it is relative to")
    return ListEntry(annotations, pictures, repeat)
