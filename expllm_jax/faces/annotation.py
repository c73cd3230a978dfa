"""The annotation of one picture, and the files annotations live in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.faces.expressions import EXPRESSIONS
from expllm_jax.faces.mappings import check_intensities
from expllm_jax.faces.units import vocabulary
from expllm_jax.files import text_file

LANDMARKS: tuple[int, ...] = (5, 68)
"""How many points a face may have. 68: the 300-W (iBUG) layout. 5: left eye, right eye, nose tip, left and right mouth
corner, left and right as seen in the picture (CelebA's order)."""


_FARTHEST = 1e6  # pixels; no picture is that large, and nothing that is computed from it overflows


@dataclass(frozen=True)
class Annotation:
    """What is known about the face in one picture.

    Mappings are copied on the way in; treat them as read-only. Coordinates are pixels of the picture as stored, x to
    the right, y downwards.

    A unit that a vocabulary's mapping leaves out is unknown; 0.0 says that it is known to be absent.

    Raises:
        ExpllmError: the expression, a vocabulary or a code is unknown, an intensity is outside 0 to 1, there are
            landmarks but neither 5 nor 68 of them, the face box is not four numbers with a positive width and height,
            a coordinate is no finite number, a text cannot be stored as UTF-8, or there is a NUL
            in the picture's name.
    """

    picture: str  # path of the picture, relative to the folder of the annotations file
    expression: str | None = None  # one of EXPRESSIONS; None if unlabelled
    units: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # vocabulary name -> code -> 0 to 1
    cot: str | None = None  # the reasoning text, None before the engine has written it
    caption: str | None = None  # free text that describes the picture, None where it has none
    identity: str = ""  # who it is, as an opaque id; one identity never lies in two splits
    split: str = ""  # "train", "clean", "mild", "hard", ...
    attributes: Mapping[str, str | float] = field(default_factory=dict)  # see faces.attributes; others are allowed
    landmarks: tuple[tuple[float, float], ...] = ()  # 5 or 68 points (x, y), or none
    face_box: tuple[float, ...] = ()  # (x, y, width, height), or ()
    provenance: Mapping[str, str] = field(default_factory=dict)  # where picture, label and text come from

    def __post_init__(self) -> None:
        if not self.picture:
            raise ExpllmError("An annotation names no picture.", "Give `picture` the path of one.")
        for name in ("picture", "cot", "caption", "identity", "split"):
            _check_text(name, getattr(self, name) or "")
        if "\0" in self.picture:
            raise ExpllmError(f"The picture {self.picture!r} of an annotation has a NUL in its name.", "Take it out.")
        if self.expression is not None and self.expression not in EXPRESSIONS:
            raise ExpllmError(
                f"{self.picture} has the expression {self.expression!r}.", f"Use one of {', '.join(EXPRESSIONS)}."
            )
        for name, units in self.units.items():
            check_intensities(units, vocabulary(name))
        if len(self.landmarks) not in (0, *LANDMARKS):
            raise ExpllmError(
                f"{self.picture} has {len(self.landmarks)} landmarks.", "Give 5 or 68 points (x, y), or none."
            )
        for point in self.landmarks:
            if len(point) != 2:
                raise ExpllmError(f"{self.picture} has the landmark {point!r}.", "A landmark is a pair (x, y).")
        if self.face_box and not (len(self.face_box) == 4 and self.face_box[2] > 0 and self.face_box[3] > 0):
            raise ExpllmError(
                f"{self.picture} has the face box {tuple(self.face_box)}.",
                "Give (x, y, width, height) with a positive width and height, or nothing.",
            )
        for value in (*self.face_box, *(value for point in self.landmarks for value in point)):
            if not abs(float(value)) <= _FARTHEST:
                raise ExpllmError(f"{self.picture} has the coordinate {value}.", "Give it in pixels of the picture.")
        copies = {
            "units": {name: dict(units) for name, units in self.units.items()},
            "attributes": dict(self.attributes),
            "provenance": dict(self.provenance),
            "landmarks": tuple((float(x), float(y)) for x, y in self.landmarks),
            "face_box": tuple(float(value) for value in self.face_box),
        }
        for name, value in copies.items():
            object.__setattr__(self, name, value)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values; ``Annotation.from_json`` gives an equal annotation back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Annotation:
        """The annotation a dict describes; keys that may be left out take their defaults.

        Raises:
            ExpllmError: a key is unknown, a value has the wrong type, or the annotation is not valid.
        """
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise ExpllmError(
                f"Unknown key {unknown[0]!r} in an annotation.", f"The keys are {', '.join(sorted(known))}."
            )
        if "picture" not in value:
            raise ExpllmError("An annotation has no key 'picture'.", "Give it the path of one.")
        for entry in fields(cls):
            if entry.name in value and not isinstance(value[entry.name], _JSON_TYPES[entry.name]):
                raise ExpllmError(
                    f"The key {entry.name!r} of an annotation holds {value[entry.name]!r}.", "Give it the right type."
                )
        try:
            return cls(**value)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ExpllmError(f"An annotation has a value of the wrong type ({error}).", "Mend it.") from error


def _check_text(name: str, text: str) -> None:
    """Names of files may be bytes that are no text, which Python holds as halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ExpllmError(f"The {name} {text!r} of an annotation is not UTF-8 text.", "Write it in UTF-8.") from None


_OPTIONAL_TEXT = (str, type(None))
_LISTS = (list, tuple)
_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "picture": str,
    "expression": _OPTIONAL_TEXT,
    "units": Mapping,
    "cot": _OPTIONAL_TEXT,
    "caption": _OPTIONAL_TEXT,
    "identity": str,
    "split": str,
    "attributes": Mapping,
    "landmarks": _LISTS,
    "face_box": _LISTS,
    "provenance": Mapping,
}


def parsed_json(text: str) -> Any:
    """`json.loads`, with the one kind of error for whatever is wrong with a text.

    Raises:
        json.JSONDecodeError: it is no JSON, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", text, 0) from error
    except ValueError as error:
        raise json.JSONDecodeError("a number has too many digits", text, 0) from error


def read_annotations(path: str | os.PathLike[str]) -> list[Annotation]:
    """All annotations of a JSON Lines file; blank lines are allowed.

    Raises:
        ExpllmError: the file cannot be read, or a line (named with its number) is not a valid annotation.
    """
    return [annotation for _, annotation in iter_annotations(path)]


def iter_annotations(path: str | os.PathLike[str]) -> Iterator[tuple[int, Annotation]]:
    """The annotations of a JSON Lines file one by one, each with the number of its line, for files larger than memory.

    Raises:
        ExpllmError: as :func:`read_annotations`, when it comes to it.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _read_line(line, f"{path}, line {number}")
    except OSError as error:
        raise ExpllmError(f"Cannot read {path}: {error.strerror}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise ExpllmError(f"{path} is not UTF-8 text.", "Give a JSON Lines file of annotations.") from error


def _read_line(line: str, where: str) -> Annotation:
    try:
        value = parsed_json(line)
    except json.JSONDecodeError as error:
        raise ExpllmError(
            f"{where}: not JSON ({error.msg} at column {error.colno}).", "Mend or remove the line."
        ) from error
    if not isinstance(value, dict):
        raise ExpllmError(f"{where}: not a JSON object.", "Every line holds one annotation.")
    try:
        return Annotation.from_json(value)
    except ExpllmError as error:
        raise ExpllmError(f"{where}: {error.problem}", error.remedy) from error


def write_annotations(path: str | os.PathLike[str], annotations: Iterable[Annotation]) -> int:
    """Writes a JSON Lines file and returns how many annotations it holds.

    The file appears under its name only when it is complete; a reader never sees half of it.

    Raises:
        ExpllmError: the folder cannot be written to.
    """
    count = 0
    with text_file(path) as file:
        for annotation in annotations:
            file.write(annotation_line(annotation))
            count += 1
    return count


def annotation_line(annotation: Annotation) -> str:
    """The line of a JSON Lines file that holds an annotation, with its line end."""
    return json.dumps(annotation.to_json(), ensure_ascii=False, allow_nan=False) + "\n"
