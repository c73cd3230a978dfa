"""Asking a run about faces whose truth is known, and scoring what it says.

The bridge between rooms that do not know each other: `infer` answers, `evaluate` scores, and here each answer meets the
truth of its record. One run can be asked in several ways; each has a folder of its own:

    RUN/answers.jsonl, metrics.json, report.html, plots/     as the paper asks: label first, written freely
    RUN/evaluations/reasoning-first/…                        asked otherwise, or about records of one's own
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expllm_jax.assets import cache_dir
from expllm_jax.checkpoints import Checkpointer
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import EvaluatedFace, Metrics, summarise, write_metrics
from expllm_jax.evaluate.answer_files import answer_line, answered_step, by_split, read_answers
from expllm_jax.faces import vocabulary
from expllm_jax.files import write_whole
from expllm_jax.infer import ORDERS, Answer, PredictConfig, Predictor, SamplingConfig, read_model_files
from expllm_jax.records import MixtureEntry, Record, RecordSource, open_records
from expllm_jax.stages import RunFolder
from expllm_jax.train import Progress, use_compile_cache

ANSWERS, METRICS, EVALUATIONS = "answers.jsonl", "metrics.json", "evaluations"
_PREVIOUS = "answers.previous.jsonl"
MAIN_SPLIT = "mild"
GROUPS = ("gender", "race", "age_group")
"""Attributes of an annotation that answers are told apart by."""


@dataclass(frozen=True)
class Asking:
    """How a run is asked. Raises ExpllmError for what cannot be."""

    order: str = "label-first"  # one of infer.ORDERS
    constrained: bool = False  # only answers that parse can be generated
    samples: int = 1  # reasonings drawn per face; the majority of their labels is the answer
    temperature: float = 0.0  # of the sampling; 0: the most probable token

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ExpllmError(f"unknown order {self.order!r}", f"use one of: {', '.join(ORDERS)}")
        if self.samples < 1:
            raise ExpllmError(f"samples is {self.samples}", "draw 1 or more")
        if self.samples > 1 and self.temperature <= 0:
            raise ExpllmError(
                f"{self.samples} samples at temperature {self.temperature:g} would all be the same",
                "set a temperature above 0, such as 0.7",
            )

    @property
    def name(self) -> str:
        """What its folder is called."""
        parts = [self.order, "constrained" if self.constrained else ""]
        parts += [f"x{self.samples}" if self.samples > 1 else "", f"t{self.temperature:g}" if self.temperature else ""]
        return "-".join(filter(None, parts))


AS_THE_PAPER = Asking()


@dataclass(frozen=True)
class Evaluation:
    """One way of asking one run, and where its answers lie.

    Args:
      run: of a trained model.
      asking: how.
      sets: records of one's own to ask about, FOLDER[:SPLIT] each (split "test" where none is named); none: the
        rendered people that the run set apart.
      out: folder to write; by default the run's own, or one below its `evaluations/`.
    """

    run: RunFolder
    asking: Asking = AS_THE_PAPER
    sets: tuple[str, ...] = ()
    out: Path | None = None

    @property
    def folder(self) -> Path:
        if self.out is not None:
            return self.out
        if not self.sets and self.asking == AS_THE_PAPER:
            return self.run.path
        of = "-".join(f"{Path(entry.folder).name}-{entry.split}" for entry in self.entries) if self.sets else ""
        return self.run.path / EVALUATIONS / "-".join(filter(None, (self.asking.name, of)))

    @property
    def entries(self) -> tuple[MixtureEntry, ...]:
        """The sets that are asked about, as split and folder of records."""
        if not self.sets:
            return tuple(MixtureEntry(str(self.run.records), split) for split in self.run.experiment.evaluation.splits)
        entries = []
        for text in self.sets:
            entry = MixtureEntry.parse(text if ":" in Path(text).name else f"{text}:test")
            if entry != MixtureEntry(entry.folder, entry.split):
                raise ExpllmError(f"{text!r} asks for more than every record once", "give FOLDER or FOLDER:SPLIT alone")
            entries.append(entry)
        splits = [entry.split for entry in entries]
        if len(set(splits)) < len(splits):
            raise ExpllmError(
                f"two sets have a split of one name: {', '.join(self.sets)}", "evaluate them one after the other"
            )
        return tuple(entries)

    @property
    def main_split(self) -> str:
        """The split whose numbers stand in the headline."""
        splits = [entry.split for entry in self.entries]
        return MAIN_SPLIT if MAIN_SPLIT in splits else splits[0]

    def answers(self) -> dict[str, list[EvaluatedFace]]:
        """The answers of an earlier evaluation, by split. Raises ExpllmError if there are none."""
        if not (self.folder / ANSWERS).is_file():
            raise ExpllmError(f"{self.folder} holds no answers yet", f"run `expllm eval --run {self.run.path}` first")
        return by_split(read_answers(self.folder / ANSWERS))


def evaluate_run(evaluation: Evaluation, *, again: bool = False, by: Sequence[str] | None = None) -> Metrics:
    """Asks the run's latest checkpoint about every face of the sets; writes answers and metrics.

    What was answered before by the same checkpoint is kept, unless it is to be asked `again`: then those answers are
    put aside as answers.previous.jsonl. An evaluation that was killed goes on where it was.

    Scores are also given by group, for every attribute in `by` (None: all that the annotations know).

    Raises ExpllmError for a run on records of its own that is given none to be asked about, for records that were not
    encoded as the model's, or that lack what is scored.
    """
    run, folder = evaluation.run, evaluation.folder
    if run.experiment.mixture and not evaluation.sets:
        raise ExpllmError(
            f"{run.path} learnt from {', '.join(run.experiment.mixture)} and has no test faces of its own",
            "name records to ask it about: --records FOLDER:SPLIT",
        )
    with Checkpointer(run.path, create=False) as checkpointer:
        step = checkpointer.latest_step
    if again and (folder / ANSWERS).is_file():
        os.replace(folder / ANSWERS, folder / _PREVIOUS)
    if (folder / ANSWERS).is_file() and answered_step(folder / ANSWERS) == step is not None:
        run.say(f"evaluation: {folder / ANSWERS} is there already")
        faces = evaluation.answers()
    else:
        faces = _ask(evaluation, step)
    metrics = summarise(
        faces,
        classes=run.experiment.data.expressions,
        main_split=evaluation.main_split,
        seed=run.experiment.train.seed,
        vocabulary=vocabulary(run.experiment.narrator.vocabulary),
        by=by,
    )
    for split, summary in metrics.splits.items():
        if summary.label_order_warning:
            run.say(f"warning, {split}: {summary.label_order_warning}")
    write_metrics(folder / METRICS, metrics)
    return metrics


def _ask(evaluation: Evaluation, step: int | None) -> dict[str, list[EvaluatedFace]]:
    """All answers, by split, in the order of the records; written down while they come."""
    run, folder = evaluation.run, evaluation.folder
    sources = {entry.split: _open(run, entry) for entry in evaluation.entries}
    if evaluation.out is not None and evaluation.out.exists():
        _check_out(evaluation.out)
    model = open_predictor(run, evaluation.asking)
    folder.mkdir(parents=True, exist_ok=True)
    partial = _Partial(folder, _fingerprint(evaluation, step, sources))
    total = sum(map(len, sources.values()))
    of = "people never seen in training" if not evaluation.sets else ", ".join(evaluation.sets)
    run.say(f"evaluation: asking about {total:,} faces of {of}, {evaluation.asking.name}")
    if partial.faces:
        run.say(f"evaluation: {len(partial.faces):,} were answered before, going on")
    before = len(partial.faces)
    progress = Progress(total, "answering", "faces", done=before)
    with partial:
        for split, source in sources.items():
            waiting = [index for index in range(len(source)) if (split, source.id(index)) not in partial.faces]
            for start in range(0, len(waiting), _CHUNK):
                records = list(_records(source, waiting[start : start + _CHUNK]))

                def done(place: int, answer: Answer, split: str = split, records: list[Record] = records) -> None:
                    partial.add(_evaluated(run, split, records[place], answer), step)
                    if len(partial.faces) == before + 1:
                        progress.begin(len(partial.faces))  # the first answer waited for the compiler
                    progress.update(len(partial.faces))

                model.answer_stored(
                    [record.picture for record in records], [record.id for record in records], done=done
                )
    progress.close()
    faces = {
        split: [partial.faces[split, source.id(index)] for index in range(len(source))]
        for split, source in sources.items()
    }
    lines = [answer_line(face, folder, step=step) for split in faces.values() for face in split]
    write_whole(folder / ANSWERS, "\n".join(lines) + "\n")
    partial.remove()
    return faces


_CHUNK = 1024
"""Faces whose pictures are in memory together."""


class _Partial:
    """What was answered so far, on disk: a line for each face, in a file that is named after what was asked."""

    PATTERN = ".answers-*.partial.jsonl"

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._path = folder, folder / self.PATTERN.replace("*", fingerprint[:16])
        for other in folder.glob(self.PATTERN):
            if other != self._path:
                other.unlink()
        self.faces: dict[tuple[str, str], EvaluatedFace] = {}
        if self._path.is_file() and (whole := self._path.read_bytes().rpartition(b"\n")[0]):
            self._path.write_bytes(whole + b"\n")  # without a last line that was torn
            self.faces = {(face.split, face.record): face for face in read_answers(self._path)}

    def __enter__(self) -> None:
        self._file = self._path.open("a", encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, face: EvaluatedFace, step: int | None) -> None:
        self._file.write(answer_line(face, self._folder, step=step) + "\n")
        self._file.flush()
        self.faces[face.split, face.record] = face

    def remove(self) -> None:
        self._path.unlink()


def _fingerprint(evaluation: Evaluation, step: int | None, sources: Mapping[str, RecordSource]) -> str:
    """Of everything that decides the answers."""
    limits = evaluation.run.experiment.evaluation
    told = {
        "step": step,
        "asking": dataclasses.asdict(evaluation.asking),
        "room": [limits.max_label_tokens, limits.max_cot_tokens],
        "records": {split: source.manifest.sha256 for split, source in sources.items()},
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _check_out(folder: Path) -> None:
    """Raises ExpllmError if the folder holds anything that is no evaluation's."""
    ours = folder.is_dir() and ((folder / ANSWERS).is_file() or any(folder.glob(_Partial.PATTERN)))
    if not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise ExpllmError(
            f"{folder} is not empty and no evaluation of ours", "choose another folder with --out; it is left as it is"
        )


