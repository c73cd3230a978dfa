"""One record as the bytes that are stored: a tf.train.Example whose columns TFDS can read, and back.

The bytes are a function of the record alone (map keys are sorted), so that their hash is the hash of the content. The
columns are parsed without TFDS, because a training step reads two of thirty: `StoredRecord` decodes what is asked for.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from expllm_jax.faces import Annotation
from expllm_jax.records.encode import Record
from expllm_jax.records.rows import EncodedRow

_TEXT_COLUMNS = {
    "path": "picture", "expression": "expression", "cot": "cot", "caption": "caption", "identity": "identity",
    "split": "split",
}  # fmt: skip
"""Column → annotation field, stored as text; "" stands for None."""

_OPTIONAL_TEXTS = ("expression", "cot", "caption")

_JSON_COLUMNS = ("units", "attributes", "landmarks", "face_box", "provenance")
"""Annotation fields stored as JSON, which keeps every digit."""

_ROW_COLUMNS = {"tokens": np.int32, "positions": np.int32, "segments": np.int32, "loss_weights": np.float32}
_MIRRORED = "mirrored_"
"""Opens the names of the mirrored row's columns, which are empty where it does not differ from the row."""


def features() -> tfds.features.FeaturesDict:
    """The columns as TFDS names and types them."""
    tensors = {name: tfds.features.Tensor(shape=(None,), dtype=dtype) for name, dtype in _ROW_COLUMNS.items()}
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "picture": tfds.features.Image(shape=(None, None, 3)),
            "located": tfds.features.Scalar(dtype=np.bool_),
            **tensors,
            **{_MIRRORED + name: tensor for name, tensor in tensors.items()},
            **{name: tfds.features.Text() for name in (*_TEXT_COLUMNS, *_JSON_COLUMNS)},
        }
    )


def serialised(record: Record) -> bytes:
    """The bytes of `record`, the same wherever and whenever they are made."""
    fields = vars(record.annotation)  # all plain values: to_json() would copy every one of them
    columns = {"id": _text(record.id), "picture": _bytes(record.picture), "located": _integers([int(record.located)])}
    columns |= {column: _text(fields[name] or "") for column, name in _TEXT_COLUMNS.items()}
    columns |= {name: _text(json.dumps(fields[name], sort_keys=True, ensure_ascii=False)) for name in _JSON_COLUMNS}
    for prefix, row in (("", record.row), (_MIRRORED, record.mirrored)):
        for name, dtype in _ROW_COLUMNS.items():
            values = np.zeros(0, dtype) if row is None else getattr(row, name)
            columns[prefix + name] = _floats(values) if dtype is np.float32 else _integers(values)
    return tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=columns)).SerializeToString(
        deterministic=True
    )


class StoredRecord:
    """The parts of a record out of its `serialised` bytes, each decoded when it is asked for.

    Raises google.protobuf.message.DecodeError for bytes that are no tf.train.Example.
    """

    def __init__(self, content: bytes) -> None:
        self._columns = tf_example_pb2.Example.FromString(content).features.feature

    @property
    def id(self) -> str:
        return self._text("id")

    @property
    def picture(self) -> bytes:
        return self._columns["picture"].bytes_list.value[0]

    @property
    def located(self) -> bool:
        return bool(self._columns["located"].int64_list.value[0])

    @property
    def row(self) -> EncodedRow:
        return self._row("")

    @property
    def mirrored(self) -> EncodedRow | None:
        """The mirrored row; None if it is the row itself."""
        row = self._row(_MIRRORED)
        return row if len(row) else None

    @property
    def annotation(self) -> Annotation:
        fields: dict[str, Any] = {name: self._text(column) for column, name in _TEXT_COLUMNS.items()}
        fields |= {name: fields[name] or None for name in _OPTIONAL_TEXTS}
        fields |= {name: json.loads(self._text(name)) for name in _JSON_COLUMNS}
        return Annotation.from_json(fields)

    def record(self) -> Record:
        return Record(self.id, self.picture, self.annotation, self.row, self.mirrored, self.located)

    def _row(self, prefix: str) -> EncodedRow:
        arrays = {}
        for name, dtype in _ROW_COLUMNS.items():
            column = self._columns[prefix + name]
            values = column.float_list if dtype is np.float32 else column.int64_list
            arrays[name] = np.array(values.value, dtype)
        return EncodedRow(**arrays)

    def _text(self, name: str) -> str:
        return self._columns[name].bytes_list.value[0].decode()


def _bytes(value: bytes) -> tf_feature_pb2.Feature:
    return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[value]))


def _text(value: str) -> tf_feature_pb2.Feature:
    return _bytes(value.encode())


def _integers(values: np.ndarray | list[int]) -> tf_feature_pb2.Feature:
    return tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=values))


def _floats(values: np.ndarray) -> tf_feature_pb2.Feature:
    return tf_feature_pb2.Feature(float_list=tf_feature_pb2.FloatList(value=values))
