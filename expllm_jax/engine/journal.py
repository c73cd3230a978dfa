"""The journal of a run: one line for every face that is finished, so that a killed run goes on where it was.

The first line says what the run is made of. A line is written in one piece as soon as its face is finished; what a kill
tears off at the end is dropped when the journal is opened again. A face may have several lines (it failed, and was
tried again): the last one counts.
"""

from __future__ import annotations

import fcntl
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from expllm_jax.engine.outcome import Outcome, Status
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation

_STATUSES: tuple[Status | None, ...] = (None, "accepted", "rejected", "failed")


class Journal:
    """The journal of a run, held by one process at a time. Memory: nine bytes for each annotation of the input.

    Args:
      path: the file; made if it is not there, with its folder.
      header: what the run is made of, plain JSON values.
      count: how many annotations the input has.

    Raises:
      ExpllmError: it cannot be opened, another process holds it, it is of a run made of other things, or a line that is
        not the last is damaged.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], count: int) -> None:
        self._path, self.count = path, count
        self._status = bytearray(count)
        self._offsets = array("q", bytes(8 * count))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise ExpllmError(f"{path} cannot be opened ({error.strerror})", "choose another folder") from error
        try:
            self._begin(json.loads(json.dumps(header)))
        except BaseException:
            self._file.close()
            raise

    def append(self, index: int, outcome: Outcome) -> None:
        """Writes down what became of the annotation at a position of the input."""
        self._note(index, outcome.status, self._end)
        self._write({"index": index, **outcome.to_json()})

    def status(self, index: int) -> Status | None:
        """What became of an annotation; None if it is not finished."""
        return _STATUSES[self._status[index]]

    def counts(self) -> Counter[Status]:
        """How many annotations ended in which way."""
        return Counter({status: self._status.count(_STATUSES.index(status)) for status in _STATUSES if status})

    def outcome(self, index: int, given: Annotation) -> Outcome | None:
        """What became of the annotation `given`, which stands at that position of the input; None if not finished."""
        if not self._status[index]:
            return None
        self._reader.seek(self._offsets[index])
        return Outcome.from_json(given, json.loads(self._reader.readline()))

    def close(self) -> None:
        """Lets another process have it."""
        self._reader.close()
        self._file.close()

    def _begin(self, header: dict[str, Any]) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ExpllmError(f"{self._path} is in use by another process", "wait until it is done") from None
        self._end = 0
        for number, (offset, line) in enumerate(self._whole_lines(), start=1):
            try:
                value = json.loads(line)
                if number == 1:
                    self._check_header(value, header)
                else:
                    self._note(value["index"], value["status"], offset)
            except (ValueError, KeyError, IndexError, TypeError) as error:
                raise ExpllmError(
                    f"{self._path}, line {number}: not a line of an engine's journal",
                    "start anew in another folder, or take the damaged line out: its face is then done again",
                ) from error
            self._end = offset + len(line)
        self._file.truncate(self._end)
        if not self._end:
            self._write(header)
        self._reader = self._path.open("rb")

    def _whole_lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines with their end, and where they start. A last line without an end was torn by a kill."""
        offset = 0
        with self._path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                yield offset, line
                offset += len(line)

    def _check_header(self, found: dict[str, Any], header: dict[str, Any]) -> None:
        changes = [f"{key} was {was}, is {now}" for key, was, now in _differences(found, header)]
        if changes:
            raise ExpllmError(
                f"{self._path.parent} holds a run that is made of other things: {'; '.join(changes)}",
                "give the same input and options again, or another folder for another run",
            )

    def _note(self, index: int, status: Status, offset: int) -> None:
        self._status[index] = _STATUSES.index(status)
        self._offsets[index] = offset

    def _write(self, value: Mapping[str, Any]) -> None:
        line = json.dumps(value).encode() + b"\n"
        view = memoryview(line)
        while view:  # a write may be cut short, by a full disk or a signal
            view = view[os.write(self._file.fileno(), view) :]
        self._end += len(line)


def _differences(was: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(Dotted key, before, now) wherever two JSON values differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*was, *now)):
            yield from _differences(was.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif was != now:
        yield key, was, now
