"""The engine on a cluster: the same loop over annotations as an Apache Beam transform, for any runner.

What a text says follows from the annotation, the config and the narrator alone, so that the outputs are the same set
as those of `run_engine`, in another order. There is no journal: runners do work that was lost again, and a narrator
that is paid for keeps its answers itself. Beam has an environment of its own: launch/lock/beam.txt.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from expllm_jax.engine.loop import EngineConfig, ExpCotLoop
from expllm_jax.engine.narration import Narrator
from expllm_jax.engine.outcome import Outcome
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation, annotation_line
from expllm_jax.files import write_whole

ANNOTATIONS, DEAD_LETTERS, SUMMARY = "annotations", "dead_letters", "summary.json"

_Course = tuple[str, str, int]
"""(Label or "unlabelled", status, rounds)."""


class RunEngine(beam.PTransform):
    """Annotations → outcomes.

    Args:
      make_narrator: called once on every worker; it travels there by pickling.
      pictures: the folder that pictures are relative to, the same on every worker; None if nobody looks at pictures.
      concurrency: faces that a worker has under way at once, for narrators that wait for others.
    """

    def __init__(
        self,
        make_narrator: Callable[[], Narrator],
        config: EngineConfig,
        *,
        pictures: Path | None = None,
        concurrency: int = 1,
    ) -> None:
        super().__init__()
        self._work = _Narrate(make_narrator, config, pictures)
        self._concurrency = concurrency

    def expand(self, annotations: beam.PCollection) -> beam.PCollection:
        batches = annotations | "Together" >> beam.BatchElements(1, self._concurrency)
        return batches | "Narrate" >> beam.ParDo(self._work)


def run_engine_with_beam(
    source: Path,
    folder: Path,
    make_narrator: Callable[[], Narrator],
    config: EngineConfig,
    *,
    pictures: Path | None = None,
    concurrency: int = 1,
    options: PipelineOptions | None = None,
) -> None:
    """Takes a JSON Lines file through the engine on the runner that `options` name (by default in this process).

    The folder, which must be new or empty, gets the accepted faces in `annotations-*-of-*.jsonl`, all others in
    `dead_letters-*-of-*.jsonl`, with the lines that `run_engine` writes, and how many ended in which way in
    `summary.json`. Waits for the end.

    Raises:
      ExpllmError: the folder holds something, or what fails in a worker, in the runner's words.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ExpllmError(f"{folder} is not empty", "name another folder; nothing is overwritten")
    if not source.is_file():
        raise ExpllmError(f"{source} is not there", "check the path")
    folder.mkdir(parents=True, exist_ok=True)
    engine = RunEngine(make_narrator, config, pictures=pictures, concurrency=concurrency)
    try:
        with beam.Pipeline(options=options) as pipeline:
            lines = pipeline | "Read" >> beam.io.ReadFromText(str(source), validate=False)
            outcomes = lines | "Parse" >> beam.FlatMap(_parsed) | engine
            for name in (ANNOTATIONS, DEAD_LETTERS):
                chosen = outcomes | f"Choose {name}" >> beam.FlatMap(_line, name)
                chosen | f"Write {name}" >> beam.io.WriteToText(str(folder / name), file_name_suffix=".jsonl")
            courses = outcomes | "Course" >> beam.Map(_course) | "Count" >> beam.combiners.Count.PerElement()
            courses | "All counts" >> beam.combiners.ToList() | "Summary" >> beam.Map(_write_summary, folder / SUMMARY)
    except Exception as error:  # runners wrap what a worker raised, each in its own way
        raise ExpllmError(f"{source} could not be narrated: {error}", "mend it, and name another folder") from error


class _Narrate(beam.DoFn):
    """Batches of annotations → outcomes."""

    def __init__(self, make_narrator: Callable[[], Narrator], config: EngineConfig, pictures: Path | None) -> None:
        super().__init__()
        self._make_narrator, self._config, self._pictures = make_narrator, config, pictures

    def setup(self) -> None:
        self._events = asyncio.new_event_loop()
        self._loop = ExpCotLoop(self._make_narrator(), self._config, self._pictures)

    def process(self, batch: list[Annotation]) -> Iterator[Outcome]:
        yield from self._events.run_until_complete(self._together(batch))

    def teardown(self) -> None:
        self._events.run_until_complete(self._loop.narrator.close())
        self._events.close()

    async def _together(self, batch: list[Annotation]) -> list[Outcome]:
        return await asyncio.gather(*(self._loop.run(annotation) for annotation in batch))


def _parsed(line: str) -> Iterator[Annotation]:
    if line.strip():
        try:
            yield Annotation.from_json(json.loads(line))
        except (ValueError, ExpllmError) as error:
            raise ExpllmError(f"{line[:80]!r} is no annotation: {error}", "mend or remove the line") from error


def _line(outcome: Outcome, name: str) -> Iterator[str]:
    accepted = outcome.status == "accepted"
    if accepted == (name == ANNOTATIONS):
        line = annotation_line(outcome.annotation) if accepted else outcome.dead_letter_line()
        yield line.removesuffix("\n")  # which Beam puts there itself


def _course(outcome: Outcome) -> _Course:
    return outcome.annotation.expression or "unlabelled", outcome.status, outcome.rounds


def _write_summary(counted: Iterable[tuple[_Course, int]], path: Path) -> None:
    statuses: Counter[str] = Counter()
    classes: dict[str, Counter[str]] = {}
    rounds: Counter[str] = Counter()
    for (label, status, last), count in counted:
        statuses[status] += count
        classes.setdefault(label, Counter())[status] += count
        if status == "accepted":
            rounds[str(last)] += count
    by_class = {label: dict(sorted(classes[label].items())) for label in sorted(classes)}
    summary = {**statuses, "by_class": by_class, "accepted_by_round": dict(sorted(rounds.items()))}
    write_whole(path, json.dumps(summary, indent=2) + "\n")
