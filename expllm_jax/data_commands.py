"""`expllm data datasets | import | export | validate | build | inspect`: what they do. What is printed is the command
line's.

Nothing here downloads anything. A dataset's terms come with every result that touches it, so that nobody works with it
without having been shown them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from expllm_jax.config import Experiment
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.data_page import DataPage, write_data_page
from expllm_jax.evaluate.record_page import RecordView, view_record, write_record_page
from expllm_jax.faces import EXPRESSIONS, Annotation, read_annotations, write_annotations
from expllm_jax.records import (
    ConversationTemplate,
    Manifest,
    RecordEncoder,
    build_records,
    open_encoder,
    open_records,
    plan_records,
    read_picture,
)
from expllm_jax.sources.catalogue import DATASETS, find_dataset, find_layout, read_dataset, unchecked_notice
from expllm_jax.sources.dataset import Counts, Dataset, Layout, raise_first
from expllm_jax.sources.interchange import write_facial_r1, write_ferbench, write_llava, write_released
from expllm_jax.sources.validation import Validation, validate
from expllm_jax.stages import experiment_tokenizer
from expllm_jax.train import Progress

Say = Callable[[str], None]


@dataclass(frozen=True)
class Imported:
    """What `import_dataset` wrote."""

    annotations: Path
    counts: Mapping[str, Mapping[str, int]]  # split → class ("no expression" among them) → annotations
    left_out: Mapping[str, int]  # what the dataset itself calls no expression → how many
    skipped: int
    skipped_list: Path | None  # one JSON object a line, of what was skipped
    licence: str
    notice: str  # "" unless the layout was never checked on real files

    @property
    def total(self) -> int:
        return sum(sum(split.values()) for split in self.counts.values())


def import_dataset(
    name: str, root: str | Path, out: str | Path, *, split: str = "", layout: str = "", on_error: str = "raise"
) -> Imported:
    """Reads a dataset and writes its annotations to `out`, a file that must not exist.

    Args:
      name, root, split, layout: see `sources.catalogue.read_dataset`.
      on_error: "raise" stops at the first thing that is wrong; "skip" leaves it out and lists it in OUT.skipped.jsonl.

    Raises:
      ExpllmError: the dataset, its folder or layout is not there, something in it is wrong, or `out` cannot be written;
        no file is written then.
    """
    out, root = Path(out), Path(root)
    skipped_list = out.with_name(f"{out.name}.skipped.jsonl")
    for target in (out, skipped_list):
        if target.exists():
            raise ExpllmError(f"{target} exists already", "name another file with --out; nothing is overwritten")
    dataset = find_dataset(name)
    chosen = find_layout(dataset, root, layout)
    skipped: list[ExpllmError] = []
    left_out: Counter[str] = Counter()
    problems = skipped.append if on_error == "skip" else raise_first
    annotations = list(read_dataset(name, root, split=split, layout=chosen.name, problems=problems, left_out=left_out))
    if not annotations:
        first = f"; the first of {len(skipped):,} problems: {skipped[0].problem}" if skipped else ""
        raise ExpllmError(f"{root} gave no annotation of {dataset.title}{first}", "check the folder and the split")
    write_annotations(out, annotations)
    if skipped:
        lines = (json.dumps({"problem": each.problem, "remedy": each.remedy}, ensure_ascii=False) for each in skipped)
        skipped_list.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Imported(
        annotations=out,
        counts=class_counts(annotations),
        left_out=dict(left_out),
        skipped=len(skipped),
        skipped_list=skipped_list if skipped else None,
        licence=dataset.licence,
        notice=unchecked_notice(dataset, chosen),
    )


@dataclass(frozen=True)
class Exported:
    """What `export_annotations` wrote."""

    file: Path
    format: str
    written: int


def export_annotations(
    annotations: str | Path, out: str | Path, form: str, *, at_least: int | None = None, lossy: bool = False
) -> Exported:
    """Writes an annotations file in the form that another program reads.

    Args:
      annotations: the file; its pictures stay where they are, named by the same relative paths.
      out: the file to write; must not exist.
      form: "llava", "facial-r1", "ferbench" or "expllm" (the released JSON).
      at_least: of "facial-r1" alone, which knows units as active or not: the grade, 1 to 5, from which on one is
        active. It has no default: published scores use 1 or 2 and cannot be compared across the two.
      lossy: leave out what has no place in the form instead of refusing it.

    Raises:
      ExpllmError: a file cannot be read or written, exists already, or says what has no place in the form.
    """
    out = Path(out)
    if out.exists():
        raise ExpllmError(f"{out} exists already", "name another file with --out; nothing is overwritten")
    if (at_least is None) == (form == "facial-r1"):
        raise ExpllmError(
            f"--at-least is {'missing' if at_least is None else 'of no use'} for {form}",
            "give it for facial-r1, and for facial-r1 alone: the grade, 1 to 5, from which on a unit is active",
        )
    faces = read_annotations(annotations)
    if not faces:
        raise ExpllmError(f"{annotations} holds no annotations", "give a file that `expllm data import` wrote")
    present = {face.expression for face in faces}
    write: Mapping[str, Callable[[], int]] = {
        "llava": lambda: write_llava(out, faces, lossy=lossy),
        "facial-r1": lambda: write_facial_r1(out, faces, at_least=at_least or 0, lossy=lossy),
        # Asked about is what occurs: a word that is never right would only be a trap.
        "ferbench": lambda: write_ferbench(
            out, faces, candidates=[word for word in EXPRESSIONS if word in present], lossy=lossy
        ),
        "expllm": lambda: write_released(out, faces, lossy=lossy),
    }
    try:
        return Exported(out, form, write[form]())
    except ExpllmError as error:
        raise ExpllmError(error.problem, error.remedy.replace("lossy=True", "--lossy")) from error


def class_counts(annotations: Sequence[Annotation]) -> dict[str, dict[str, int]]:
    """Split → expression → how many; "no expression" for those without."""
    counts: dict[str, Counter[str]] = {}
    for annotation in annotations:
        counts.setdefault(annotation.split, Counter())[annotation.expression or "no expression"] += 1
    return {split: dict(sorted(found.items())) for split, found in counts.items()}


@dataclass(frozen=True)
class Validated:
    """What `validate_data` found, and what has to be said beside it."""

    title: str
    licence: str  # "" if it is no dataset that we know
    notes: tuple[str, ...]
    validation: Validation
    page: Path | None


@dataclass
class _Read:
    """Annotations with what is known of where they come from."""

    title: str
    annotations: list[Annotation]
    problems: list[ExpllmError]
    dataset: Dataset | None = None
    layout: Layout | None = None
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def counts(self) -> Counts:
        if self.dataset is None:
            return {}
        return self.dataset.counts if self.layout is None else self.dataset.published_counts(self.layout.name)

    @property
    def order(self) -> str:
        """The label order that the layout reads numbers in; "" if it reads words, or reads numbers some other way."""
        reading = getattr(self.layout.engine, "expression", None) if self.layout else None
        return getattr(reading, "order", "")


def validate_data(
    what: str,
    root: str | Path,
    *,
    split: str = "",
    layout: str = "",
    page: str | Path | None = None,
    samples: int = 6,
    workers: int | None = None,
) -> Validated:
    """Looks at every picture of a dataset, or of an annotations file whose pictures are relative to `root`.

    Progress goes to stderr. Raises ExpllmError if there is nothing to look at: an unknown dataset, a folder without it,
    a file that is not there or holds no valid annotations.
    """
    root = Path(root)
    read = _read_file(Path(what), root) if _is_file(what) else _read_named(what, root, split, layout)
    if split:
        read.annotations = [annotation for annotation in read.annotations if annotation.split == split]
    if not read.annotations and not read.problems:
        raise ExpllmError(f"{what} has no annotations" + (f" in '{split}'" if split else ""), "check path and split")
    progress = Progress(len({annotation.picture for annotation in read.annotations}), "looking at", "pictures")
    published = {name: dict(counts) for name, counts in read.counts.items() if not split or name == split}
    found = validate(
        read.annotations,
        root,
        read=read_picture,
        published=published,
        order=read.order,
        problems=read.problems,
        samples=samples,
        workers=workers,
        progress=lambda done, total: progress.update(done),
    )
    progress.close()
    notes = []
    if read.dataset is not None and read.layout is not None and (notice := unchecked_notice(read.dataset, read.layout)):
        notes.append(notice)
    notes += [f"{number:,} left out: {why}." for why, number in read.left_out.items()]
    licence = read.dataset.licence if read.dataset else ""
    done = None if page is None else write_data_page(page, DataPage(read.title, licence, notes, found))
    return Validated(read.title, licence, tuple(notes), found, done)


def _is_file(what: str) -> bool:
    return what.endswith(".jsonl") or os.sep in what


def _read_named(name: str, root: Path, split: str, layout: str) -> _Read:
    dataset = find_dataset(name)
    chosen = find_layout(dataset, root, layout)
    read = _Read(dataset.title, [], [], dataset, chosen)
    read.annotations += read_dataset(
        name, root, split=split, layout=chosen.name, problems=read.problems.append, left_out=read.left_out
    )
    return read


def _read_file(path: Path, root: Path) -> _Read:
    """Where all annotations say that they come from one layout of one dataset, its numbers are compared with."""
    if not root.is_dir():
        raise ExpllmError(f"{root} is no folder", "give the folder that the pictures are relative to")
    read = _Read(path.name, read_annotations(path), [])
    said = {(a.provenance.get("dataset", ""), a.provenance.get("layout", "")) for a in read.annotations}
    if len(said) == 1:
        (name, layout) = said.pop()
        if name in DATASETS:
            read.dataset = DATASETS[name]
            read.title = f"{read.dataset.title} ({path.name})"
            read.layout = next((each for each in read.dataset.layouts if each.name == layout), None)
    return read


@dataclass(frozen=True)
class Inspected:
    """One record, and where its page was written."""

    view: RecordView
    page: Path | None


def inspect_record(folder: str | Path, split: str, index: int, *, page: str | Path | None = None) -> Inspected:
    """A record of a run's folder, or of a records folder, as a person would want to see it.

    Raises ExpllmError if there are no records, no such split or no such record.
    """
    folder = Path(folder) / "records" if (Path(folder) / "records").is_dir() else Path(folder)
    source = open_records(folder, split)
    if not 0 <= index < len(source):
        raise ExpllmError(f"{folder} has no record {index} in '{split}'", f"use 0 to {len(source) - 1}")
    view = view_record(source[index], open_encoder(folder).tokenizer, place=f"{folder}, {split} {index:,}")
    return Inspected(view, None if page is None else write_record_page(page, view))


@dataclass(frozen=True)
class Built:
    """What `build_from_annotations` wrote."""

    folder: Path
    manifest: Manifest


def build_from_annotations(
    experiment: Experiment,
    files: Sequence[str | Path],
    pictures: str | Path,
    out: str | Path,
    say: Say,
    *,
    workers: int = 0,
    on_error: str = "raise",
    overwrite: bool = False,
) -> Built:
    """Builds a records folder from annotation files, with the experiment's template, tokenizer and record settings.

    A tokenizer that is trained sees the texts of the split "train" alone, and lies beside the folder until the folder,
    which holds a copy, is complete. Faces without a split go to "train". Killed, the same call goes on where it was.

    Args:
      pictures: the folder that the annotations' pictures are relative to.
      workers, on_error, overwrite: see `records.build_records`.

    Raises:
      ExpllmError: a file or picture cannot be read, a face has no answer for any of the experiment's tasks, the folder
        is there or cannot be written.
    """
    out = Path(out)
    splits: dict[str, list[Annotation]] = {}
    for file in files:
        for annotation in read_annotations(file):
            splits.setdefault(annotation.split or "train", []).append(
                annotation if annotation.split else replace(annotation, split="train")
            )
    if not splits:
        raise ExpllmError(f"{', '.join(map(str, files))} holds no annotations", "give files that `data import` wrote")
    if not Path(pictures).is_dir():
        raise ExpllmError(f"{pictures} is no folder", "give the folder that the pictures are relative to, --pictures")
    if "train" not in splits and experiment.tokenizer.kind == "sentencepiece":
        raise ExpllmError(
            f"there is no split 'train' to train the tokenizer on, only {', '.join(splits)}",
            "give a file with training faces too, or a tokenizer: --set tokenizer.kind=PATH",
        )
    template = ConversationTemplate.load(experiment.template)
    beside = out.with_name(f".{out.name}.tokenizer")
    try:
        tokenizer = experiment_tokenizer(experiment, splits.get("train", []), template, beside)
        faces = {
            split: [(face, Path(pictures) / face.picture) for face in annotations]
            for split, annotations in splits.items()
        }
        encoder = RecordEncoder(template, tokenizer, experiment.records)
        plan_records(out, faces, encoder, on_error=on_error, overwrite=overwrite)  # refuses before anything is said
        say("records: " + ", ".join(f"{len(told):,} {split}" for split, told in splits.items())
            + f"; {tokenizer.vocab_size:,} word pieces")  # fmt: skip
        progress = Progress(sum(map(len, splits.values())), "records", "records")
        manifest = build_records(
            out,
            faces,
            encoder,
            workers=workers,
            on_error=on_error,
            overwrite=overwrite,
            report=lambda done, total: progress.update(done),
        )
        progress.close()
    finally:
        for file in beside.glob("tokenizer.*"):
            file.unlink()
        if beside.is_dir():
            beside.rmdir()
    return Built(out, manifest)
