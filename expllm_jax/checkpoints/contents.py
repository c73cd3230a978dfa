"""What a checkpoint says it holds, written beside its arrays and compared when they are read.

TensorStore checks only its own indices: a bit that flips where the numbers lie may be read as another number (see
``tests/checkpoints/test_damage.py``). So every leaf's checksum is saved, and those of the two JSON parts. The list also
names paths, shapes and dtypes, which tells a checkpoint of another model before any array is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from expllm_jax.checkpoints.fingerprint import leaf_checksums
from expllm_jax.errors import ExpllmError

_SHOWN = 8  # paths that an error names of each kind


class Damaged(Exception):
    """A checkpoint does not hold what was written. Its text says what is wrong, for the end of a sentence."""


def contents_of(state: Any, data: Any, meta: Any) -> dict[str, Any]:
    """The JSON-able list of contents of `{state, data, meta}`: `state` a pytree of arrays, the others JSON-able.

    Waits for the arrays. It costs one pass over them on their devices.
    """
    leaves = leaves_of(state)
    sums = leaf_checksums(leaves)
    contents = {
        "state": {path: [list(leaf.shape), str(leaf.dtype), sums[path]] for path, leaf in leaves.items()},
        "data": _digest(data),
        "meta": _digest(meta),
    }
    return contents | {"contents": _digest(contents)}


def check_json_parts(contents: Any, data: Any, meta: Any) -> None:
    """Raises Damaged if the list of contents, or one of the parts that it names, is not what was written."""
    if not isinstance(contents, Mapping):
        raise Damaged("its list of contents is missing")
    rest = {key: value for key, value in contents.items() if key != "contents"}
    if contents.get("contents") != _digest(rest):
        raise Damaged("its list of contents is not what was written")
    for name, part in (("data", data), ("meta", meta)):
        if contents[name] != _digest(part):
            raise Damaged(f"'{name}' is not what was written")


def check_leaves(contents: Mapping[str, Any], leaves: Mapping[str, jax.Array]) -> None:
    """Raises Damaged if the values of `leaves` (all of a checkpoint, or some) are not those that were written."""
    sums = leaf_checksums(leaves)
    wrong = [path for path in sorted(leaves) if sums[path] != contents["state"][path][2]]
    if wrong:
        raise Damaged(f"the values of {_some(wrong)} are not those that were written")


def saved_like(contents: Mapping[str, Any], like: Any, folder: str) -> Any:
    """`like` as ShapeDtypeStructs with its own shardings, but in the dtypes of the checkpoint.

    Raises ExpllmError if the checkpoint is of another model or optimiser: it names paths that are missing, that are not
    expected, and that have another shape or another kind of number.
    """
    saved, wanted = contents["state"], leaves_of(like)
    missing, unexpected = sorted(wanted.keys() - saved.keys()), sorted(saved.keys() - wanted.keys())
    differ = []
    for path in sorted(wanted.keys() & saved.keys()):
        shape, dtype, _ = saved[path]
        if tuple(shape) != wanted[path].shape or not _castable(dtype, wanted[path].dtype):
            differ.append(f"{path} ({tuple(shape)} {dtype}, not {wanted[path].shape} {wanted[path].dtype})")
    problems = [
        f"{what} {_some(paths)}"
        for what, paths in (("it lacks", missing), ("it holds besides", unexpected), ("these differ:", differ))
        if paths
    ]
    if problems:
        raise ExpllmError(
            f"the checkpoint {folder} is of another model or optimiser: {'; '.join(problems)}",
            "use the configuration it was trained with, or another run folder",
        )

    def target(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = jnp.dtype(saved[path_of(path)][1])
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)

    return jax.tree_util.tree_map_with_path(target, like)


def leaves_of(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by path, such as "params/projector/bias" or "opt_state/0/mu/projector/bias"."""
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def path_of(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _castable(saved: str, asked: Any) -> bool:
    return saved == str(asked) or all(jnp.issubdtype(jnp.dtype(dtype), jnp.floating) for dtype in (saved, asked))


def _digest(part: Any) -> str:
    """SHA-256 (hex) of a JSON-able value, the same before it is written and after it is read back."""
    text = json.dumps(json.loads(json.dumps(part)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
