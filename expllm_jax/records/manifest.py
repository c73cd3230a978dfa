"""What a records folder says of itself, and which files it consists of.

expllm_records-SPLIT.array_record-00000 …   the records (see `records.examples`)
dataset_info.json, features.json            what TFDS needs to read them
manifest.json                               counts, longest rows, hashes, how the rows were encoded
SPLIT.index.npy, SPLIT.ids.txt              a few numbers and the id of every record (see `records.index`)
template.json, tokenizer.*                  what the rows were encoded with
skipped.jsonl                               what was left out, if anything was
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from expllm_jax import __version__
from expllm_jax.errors import ExpllmError
from expllm_jax.records.encode import RecordEncoder
from expllm_jax.records.encode_config import EncodeConfig

FORMAT = 2
"""Version of the folder's layout; a reader refuses another."""

DATASET = "expllm_records"
"""What TFDS calls the data set."""

MANIFEST, TEMPLATE, SKIPPED = "manifest.json", "template.json", "skipped.jsonl"

_CONTENT = ("records", "longest_row", "longest_id", "sha256")
"""What the manifest's hash covers of a split."""


def shard_name(split: str, number: int) -> str:
    """The file name of a split's `number`-th shard."""
    return f"{DATASET}-{split}.array_record-{number:05d}"


@dataclass(frozen=True)
class ShardFile:
    """One file of records. A shard may be empty, if everything that belonged in it was skipped."""

    name: str
    records: int
    bytes: int
    sha256: str  # of the file


@dataclass(frozen=True)
class SplitSummary:
    """What the manifest says of one split."""

    records: int
    longest_row: int  # tokens, of rows and mirrored rows
    longest_id: str  # the first record with such a row
    sha256: str  # over the SHA-256 of every record's bytes, in order; shards do not enter into it
    index_sha256: str  # of SPLIT.index.npy
    ids_sha256: str  # of SPLIT.ids.txt
    skipped: Mapping[str, int]  # why records were left out → how many
    shards: tuple[ShardFile, ...]


@dataclass(frozen=True)
class Manifest:
    """What a records folder holds. The hash covers content and encoding, not files: the same records give the same hash
    wherever, whenever and in however many pieces they are written."""

    format: int
    sha256: str
    version: str  # of the library that wrote it
    splits: Mapping[str, SplitSummary]
    encoding: EncodeConfig
    template: str  # fingerprint
    tokenizer: str  # fingerprint
    tokenizer_file: str
    vocab_size: int
    pad_token: int
    image_token: int

    @classmethod
    def of(cls, splits: Mapping[str, SplitSummary], encoder: RecordEncoder) -> Manifest:
        """The manifest of `splits` whose rows `encoder` made."""
        tokenizer = encoder.tokenizer
        fields: dict[str, Any] = {
            "format": FORMAT,
            "encoding": encoder.config,
            "template": encoder.template.fingerprint,
            "tokenizer": tokenizer.fingerprint,
            "tokenizer_file": tokenizer.file_name,
            "vocab_size": tokenizer.vocab_size,
            "pad_token": tokenizer.pad,
            "image_token": tokenizer.image,
        }
        content = {
            **fields,
            "encoding": asdict(encoder.config),
            "splits": {name: {key: getattr(split, key) for key in _CONTENT} for name, split in splits.items()},
        }
        return cls(**fields, sha256=_hash(content), version=__version__, splits=dict(splits))

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Reads `folder/manifest.json`. Raises ExpllmError if it is not there, not of this format, or was changed."""
        path = Path(folder) / MANIFEST
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields["format"] != FORMAT:
                raise ExpllmError(f"{path} is of format {fields['format']}, not {FORMAT}", "build the records again")
            if fields.pop("checksum") != _hash(fields):
                raise ExpllmError(f"{path} was changed after it was written", "build the records again")
            fields["splits"] = {
                name: SplitSummary(**{**split, "shards": tuple(ShardFile(**shard) for shard in split["shards"])})
                for name, split in fields["splits"].items()
            }
            encoding: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in fields["encoding"].items()
            }
            fields["encoding"] = EncodeConfig(**encoding)
            return cls(**fields)
        except OSError as error:
            raise ExpllmError(
                f"{folder} holds no records ({MANIFEST}: {error.strerror})", "build them first"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ExpllmError(f"{path} is damaged ({error})", "build the records again") from error

    def write(self, folder: Path) -> None:
        """Writes `folder/manifest.json`, with a checksum over all of it."""
        fields = asdict(self)
        fields["checksum"] = _hash(fields)
        text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / MANIFEST).write_text(text, encoding="utf-8")

    def check_encoder(self, encoder: RecordEncoder, where: str | Path) -> None:
        """Raises ExpllmError, naming `where` and the part, unless `encoder` is what the rows were made with."""
        for part, found, recorded in (
            ("template", encoder.template.fingerprint, self.template),
            ("tokenizer", encoder.tokenizer.fingerprint, self.tokenizer),
            ("encoding", encoder.config, self.encoding),
        ):
            if found != recorded:
                raise ExpllmError(
                    f"the {part} in {where} is not the one its rows were made with", "build the records again"
                )


def _hash(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
