"""What the cells of a row say: readers of single values, and how they make an annotation together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import (
    LABEL_ORDERS,
    NOT_EXPRESSIONS,
    Annotation,
    decoded,
    expression_of,
    expression_word,
)
from expllm_jax.sources.listing import is_picture

_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)

Row = Mapping[str, str]
"""Column name -> text of the cell, without blanks around it."""

ReadsExpression = Callable[[Row], str]
"""Gives a label word, raises `LeftOut` for what is no expression on purpose, and ExpllmError for what is wrong."""


class LeftOut(Exception):
    """The dataset itself says that this is no expression; says which of its labels did."""


@dataclass(frozen=True)
class Text:
    """A cell as it stands."""

    column: str

    def __call__(self, row: Row) -> str:
        return row[self.column]


@dataclass(frozen=True)
class Code:
    """An expression by its number in a dataset's label order."""

    column: str
    order: str  # a key of LABEL_ORDERS

    def __call__(self, row: Row) -> str:
        number = whole_number(row, self.column)
        expression = LABEL_ORDERS[self.order].get(number)
        if expression is not None:
            return expression
        meaning = NOT_EXPRESSIONS.get(self.order, {}).get(number)
        if meaning is not None:
            raise LeftOut(f"{number} ({meaning})")
        return expression_of(self.order, number)  # raises, and knows the order's limits


@dataclass(frozen=True)
class Word:
    """An expression by a word for it, in any of its usual forms."""

    column: str

    def __call__(self, row: Row) -> str:
        text = row[self.column]
        if is_picture(text):
            raise ExpllmError(f"column {self.column!r} holds {text!r}{_hint(text)}.", "Mend the line.")
        return expression_word(text)


@dataclass(frozen=True)
class Label:
    """An expression by its number in a label order or by a word for it: copies of one dataset differ in that."""

    column: str
    order: str  # a key of LABEL_ORDERS

    def __call__(self, row: Row) -> str:
        reader = Code(self.column, self.order) if _WHOLE.fullmatch(row[self.column]) else Word(self.column)
        return reader(row)


@dataclass(frozen=True)
class Number:
    """A number between two limits; None where the cell is empty or says that nobody knows."""

    column: str
    low: float = -math.inf
    high: float = math.inf
    unknown: float | None = None  # what stands for "nobody knows"

    def __call__(self, row: Row) -> float | None:
        if not row[self.column]:
            return None
        value = number(row, self.column)
        if value == self.unknown:
            return None
        if not self.low <= value <= self.high:
            raise ExpllmError(
                f"column {self.column!r} holds {value:g}, outside {self.low:g} to {self.high:g}.", "Mend the line."
            )
        return value


@dataclass(frozen=True)
class Attribute:
    """A word by its entry in one of `faces.attributes.CODEBOOKS`; None where the cell is empty."""

    column: str
    codebook: str

    def __call__(self, row: Row) -> str | None:
        text = row[self.column]
        if not text:
            return None
        try:
            return decoded(self.codebook, text)
        except ExpllmError as error:
            raise ExpllmError(f"column {self.column!r}: {error.problem}{_hint(text)}", error.remedy) from None


@dataclass(frozen=True)
class Choice:
    """What a word stands for, by a table of all the words there may be."""

    column: str
    meanings: Mapping[str, str]

    def __call__(self, row: Row) -> str:
        try:
            return self.meanings[row[self.column]]
        except KeyError:
            text = row[self.column]
            raise ExpllmError(
                f"column {self.column!r} holds {text!r}{_hint(text)}.", f"It holds {' or '.join(self.meanings)}."
            ) from None


@dataclass(frozen=True)
class Box:
    """A face box from four columns: x, y, width and height; none where all of them are empty."""

    x: str
    y: str
    width: str
    height: str

    def __call__(self, row: Row) -> tuple[float, ...]:
        columns = (self.x, self.y, self.width, self.height)
        return tuple(number(row, column) for column in columns) if any(row[column] for column in columns) else ()


@dataclass(frozen=True)
class Points:
    """Landmarks from one cell: x and y in turn, apart by a mark."""

    column: str
    separator: str = ";"

    def __call__(self, row: Row) -> tuple[tuple[float, float], ...]:
        if not row[self.column]:
            return ()
        try:
            values = [*map(float, row[self.column].split(self.separator))]
            if not math.isfinite(sum(values)):
                raise ValueError
            return tuple(zip(values[::2], values[1::2], strict=True))
        except ValueError:
            raise ExpllmError(
                f"column {self.column!r} holds no pairs of numbers apart by {self.separator!r}.", "Mend the line."
            ) from None


@dataclass(frozen=True)
class PointColumns:
    """Landmarks from columns with one point each: x and y apart by blanks; none where the first column is empty."""

    columns: tuple[str, ...]

    def __call__(self, row: Row) -> tuple[tuple[float, float], ...]:
        if not row[self.columns[0]]:
            return ()
        points = []
        for column in self.columns:
            try:
                x, y = map(float, row[column].split())
            except ValueError:
                raise ExpllmError(f"column {column!r} holds {row[column]!r}, which is no point.", "Mend it.") from None
            points.append((x, y))
        return tuple(points)


def whole_number(row: Row, column: str) -> int:
    """A cell as a whole number.

    Raises:
        ExpllmError: it is none; says so if another column seems to hold what belongs here.
    """
    text = row[column]
    if not _WHOLE.fullmatch(text):
        raise ExpllmError(f"column {column!r} holds {text!r}, which is no whole number{_hint(text)}.", "Mend the line.")
    return int(text)


def number(row: Row, column: str) -> float:
    """A cell as a finite number.

    Raises:
        ExpllmError: it is none; says so if another column seems to hold what belongs here.
    """
    text = row[column]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ExpllmError(f"column {column!r} holds {text!r}, which is no number{_hint(text)}.", "Mend the line.")
    return value


def _hint(text: str) -> str:
    """A guess at the cause: a picture's name where a value belongs means that columns changed places."""
    return "; the columns look swapped" if is_picture(text) else ""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which reader makes which part of an annotation; what has no reader stays unknown."""

    expression: ReadsExpression | None = None
    identity: Callable[[Row], str] | None = None
    caption: Callable[[Row], str | None] | None = None
    face_box: Callable[[Row], tuple[float, ...]] | None = None
    landmarks: Callable[[Row], tuple[tuple[float, float], ...]] | None = None
    attributes: Mapping[str, Callable[[Row], str | float | None]] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()  # expressions that this task does not have

    def label(self, row: Row) -> str | None:
        """The expression of a row.

        Raises:
            LeftOut: it is none on purpose.
            ExpllmError: it cannot be read.
        """
        expression = self.expression(row) if self.expression else None
        if expression in self.leave_out:
            raise LeftOut(f"{expression} (no class of this task)")
        return expression

    def annotation(
        self, row: Row, *, picture: str, split: str, expression: str | None, provenance: Mapping[str, str]
    ) -> Annotation:
        """The annotation of a row whose expression is known already.

        Raises:
            ExpllmError: a cell cannot be read.
        """
        attributes = {name: reader(row) for name, reader in self.attributes.items()}
        return Annotation(
            picture=picture,
            expression=expression,
            caption=self.caption(row) if self.caption else None,
            identity=self.identity(row) if self.identity else "",
            split=split,
            attributes={name: value for name, value in attributes.items() if value is not None},
            landmarks=self.landmarks(row) if self.landmarks else (),
            face_box=self.face_box(row) if self.face_box else (),
            provenance=provenance,
        )
