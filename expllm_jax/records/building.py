"""Annotations and pictures to records, in parallel, and without doing anything twice.

The faces of a split are cut into jobs, a shard file each. Every job is a pure function of its faces and the encoder:
any process may do it, and a build that was killed goes on with the jobs that have no finished shard. How many processes
there are and how often they were killed leaves no trace in the result.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

from expllm_jax import __version__
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.records.encode import Record, RecordEncoder
from expllm_jax.records.encode_config import EncodeConfig
from expllm_jax.records.manifest import FORMAT, Manifest
from expllm_jax.records.shards import ON_ERROR, Shard, Skipped, finished_shard, save_note, write_shard
from expllm_jax.records.writing import Staging, check_ids, stored_encoder

Face = tuple[Annotation, str | Path]
"""What is known of a picture, and the file it is in."""

_SMALLEST_SHARD = 512  # records; a second or so of work, and as much is lost to a kill
_WORTH_A_PROCESS = 2048  # faces that are encoded in about the time that starting a process takes
_MOST_SHARDS = 512  # of a split: a reader may hold every file open


def build_records(
    folder: str | Path,
    splits: Mapping[str, Sequence[Face]],
    encoder: RecordEncoder,
    *,
    workers: int = 0,
    on_error: str = "raise",
    overwrite: bool = False,
    report: Callable[[int, int], None] | None = None,
    shard_records: int = 0,
) -> Manifest:
    """Builds the records of every split, in the order given, and returns the manifest.

    Killed at any moment, the same call goes on where it was: a finished shard is used again if its annotations, its
    pictures (path, size, time of change), the encoder and the library are the same.

    Args:
      folder: where they go; its parent is made if need be. One writer at a time.
      splits: name (letters, digits, "_") → (annotation, picture file). A record's id is `annotation.picture`.
      encoder: makes the rows; its template and tokenizer are stored with them.
      workers: processes; 0 is as many as there are processors to run on and enough faces for. With more than one, the
        calling script needs its `if __name__ == "__main__":`, since the workers are spawned.
      on_error: "raise" stops at the first face that cannot be encoded; "skip" leaves such faces out, counts them in the
        manifest and lists them in skipped.jsonl.
      overwrite: replaces a records folder that is there already (only one with a manifest).
      report: is told (faces done, faces in all) now and then.
      shard_records: faces of a shard file; 0 is 512, or more where that would make too many files.

    Raises:
      ExpllmError: for a folder that exists or cannot be written, a full disk, an id that comes twice, a split without
        records or with a bad name, a worker that was killed; with "raise", for a picture or an annotation that cannot
        be encoded, naming its file. What is finished stays for the next call, out of sight.
    """
    if workers < 0:
        raise ExpllmError(f"workers is {workers}", "use 1 or more, or 0 for one a processor")
    plan = plan_records(folder, splits, encoder, on_error=on_error, overwrite=overwrite, shard_records=shard_records)
    staging, total = plan.builder.staging, sum(len(job.faces) for job in plan.jobs)
    with staging.file_errors(), staging.locked():
        staging.begin(encoder)
        usual = min(len(os.sched_getaffinity(0)), -(-total // _WORTH_A_PROCESS))
        workers = min(workers or usual, len(plan.jobs))
        shards: dict[tuple[str, int], Shard] = {}
        done = 0
        for job, shard in _in_turn(plan, encoder) if workers == 1 else _in_parallel(plan, workers):
            shards[job.split, job.number] = shard
            done += len(job.faces)
            if report is not None:
                report(done, total)
        manifest = staging.finish(in_order(plan.splits, shards), encoder)
        staging.remove()
    return manifest


@dataclass(frozen=True)
class ShardJob:
    """One shard file that is to be made."""

    split: str
    number: int
    faces: tuple[tuple[Annotation, str], ...]

    def fingerprint(self, described: str) -> str:
        """Changes with everything that the shard is made from; `described` stands for the encoder and the settings."""
        digest = hashlib.sha256(described.encode())
        for annotation, path in self.faces:
            try:
                found = os.stat(path)
                file = [path, found.st_size, found.st_mtime_ns]
            except OSError:
                file = [path]
            digest.update(json.dumps([vars(annotation), file], sort_keys=True).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class ShardBuilder:
    """Does jobs. It can be sent to other processes, and to other computers that see the same folders."""

    staging: Staging
    config: EncodeConfig
    tokenizer_file: str
    on_error: str
    described: str  # the encoder and the settings, as they enter the fingerprints

    def encoder(self) -> RecordEncoder:
        """The encoder, from what `staging.begin` has stored."""
        return stored_encoder(self.staging.records, self.tokenizer_file, self.config)

    def do(self, job: ShardJob, encoder: RecordEncoder) -> Shard:
        """The job's shard: the finished one if there is one, else a new one.

        Raises ExpllmError for a face that cannot be encoded (with on_error "raise"), OSError for files that cannot be
        written.
        """
        note = self.staging.jobs / f"{job.split}-{job.number:05d}.json"
        fingerprint = job.fingerprint(self.described)
        shard = finished_shard(note, self.staging.records, fingerprint)
        if shard is None:
            skipped: list[Skipped] = []
            records = _encoded(job, encoder, skipped if self.on_error == "skip" else None)
            shard = write_shard(self.staging.records, job.split, job.number, records, skipped)
            save_note(note, shard, fingerprint)
        return shard


@dataclass(frozen=True)
class BuildPlan:
    """What is to be built: jobs that know nothing of each other, and who does them."""

    builder: ShardBuilder
    splits: tuple[str, ...]
    jobs: tuple[ShardJob, ...]


def plan_records(
    folder: str | Path,
    splits: Mapping[str, Sequence[Face]],
    encoder: RecordEncoder,
    *,
    on_error: str = "raise",
    overwrite: bool = False,
    shard_records: int = 0,
) -> BuildPlan:
    """Checks what can be checked before any work and cuts the work into jobs; see `build_records`."""
    if on_error not in ON_ERROR:
        raise ExpllmError(f"on_error is {on_error!r}", f"use one of: {', '.join(ON_ERROR)}")
    if shard_records < 0:
        raise ExpllmError(f"shard_records is {shard_records}", "use 1 or more, or 0 for the usual")
    staging = Staging.of(folder)
    staging.check_free(splits, overwrite)
    for split, faces in splits.items():
        if not faces:
            raise ExpllmError(f"split {split!r} has no records", "leave the split out")
    check_ids(annotation.picture for faces in splits.values() for annotation, _ in faces)
    described = {
        "format": FORMAT,
        "version": __version__,
        "template": encoder.template.fingerprint,
        "tokenizer": encoder.tokenizer.fingerprint,
        "encoding": asdict(encoder.config),
        "on_error": on_error,
    }
    builder = ShardBuilder(
        staging, encoder.config, encoder.tokenizer.file_name, on_error, json.dumps(described, sort_keys=True)
    )
    jobs = tuple(job for split, faces in splits.items() for job in _jobs(split, faces, shard_records))
    return BuildPlan(builder, tuple(splits), jobs)


def in_order(splits: Sequence[str], shards: Mapping[tuple[str, int], Shard]) -> dict[str, list[Shard]]:
    """Shards by (split, number of the job), however they came → the splits as planned, each in the jobs' order."""
    return {split: [shards[key] for key in sorted(shards) if key[0] == split] for split in splits}


