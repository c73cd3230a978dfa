"""Records on disk: a TFDS data set in ArrayRecord files, written and read without TensorFlow.

A folder is complete or absent: it is built beside its place and moved there in one step. It opens with
`tfds.builder_from_directory(folder).as_data_source()` like any TFDS data set, and holds beside the shards
`manifest.json` (counts, longest rows, hashes, how the rows were encoded), the conversation template and the tokenizer.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_info, sequential_writer

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.records.conversation import ConversationTemplate
from expllm_jax.records.encode import EncodeConfig, EncodedRow, Record, RecordEncoder, open_tokenizer

FORMAT = 1
"""Version of the folder's layout; a reader refuses another."""

MANIFEST, TEMPLATE = "manifest.json", "template.json"
_NAME = "expllm_records"
_CHUNK = 256  # records between two writings of the TFDS metadata
_SHARD = 4096  # records per ArrayRecord file


@dataclass(frozen=True)
class SplitSummary:
    """What the manifest says of one split."""

    records: int
    longest_row: int  # tokens
    longest_id: str  # the record with that row
    sha256: str  # of the records' content, in order


@dataclass(frozen=True)
class Manifest:
    """What a records folder holds. The hash covers content and encoding, not files: the same records give the same hash
    wherever and whenever they are written."""

    format: int
    sha256: str
    splits: Mapping[str, SplitSummary]
    encoding: EncodeConfig
    template: str  # fingerprint
    tokenizer: str  # fingerprint
    tokenizer_file: str
    vocab_size: int
    pad_token: int
    image_token: int

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Reads `folder/manifest.json`. Raises ExpllmError if it is not there or not of this format."""
        path = Path(folder) / MANIFEST
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields["format"] != FORMAT:
                raise ExpllmError(f"{path} is of format {fields['format']}, not {FORMAT}", "build the records again")
            fields["splits"] = {name: SplitSummary(**split) for name, split in fields["splits"].items()}
            fields["encoding"] = EncodeConfig(**{**fields["encoding"], "tasks": tuple(fields["encoding"]["tasks"])})
            return cls(**fields)
        except OSError as error:
            raise ExpllmError(
                f"{folder} holds no records ({MANIFEST}: {error.strerror})", "build them first"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ExpllmError(f"{path} is damaged ({error})", "build the records again") from error


def write_records(
    folder: str | Path,
    splits: Mapping[str, Iterable[Record]],
    encoder: RecordEncoder,
    *,
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
) -> Manifest:
    """Writes the records of every split, in the order given, and returns the manifest.

    Args:
      folder: where they go; its parent is made if need be. One writer at a time.
      splits: name (letters, digits, "_") → records, consumed one by one.
      encoder: what made the rows; its template and tokenizer are stored with them.
      overwrite: replaces a records folder that is there already (only one with a manifest).
      report: is told the progress, a line at a time.

    Raises:
      ExpllmError: for a folder that exists or cannot be written, a full disk, an id that comes twice, a split without
        records or with a bad name. Nothing is left behind then, nor by any exception out of the iterables.
    """
    folder = Path(os.path.abspath(folder))
    _check_free(folder, splits, overwrite)
    building = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(building, ignore_errors=True)  # what a killed run may have left
        building.mkdir(parents=True)
        manifest = _write_all(building, splits, encoder, report)
        _put_in_place(building, folder)
    except OSError as error:
        raise ExpllmError(
            f"records cannot be written to {folder} ({error.strerror or error})",
            "choose a folder that can be written, on a disk with room",
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return manifest


class RecordSource:
    """Random access to the records of one split, as `source[i] -> Record`; safe to read from several threads.

    `row(i)` and `picture(i)` give the parts; `pad_token` and `longest_row` are what the pipeline needs to know.
    """

    def __init__(self, folder: Path, split: str, manifest: Manifest, *, keep_rows: bool) -> None:
        self.folder, self.split, self.manifest = folder, split, manifest
        summary = manifest.splits[split]
        self.pad_token = manifest.pad_token
        self.longest_row = (summary.longest_row, summary.longest_id)
        self._rows: dict[int, EncodedRow] | None = {} if keep_rows else None
        builder = tfds.builder_from_directory(folder)
        # The picture stays encoded: our own reader decodes it, and the cached-features path never does.
        self._source = builder.as_data_source(split=split, decoders={"picture": tfds.decode.SkipDecoding()})
        if len(self._source) != summary.records:
            raise ExpllmError(f"{folder}: split {split!r} has {len(self._source)} records, the manifest says "
                              f"{summary.records}", "build the records again")  # fmt: skip

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return _record(self._example(index))

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def row(self, index: int) -> EncodedRow:
        """The encoded row of record `index`."""
        if self._rows is None:
            return _row(self._example(index))
        row = self._rows.get(index)
        if row is None:
            row = self._rows[index] = _row(self._example(index))
        return row

    def picture(self, index: int) -> bytes:
        """The encoded picture of record `index`."""
        return self._example(index)["picture"]

    def _example(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self._source[int(index)]


def open_records(folder: str | Path, split: str, *, keep_rows: bool = False) -> RecordSource:
    """Opens one split of a records folder.

    `keep_rows` holds every row in memory once it has been read (16 bytes a token), which takes the disk and the parsing
    out of training on cached features. Raises ExpllmError for a folder without records or an unknown split, naming the
    nearest.
    """
    manifest = Manifest.read(folder)
    if split not in manifest.splits:
        nearest = difflib.get_close_matches(split, manifest.splits, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ExpllmError(f"{folder} has no split {split!r}", f"{hint}it has: {', '.join(manifest.splits)}")
    return RecordSource(Path(folder), split, manifest, keep_rows=keep_rows)


def open_encoder(folder: str | Path) -> RecordEncoder:
    """The encoder that the folder's rows were made with, from the template and tokenizer stored there.

    Raises ExpllmError if either is missing or is not the one the manifest names.
    """
    folder, manifest = Path(folder), Manifest.read(folder)
    template = ConversationTemplate.load(folder / TEMPLATE)
    tokenizer = open_tokenizer(folder / manifest.tokenizer_file, manifest.encoding)
    for kind, found, named in (
        ("template", template.fingerprint, manifest.template),
        ("tokenizer", tokenizer.fingerprint, manifest.tokenizer),
    ):
        if found != named:
            raise ExpllmError(
                f"the {kind} in {folder} is not the one its rows were made with", "build the records again"
            )
    return RecordEncoder(template, tokenizer, manifest.encoding)


def verify_records(folder: str | Path) -> Manifest:
    """Reads every record and compares its content with the manifest's hashes. Raises ExpllmError naming the split."""
    manifest = Manifest.read(folder)
    for split, summary in manifest.splits.items():
        digest = hashlib.sha256()
        try:
            for record in open_records(folder, split):
                _hash_example(digest, _example(record))
        except ExpllmError:
            raise
        except Exception as error:  # the file reader and the parser report damage in their own ways
            raise ExpllmError(
                f"{folder}: split {split!r} cannot be read ({error})", "build the records again"
            ) from error
        if digest.hexdigest() != summary.sha256:
            raise ExpllmError(f"{folder}: split {split!r} differs from its manifest", "build the records again")
    return manifest


