"""Writes the few ONNX messages the tests need, straight from the Protocol Buffers wire format."""

from __future__ import annotations

import numpy as np

DTYPES = {np.dtype("<f4"): 1, np.dtype("<i8"): 7}


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, array: np.ndarray, packed: bool = False) -> bytes:
    if packed:
        dims = field(1, b"".join(varint(size) for size in array.shape))
    else:
        dims = b"".join(field(1, size) for size in array.shape)
    return dims + field(2, DTYPES[array.dtype]) + field(8, name) + field(9, array.tobytes())


def node(kind: str, name: str, *inputs: str) -> bytes:
    return b"".join(field(1, each) for each in inputs) + field(2, "out") + field(3, name) + field(4, kind)


def model(nodes: list[bytes], tensors: list[bytes]) -> bytes:
    graph = (
        b"".join(field(1, each) for each in nodes) + field(2, "graph") + b"".join(field(5, each) for each in tensors)
    )
    return field(1, 8) + field(2, "a producer") + field(7, graph) + field(8, field(2, 17))