def _jobs(split: str, faces: Sequence[Face], shard_records: int) -> Iterator[ShardJob]:
    size = shard_records or max(_SMALLEST_SHARD, -(-len(faces) // _MOST_SHARDS))
    for number, start in enumerate(range(0, len(faces), size)):
        chunk = faces[start : start + size]
        yield ShardJob(split, number, tuple((annotation, os.path.abspath(path)) for annotation, path in chunk))


def _encoded(job: ShardJob, encoder: RecordEncoder, skipped: list[Skipped] | None) -> Iterator[Record]:
    """The job's records; a face that cannot be encoded is added to `skipped`, or, if that is None, raises."""
    for annotation, path in job.faces:
        try:
            yield encoder.record(annotation, path)
        except ExpllmError as error:
            if skipped is None:
                raise ExpllmError(f"{path}: {error.problem}", error.remedy) from error
            skipped.append(Skipped.of(annotation.picture, error))


def _in_turn(plan: BuildPlan, encoder: RecordEncoder) -> Iterator[tuple[ShardJob, Shard]]:
    return ((job, plan.builder.do(job, encoder)) for job in plan.jobs)


def _in_parallel(plan: BuildPlan, workers: int) -> Iterator[tuple[ShardJob, Shard]]:
    """The jobs and their shards, as they are finished.

    Workers are spawned, not forked: the caller may have threads and an accelerator. After an error, jobs that have
    begun are finished and the others are not begun.
    """
    executor = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin, initargs=(plan.builder,))
    try:
        jobs = {executor.submit(_do, job): job for job in plan.jobs}
        for future in as_completed(jobs):
            yield jobs.pop(future), future.result()
    except BrokenProcessPool as error:
        raise ExpllmError(
            "a process that was building records was killed or could not start",
            "if memory ran out, use fewer workers; the same command goes on where it was",
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


class _Worker:
    """What a worker process holds between jobs."""

    builder: ShardBuilder
    encoder: RecordEncoder


def _begin(builder: ShardBuilder) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller is told, and stops us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _Worker.builder, _Worker.encoder = builder, builder.encoder()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for jobs for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(job: ShardJob) -> Shard:
    return _Worker.builder.do(job, _Worker.encoder)
