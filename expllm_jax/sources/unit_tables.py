"""Action units that other tools measured, read from the tables they write and joined to annotations by picture.

=============  ==========================  ===========  =============================================================
tool           columns of units            scale        whose format, and what of it is documented
=============  ==========================  ===========  =============================================================
`openface`     ``AU01_r`` …                0 to 5       OpenFace 2's wiki, "Output Format": frame, face_id, timestamp,
                                                        confidence, success, AU??_r (intensity), AU??_c (0 or 1: it
                                                        occurs). Its headers have blanks after the commas. ``AU45``
                                                        (blink) has no place in FACS's static units and is left out.
`py-feat`      ``AU01`` … ``AU43``         0 to 1       py-feat's `Fex` saved as CSV: FaceScore, frame, input, seen in
                                                        its tutorials and test data.
`libreface`    ``au_1_intensity`` …        0 to 5       libreface's `save_facial_attributes_*`; the docstring documents
                                                        the range, the names of columns are inferred from programs
                                                        that read them. ``au_1`` says only whether it occurs.
`opengraphau`  ``AU1`` …, ``AUL1`` …       0 to 1 or    The codes are those its `hybrid_infolist` prints, as
                                           0 to 100     percentages. It writes no table: the layout (picture, then a
                                                        column for each code) is inferred.
=============  ==========================  ===========  =============================================================

OpenFace does not write the picture's name into its rows, nor do later versions of LibreFace (earlier ones have a column
`input_image_path`); they write a table for each picture. So a table is one file with a column of pictures, or a folder
of files that are called like their pictures. A table of a video's frames needs a column of pictures added.

Columns that only say whether a unit occurs are no intensities and never taken for them. OpenGraphAU's and py-feat's
values are probabilities that a unit occurs; they stand in for intensities because that is all these tools give, and
provenance says so.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Literal

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import FACS, OPENGRAPHAU_41, Annotation, Scale, Vocabulary, facs_from_opengraphau, value_on
from expllm_jax.sources.dataset import Problems

SeveralFaces = Literal["error", "most-confident", "largest"]
SEVERAL_FACES: tuple[SeveralFaces, ...] = ("error", "most-confident", "largest")
"""What to do where a table has several faces for a picture: refuse, or take the one the tool is surest of, or the one
with the largest box (py-feat's FaceRectWidth and FaceRectHeight)."""

PICTURE_COLUMNS: tuple[str, ...] = ("input", "input_image_path", "picture", "file_name", "filename", "image", "path")
"""Columns that name the picture, the first of them that a table has."""


@dataclass(frozen=True)
class UnitTool:
    """How a tool's tables are read."""

    name: str
    pattern: re.Pattern[str]  # of a column of intensities; group "number", and "side" where there are sides
    scale: Scale
    vocabulary: Vocabulary
    confidence: str = ""  # the column that says how sure the tool is of the face, 0 to 1
    success: str = ""  # the column that is 0 where the tool lost the face
    occurrence: re.Pattern[str] | None = None  # of columns that only say whether a unit occurs
    means: str = "intensity"  # what the values are, for provenance
    percentages: bool = False  # its values may be given as percentages
    skipped: tuple[str, ...] = ()  # units that the tool has and the vocabulary has not

    def code(self, column: str) -> str | None:
        """The unit that a column holds the intensity of; None if it is no such column."""
        match = self.pattern.fullmatch(column)
        if match is None:
            return None
        code = f"AU{match.groupdict().get('side') or ''}{int(match['number'])}"
        return None if code in self.skipped else code


_BLINK = ("AU45",)

TOOLS: Mapping[str, UnitTool] = MappingProxyType(
    {
        tool.name: tool
        for tool in (
            UnitTool(
                "openface",
                re.compile(r"AU(?P<number>\d\d)_r"),
                "grade",
                FACS,
                confidence="confidence",
                success="success",
                occurrence=re.compile(r"AU\d\d_c"),
                skipped=_BLINK,
            ),
            UnitTool(
                "py-feat",
                re.compile(r"AU(?P<number>\d\d)"),
                "unit",
                FACS,
                confidence="FaceScore",
                means="probability",
                skipped=_BLINK,
            ),
            UnitTool(
                "libreface",
                re.compile(r"au_(?P<number>\d+)_intensity"),
                "grade",
                FACS,
                occurrence=re.compile(r"au_\d+"),
                skipped=_BLINK,
            ),
            UnitTool(
                "opengraphau",
                re.compile(r"AU(?P<side>[LR]?)(?P<number>\d+)"),
                "unit",
                OPENGRAPHAU_41,
                means="probability",
                percentages=True,
            ),
        )
    }
)
"""Name -> tool."""


@dataclass(frozen=True)
class UnitRow:
    """The face of one row of a table."""

    picture: str  # as the table names it
    file: Path
    line: int
    units: Mapping[str, float]  # code of the tool's vocabulary -> 0 to 1
    confidence: float | None  # 0 to 1; None where the table does not say
    area: float | None  # of the face's box, square pixels; None where the table does not say

    @property
    def where(self) -> str:
        """File and line, as complaints begin."""
        return f"{self.file}, line {self.line}"


@dataclass(frozen=True)
class UnitTableOptions:
    """How a table is read and joined."""

    min_confidence: float = 0.0  # rows the tool is less sure of are problems
    several_faces: SeveralFaces = "error"
    picture_column: str = ""  # "" is the first of PICTURE_COLUMNS
    percent: bool = False  # OpenGraphAU's values are 0 to 100
    replace: bool = False  # units that an annotation has already give way

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_confidence <= 1.0:
            raise ExpllmError(f"The least confidence is {self.min_confidence}.", "It lies between 0 and 1.")
        if self.several_faces not in SEVERAL_FACES:
            raise ExpllmError(
                f"{self.several_faces!r} is no rule for several faces.", f"Use one of {', '.join(SEVERAL_FACES)}."
            )


def unit_tool(name: str) -> UnitTool:
    """The tool of a name; raises ExpllmError if there is none."""
    if name not in TOOLS:
        raise ExpllmError(f"No tool of action units is called {name!r}.", f"Use one of {', '.join(TOOLS)}.")
    return TOOLS[name]


def read_unit_table(
    table: Path, tool: UnitTool, problems: Problems, options: UnitTableOptions = UnitTableOptions()
) -> Iterator[UnitRow]:
    """The rows of a table, or of all tables (`*.csv`) of a folder, by their names.

    Args:
        table: a CSV file in UTF-8, with headers; or a folder of such files.
        problems: is told of every row that is left out, with file, line and column: a value that is missing, no number
            or out of range, a face that was lost or is not sure enough.
    Raises:
        ExpllmError: a file cannot be read or has no column of the tool's intensities.
    """
    if not table.is_dir():
        yield from _read_file(table, tool, problems, options)
        return
    files = sorted(file for file in table.iterdir() if file.suffix.lower() == ".csv")
    if not files:
        raise ExpllmError(f"{table} holds no .csv file.", f"Give the folder that {tool.name} wrote its tables to.")
    for file in files:
        yield from _read_file(file, tool, problems, options)


def _read_file(file: Path, tool: UnitTool, problems: Problems, options: UnitTableOptions) -> Iterator[UnitRow]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            columns = _unit_columns(file, header, tool)
            named = _picture_column(file, header, options.picture_column)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                try:
                    found = _row(file, reader.line_num, header, cells, named, columns, tool, options)
                except ExpllmError as problem:
                    problems(problem)
                else:
                    yield found
    except OSError as error:
        raise ExpllmError(f"Cannot read {file}: {error.strerror}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise ExpllmError(f"{file} is not UTF-8 text.", "Save it as UTF-8.") from error
    except csv.Error as error:
        raise ExpllmError(f"{file}: {error}.", "Give a comma-separated table.") from error


def _unit_columns(file: Path, header: Sequence[str], tool: UnitTool) -> dict[str, str]:
    """Column -> code."""
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise ExpllmError(f"{file}: two columns are called {twice[0]!r}.", "Give the table as the tool wrote it.")
    columns = {name: code for name in header if (code := tool.code(name)) is not None}
    unknown = [name for name, code in columns.items() if code not in tool.vocabulary]
    if unknown:
        raise ExpllmError(f"{file}: the column {unknown[0]!r} is no unit of {tool.vocabulary.name}.", "Remove it.")
    if columns:
        return columns
    occurring = [name for name in header if tool.occurrence and tool.occurrence.fullmatch(name)]
    if occurring:
        raise ExpllmError(
            f"{file} only says whether units occur ({occurring[0]} …), and not how strongly.",
            "Let the tool write intensities too; that a unit occurs is not taken for an intensity.",
        )
    others = [name for name, other in TOOLS.items() if other != tool and any(other.code(each) for each in header)]
    hint = f" The columns look like those of {others[0]}." if others else ""
    raise ExpllmError(f"{file} has no column of {tool.name}'s intensities.{hint}", "Name the tool that wrote it.")


def _picture_column(file: Path, header: Sequence[str], wanted: str) -> str:
    """The column that names the picture; "" where the file is called like it."""
    if wanted:
        if wanted not in header:
            raise ExpllmError(f"{file} has no column {wanted!r}.", f"It has {', '.join(filter(None, header))}.")
        return wanted
    return next((name for name in PICTURE_COLUMNS if name in header), "")


def _row(
    file: Path,
    line: int,
    header: Sequence[str],
    cells: Sequence[str],
    named: str,
    columns: Mapping[str, str],
    tool: UnitTool,
    options: UnitTableOptions,
) -> UnitRow:
    where = f"{file}, line {line}"
    if len(cells) != len(header):
        raise ExpllmError(f"{where}: {len(cells)} cells where {len(header)} belong.", "Mend the line.")
    row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    picture = row[named] if named else file.stem
    if not picture:
        raise ExpllmError(f"{where}: no picture is named.", "Fill the cell, or remove the line.")
    if tool.success and row.get(tool.success) and _number(row, tool.success, where) == 0:
        raise ExpllmError(f"{where}: {tool.name} lost the face of {picture} (success 0).", "Remove the line.")
    confidence = _number(row, tool.confidence, where) if row.get(tool.confidence) else None
    if options.min_confidence and confidence is None:
        raise ExpllmError(f"{where}: nothing says how sure {tool.name} is of {picture}.", "Ask for no confidence.")
    if confidence is not None and confidence < options.min_confidence:
        raise ExpllmError(
            f"{where}, column {tool.confidence!r}: {confidence:g} is less than {options.min_confidence:g}.",
            "Ask for less confidence, or leave the face out.",
        )
    units = {code: _value(row, column, where, tool, options.percent) for column, code in columns.items()}
    area = None
    if row.get("FaceRectWidth") and row.get("FaceRectHeight"):
        area = _number(row, "FaceRectWidth", where) * _number(row, "FaceRectHeight", where)
    return UnitRow(picture, file, line, units, confidence, area)


def _number(row: Mapping[str, str], column: str, where: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ExpllmError(f"{where}, column {column!r}: {row[column]!r} is no number.", "Mend or remove the line.")
    return value


def _value(row: Mapping[str, str], column: str, where: str, tool: UnitTool, percent: bool) -> float:
    value = _number(row, column, where)
    high = 100 if percent else 5 if tool.scale == "grade" else 1
    if not 0 <= value <= high:
        hint = ""
        if tool.percentages and not percent and value <= 100:
            hint = " If the values are percentages, say so (--percent)."
        raise ExpllmError(
            f"{where}, column {column!r}: {value:g} is outside {tool.name}'s 0 to {high}.", f"Mend the line.{hint}"
        )
    return value / 100 if percent else value_on(tool.scale, value)


@dataclass(frozen=True)
class Joined:
    """What `add_units` did."""

    annotations: tuple[Annotation, ...]  # in their order; without units where none were found and that was allowed
    added: int
    without_row: tuple[str, ...]  # pictures of annotations that the table does not speak of
    without_annotation: tuple[str, ...]  # pictures of the table that have no annotation


def add_units(
    annotations: Iterable[Annotation],
    rows: Iterable[UnitRow],
    tool: UnitTool,
    options: UnitTableOptions = UnitTableOptions(),
    problems: Problems | None = None,
) -> Joined:
    """The annotations with the units of a table, joined by the name of the picture.

    Names need not agree in their folders or, where the table is called like the picture, in their ending: the last part
    decides where the whole does not, as long as it is no other picture's too.

    Args:
        problems: is told of pictures with several faces that the rule does not choose among, and of annotations that
            have such units already; both then stay as they were. None raises the first.
    Raises:
        ExpllmError: two annotations are called alike and a row could be either's; or, without ``problems``, as above.
    """
    known = tuple(annotations)
    names = _Names(known)
    found: dict[int, list[UnitRow]] = {}
    strangers = []
    for row in rows:
        position = names.find(row)
        if position is None:
            strangers.append(row.picture)
        else:
            found.setdefault(position, []).append(row)
    told, added = list(known), 0
    for position, faces in found.items():
        try:
            told[position] = _with_units(known[position], _chosen(faces, options.several_faces), tool, options)
            added += 1
        except ExpllmError as problem:
            if problems is None:
                raise
            problems(problem)
    without_row = tuple(face.picture for position, face in enumerate(known) if position not in found)
    return Joined(tuple(told), added, without_row, tuple(dict.fromkeys(strangers)))


class _Names:
    """Which annotation a row of a table is about."""

    def __init__(self, annotations: Sequence[Annotation]) -> None:
        self._whole = {annotation.picture: position for position, annotation in enumerate(annotations)}
        self._last: dict[str, list[int]] = {}
        for position, annotation in enumerate(annotations):
            name = PurePosixPath(annotation.picture)
            for key in {name.name, name.stem}:
                self._last.setdefault(key, []).append(position)

    def find(self, row: UnitRow) -> int | None:
        picture = row.picture.replace("\\", "/")
        if picture in self._whole:
            return self._whole[picture]
        # The longest end of the path that an annotation has too: tables name pictures by where they lay.
        parts = PurePosixPath(picture).parts
        for start in range(1, len(parts)):
            if (ending := "/".join(parts[start:])) in self._whole:
                return self._whole[ending]
        candidates = self._last.get(PurePosixPath(picture).name, [])
        if len(candidates) > 1:
            raise ExpllmError(
                f"{row.where}: {row.picture} may be any of {len(candidates)} pictures of that name.",
                "Name pictures in the table by the paths that the annotations give.",
            )
        return candidates[0] if candidates else None


def _chosen(faces: Sequence[UnitRow], rule: SeveralFaces) -> UnitRow:
    if len(faces) == 1:
        return faces[0]
    if rule == "error":
        raise ExpllmError(
            f"{faces[1].where}: a second face in {faces[0].picture}; the first is in {faces[0].where}.",
            "Remove the faces that are not meant, or give a rule to choose by (--several-faces). If the rows are "
            "frames of a video, add a column that names their pictures (--picture-column).",
        )
    measure = [face.confidence if rule == "most-confident" else face.area for face in faces]
    if None in measure:
        raise ExpllmError(
            f"{faces[measure.index(None)].where}: the table does not say what {rule!r} goes by.",
            "Choose by another rule, or remove the faces that are not meant.",
        )
    return max(zip(measure, faces, strict=True), key=lambda pair: pair[0] or 0.0)[1]  # of equals the first


def _with_units(face: Annotation, row: UnitRow, tool: UnitTool, options: UnitTableOptions) -> Annotation:
    units = {tool.vocabulary.name: dict(row.units)}
    if tool.vocabulary == OPENGRAPHAU_41:
        units[FACS.name] = facs_from_opengraphau(row.units)
    already = [name for name in units if name in face.units]
    if already and not options.replace:
        raise ExpllmError(
            f"{face.picture} has {already[0]} units already, from {face.provenance.get('units', 'elsewhere')}.",
            "Let those of the table take their place (--replace), or leave the picture out.",
        )
    provenance = {"units": tool.name, "units_table": f"{row.file.name}, line {row.line}", "units_mean": tool.means}
    return replace(face, units={**face.units, **units}, provenance={**face.provenance, **provenance})
