"""People's own data: folders named by expression, a CSV file, or a file of annotations."""

from __future__ import annotations

from collections.abc import Callable

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import LABEL_ORDERS
from expllm_jax.sources.annotation_file import AnnotationFile
from expllm_jax.sources.columns import Box, Code, Number, ReadsExpression, Row, Text, Word
from expllm_jax.sources.dataset import Dataset, Layout
from expllm_jax.sources.folder_tree import FolderTree
from expllm_jax.sources.label_table import LabelTable
from expllm_jax.sources.table import Header, Table

_OWN = "Your own: make sure that the people in the pictures agreed to this use of them."
_SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_BOX = ("face_x", "face_y", "face_width", "face_height")
_WORDS = ("gender", "race", "age_group")
_COLUMNS = ("identity", "caption", *_WORDS, "age", "valence", "arousal", *_BOX)


def _reads(column: str, order: str) -> ReadsExpression:
    """Label words, or numbers of a label order that the user named."""
    if not order:
        return Word(column)
    if order not in LABEL_ORDERS:
        raise ExpllmError(f"There is no label order {order!r}.", f"Use one of {', '.join(LABEL_ORDERS)}.")
    return Code(column, order)


def _word(column: str) -> Callable[[Row], str | None]:
    return lambda row: row[column] or None


def _csv(files: dict[str, str], order: str) -> LabelTable:
    one = "" in files.values()
    return LabelTable(
        files=files,
        table=Table(
            ("picture", "expression"), Header.YES, optional=(*_COLUMNS, *(["split"] if one else [])), closed=True
        ),
        picture="{picture}",
        split=Text("split") if one else None,
        expression=_reads("expression", order),
        identity=Text("identity"),
        caption=lambda row: row["caption"] or None,
        face_box=Box(*_BOX),
        attributes={
            **{name: _word(name) for name in _WORDS},
            "age": Number("age", 0),
            "valence": Number("valence", -1, 1),
            "arousal": Number("arousal", -1, 1),
        },
    )


def image_folder(order: str = "") -> Dataset:
    """Folders named by expression words, or by the numbers of a label order (a key of LABEL_ORDERS).

    Raises:
        ExpllmError: there is no such order.
    """
    reads = _reads("class", order)
    return Dataset(
        name="imagefolder",
        title="Folders of pictures, one for every expression",
        licence=_OWN,
        layouts=(
            Layout("splits", FolderTree(folders=_SPLIT_FOLDERS, expression=reads), checked=True),
            Layout("one-split", FolderTree(folders={"": ""}, expression=reads), checked=True),
        ),
    )


def csv_table(order: str = "") -> Dataset:
    """A CSV file with the columns picture and expression: words, or numbers of a label order (a key of LABEL_ORDERS).

    Further columns may be split (in labels.csv), identity, caption, gender, race, age_group, age, valence, arousal and
    face_x, face_y, face_width, face_height. A column of any other name is an error, since it may be one misspelt.

    Raises:
        ExpllmError: there is no such order.
    """
    return Dataset(
        name="csv",
        title="A CSV file of pictures and expressions",
        licence=_OWN,
        layouts=(
            Layout("one-file", _csv({"labels.csv": ""}, order), checked=True),
            Layout("file-a-split", _csv({f"{name}.csv": name for name in ("train", "val", "test")}, order), True),
        ),
    )


ANNOTATIONS = Dataset(
    name="annotations",
    title="A file of annotations, as rendered faces have it",
    licence="That of the pictures; rendered faces are free of anyone's rights.",
    layouts=(Layout("jsonl", AnnotationFile(), checked=True),),
)
