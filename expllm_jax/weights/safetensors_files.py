"""Safetensors files, read by hand: nothing in one is trusted before it is checked, nothing is executed, and no byte of
a tensor is read before it is asked for.

A file is an 8-byte little-endian length, a JSON object of that many bytes (name -> dtype, shape, data_offsets into
what follows), and the numbers, without gaps. A large model is several such files and an index that says which tensor
lies in which. Source: the format's description at github.com/huggingface/safetensors.

Tensors are read with positional reads into fresh memory. Mapping the file instead would count all of it as memory of
this process, and a file cut short while it is read would kill the process instead of raising an error.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.weights.tensor_files import TensorInfo

INDEX_SUFFIX = ".safetensors.index.json"
_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000  # bytes; also the limit of the safetensors package
_MOST_AXES = 32
_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    **{f"I{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    "BOOL": np.dtype(bool),
}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONVERTER = "python -m expllm_jax.weights.torch_pickle"


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a tensor lies."""

    path: Path
    start: int  # byte of the file
    info: TensorInfo


class SafetensorsFiles:
    """The tensors of one safetensors file or of all shards of an index; made by `open_safetensors`."""

    def __init__(self, origin: str, places: Mapping[str, _Place]):
        self.origin = origin
        ordered = sorted(places.items(), key=lambda item: (item[1].path.name, item[1].start))
        self._places = dict(ordered)
        self.tensors = {name: place.info for name, place in ordered}

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, each once."""
        return tuple(dict.fromkeys(place.path for place in self._places.values()))

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Reads a tensor, or a range of its rows, and no other byte of the file; see `TensorFile.read`."""
        place = self._places[name]
        shape, start = place.info.shape, place.start
        if rows is not None:
            start += rows.start * math.prod(shape[1:]) * place.info.dtype.itemsize
            shape = (rows.stop - rows.start, *shape[1:])
        array = np.empty(shape, place.info.dtype)
        unread = memoryview(array.reshape(-1).view(np.uint8))
        try:
            with place.path.open("rb", buffering=0) as file:
                file.seek(start)
                while unread:  # Linux reads at most 2 GiB at a time
                    count = file.readinto(unread)
                    if not count:
                        raise ExpllmError(
                            f"{place.path} ends inside the tensor {name!r}",
                            "it was cut while it was read: copy it again",
                        )
                    unread = unread[count:]
        except OSError as error:
            raise _unreadable(place.path, error) from error
        return array


def open_safetensors(path: str | Path) -> SafetensorsFiles:
    """Checks all headers and gives access to the tensors; none is read.

    Args:
      path: a .safetensors file, an index (`*.safetensors.index.json`), or a folder with one of either.

    Raises:
      ExpllmError: there is none, or it is a pickle, or a header is not one (too long, no JSON, a name twice, an unknown
        dtype, offsets that overlap, leave gaps, lie outside the file or do not fit dtype and shape), or the index names
        a file outside the folder, a missing file, or a tensor that its file lacks. All that is wrong with one file or
        index is in one message.
    """
    path = Path(path)
    if path.is_dir():
        path = _file_of(path)
    if path.name.endswith(INDEX_SUFFIX):
        return SafetensorsFiles(str(path), _read_index(path))
    return SafetensorsFiles(str(path), _read_header(path))


def holds_safetensors(folder: Path) -> bool:
    """Whether `open_safetensors(folder)` has something to open."""
    return any(folder.glob("*.safetensors")) or any(folder.glob(f"*{INDEX_SUFFIX}"))


def is_pickle(path: Path) -> bool:
    """Whether a file begins like a pickle or like the zip archive of pickles that torch.save writes."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return False
    # the second byte of a binary pickle is its protocol
    return start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def refuse_pickle(path: Path) -> ExpllmError:
    """The error for a file that could run code when it is loaded."""
    return ExpllmError(
        f"{path} is a pickle, which can run any code when it is loaded, so it is not opened here",
        f"turn it into safetensors first: {CONVERTER} {path} {path.with_suffix('.safetensors').name}",
    )


def _file_of(folder: Path) -> Path:
    """The index or the one file of a folder."""
    indices = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    files = sorted(folder.glob("*.safetensors"))
    if len(indices) == 1:
        return indices[0]
    if len(files) == 1 and not indices:
        return files[0]
    if indices or files:
        raise ExpllmError(
            f"{folder} holds {len(indices)} indices and {len(files)} files of safetensors: "
            + ", ".join(found.name for found in [*indices, *files]),
            "give the path of the file or index that is meant",
        )
    pickles = [found for found in sorted(folder.iterdir()) if found.suffix in _PICKLES and is_pickle(found)]
    if pickles:
        raise refuse_pickle(pickles[0])
    raise ExpllmError(f"{folder} holds no safetensors", "check the path; a download may be incomplete")


def _read_header(path: Path) -> dict[str, _Place]:
    """name -> place of every tensor of one file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            room = size - _LENGTH_BYTES
            raw = file.read(length) if 2 <= length <= min(room, _LARGEST_HEADER) else b""
    except OSError as error:
        raise _unreadable(path, error) from error
    if not raw.startswith(b"{"):
        if is_pickle(path):
            raise refuse_pickle(path)
        if size < _LENGTH_BYTES + 2:
            reason = f"it has {size} bytes"
        elif not raw and length > room:
            reason = (
                f"its header would be {length:,} bytes long, the file has {room:,} left (it is cut, or no safetensors)"
            )
        elif not raw:
            reason = f"its header would be {length:,} bytes long; 2 to {_LARGEST_HEADER:,} are read"
        else:
            reason = "its header is no JSON object"
        raise _damaged(path, reason)
    header = _json_object(path, raw)
    header.pop("__metadata__", None)
    begin, problems = _LENGTH_BYTES + length, []
    places, spans = {}, []
    for name, entry in header.items():
        try:
            info, (start, stop) = _tensor_entry(entry, size - begin)
        except ValueError as error:
            problems.append(f"{name!r} {error}")
        else:
            places[name] = _Place(path, begin + start, info)
            spans.append((start, stop, name))
    reached, before = 0, "the header"
    for start, stop, name in sorted(spans) if not problems else ():
        if start != reached:
            how = "overlaps" if start < reached else "leaves a gap after"
            problems.append(f"{name!r} {how} {before}")
        reached, before = max(reached, stop), repr(name)
    if not problems and reached != size - begin:
        problems.append(f"{size - begin - reached:,} bytes at the end belong to no tensor")
    if problems:
        raise _damaged(path, "; ".join(problems))
    return places


