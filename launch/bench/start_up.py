"""How long training waits for its first batch when the records are many, and lie in many files.

    python launch/bench/start_up.py --records 10_000_000 --shards 200,1000,10000 --json

For every number of files a folder of that many records is made: one real file of caption records, linked under as many
names, with index and manifest as `expllm data build` writes them. A fresh process then opens it, plans the whole run in
packed rows, and takes the first batch as one of 16 hosts; imports are left out. Medians of --rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from expllm_jax.faces import Annotation
from expllm_jax.records import (
    BatchConfig,
    ConversationTemplate,
    EncodeConfig,
    Manifest,
    PackingConfig,
    Record,
    RecordEncoder,
    batches,
    open_records,
    open_tokenizer,
    train_sentencepiece,
    write_records,
)
from expllm_jax.records.index import write_index
from expllm_jax.records.manifest import shard_name
from expllm_jax.records.shards import write_shard

BATCH, HOSTS = 1024, 16  # records of an update; computers that share them, of which one is measured
SPLIT = "train"


def main() -> None:
    arguments = _arguments()
    counts = [int(count) for count in arguments.shards.split(",")]
    found: dict[str, Any] = {"records": arguments.records, "batch": BATCH, "shards": {}}
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        for shards in counts:
            folder = Path(work) / str(shards)
            _make(folder, arguments.records, shards)
            runs = [_measured(folder) for _ in range(arguments.rounds)]
            found["shards"][shards] = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
            told = found["shards"][shards]
            line = (
                f"{shards:>7,} files: opened in {told['open_s']:.2f} s, first batch after {told['first_batch_s']:.2f} s"
            )
            print(line, file=sys.stderr)
    if arguments.json:
        print(json.dumps(found))


def _make(folder: Path, records: int, shards: int) -> None:
    """A folder of `records` records in `shards` files that are one and the same."""
    encoder = _encoder(folder.with_suffix(".tokenizer"))
    picture = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(picture, "PNG")
    rng = np.random.default_rng(0)
    words = "a the face of person in front light with smile looking left street red coat".split()

    def made(count: int) -> Iterator[Record]:
        for number in range(count):
            caption = " ".join(rng.choice(words, int(rng.integers(5, 40))))
            yield encoder.record(Annotation(f"{number:09d}.png", caption=caption), picture.getvalue())

    summary = write_records(folder, {SPLIT: made(1)}, encoder).splits[SPLIT]  # for template and tokenizer
    first = folder / shard_name(SPLIT, 0)
    first.unlink()
    shard = write_shard(folder, SPLIT, 0, made(records // shards))
    for number in range(1, shards):
        os.link(first, folder / shard_name(SPLIT, number))
    entries = np.tile(shard.entries, shards)
    ids = [f"{number:09d}.png" for number in range(len(entries))]
    index_sha256, ids_sha256 = write_index(folder, SPLIT, entries, ids)
    summary = dataclasses.replace(
        summary,
        records=len(entries),
        longest_row=int(entries["tokens"].max()),
        index_sha256=index_sha256,
        ids_sha256=ids_sha256,
        shards=tuple(dataclasses.replace(shard.file, name=shard_name(SPLIT, number)) for number in range(shards)),
    )
    Manifest.of({SPLIT: summary}, encoder).write(folder)


def _encoder(folder: Path) -> RecordEncoder:
    folder.mkdir()
    model = folder / "tokenizer.model"
    train_sentencepiece([f"a face {number} in the light of the street" for number in range(500)], model, 512)
    config = EncodeConfig(image_tokens=256, layout="chained", tasks=("caption",), mirror=False)
    return RecordEncoder(ConversationTemplate.load("face_v1"), open_tokenizer(model, config), config)


def _measured(folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def _measure(folder: Path) -> None:
    began = time.perf_counter()
    source = open_records(folder, SPLIT)
    opened = time.perf_counter()
    packing = PackingConfig(on=True, longest=2048, picture_cost=150.0, attention_length=12000.0)
    config = BatchConfig(
        batch=BATCH, updates=len(source) // BATCH, packing=packing, rows_multiple=4 * HOSTS, process_count=HOSTS
    )
    iterator = batches(source, config, None)
    planned = time.perf_counter()
    next(iterator)
    ended = time.perf_counter()
    print(json.dumps({"open_s": opened - began, "plan_s": planned - opened, "first_batch_s": ended - began}))
    iterator.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--shards", default="200,1000,10000", help="numbers of files, with commas between")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", help="folder for the records (default: the system's for temporary files)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        _measure(Path(arguments.measure))
        sys.exit(0)
    return arguments


if __name__ == "__main__":
    main()
