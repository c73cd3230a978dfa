"""Annotations one by one, in and out of files that may be larger than memory: JSON Lines or Parquet.

A Parquet file has the columns of `PARQUET_SCHEMA`: an annotation's keys, mappings as Arrow maps, and `attributes`,
whose values are texts or numbers, as JSON text. Files of other makers are read as well if their columns are called so:
mappings may be structs (a null says that the key is not there) or JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation, iter_annotations, write_annotations
from expllm_jax.files import unfinished

_ROWS = 1024  # in memory at once, and in a row group that is written
_TEXTS = pa.map_(pa.string(), pa.string())

PARQUET_SCHEMA = pa.schema(
    {
        "picture": pa.string(),
        "expression": pa.string(),
        "units": pa.map_(pa.string(), pa.map_(pa.string(), pa.float64())),
        "cot": pa.string(),
        "caption": pa.string(),
        "identity": pa.string(),
        "split": pa.string(),
        "attributes": pa.string(),
        "landmarks": pa.list_(pa.list_(pa.float64())),
        "face_box": pa.list_(pa.float64()),
        "provenance": _TEXTS,
    }
)
"""The columns of an annotations file in Parquet."""


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its name; others are JSON Lines."""
    return path.suffix == ".parquet"


def stream_annotations(path: Path) -> Iterator[tuple[str, Annotation]]:
    """The annotations of a file, each with the words for where it stands ("line 3", "row 3").

    Raises:
      ExpllmError: the file cannot be read, or a line or row is not a valid annotation; when it comes to it.
    """
    if is_parquet(path):
        for number, annotation in _parquet_rows(path):
            yield f"row {number}", annotation
    else:
        for number, annotation in iter_annotations(path):
            yield f"line {number}", annotation


def write_annotation_stream(path: Path, annotations: Iterable[Annotation]) -> int:
    """Writes a file of annotations, Parquet if it is called so, and returns how many there are; it appears when it is
    complete.

    Raises:
      ExpllmError: it cannot be written.
    """
    if not is_parquet(path):
        return write_annotations(path, annotations)
    count, remaining = 0, iter(annotations)
    try:
        with unfinished(path) as partial, pq.ParquetWriter(partial, PARQUET_SCHEMA) as writer:
            while rows := [_row(annotation) for annotation in islice(remaining, _ROWS)]:
                writer.write_table(pa.Table.from_pylist(rows, PARQUET_SCHEMA))
                count += len(rows)
    except OSError as error:
        raise ExpllmError(f"{path} cannot be written ({error})", "choose a folder with room") from error
    return count


def _row(annotation: Annotation) -> dict[str, Any]:
    value = annotation.to_json()
    return value | {
        "units": [(name, list(units.items())) for name, units in value["units"].items()],
        "attributes": json.dumps(value["attributes"], ensure_ascii=False),
        "provenance": list(value["provenance"].items()),
    }


def _parquet_rows(path: Path) -> Iterator[tuple[int, Annotation]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, _annotation(row, f"{path}, row {number}")
    except (OSError, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ExpllmError(f"{path} cannot be read ({reason})", "give a Parquet file of annotations") from error


def _annotation(row: dict[str, Any], where: str) -> Annotation:
    try:
        for key in ("units", "attributes", "provenance"):
            if row.get(key) is not None:
                row[key] = _mapping(row[key])
        if row.get("units"):
            row["units"] = {name: _mapping(units) for name, units in row["units"].items()}
        return Annotation.from_json({key: value for key, value in row.items() if value is not None})
    except (ValueError, TypeError) as error:
        raise ExpllmError(f"{where}: {error}", "mend or remove the row") from error
    except ExpllmError as error:
        raise ExpllmError(f"{where}: {error.problem}", error.remedy) from error


def _mapping(value: Any) -> dict[str, Any]:
    """What Arrow gives for a map (pairs), a struct (a dict with every key there is) or JSON text."""
    if isinstance(value, str):
        value = json.loads(value)
    return {key: entry for key, entry in dict(value).items() if entry is not None}
