"""Reads names, nodes and constants of an ONNX file: the hundred lines we need of a 17 MB package.

An ONNX file is one Protocol Buffers message. Its wire format is a sequence of (field number, wire type, value); the
field numbers below are those of onnx/onnx.proto (ModelProto.graph = 7; GraphProto.node = 1, .initializer = 5; ...).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from expllm_jax.errors import ExpllmError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DTYPES = {1: np.dtype("<f4"), 7: np.dtype("<i8"), 6: np.dtype("<i4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation of the graph."""

    name: str
    kind: str  # ONNX op_type, such as MatMul
    inputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class OnnxGraph:
    """The constants (ONNX "initialisers") and operations of a model."""

    tensors: dict[str, np.ndarray]
    nodes: tuple[Node, ...]


def read_onnx(path: Path) -> OnnxGraph:
    """Reads the graph of an ONNX file whose tensors are stored raw and inline.

    Raises:
      ExpllmError: the file cannot be read, is damaged, or stores tensors in a way not known here.
    """
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise ExpllmError(f"{path} cannot be read: {error.strerror}", "check the path") from error
    try:
        tensors: dict[str, np.ndarray] = {}
        nodes: list[Node] = []
        for field, graph in _fields(data):
            if field != 7:
                continue
            for part, value in _fields(graph):
                if part == 1:
                    nodes.append(_node(value))
                elif part == 5:
                    name, array = _tensor(value)
                    tensors[name] = array
    except (ValueError, IndexError, TypeError, KeyError) as error:
        raise ExpllmError(f"{path} is not an ONNX file that can be read here: {error}", "download it again") from error
    if not nodes:
        raise ExpllmError(f"{path} holds no ONNX graph", "download it again")
    return OnnxGraph(tensors, tuple(nodes))


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """(value, where it ends) of a variable-length integer: seven bits a byte, least significant first."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a message, in the order of the file."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + size > len(data):
            raise ValueError("it ends too early")
        yield tag >> 3, data[at : at + size]
        at += size


def _node(data: memoryview) -> Node:
    """NodeProto: input = 1, name = 3, op_type = 4."""
    inputs, name, kind = [], "", ""
    for field, value in _fields(data):
        if field == 1:
            inputs.append(bytes(value).decode())
        elif field == 3:
            name = bytes(value).decode()
        elif field == 4:
            kind = bytes(value).decode()
    return Node(name, kind, tuple(inputs))


def _tensor(data: memoryview) -> tuple[str, np.ndarray]:
    """TensorProto: dims = 1 (repeated or packed), data_type = 2, name = 8, raw_data = 9."""
    shape: list[int] = []
    dtype, name, raw = 0, "", None
    for field, value in _fields(data):
        if field == 1 and isinstance(value, int):
            shape.append(value)
        elif field == 1:
            at = 0
            while at < len(value):
                size, at = _varint(value, at)
                shape.append(size)
        elif field == 2:
            dtype = value
        elif field == 8:
            name = bytes(value).decode()
        elif field == 9:
            raw = value
    if raw is None or dtype not in _DTYPES:
        raise ValueError(f"the tensor {name!r} is not stored raw, or has the unknown type {dtype}")
    return name, np.frombuffer(raw, _DTYPES[dtype]).reshape(shape)