def _check_free(folder: Path, splits: Mapping[str, Iterable[Record]], overwrite: bool) -> None:
    if not splits:
        raise ExpllmError("there are no splits to write", "give at least one")
    for split in splits:
        if not (split.isascii() and split.isidentifier()):
            raise ExpllmError(f"split name {split!r} is not usable", "use letters, digits and _ only")
    if not folder.exists():
        return
    if not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExpllmError(f"{folder} exists and is no records folder", "choose another folder; it is left as it is")
    if (folder / MANIFEST).is_file() and not overwrite:
        raise ExpllmError(f"{folder} holds records already", "choose another folder, or ask to overwrite it")


def _write_all(
    building: Path,
    splits: Mapping[str, Iterable[Record]],
    encoder: RecordEncoder,
    report: Callable[[str], None] | None,
) -> Manifest:
    info = tfds.core.DatasetInfo(
        builder=dataset_info.DatasetIdentity(name=_NAME, version="1.0.0", data_dir=str(building), module_name=""),
        description="Faces, the conversations about them, and the token rows that train ExpLLM.",
        features=_features(),
    )
    writer = sequential_writer.SequentialWriter(info, max_examples_per_shard=_SHARD, file_format="array_record")
    writer.initialize_splits(list(splits))
    seen: set[str] = set()
    summaries = {name: _write_split(writer, name, records, seen, report) for name, records in splits.items()}
    with _file_errors():
        writer.close_all()

    template, tokenizer = encoder.template, encoder.tokenizer
    (building / TEMPLATE).write_text(json.dumps(template.to_json(), indent=2, ensure_ascii=False), encoding="utf-8")
    tokenizer.save(building)
    described = {
        "format": FORMAT,
        "splits": {name: asdict(summary) for name, summary in summaries.items()},
        "encoding": asdict(encoder.config),
        "template": template.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "tokenizer_file": tokenizer.file_name,
        "vocab_size": tokenizer.vocab_size,
        "pad_token": tokenizer.pad,
        "image_token": tokenizer.image,
    }
    described["sha256"] = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    (building / MANIFEST).write_text(json.dumps(described, indent=2, sort_keys=True), encoding="utf-8")
    return Manifest.read(building)


