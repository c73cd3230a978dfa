"""Building records on a cluster: the jobs of `records.building` as an Apache Beam transform, for any runner.

What comes out is byte for byte what `build_records` makes. All computers must see the pictures and the folder under the
same paths, as on a shared file system: ArrayRecord files are written there directly. A job that has a finished shard
(see `records.building`) is not done again, whoever did it.

Beam holds protobuf and Pillow below the versions that the rest is pinned to, so that this module has an environment of
its own: launch/lock/beam.txt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from expllm_jax.errors import ExpllmError
from expllm_jax.records.building import BuildPlan, Face, ShardBuilder, ShardJob, in_order, plan_records
from expllm_jax.records.encode import RecordEncoder
from expllm_jax.records.manifest import Manifest
from expllm_jax.records.shards import Shard

_Done = tuple[tuple[str, int], Shard]
"""(Split and number of the job, its shard)."""


class BuildRecords(beam.PTransform):
    """A plan → the manifest of its records folder, one element. To be applied to a pipeline, once
    `plan.builder.staging.begin(encoder)` has stored the encoder for the workers.
    """

    def __init__(self, plan: BuildPlan) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        plan = self._plan
        shards = (
            pipeline
            | "Jobs" >> beam.Create(plan.jobs)
            | "To all workers" >> beam.Reshuffle()
            | "Write shards" >> beam.ParDo(_WriteShard(plan.builder))
        )
        return (
            pipeline
            | "Once" >> beam.Create([plan.splits])
            | "Finish" >> beam.Map(_finish, plan.builder, len(plan.jobs), beam.pvalue.AsList(shards))
        )


def build_records_with_beam(
    folder: str | Path,
    splits: Mapping[str, Sequence[Face]],
    encoder: RecordEncoder,
    *,
    options: PipelineOptions | None = None,
    on_error: str = "raise",
    overwrite: bool = False,
    shard_records: int = 0,
) -> Manifest:
    """`records.build_records` on the runner that `options` name (by default in this process), which is waited for.

    Raises ExpllmError as `build_records` does; what fails in a worker is told in the runner's words.
    """
    plan = plan_records(folder, splits, encoder, on_error=on_error, overwrite=overwrite, shard_records=shard_records)
    staging = plan.builder.staging
    with staging.file_errors(), staging.locked():
        staging.begin(encoder)
        try:
            with beam.Pipeline(options=options) as pipeline:
                pipeline | BuildRecords(plan)
        except Exception as error:  # runners wrap what a worker raised, each in its own way
            raise ExpllmError(f"{folder} could not be built: {error}", "the same call goes on where it was") from error
        staging.remove()
    return Manifest.read(folder)


class _WriteShard(beam.DoFn):
    """ShardJob → _Done."""

    def __init__(self, builder: ShardBuilder) -> None:
        super().__init__()
        self._builder = builder

    def setup(self) -> None:
        self._encoder = self._builder.encoder()

    def process(self, job: ShardJob) -> Iterator[_Done]:
        yield (job.split, job.number), self._builder.do(job, self._encoder)


def _finish(splits: tuple[str, ...], builder: ShardBuilder, jobs: int, shards: Iterable[_Done]) -> Manifest:
    staging = builder.staging
    if not staging.records.is_dir() and staging.folder.is_dir():
        return Manifest.read(staging.folder)  # the runner asks again for what it has been given
    by_job = dict(shards)
    if len(by_job) != jobs:
        raise ExpllmError(f"{len(by_job)} of {jobs} shards were made", "run the pipeline again")
    return staging.finish(in_order(splits, by_job), builder.encoder())