def _tensor_entry(entry: Any, room: int) -> tuple[TensorInfo, tuple[int, int]]:
    """(dtype and shape, byte range) of one header entry; ValueError says what is wrong with it."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("has no dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        raise ValueError(f"has the unknown dtype {str(entry['dtype'])[:40]!r}")
    dtype, shape, offsets = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    for numbers, what in ((shape, "shape"), (offsets, "data_offsets")):
        # `type`, because True is an int too
        if (
            not isinstance(numbers, list)
            or len(numbers) > _MOST_AXES
            or any(type(number) is not int or not 0 <= number < 2**63 for number in numbers)
        ):
            raise ValueError(f"has the {what} {str(numbers)[:40]}")
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= room:
        raise ValueError(f"lies at bytes {str(offsets)[:60]} of {room:,}")
    info = TensorInfo(tuple(shape), dtype)
    if info.nbytes != offsets[1] - offsets[0]:
        takes = f"takes {offsets[1] - offsets[0]:,} bytes"
        raise ValueError(f"{takes}, but {entry['dtype']} of shape {tuple(shape)} takes {info.nbytes:,}")
    return info, (offsets[0], offsets[1])


def _read_index(path: Path) -> dict[str, _Place]:
    """name -> place over all shards of an index."""
    try:
        raw = path.read_bytes() if path.stat().st_size <= _LARGEST_HEADER else b""
    except OSError as error:
        raise _unreadable(path, error) from error
    shard_of = _json_object(path, raw).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise _damaged(path, "its weight_map does not name a file for every tensor")
    shards = sorted(set(shard_of.values()))
    for shard in shards:
        # only names of files beside the index: "../x" or an absolute path would read anywhere on the disk
        if Path(shard).name != shard or "\\" in shard or "\0" in shard or not shard.endswith(".safetensors"):
            tensor = next(name for name, where in shard_of.items() if where == shard)
            raise _damaged(path, f"{tensor!r} would lie in {shard!r}, which is no .safetensors file beside it")
    absent = [shard for shard in shards if not (path.parent / shard).is_file()]
    if absent:
        raise ExpllmError(
            f"{path} names {len(absent)} of {len(shards)} files that are not there: {', '.join(absent)}",
            "copy the missing files beside it",
        )
    found: dict[str, list[_Place]] = {}
    for shard in shards:
        for name, place in _read_header(path.parent / shard).items():
            found.setdefault(name, []).append(place)
    problems = []
    for name in sorted(shard_of.keys() | found.keys()):
        holders = [place.path.name for place in found.get(name, ())]
        if len(holders) > 1:
            problems.append(f"{name!r} lies in {' and in '.join(holders)}")
        elif name not in shard_of:
            problems.append(f"{name!r} of {holders[0]} is not in the index")
        elif holders != [shard_of[name]]:
            problems.append(f"{name!r} is not in {shard_of[name]}" + (f" but in {holders[0]}" if holders else ""))
    if problems:
        raise _damaged(path, "; ".join(problems))
    return {name: places[0] for name, places in found.items()}


def _json_object(path: Path, raw: bytes) -> dict[str, Any]:
    """A JSON object, every key of which is there once."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            twice = collections.Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"{twice!r} stands there twice")
        return made

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not readable: {error}") from error
    if not isinstance(value, dict):
        raise _damaged(path, "its header is no JSON object")
    return value


def _damaged(path: Path, reason: str) -> ExpllmError:
    return ExpllmError(
        f"{path} is not a sound safetensors file: {reason}", "copy or download it again; nothing was loaded"
    )


def _unreadable(path: Path, error: OSError) -> ExpllmError:
    return ExpllmError(f"{path} cannot be read: {error.strerror or error}", "check the path")
