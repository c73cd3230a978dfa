"""Bytes of a device: what arrays take by their shapes and shardings, and what the compiler says when they are too many.

The compiler itself is the judge. Its peak counts arguments, results and temporaries at the worst moment, and a program
that does not fit is not compiled at all; the categories only explain that number.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import jax

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"(\d+(?:\.\d+)?)([KMGT]?)"
# What libtpu 0.0.42 says. Before compiling: "total memory required for HLO temporaries (323.84G) exceeds available HBM
# (15.75G)"; while it places buffers: "Used 16.44G of 15.75G hbm".
_TEMPORARIES = re.compile(rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)")
_ALL = re.compile(rf"[Uu]sed {_SIZE} of {_SIZE} hbm")


class OutOfMemory(NamedTuple):
    """What the compiler says of a program that it refuses."""

    needed_bytes: int
    limit_bytes: int
    arguments: bool  # whether needed_bytes counts the program's arguments, and not only temporaries


def parse_out_of_memory(message: str) -> OutOfMemory | None:
    """What a compiler's error says of memory; None if it is another error."""
    if "RESOURCE_EXHAUSTED" not in message and "out of memory" not in message.lower():
        return None
    for pattern, arguments in ((_TEMPORARIES, False), (_ALL, True)):
        if found := pattern.search(message):
            needed, needed_unit, limit, limit_unit = found.groups()
            return OutOfMemory(
                round(float(needed) * _UNITS[needed_unit]), round(float(limit) * _UNITS[limit_unit]), arguments
            )
    return None


def device_bytes(tree: Any) -> int:
    """Bytes that a tree of arrays, perhaps abstract ones, takes on one device; padding of tiles is not counted."""
    return sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _leaf_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize
