"""`expllm data datasets | import | unpack | export | validate | build | verify | inspect`: what they do.

What is printed is the command line's.

Nothing here downloads anything. A dataset's terms come with every result that touches it, so that nobody works with it
without having been shown them.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

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
    verify_records,
)
from expllm_jax.sources.catalogue import DATASETS, find_dataset, find_layout, read_dataset, unchecked_notice
from expllm_jax.sources.dataset import Counts, Dataset, Layout, raise_first
from expllm_jax.sources.interchange import write_facial_r1, write_ferbench, write_llava, write_released
from expllm_jax.sources.listing import inside
from expllm_jax.sources.pixel_table import FERPLUS_TABLE, write_fer2013_pictures
from expllm_jax.sources.validation import Validation, validate
from expllm_jax.stages import experiment_tokenizer
from expllm_jax.train import Progress

Say = Callable[[str], None]


@dataclass(frozen=True)
class Imported:
    """What `import_dataset` wrote."""

    annotations: Path
    pictures: Path  # the folder that their pictures are relative to
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
    skipped_list = out.parent / f"{out.name}.skipped.jsonl"
    for target in (out, skipped_list):
        if target.exists():
            raise ExpllmError(f"{target} exists already", "name another file with --out; nothing is overwritten")
    dataset = find_dataset(name)
    _check_room(out, made=True)
    chosen = find_layout(dataset, root, layout)
    skipped: list[ExpllmError] = []
    left_out: Counter[str] = Counter()
    problems = skipped.append if on_error == "skip" else raise_first
    annotations = []
    with closing(Progress(None, "reading", "annotations")) as progress:
        for annotation in read_dataset(
            name, root, split=split, layout=chosen.name, problems=problems, left_out=left_out
        ):
            annotations.append(annotation)
            progress.update(len(annotations))
    if not annotations:
        first = f"; the first of {len(skipped):,} problems: {skipped[0].problem}" if skipped else ""
        raise ExpllmError(f"{root} gave no annotation of {dataset.title}{first}", "check the folder and the split")
    write_annotations(out, annotations)
    if skipped:
        lines = (json.dumps({"problem": each.problem, "remedy": each.remedy}, ensure_ascii=False) for each in skipped)
        # A file's name may be no text; JSON has a way of writing it.
        skipped_list.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")
    return Imported(
        annotations=out,
        pictures=root.parent if root.is_file() else root,
        counts=class_counts(annotations),
        left_out=dict(left_out),
        skipped=len(skipped),
        skipped_list=skipped_list if skipped else None,
        licence=dataset.licence,
        notice=unchecked_notice(dataset, chosen),
    )


@dataclass(frozen=True)
class Unpacked:
    """What `unpack_fer2013` wrote."""

    folder: Path
    dataset: str  # that reads it
    written: int


def unpack_fer2013(table: str | Path, out: str | Path, *, ferplus: str | Path | None = None) -> Unpacked:
    """Writes the pictures that fer2013.csv holds as text to files, in a folder that "fer2013" reads or, with FERPlus'
    table, of which the folder gets a copy, "ferplus".

    The folder appears when it is complete; what a killed call left is taken away by the next. Progress goes to stderr.
    Raises ExpllmError if the folder is there already or cannot be written, or a table is missing or damaged.
    """
    table, out = Path(table), Path(os.path.abspath(out))
    if out.exists():
        raise ExpllmError(f"{out} exists already", "name another folder with --out; nothing is overwritten")
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        with closing(Progress(None, "writing", "pictures")) as progress:
            written = write_fer2013_pictures(
                table, partial, ferplus=None if ferplus is None else Path(ferplus), report=progress.update
            )
        if ferplus is not None:
            shutil.copyfile(ferplus, partial / FERPLUS_TABLE)
        os.replace(partial, out)
    except OSError as error:
        raise ExpllmError(f"{out} cannot be written ({error.strerror})", "choose a folder you may write to") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Unpacked(out, "fer2013" if ferplus is None else "ferplus", written)


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
    pictures: str | Path | None = None,
    page: str | Path | None = None,
    samples: int = 6,
    workers: int | None = None,
) -> Validated:
    """Looks at every picture of a dataset, or of an annotations file whose pictures are relative to `root`.

    Where `root` is the file of a dataset that lies in one, its pictures are looked for beside it, or in `pictures`.
    Progress goes to stderr. Raises ExpllmError if there is nothing to look at: an unknown dataset, a folder without it,
    a file that is not there or holds no valid annotations.
    """
    root = Path(root)
    if page is not None:
        _check_room(Path(page), made=False)
    read = _read_file(Path(what), root) if _is_file(what) else _read_named(what, root, split, layout)
    if pictures is not None:
        if not root.is_file():
            raise ExpllmError(
                f"--pictures is given, but {root} is a folder", "leave it out: pictures lie where the dataset has them"
            )
        if not Path(pictures).is_dir():
            raise ExpllmError(f"{pictures} is no folder", "give the folder that the pictures are relative to")
    if root.is_file():
        root = root.parent if pictures is None else Path(pictures)
    if split:
        read.annotations = [annotation for annotation in read.annotations if annotation.split == split]
    if not read.annotations and not read.problems:
        raise ExpllmError(f"{what} has no annotations" + (f" in '{split}'" if split else ""), "check path and split")
    published = {name: dict(counts) for name, counts in read.counts.items() if not split or name == split}
    total = len({annotation.picture for annotation in read.annotations})
    with closing(Progress(total, "looking at", "pictures")) as progress:
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
    notes = []
    if read.dataset is not None and read.layout is not None and (notice := unchecked_notice(read.dataset, read.layout)):
        notes.append(notice)
    notes += [f"{number:,} left out: {why}." for why, number in read.left_out.items()]
    licence = read.dataset.licence if read.dataset else ""
    done = None if page is None else write_data_page(page, DataPage(read.title, licence, notes, found))
    return Validated(read.title, licence, tuple(notes), found, done)


def _is_file(what: str) -> bool:
    return what.endswith((".jsonl", ".json")) or os.sep in what


def _inside(face: Annotation, file: str | Path) -> Annotation:
    """The annotation, if its picture lies in the folder of pictures: a file from elsewhere does not say what of this
    computer is looked at or stored."""
    try:
        inside(face.picture)
    except ExpllmError as error:
        raise ExpllmError(
            f"{file}: {error.problem}", "name pictures by their paths in the folder of pictures"
        ) from error
    return face


def _check_room(file: Path, *, made: bool) -> None:
    """Refuses a file that could not be written, before the work is done and not after it. `made`: folders are made."""
    place = file.absolute().parent
    while made and not place.exists() and place != place.parent:
        place = place.parent
    if file.is_dir() or not place.is_dir() or not os.access(place, os.W_OK):
        raise ExpllmError(f"cannot write {file}", "name a file in a folder that exists and is yours")


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
    if path.suffix == ".json":
        raise ExpllmError(
            f"{path} is no file of annotations, which end in .jsonl",
            f"say whose form it is in: expllm data validate expllm {shlex.quote(str(path))}",
        )
    read = _Read(path.name, [_inside(face, path) for face in read_annotations(path)], [])
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

    A tokenizer that is trained sees the texts of the split "train" alone. Faces without a split go to "train". A record
    is called by its picture, so that no two annotations may name the same one. Killed, the same call goes on where it
    was.

    Args:
      pictures: the folder that the annotations' pictures are relative to.
      workers, on_error, overwrite: see `records.build_records`.

    Raises:
      ExpllmError: a file or picture cannot be read, a face has no answer for any of the experiment's tasks, the folder
        is there or cannot be written.
    """
    out = Path(out)
    splits: dict[str, list[Annotation]] = {}
    named_in: dict[str, str | Path] = {}  # picture → the file that spoke of it
    for file in files:
        for annotation in (_inside(face, file) for face in read_annotations(file)):
            if annotation.picture in named_in:
                raise _named_twice(annotation.picture, named_in[annotation.picture], file)
            named_in[annotation.picture] = file
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
    with TemporaryDirectory(prefix="expllm-tokenizer-") as trained:
        try:
            tokenizer = experiment_tokenizer(experiment, splits.get("train", []), template, Path(trained))
        except ExpllmError as error:
            if experiment.tokenizer.kind != "sentencepiece":
                raise
            tasks = ", ".join(experiment.records.tasks)
            raise ExpllmError(
                f"the tokenizer cannot be trained: {error.problem}",
                f"training faces need answers to the tasks {tasks} (--set records.tasks=… asks others); or give a "
                "tokenizer: --set tokenizer.kind=PATH",
            ) from error
        faces = {
            split: [(face, Path(pictures) / face.picture) for face in annotations]
            for split, annotations in splits.items()
        }
        encoder = RecordEncoder(template, tokenizer, experiment.records)
        plan_records(out, faces, encoder, on_error=on_error, overwrite=overwrite)  # refuses before anything is said
        say("records: " + ", ".join(f"{len(told):,} {split}" for split, told in splits.items())
            + f"; {tokenizer.vocab_size:,} word pieces")  # fmt: skip
        with closing(Progress(sum(map(len, splits.values())), "records", "records")) as progress:
            manifest = build_records(
                out,
                faces,
                encoder,
                workers=workers,
                on_error=on_error,
                overwrite=overwrite,
                report=lambda done, total: progress.update(done),
            )
    return Built(out, manifest)


def _named_twice(picture: str, earlier: str | Path, file: str | Path) -> ExpllmError:
    if earlier == file:
        return ExpllmError(
            f"{file} names {picture} twice", "a record is called by its picture: keep one of the two lines"
        )
    return ExpllmError(
        f"{earlier} and {file} both name {picture}",
        "a record is called by its picture: build a records folder of each file, the second with the first one's "
        "tokenizer (--set tokenizer.kind=FOLDER/tokenizer.model), and train on a mixture of them",
    )


def verify_folder(folder: str | Path) -> Manifest:
    """Compares every byte of a records folder with its manifest; progress goes to stderr.

    Raises ExpllmError naming the first file that differs, and the record in it if it is one.
    """
    total = sum(split.records for split in Manifest.read(folder).splits.values())
    with closing(Progress(total, "reading", "records")) as progress:
        return verify_records(folder, report=lambda done, total: progress.update(done))
