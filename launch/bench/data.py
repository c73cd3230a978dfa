"""Our data pipeline beside the torch peer's on the same pictures: how fast, how full, and whether training waits.

    python launch/bench/data.py --json

Both sides get the same photographs (ORL's if they are in the cache, enlarged and tinted, else soft areas of colour) as
JPEGs of 100 to 400 pixels a side, as RAF-DB and AffectNet have them. Ours are first built into records (padded, resized
to 224, JPEG of quality 95), with labels and offline-written reasoning texts mixed 3 : 1; then come reading, decoding,
all six augmentations on the host, and packing. The peer decodes, pads, resizes and augments the files themselves, with
one text for all and no packing. Each has as many worker threads (ours) or processes (the peer's) as there are cores to
run on; they take turns, each time in a process of its own, and medians are compared.

| | |
|---|---|
| `records_ratio` | records per second and core, ours over the peer's; null without a peer |
| `packed_fill` | share of the rows' tokens that records stand on |
| `decode_share` | picture decoding's share of one thread's time for a record; all stages are in `stages_us` |
| `wait_share` | share of wall time in which the training loop of a model of size small waits for its next batch |
| `first_batch_s` | from opening 100,000 records to the first batch in a fresh process, imports left out |
| `rss_slope_mb_per_min` | growth of resident memory while reading for --minutes, without the first minute |

The peer needs torch, transformers and peft; how to make such an environment is said in model.py. Ours is read several
times over, so that start and end weigh as little as they do in training.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from model import preset
from PIL import Image, ImageOps

from expllm_jax.assets import asset_folder, asset_path, is_cached, report_to_stderr
from expllm_jax.engine import NarratorConfig, narrate
from expllm_jax.faces import EXPRESSIONS, FACS, Annotation
from expllm_jax.models import init
from expllm_jax.records import (
    BatchConfig,
    BatchIterator,
    ConversationTemplate,
    EncodeConfig,
    MixedRows,
    PackingConfig,
    RecordEncoder,
    Tokenizer,
    batches,
    build_records,
    load_tokenizer,
    open_encoder,
    open_records,
    read_picture,
    rounds_of,
    train_sentencepiece,
    training_texts,
    write_records,
)
from expllm_jax.records.augmentation import AUGMENTATIONS, augmented, draws, flipped
from expllm_jax.train import TrainConfig, train, with_row_costs
from expllm_jax.train.augmentation import augment

ROOT = Path(__file__).resolve().parents[2]
CORES = len(os.sched_getaffinity(0))
TASKS = ("label", "cot")
SHARES = (3.0, 1.0)  # of them in the mixture
MANY = 100_000  # records of the folder that is opened
SIZES = (100, 400)  # pixels a side of the pictures
WARM_UP_S = 60.0  # of memory measurements
EPOCHS = 3  # of the run whose first batch is waited for
MEMORY_EPOCHS = 20  # of the run that memory is watched in; it ends before them
PASSES = 8  # over the pictures, when ours is timed; once is over before it is at full speed


def make_pictures(folder: Path, count: int) -> str:
    """Writes `count` JPEGs, always the same; returns what they are made from."""
    photographs = sorted(asset_folder("orl-faces").glob("s*/*.pgm")) if is_cached("orl-faces") else []
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        width, height = rng.integers(*SIZES, 2, endpoint=True).tolist()
        if photographs:
            grey = ImageOps.fit(Image.open(photographs[number % len(photographs)]), (width, height))
            dark, light = rng.integers(0, 60, 3).tolist(), rng.integers(200, 256, 3).tolist()
            image = ImageOps.colorize(grey, tuple(dark), tuple(light))
        else:
            coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8))
            image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.asarray(image, np.float32) + rng.normal(0, 2, (height, width, 3))  # as sensors have it
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=90)
    return "ORL photographs" if photographs else "areas of colour"


def make_faces(folder: Path) -> list[tuple[Annotation, Path]]:
    """The pictures with made-up labels, action units, and texts about them."""
    faces, codes = [], FACS.codes
    for number, path in enumerate(sorted(folder.iterdir())):
        rng = np.random.default_rng(number)
        expression = EXPRESSIONS[number % 7]
        shown = rng.choice(codes, rng.integers(2, 7), replace=False)
        units = {str(code): float(rng.uniform(0.1, 1)) for code in shown}
        text = narrate(expression, units, NarratorConfig(), rng)
        faces.append((Annotation(path.name, expression, {"facs": units}, text), path))
    return faces


def make_records(folder: Path, faces: Sequence[tuple[Annotation, Path]]) -> str:
    """Builds a set of records for each task, and MANY by repetition; returns which tokenizer made the rows."""
    template = ConversationTemplate.load("face_v1")
    texts = training_texts([rounds_of(annotation) for annotation, _ in faces], template)
    tokenizer: Tokenizer
    if is_cached("llama-tokenizer"):
        tokenizer, name = load_tokenizer(asset_path("llama-tokenizer")), "LLaMA-shaped"
    else:
        tokenizer, name = train_sentencepiece(texts, folder / "tokenizer.model", 4096), "trained on the texts"
    for task, share in zip(TASKS, SHARES, strict=True):
        config = EncodeConfig(image_tokens=256, tasks=(task,), picture="square", picture_format="jpeg")
        encoder = RecordEncoder(template, tokenizer, config)
        build_records(folder / task, {"train": faces}, encoder)
        count = int(MANY * share / sum(SHARES))
        records = itertools.islice(itertools.cycle(open_records(folder / task, "train")), count)
        named = (dataclasses.replace(record, id=f"{number}") for number, record in enumerate(records))
        write_records(folder / f"many_{task}", {"train": named}, encoder)
    return name


def opened(folder: Path, prefix: str = "") -> MixedRows:
    """The mixture of both tasks."""
    return MixedRows([open_records(folder / f"{prefix}{task}", "train") for task in TASKS], [1.0, 1.0], SHARES)


def batch_config(options: argparse.Namespace, **changes: Any) -> BatchConfig:
    """Packed and augmented, as a model of size small would be trained."""
    packing = with_row_costs(PackingConfig(on=True), preset("small"), 224)
    config = BatchConfig(
        batch=options.batch, packing=packing, augmentation=AUGMENTATIONS["reference"], read_ahead=2 * CORES,
        threads=1 if options.workers else CORES, workers=options.workers,
        updates=PASSES * options.pictures // options.batch,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def measure_stream(options: argparse.Namespace) -> dict[str, Any]:
    """Records per second out of the pipeline, once it is at work."""
    source = opened(options.folder)
    config = batch_config(options, augment_on="device" if options.device else "host")
    reading = batches(source, config)
    for _ in range(config.read_ahead):  # worker processes have to import everything first
        next(reading)
    began = time.perf_counter()
    records = sum(int(np.count_nonzero(batch["record"] >= 0)) for batch in reading)
    seconds = time.perf_counter() - began
    reading.close()
    found = {"records_per_s": records / seconds, "packed_fill": reading.plan.fill(config.updates)[0],
             "rows": reading.plan.shape._asdict()}  # fmt: skip
    if options.device:
        found |= {"device_ms": _device_ms(options.batch), "device": jax.devices()[0].device_kind}
    return found


def _device_ms(batch: int, repeats: int = 5) -> float:
    """Milliseconds a picture that the augmentation takes in the training step."""
    rows = draws(AUGMENTATIONS["reference"], 0, 0, np.arange(batch), np.zeros(batch, bool))
    pictures = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), np.uint8)
    arguments, compiled = jax.device_put((pictures, rows)), jax.jit(augment)
    times = timeit.repeat(lambda: jax.block_until_ready(compiled(*arguments)), number=1, repeat=1 + repeats)
    return 1e3 * statistics.median(times[1:]) / batch  # the first one compiles


def measure_stages(options: argparse.Namespace) -> dict[str, Any]:
    """Microseconds a record in one thread: of every batch, first each stage alone and then the pipeline as it is.

    `assembly` is what the stages leave over: putting rows and pictures into the arrays of a batch.
    """
    source = opened(options.folder)
    config = batch_config(options, threads=0)
    reading, place, records = batches(source, config), np.zeros((224, 224, 3), np.float32), 0
    spent = dict.fromkeys(("plan", "draws", "read", "parse", "decode", "augment", "total"), 0.0)
    next(reading)

    def timed(stage: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        result = call(*arguments, **named)
        spent[stage] += time.perf_counter() - began
        return result

    for number in range(1, config.updates):
        layout = timed("plan", reading.plan.update, number)
        indices = layout.record[layout.record >= 0]
        rows = timed("draws", draws, config.augmentation, 0, 0, indices, np.zeros(len(indices), bool))
        for index, row, mirrored in zip(indices.tolist(), rows, flipped(rows).tolist(), strict=True):
            content = timed("read", source.picture, index)  # the whole record; its row is then only parsed
            timed("parse", source.row, index, mirrored)
            picture = timed("decode", read_picture, content)
            timed("augment", augmented, picture, row, out=place)
        timed("total", next, reading)
        records += len(indices)
    total = spent.pop("total")
    spent |= {"assembly": total - sum(spent.values()), "total": total}
    stages = {stage: 1e6 * seconds / records for stage, seconds in spent.items()}
    return {"stages_us": stages, "decode_share": spent["decode"] / total}


def measure_first(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds from opening MANY records to the first batch of a run over them."""
    started = _process_seconds()
    began = time.perf_counter()
    source = opened(options.folder, "many_")
    reading = batches(source, batch_config(options, epochs=EPOCHS, updates=0))
    planned = time.perf_counter()
    next(reading)
    ended = time.perf_counter()
    reading.close()
    return {"first_batch_s": ended - began, "open_and_plan_s": planned - began, "import_s": started}


