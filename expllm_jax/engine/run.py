"""A run of the engine: a file of annotations in, a folder of texts out, any number of times until it is finished.

The folder holds `journal.jsonl` (see `journal`), and from the end of the run on `annotations.jsonl` or `.parquet` (the
accepted faces), `dead_letters.jsonl` (all others, with the reason and what was tried) and `summary.json`. The files are
in the order of the input and follow from the journal alone: a run that was killed and started again ends with the same
bytes as one that was left alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expllm_jax.engine.annotation_streams import is_parquet, stream_annotations, write_annotation_stream
from expllm_jax.engine.journal import Journal
from expllm_jax.engine.loop import ExpCotLoop
from expllm_jax.engine.narration import BudgetSpent
from expllm_jax.engine.outcome import Status
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.files import text_file, write_whole

JOURNAL, DEAD_LETTERS, SUMMARY = "journal.jsonl", "dead_letters.jsonl", "summary.json"
TEXTS = {"jsonl": "annotations.jsonl", "parquet": "annotations.parquet"}
"""Form -> the file of the accepted annotations."""

Form = Literal["jsonl", "parquet"]
Report = Callable[[int, int, Counter[Status]], None]
"""(Faces finished, all faces, how they ended), called now and then while a run goes on; the first call says how many an
earlier process had finished."""


@dataclass(frozen=True)
class EngineRun:
    """Where a run stands when its process ends."""

    texts: Path
    dead_letters: Path
    summary: dict[str, Any]  # as in summary.json
    stopped: str  # why it stopped before the end; "" if it did not

    @property
    def complete(self) -> bool:
        """Whether every face is accepted or rejected."""
        return not (self.summary["pending"] or self.summary["failed"])


def run_engine(
    source: Path,
    folder: Path,
    loop: ExpCotLoop,
    *,
    concurrency: int = 1,
    retry_rejected: bool = False,
    form: Form | None = None,
    report: Report = lambda done, count, ended: None,
) -> EngineRun:
    """Takes every annotation of a file through the loop that is not finished yet. Must not be called on an event loop.

    Args:
      source: JSON Lines, or Parquet if it is called `.parquet`. It is read and checked as a whole before anybody is
        asked anything.
      folder: where the results go; one with a run of the same input, config and narrator is gone on with.
      concurrency: faces that are under way at once; a narrator that computes has no use for more than one.
      retry_rejected: whether faces that were rejected are tried again as well; failed ones always are.
      form: of the accepted annotations; None: that of the source.

    Raises:
      ExpllmError: a line or row of the source cannot be used (it is named), the folder holds something else, or what
        the narrator raises.
    """
    form = form or ("parquet" if is_parquet(source) else "jsonl")
    _check_folder(folder)
    source_facts = _examine(source, loop)
    narrator = loop.narrator
    header = {
        "engine": 1,
        "input": source_facts,
        "config": loop.config.to_json(),
        "narrator": {"name": narrator.name, "fingerprint": narrator.fingerprint},
    }
    journal = Journal(folder / JOURNAL, header, source_facts["annotations"])
    try:
        run = _Run(source, loop, journal, retry_rejected, report)
        asyncio.run(run.finish(concurrency))
        summary = _write_results(source, folder, journal, header, form)
        if told := narrator.report():
            summary |= {"narrator_report": told}
        write_whole(folder / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    finally:
        journal.close()
    return EngineRun(folder / TEXTS[form], folder / DEAD_LETTERS, summary, run.stopped)


class _Run:
    """The faces of a run that are still to be done, shared by as many workers as may be under way at once."""

    def __init__(self, source: Path, loop: ExpCotLoop, journal: Journal, retry_rejected: bool, report: Report) -> None:
        self._loop, self._journal, self._report = loop, journal, report
        again: set[Status] = {"failed", "rejected"} if retry_rejected else {"failed"}
        self._todo = (
            (index, annotation)
            for index, (_, annotation) in enumerate(stream_annotations(source))
            if (status := journal.status(index)) is None or status in again
        )
        self._ended = journal.counts()
        for unfinished in again:
            del self._ended[unfinished]
        self.stopped = ""

    async def finish(self, concurrency: int) -> None:
        """Works until every face has been tried or the narrator's budget is spent."""
        self._tell()
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(concurrency):
                    workers.create_task(self._work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await self._loop.narrator.close()

    async def _work(self) -> None:
        while not self.stopped and (next_face := next(self._todo, None)):
            index, annotation = next_face
            try:
                outcome = await self._loop.run(annotation)
            except BudgetSpent as spent:  # others may be between two questions: they end in the same way, or well
                self.stopped = str(spent)
                return
            self._journal.append(index, outcome)
            self._ended[outcome.status] += 1
            self._tell()
            await asyncio.sleep(0)  # a narrator that only computes would never let a Ctrl-C through

    def _tell(self) -> None:
        self._report(self._ended.total(), self._journal.count, self._ended)


def _check_folder(folder: Path) -> None:
    """Raises ExpllmError if files of the run's names lie in the folder without a run."""
    if (folder / JOURNAL).exists():
        return
    for name in (*TEXTS.values(), DEAD_LETTERS, SUMMARY):
        if (folder / name).exists():
            raise ExpllmError(
                f"{folder} holds {name}, but no run of the engine", "name another folder; nothing is overwritten"
            )


def _examine(source: Path, loop: ExpCotLoop) -> dict[str, Any]:
    """What identifies the input; reads all of it, so that a mistake at its end is found before anything is paid for."""
    count = 0
    for where, annotation in stream_annotations(source):
        try:
            loop.task(annotation)
        except ExpllmError as error:
            raise ExpllmError(f"{source}, {where}: {error.problem}", error.remedy) from error
        count += 1
    if not count:
        raise ExpllmError(f"{source} holds no annotations", "give a file of annotated faces")
    with source.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "annotations": count}


def _write_results(
    source: Path, folder: Path, journal: Journal, header: Mapping[str, Any], form: Form
) -> dict[str, Any]:
    """Writes the accepted annotations and the dead letters, in the order of the input; returns the summary."""
    classes: dict[str, Counter[str]] = {}
    rounds: Counter[int] = Counter()
    rejected_for: Counter[str] = Counter()
    with text_file(folder / DEAD_LETTERS) as dead_letters:

        def accepted() -> Iterator[Annotation]:
            for index, (_, annotation) in enumerate(stream_annotations(source)):
                outcome = journal.outcome(index, annotation)
                ended = classes.setdefault(annotation.expression or "unlabelled", Counter())
                ended[outcome.status if outcome else "pending"] += 1
                if outcome is None:
                    continue
                if outcome.status == "accepted":
                    rounds[outcome.rounds] += 1
                    yield outcome.annotation
                    continue
                rejected_for.update({finding.code for finding in outcome.findings})
                dead_letters.write(outcome.dead_letter_line())

        write_annotation_stream(folder / TEXTS[form], accepted())
    ended = sum(classes.values(), start=Counter())
    return {
        **header,
        **{name: ended[name] for name in ("accepted", "rejected", "failed", "pending")},
        "by_class": {label: dict(sorted(classes[label].items())) for label in sorted(classes)},
        "accepted_by_round": {str(number): rounds[number] for number in sorted(rounds)},
        "rejected_findings": dict(sorted(rejected_for.items())),
    }
