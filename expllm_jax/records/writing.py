"""From shards to a records folder that is complete or absent.

A folder NAME is built in `.NAME.partial` beside it: `records/` becomes the folder, `jobs/` holds a note of every shard
that is finished. The one step that makes it visible is a rename.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_info, naming

from expllm_jax.errors import ExpllmError
from expllm_jax.files import put_in_place
from expllm_jax.records.conversation import ConversationTemplate
from expllm_jax.records.encode import Record, RecordEncoder, open_tokenizer
from expllm_jax.records.encode_config import EncodeConfig
from expllm_jax.records.examples import features
from expllm_jax.records.index import write_index
from expllm_jax.records.manifest import DATASET, MANIFEST, SKIPPED, TEMPLATE, Manifest, SplitSummary
from expllm_jax.records.shards import Shard, write_shard

_SHARD = 4096  # records in a file, when they come one by one


def write_records(
    folder: str | Path,
    splits: Mapping[str, Iterable[Record]],
    encoder: RecordEncoder,
    *,
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
) -> Manifest:
    """Writes the records of every split, in the order given, and returns the manifest. `records.building` makes them
    from annotations, in parallel; this is for records that are there already.

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
    staging = Staging.of(folder)
    staging.check_free(splits, overwrite)
    with staging.file_errors(), staging.locked():
        try:
            staging.clear()  # what a killed run may have left
            staging.begin(encoder)
            shards = {name: list(_shards(staging, name, records, report)) for name, records in splits.items()}
            return staging.finish(shards, encoder)
        finally:
            staging.remove()


def _shards(
    staging: Staging, split: str, records: Iterable[Record], report: Callable[[str], None] | None
) -> Iterator[Shard]:
    records, done = iter(records), 0
    for number in itertools.count():
        chunk = list(itertools.islice(records, 1))
        if not chunk:
            return
        shard = write_shard(
            staging.records, split, number, itertools.chain(chunk, itertools.islice(records, _SHARD - 1))
        )
        done += shard.file.records
        if report is not None:
            report(f"{split}: {done} records")
        yield shard


