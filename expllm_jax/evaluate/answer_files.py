"""answers.jsonl: every evaluated face on a line of its own, so that runs can be scored again and compared later.

A line is a JSON object with the fields of `EvaluatedFace` and, where a checkpoint answered, its `step`. Fields that a
line lacks have their defaults: files of before those fields existed are read as well. Pictures stand relative to the
file's folder, so that a run may be moved.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.evaluated import EvaluatedFace

_FIELDS = {field.name for field in fields(EvaluatedFace)}
_REQUIRED = {
    field.name for field in fields(EvaluatedFace) if field.default is MISSING and field.default_factory is MISSING
}
# What a value read from JSON may be. Only shapes are checked here; what the values mean, EvaluatedFace checks itself.
_TEXTS = {"record", "identity", "split", "expression", "order"}
_TEXTS_OR_NOTHING = {"label_text", "predicted", "cot", "cot_failure", "concluded", "picture"}
_WHOLE_NUMBERS = {"tries", "prompt_tokens", "new_tokens"}


def answer_line(face: EvaluatedFace, folder: str | os.PathLike[str], *, step: int | None = None) -> str:
    """One line of a file in `folder`, without its newline.

    Args:
      face: the picture's truth and answer.
      folder: where the file stands; a picture inside it is written relative to it, another one with its whole path.
      step: training step of the checkpoint that answered.
    """
    line: dict[str, Any] = asdict(face)
    if face.picture is not None:
        picture, base = Path(os.path.abspath(face.picture)), Path(os.path.abspath(folder))
        line["picture"] = (picture.relative_to(base) if picture.is_relative_to(base) else picture).as_posix()
    return json.dumps({**line, "step": step}, ensure_ascii=False, allow_nan=False)


def read_answers(path: str | os.PathLike[str]) -> list[EvaluatedFace]:
    """The faces of a file that `answer_line` wrote, in its order, all splits together.

    Raises ExpllmError naming file and line when the file cannot be read, has no answers, a line is not an evaluated
    face, or a record is there twice within a split.
    """
    path = Path(path)
    faces: list[EvaluatedFace] = []
    line_of: dict[tuple[str, str], int] = {}
    for number, told in _lines(path):
        face = _face(told, path, number)
        first = line_of.setdefault((face.split, face.record), number)
        if first != number:
            raise ExpllmError(
                f"{path}, line {number}: record {face.record!r} of split {face.split!r} is on line {first} already",
                "keep one answer to each picture",
            )
        faces.append(face)
    if not faces:
        raise ExpllmError(f"{path} holds no answers", "evaluate the run anew")
    return faces


def answered_step(path: str | os.PathLike[str]) -> int | None:
    """The training step of the checkpoint that answered; None where the file does not say, or its lines differ.

    Raises ExpllmError as `read_answers` does for a file that is no JSON Lines.
    """
    steps = {told.get("step") for _, told in _lines(Path(path))}
    step = steps.pop() if len(steps) == 1 else None
    return step if isinstance(step, int) else None


def by_split(faces: Sequence[EvaluatedFace]) -> dict[str, list[EvaluatedFace]]:
    """The faces of each split, splits in the order in which they first occur."""
    splits: dict[str, list[EvaluatedFace]] = {}
    for face in faces:
        splits.setdefault(face.split, []).append(face)
    return splits


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is not blank."""
    try:
        # Not splitlines(): answers may hold line separators of Unicode, which JSON leaves as they are.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or error
        raise ExpllmError(
            f"{path} cannot be read ({reason})", "name an answers.jsonl, or a folder that an evaluation wrote"
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _damaged(path, number, f"not JSON ({error})") from error
        if not isinstance(told, dict):
            raise _damaged(path, number, "not a JSON object")
        found.append((number, told))
    return found


def _face(told: Mapping[str, Any], path: Path, number: int) -> EvaluatedFace:
    given = {name: value for name, value in told.items() if name != "step"}
    if missing := sorted(_REQUIRED - set(given)):
        raise _damaged(path, number, f"without {', '.join(map(repr, missing))}")
    if unknown := sorted(set(given) - _FIELDS):
        raise _damaged(path, number, f"no answer has a field {unknown[0]!r}")
    for name, value in given.items():
        if not _fits(name, value):
            raise _damaged(path, number, f"{name!r} is {value!r}"[:200])
    if given.get("picture"):
        given["picture"] = _picture(path.parent, given["picture"], given["split"])
    else:
        given["picture"] = None
    try:
        return EvaluatedFace(**given)
    except ExpllmError as error:
        raise ExpllmError(f"{path}, line {number}: {error.problem}", error.remedy) from error


def _fits(name: str, value: object) -> bool:
    """Whether a field has a value of its kind."""
    if name in _TEXTS:
        return isinstance(value, str)
    if name in _TEXTS_OR_NOTHING:
        return value is None or isinstance(value, str)
    if name in _WHOLE_NUMBERS:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if name == "truncated":
        return isinstance(value, bool)
    if not isinstance(value, dict):
        return False
    if name == "stated":
        return all(band is None or isinstance(band, str) for band in value.values())
    if name == "groups":
        return all(isinstance(group, str) for group in value.values())
    return all(
        isinstance(part, int | float) and not isinstance(part, bool) and math.isfinite(part) for part in value.values()
    )


def _picture(folder: Path, written: str, split: str) -> Path:
    """Where the picture is. A bare name is one of a run's rendered faces, as files of before wrote them."""
    if len(PurePosixPath(written).parts) == 1 and not (folder / written).exists():
        return folder / "faces" / "pictures" / split / written
    return folder / written


def _damaged(path: Path, number: int, what: str) -> ExpllmError:
    return ExpllmError(f"{path}, line {number}: {what}", "mend or remove the line, or evaluate the run anew")