def _process_seconds() -> float:
    """Seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Reads for --minutes and fits a line through the resident memory of this process and its workers."""
    source = opened(options.folder, "many_")
    config = batch_config(options, epochs=MEMORY_EPOCHS, updates=0)
    seen, ended = [], threading.Event()
    began = time.perf_counter()

    def watch() -> None:
        while not ended.wait(1):
            seen.append((time.perf_counter() - began, _resident_mb()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    records, reading = 0, batches(source, config)
    try:
        for batch in reading:
            records += int(np.count_nonzero(batch["record"] >= 0))
            if time.perf_counter() - began > 60 * options.minutes:
                break
    finally:
        ended.set()
        watcher.join()
        reading.close()
    seconds, megabytes = np.array(seen).T
    late = seconds > min(WARM_UP_S, 30 * options.minutes)
    slope = np.polyfit(seconds[late] / 60, megabytes[late], 1)[0]
    memory = {"records": records, "minutes": seconds[-1] / 60, "rss_mb": megabytes[:: 1 + len(seen) // 20].tolist()}
    return {"rss_slope_mb_per_min": float(slope), "memory": memory}


def _resident_mb() -> float:
    """Of this process and those it has started."""
    children = [file.read_text().split() for file in Path("/proc/self/task").glob("*/children")]
    total = 0
    for process in itertools.chain(["self"], *children):
        with contextlib.suppress(OSError):  # it has ended
            lines = Path("/proc", process, "status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total / 1024


def measure_train(options: argparse.Namespace) -> dict[str, Any]:
    """Trains and measures how long the loop waits for batches; the first two updates, which compile, do not count."""
    image_token = open_encoder(options.folder / TASKS[0]).tokenizer.image
    config = dataclasses.replace(preset("small"), image_token=image_token)
    calls: list[tuple[float, float]] = []
    plain = BatchIterator.__next__

    def timed(self: BatchIterator) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        batch = plain(self)
        calls.append((began, time.perf_counter()))
        return batch

    BatchIterator.__next__ = timed
    settings = TrainConfig(
        steps=options.steps + 2, batch=options.train_batch, packing=PackingConfig(on=True), augment="host",
        threads=CORES, checkpoint_every=options.steps + 2,
    )  # fmt: skip
    train(settings, *init(config), opened(options.folder), options.folder / "run", stream=io.StringIO())
    waits = [end - begin for begin, end in calls[2:]]
    wall = calls[-1][1] - calls[1][1]
    training = {"batch": settings.batch, "step_s": wall / len(waits), "waits_s": waits}
    return {"wait_share": sum(waits) / wall, "training": training}


MEASURES = {"stream": measure_stream, "stages": measure_stages, "first": measure_first, "memory": measure_memory,
            "train": measure_train}  # fmt: skip


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, one process after the other."""
    with tempfile.TemporaryDirectory(prefix="expllm-bench-") as temporary:
        pictures = (folder := Path(temporary)) / "pictures"
        report_to_stderr("making pictures and records ...")
        made_from = make_pictures(pictures, options.pictures)
        tokenizer = make_records(folder, make_faces(pictures))
        script = [sys.executable, str(Path(__file__))]
        shared = [f"--folder={folder}", f"--pictures={options.pictures}", f"--batch={options.batch}"]

        def ours(what: str, *more: str) -> dict[str, Any]:
            return _child([*script, f"--only={what}", *shared, *more])

        peer = [options.peer_python, str(ROOT / "launch/bench/torch_expllm.py"), "data", f"--images={pictures}",
                f"--batch={options.batch}", f"--workers={CORES}"]  # fmt: skip
        streams, peers = [], []
        for _ in range(options.rounds):
            streams.append(ours("stream"))
            if options.peer_python:
                peers.append(_child(peer))
        rates, peer_rates = ([found["records_per_s"] for found in side] for side in (streams, peers))
        rate, peer_rate = statistics.median(rates), statistics.median(peer_rates) if peers else None
        result = {
            "cores": CORES, "batch": options.batch, "pictures": options.pictures, "pictures_from": made_from,
            "tokenizer": tokenizer, "records_ratio": peer_rate and rate / peer_rate, "records_per_s": rate,
            "records_per_s_per_core": rate / CORES, "peer_records_per_s_per_core": peer_rate and peer_rate / CORES,
            "rounds": {"ours": rates, "peer": peer_rates},
            "packed_fill": streams[0]["packed_fill"], "rows": streams[0]["rows"],
            "workers": ours("stream", f"--workers={CORES}"), "device_path": ours("stream", "--device"),
            **ours("stages"), **ours("first"),
            **ours("train", f"--steps={options.steps}", f"--train-batch={options.train_batch}"),
        }  # fmt: skip
        if options.minutes:
            result |= ours("memory", f"--minutes={options.minutes}")
            result["workers_memory"] = ours("memory", f"--minutes={options.minutes / 3}", f"--workers={CORES}")
    return result


def _child(command: list[str]) -> dict[str, Any]:
    """Runs one measurement and reads the JSON of its last line."""
    report_to_stderr(" ".join(command[1:]))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


SUMMARY = (
    ("records_ratio", "records per second, ours over the peer's", ".2f"),
    ("records_per_s_per_core", "records per second and core", ".0f"),
    ("packed_fill", "of the rows' tokens are in use", ".1%"),
    ("decode_share", "of a record's time is picture decoding", ".0%"),
    ("wait_share", "of its time training waits for data", ".3%"),
    ("first_batch_s", f"seconds to the first batch of {MANY:,} records", ".2f"),
    ("rss_slope_mb_per_min", "MB a minute that resident memory grows by", ".2f"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="example: python launch/bench/data.py --minutes 2 --json"
    )
    parser.add_argument("--pictures", type=int, default=2000, help="pictures, and records that count (default: 2000)")
    parser.add_argument("--batch", type=int, default=32, help="records of a batch (default: 32)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of ours and the peer (default: 3)")
    parser.add_argument("--steps", type=int, default=10, help="updates of the training that count (default: 10)")
    parser.add_argument("--train-batch", type=int, default=4, help="records of its updates (default: 4)")
    parser.add_argument("--minutes", type=float, default=10, help="of reading for the memory; 0: not at all")
    parser.add_argument("--peer-python", default=str(ROOT / ".venv-parity" / "bin" / "python"),
                        help="an interpreter with torch, transformers and peft (default: .venv-parity's)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    for name, kind in (("only", str), ("folder", Path), ("workers", int)):
        parser.add_argument(f"--{name}", type=kind, default=kind(), help=argparse.SUPPRESS)
    parser.add_argument("--device", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.pictures, options.batch, options.rounds, options.steps, options.train_batch) < 1:
        parser.error("--pictures, --batch, --rounds, --steps and --train-batch are 1 or more")
    if options.only:
        print(json.dumps(MEASURES[options.only](options)))
        return
    if options.peer_python and not os.access(options.peer_python, os.X_OK):
        report_to_stderr(f"there is no {options.peer_python} (see model.py's first lines): ours is measured alone")
        options.peer_python = ""
    result = compare(options)
    for name, meaning, form in () if options.json else SUMMARY:
        if result.get(name) is not None:
            print(f"{result[name]:>10{form}}  {meaning}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