def _write_split(
    writer: sequential_writer.SequentialWriter,
    split: str,
    records: Iterable[Record],
    seen: set[str],
    report: Callable[[str], None] | None,
) -> SplitSummary:
    digest, count, longest = hashlib.sha256(), 0, (0, "")
    records = iter(records)
    while chunk := list(itertools.islice(records, _CHUNK)):
        examples = []
        for record in chunk:
            if record.id in seen:
                raise ExpllmError(f"two records have the id {record.id!r}", "give every record an id of its own")
            seen.add(record.id)
            longest = max(longest, (len(record.row), record.id))
            examples.append(_example(record))
            _hash_example(digest, examples[-1])
        with _file_errors():
            writer.add_examples({split: examples})
        count += len(chunk)
        if report is not None:
            report(f"{split}: {count} records")
    if not count:
        raise ExpllmError(
            f"split {split!r} has no records", "leave the split out, or check where its pictures come from"
        )
    return SplitSummary(count, longest[0], longest[1], digest.hexdigest())


@contextlib.contextmanager
def _file_errors() -> Iterator[None]:
    """ArrayRecord reports a full disk as RuntimeError; here it becomes the OSError that it is."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error


def _put_in_place(building: Path, folder: Path) -> None:
    replaced = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        os.replace(folder, replaced)  # a folder that is not empty cannot be replaced in one step
    try:
        os.replace(building, folder)
    except OSError:
        if replaced.exists():
            os.replace(replaced, folder)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


_TEXT_COLUMNS = {"path": "picture", "expression": "expression", "cot": "cot", "identity": "identity", "split": "split"}
"""Column → annotation field, stored as text; "" stands for None."""

_JSON_COLUMNS = ("units", "attributes", "landmarks", "face_box", "provenance")
"""Annotation fields stored as JSON, which keeps every digit."""

_ROW_COLUMNS = {"tokens": np.int32, "positions": np.int32, "segments": np.int32, "loss_weights": np.float32}


def _features() -> tfds.features.FeaturesDict:
    columns = {"id": tfds.features.Text(), "picture": tfds.features.Image(shape=(None, None, 3))}
    columns |= {name: tfds.features.Tensor(shape=(None,), dtype=dtype) for name, dtype in _ROW_COLUMNS.items()}
    columns |= {name: tfds.features.Text() for name in (*_TEXT_COLUMNS, *_JSON_COLUMNS)}
    return tfds.features.FeaturesDict(columns)


def _example(record: Record) -> dict[str, str | bytes | np.ndarray]:
    fields = record.annotation.to_json()
    return {
        "id": record.id,
        "picture": record.picture,
        **{name: getattr(record.row, name) for name in _ROW_COLUMNS},
        **{column: fields[name] or "" for column, name in _TEXT_COLUMNS.items()},
        **{name: json.dumps(fields[name], sort_keys=True, ensure_ascii=False) for name in _JSON_COLUMNS},
    }


def _record(example: Mapping) -> Record:
    fields = {name: _text(example[column]) for column, name in _TEXT_COLUMNS.items()}
    fields |= {name: json.loads(example[name]) for name in _JSON_COLUMNS}
    fields |= {name: fields[name] or None for name in ("expression", "cot")}
    return Record(_text(example["id"]), example["picture"], Annotation.from_json(fields), _row(example))


def _row(example: Mapping) -> EncodedRow:
    return EncodedRow(**{name: np.asarray(example[name], dtype) for name, dtype in _ROW_COLUMNS.items()})


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _hash_example(digest: hashlib._Hash, example: Mapping) -> None:
    """Adds one record, field by field with lengths, so that nothing can move from one field to the next unnoticed."""
    for name in sorted(example):
        value = example[name]
        if isinstance(value, np.ndarray):
            value = value.astype(value.dtype.newbyteorder("<")).tobytes()
        elif isinstance(value, str):
            value = value.encode()
        digest.update(f"{name}:{len(value)}:".encode())
        digest.update(value)