def _open(run: RunFolder, entry: MixtureEntry) -> RecordSource:
    source = open_records(entry.folder, entry.split)
    files = read_model_files(run.path)
    theirs, ours = source.manifest.encoding, files.encoder.config
    for part in ("picture", "picture_size", "crop_margin", "resize"):
        if getattr(theirs, part) != getattr(ours, part):
            raise ExpllmError(
                f"the records in {entry.folder} have {part} {getattr(theirs, part)!r}, those that {run.path} learnt "
                f"from {getattr(ours, part)!r}",
                "build them with the run's experiment, so that the model sees what it knows",
            )
    return source


def _records(source: RecordSource, indices: Sequence[int]) -> Iterator[Record]:
    for index in indices:
        record = source[index]
        if record is None:  # cannot be: records are opened so that a damaged one raises
            raise ExpllmError(f"record {source.id(index)} is damaged", "see `expllm data verify`")
        if record.annotation.expression is None:
            raise ExpllmError(
                f"record {record.id!r} has no expression, so an answer about it cannot be right or wrong",
                "build the records of labelled faces only",
            )
        yield record


def open_predictor(run: RunFolder, asking: Asking = AS_THE_PAPER) -> Predictor:
    """The run's latest checkpoint, ready to answer with the evaluation's limits."""
    use_compile_cache(cache_dir() / "compiled")
    limits = run.experiment.evaluation
    config = PredictConfig(
        limits.batch,
        limits.max_label_tokens,
        limits.max_cot_tokens,
        SamplingConfig(asking.temperature, 1.0, run.experiment.train.seed),
        order=asking.order,
        constrained=asking.constrained,
        samples=asking.samples,
        label_likelihood=True,
    )
    return Predictor.open(run.path, config)


def _evaluated(run: RunFolder, split: str, record: Record, answer: Answer) -> EvaluatedFace:
    truth = record.annotation
    picture = run.faces / truth.picture
    return EvaluatedFace(
        record=record.id,
        identity=truth.identity or record.id,
        split=split,
        expression=truth.expression or "",
        units=dict(truth.units.get(run.experiment.narrator.vocabulary, {})),
        label_text=answer.label_text,
        predicted=answer.predicted,
        cot=answer.cot_text,
        cot_failure=answer.cot_failure,
        stated=dict(answer.stated_units),
        concluded=None if answer.parsed is None else answer.parsed.expression,
        tries=answer.tries,
        picture=picture if picture.is_file() else None,
        order=answer.order,
        probabilities=dict(answer.label_probabilities),
        truncated=answer.truncated,
        prompt_tokens=answer.prompt_tokens,
        new_tokens=answer.new_tokens,
        votes=dict(answer.votes),
        groups={name: str(truth.attributes[name]) for name in GROUPS if name in truth.attributes},
    )