@dataclass(frozen=True)
class Staging:
    """The place where a records folder is built."""

    folder: Path  # what it will be

    @classmethod
    def of(cls, folder: str | Path) -> Staging:
        return cls(Path(os.path.abspath(folder)))

    @property
    def place(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.partial")

    @property
    def records(self) -> Path:
        return self.place / "records"

    @property
    def jobs(self) -> Path:
        return self.place / "jobs"

    def check_free(self, splits: Iterable[str], overwrite: bool) -> None:
        """Raises ExpllmError if there are no splits, one has a bad name, or the folder may not be written."""
        splits, folder = list(splits), self.folder
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

    @contextmanager
    def file_errors(self) -> Iterator[None]:
        """Makes an OSError the one error that users see."""
        try:
            yield
        except OSError as error:
            raise ExpllmError(
                f"records cannot be written to {self.folder} ({error.strerror or error})",
                "choose a folder that can be written, on a disk with room",
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second writer out, where the file system knows locks. A killed writer's lock is gone with it.

        Raises ExpllmError if there is another writer.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        with (self.place / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise ExpllmError(
                        f"another process is writing {self.folder} now", "wait for it, or choose another folder"
                    ) from error
            yield

    def clear(self) -> None:
        """Takes away what an earlier writer left, but not the lock."""
        for entry in self.place.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()

    def remove(self) -> None:
        """Takes everything away; what is in place already is not touched."""
        shutil.rmtree(self.place, ignore_errors=True)

    def begin(self, encoder: RecordEncoder) -> None:
        """Makes the folders and stores the encoder's template and tokenizer."""
        self.records.mkdir(parents=True, exist_ok=True)
        self.jobs.mkdir(exist_ok=True)
        template = json.dumps(encoder.template.to_json(), indent=2, ensure_ascii=False)
        (self.records / TEMPLATE).write_text(template, encoding="utf-8")
        encoder.tokenizer.save(self.records)

    def finish(self, shards: Mapping[str, Sequence[Shard]], encoder: RecordEncoder) -> Manifest:
        """Completes the folder from the finished shards of every split, in order, and puts it in its place.

        Raises ExpllmError for an id that comes twice or a split without records; OSError.
        """
        check_ids(id for split in shards.values() for shard in split for id in shard.ids)
        for split, parts in shards.items():
            if not any(shard.file.records for shard in parts):
                left_out = sum(len(shard.skipped) for shard in parts)
                raise ExpllmError(
                    f"split {split!r} has no records" + (f"; {left_out} were skipped" if left_out else ""),
                    "leave the split out, or check where its pictures come from",
                )
        kept = {shard.file.name for parts in shards.values() for shard in parts}
        for entry in self.records.iterdir():
            # Left by a killed writer that had other faces, or half a shard.
            if (entry.name.startswith(f"{DATASET}-") and entry.name not in kept) or entry.name.startswith("."):
                entry.unlink()
        summaries = {split: _summary(self.records, split, parts) for split, parts in shards.items()}
        _write_skipped(self.records, shards)
        _write_tfds_files(self.records, shards)
        manifest = Manifest.of(summaries, encoder)
        manifest.write(self.records)
        put_in_place(self.records, self.folder)
        return manifest


def check_ids(ids: Iterable[str]) -> None:
    """Raises ExpllmError for an id that comes twice, in one split or in two."""
    seen: set[str] = set()
    for id in ids:
        if id in seen:
            raise ExpllmError(f"two records have the id {id!r}", "give every record an id of its own")
        seen.add(id)


def stored_encoder(folder: Path, tokenizer_file: str, config: EncodeConfig) -> RecordEncoder:
    """The encoder of the template and the tokenizer that are stored in `folder`."""
    template = ConversationTemplate.load(folder / TEMPLATE)
    return RecordEncoder(template, open_tokenizer(folder / tokenizer_file, config), config)


def _summary(folder: Path, split: str, shards: Sequence[Shard]) -> SplitSummary:
    entries = np.concatenate([shard.entries for shard in shards])
    ids = [id for shard in shards for id in shard.ids]
    index_sha256, ids_sha256 = write_index(folder, split, entries, ids)
    longest = int(np.argmax(entries["tokens"]))
    return SplitSummary(
        records=len(ids),
        longest_row=int(entries["tokens"][longest]),
        longest_id=ids[longest],
        sha256=hashlib.sha256(b"".join(shard.digests for shard in shards)).hexdigest(),
        index_sha256=index_sha256,
        ids_sha256=ids_sha256,
        skipped=dict(Counter(skipped.reason for shard in shards for skipped in shard.skipped)),
        shards=tuple(shard.file for shard in shards),
    )


def _write_skipped(folder: Path, shards: Mapping[str, Sequence[Shard]]) -> None:
    lines = [
        json.dumps({"split": split, **asdict(skipped)}, ensure_ascii=False)
        for split, parts in shards.items() for shard in parts for skipped in shard.skipped
    ]  # fmt: skip
    (folder / SKIPPED).unlink(missing_ok=True)
    if lines:
        (folder / SKIPPED).write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _write_tfds_files(folder: Path, shards: Mapping[str, Sequence[Shard]]) -> None:
    """dataset_info.json and features.json, which make the folder a TFDS data set."""
    info = tfds.core.DatasetInfo(
        builder=dataset_info.DatasetIdentity(name=DATASET, version="2.0.0", data_dir=str(folder), module_name=""),
        description="Faces, the conversations about them, and the token rows that train ExpLLM.",
        features=features(),
    )
    info.set_file_format("array_record")
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard.file.records for shard in parts],
            num_bytes=sum(shard.content_bytes for shard in parts),
            filename_template=naming.ShardedFileTemplate(
                dataset_name=DATASET, data_dir=folder, split=split, filetype_suffix="array_record", template=template
            ),
        )
        for split, parts in shards.items()
    ]
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.write_to_directory(folder)
