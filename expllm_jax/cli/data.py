"""`expllm data …`: datasets, annotations and records."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from expllm_jax.cli import data_add_units, data_label_frames, plan
from expllm_jax.cli.parsing import (
    DEFAULT_RUN,
    Outcome,
    add_group,
    add_verb,
    natural,
    one_line,
    override_argument,
    say,
    show,
)
from expllm_jax.errors import ExpllmError

if TYPE_CHECKING:
    from expllm_jax.sources.validation import Validation

_SHOWN = 10  # findings of a kind in the terminal
_FORMATS = ("llava", "facial-r1", "ferbench", "expllm")


def _datasets(options: argparse.Namespace) -> list[dict[str, Any]]:
    from expllm_jax.sources.catalogue import DATASETS

    told = []
    for name, dataset in DATASETS.items():
        layouts = [{"name": each.name, "checked": each.checked, "notes": each.notes} for each in dataset.layouts]
        told.append(
            {"name": name, "title": dataset.title, "layouts": layouts, "splits": list(dataset.splits),
             "counts": {split: dict(counts) for split, counts in dataset.counts.items()}, "licence": dataset.licence}
        )  # fmt: skip
        marked = ", ".join(f"{each.name}{'' if each.checked else ' (never checked on real files)'}"
                           for each in dataset.layouts)  # fmt: skip
        show(
            options,
            f"{name:<14} {dataset.title}\n{'':<14} layouts  {marked}\n"
            f"{'':<14} splits   {', '.join(dataset.splits) or 'as the files say'}\n"
            f"{'':<14} terms    {dataset.licence}\n",
        )
    return told


def _import(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.data_commands import import_dataset

    done = import_dataset(
        options.dataset, options.root, options.out,
        split=options.split, layout=options.layout, on_error=options.on_error,
    )  # fmt: skip
    for split, counts in done.counts.items():
        show(options, f"{split or 'no split'}: {sum(counts.values()):,}")
        _table(options, [(f"  {name}", f"{count:,}") for name, count in counts.items()])
    for why, number in done.left_out.items():
        show(options, f"left out: {number:,} {why}")
    if done.skipped:
        show(options, f"skipped: {done.skipped:,} problems, listed in {done.skipped_list}")
    if done.notice:
        show(options, f"\nnote: {done.notice}")
    show(
        options,
        f"\nterms you must have accepted: {done.licence}\n\n{done.total:,} annotations in {done.annotations}\n"
        f"next: {shlex.join(['expllm', 'data', 'validate', str(done.annotations), str(done.pictures)])}",
    )
    return {
        "annotations": str(done.annotations), "pictures": str(done.pictures), "count": done.total,
        "counts": done.counts, "left_out": done.left_out,
        "skipped": done.skipped, "skipped_list": str(done.skipped_list) if done.skipped_list else None,
        "licence": done.licence, "notice": done.notice,
    }  # fmt: skip


def _unpack(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.data_commands import unpack_fer2013

    done = unpack_fer2013(options.table, options.out, ferplus=options.ferplus)
    following = ["expllm", "data", "import", done.dataset, str(done.folder), "--out", f"{done.dataset}.jsonl"]
    show(options, f"{done.written:,} pictures in {done.folder}\nnext: {shlex.join(following)}")
    return {"folder": str(done.folder), "dataset": done.dataset, "pictures": done.written}


def _export(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.data_commands import export_annotations

    done = export_annotations(
        options.annotations, options.out, options.format, at_least=options.at_least, lossy=options.lossy
    )
    show(options, f"{done.written:,} annotations in {done.file}, as {done.format}")
    return {"file": str(done.file), "format": done.format, "count": done.written}


def _validate(options: argparse.Namespace) -> Outcome:
    from expllm_jax.data_commands import validate_data

    done = validate_data(
        options.what, options.root, split=options.split, layout=options.layout, pictures=options.pictures,
        page=options.html, samples=options.samples, workers=options.workers or None,
    )  # fmt: skip
    found = done.validation
    show(options, f"{done.title}: {found.annotations:,} annotations of {found.pictures:,} pictures in {found.root}")
    if done.licence:
        show(options, f"terms you must have accepted: {done.licence}")
    for note in done.notes:
        show(options, f"note: {note}")
    _show_validation(options, found)
    if done.page:
        show(options, f"\npage  {done.page}")
    if not options.json and not found.clean:
        say(f"expllm: {len(found.findings):,} finding{'s' if len(found.findings) > 1 else ''}")
    told = {
        "title": done.title, "licence": done.licence, "notes": list(done.notes), "clean": found.clean,
        "annotations": found.annotations, "pictures": found.pictures,
        "counts": [{"split": row.split, "expression": row.expression, "found": row.found, "published": row.published,
                    "difference": row.difference, "verdict": row.verdict} for row in found.counts],
        "findings": [{"kind": each.kind, "what": each.what, "pictures": list(each.pictures)}
                     for each in found.findings],
        "known": found.known, "sizes": found.sizes, "modes": found.modes, "recorded": found.recorded,
        "page": str(done.page) if done.page else None,
    }  # fmt: skip
    return Outcome(told, 0 if found.clean else 1)


def _show_validation(options: argparse.Namespace, found: Validation) -> None:
    from expllm_jax.sources.validation import KINDS, KNOWN

    rows = [("split", "class", "found", "published", "")]
    for row in found.counts:
        published = "–" if row.published is None else f"{row.published:,}"
        rows.append((row.split or "–", row.expression, f"{row.found:,}", published, row.verdict))
    show(options, "")
    _table(options, rows)
    held = ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in found.known.items() if name in KNOWN)
    missing = [
        f"{name.replace('_', ' ')} {found.annotations - number:,}"
        for name, number in found.known.items()
        if 0 < number < found.annotations
    ]
    sizes = list(found.sizes.items())
    listed = ", ".join(f"{size} ({number:,})" for size, number in sizes[:4])
    more = f" and {len(sizes) - 4:,} other sizes" if len(sizes) > 4 else ""
    show(options, f"\nhave  {held}")
    if missing:
        show(options, "lack  " + ", ".join(missing))
    show(options, f"sizes {listed}{more}")
    show(options, "kinds " + ", ".join(f"{mode} ({number:,})" for mode, number in found.modes.items()))
    if found.recorded:
        show(options, f"{found.recorded:,} pictures look like another one of the same person and split, as frames do")
    for kind, findings in found.by_kind():
        if kind == "counts":
            continue  # the table above says it
        show(options, f"\n{KINDS[kind]}: {len(findings):,}")
        for finding in findings[:_SHOWN]:
            show(options, f"  {one_line(finding.what)}")
        if len(findings) > _SHOWN:
            show(options, f"  … and {len(findings) - _SHOWN:,} more; --json and --html list them")
    if found.clean:
        show(options, "\nclean: nothing to look at was found")


def _build(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.config import load_experiment

    experiment = load_experiment(options.experiment, options.set)
    if options.annotations:
        return _build_from_annotations(options, experiment)
    for name in ("pictures", "workers", "overwrite"):
        if getattr(options, name):
            raise ExpllmError(f"--{name} is given without --annotations", "name annotation files, or leave it out")
    from expllm_jax import stages

    run = stages.open_folder(options.out, experiment, say, command=options.typed)
    stages.render_faces(run)
    stages.build_records(run)
    overrides = "".join(f" --set {shlex.quote(assignment)}" for assignment in options.set)
    show(options, f"records   {run.records}\nnext: expllm train {options.experiment} --out {run.path}{overrides}")
    return {"faces": str(run.faces), "records": str(run.records)}


def _build_from_annotations(options: argparse.Namespace, experiment: Any) -> dict[str, Any]:
    from expllm_jax.data_commands import build_from_annotations

    if not options.pictures:
        raise ExpllmError("--pictures is missing", "give the folder that the annotations' pictures are relative to")
    done = build_from_annotations(
        experiment, options.annotations, options.pictures, options.out, say,
        workers=options.workers, on_error=options.on_error, overwrite=options.overwrite,
    )  # fmt: skip
    splits = done.manifest.splits
    for split, told in splits.items():
        skipped = sum(told.skipped.values())
        left = f", {skipped:,} skipped" if skipped else ""
        show(
            options,
            f"{split:<9} {told.records:,} records{left}; the longest row has {told.longest_row:,} tokens "
            f"({told.longest_id})",
        )
    split = next(iter(splits))
    show(
        options,
        f"records   {done.folder}\nSHA-256   {done.manifest.sha256}\n"
        f"next: {shlex.join(['expllm', 'data', 'inspect', '--records', str(done.folder), '--split', split])}",
    )
    return {
        "records": str(done.folder), "sha256": done.manifest.sha256,
        "splits": {split: {"records": told.records, "longest_row": told.longest_row, "longest_id": told.longest_id,
                           "skipped": dict(told.skipped)} for split, told in splits.items()},
    }  # fmt: skip


def _verify(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.data_commands import verify_folder

    manifest = verify_folder(options.records)
    records = {split: told.records for split, told in manifest.splits.items()}
    told = ", ".join(f"{number:,} {split}" for split, number in records.items())
    show(options, f"every byte of {told} is as it was written\nSHA-256   {manifest.sha256}")
    return {"records": records, "sha256": manifest.sha256}


def _inspect(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.data_commands import inspect_record
    from expllm_jax.evaluate.record_page import terminal_text

    folder = options.run if options.records is None else options.records
    done = inspect_record(folder, options.split, options.index, page=options.html)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    show(options, terminal_text(done.view, colour=colour))
    if done.page:
        show(options, f"\npage  {done.page}")
    view = done.view
    rows = {
        row.name.replace(" ", "_"): [
            {"text": each.text, "token": each.token, "position": each.position, "segment": each.segment,
             "weight": each.weight, "special": each.special} for each in row.tokens
        ]
        for row in view.rows
    }  # fmt: skip
    return {
        "id": view.record.id, "annotation": view.annotation.to_json(), "tokens": len(view.record.row), **rows,
        "page": str(done.page) if done.page else None,
    }  # fmt: skip


def _table(options: argparse.Namespace, rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be; numbers stand right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            f"{cell:>{width}}" if cell[:1].isdigit() and cell[-1:].isdigit() else f"{cell:<{width}}"
            for cell, width in zip(row, widths, strict=True)
        ]
        show(options, "  ".join(cells).rstrip())


def add(verbs: Any) -> None:
    """Adds the verbs to the parser."""
    data = add_group(verbs, "data", "datasets, annotations and records")
    add_verb(data, "datasets", _datasets, "the datasets that can be read, and their terms", "expllm data datasets")

    into = add_verb(
        data,
        "import",
        _import,
        "annotations out of a dataset as it lies on your disk",
        "expllm data import raf-db ~/data/RAF-DB --out raf-db.jsonl",
    )
    into.add_argument("dataset", help="a name from `expllm data datasets`")
    into.add_argument("root", help="the folder it lies in, or the file of a dataset that lies in one file")
    into.add_argument("--out", required=True, help="the annotations file to write; it must not exist")
    _which_part(into)
    _on_error(into)

    unpack = add_verb(
        data,
        "unpack",
        _unpack,
        "the pictures of fer2013.csv, which holds them as text, as files",
        "expllm data unpack ~/data/fer2013.csv --out ~/data/fer2013",
    )
    unpack.add_argument("table", help="fer2013.csv")
    unpack.add_argument("--out", required=True, metavar="FOLDER", help="the folder to write; it must not exist")
    unpack.add_argument(
        "--ferplus", metavar="FILE", help="fer2013new.csv: name and place the pictures as FERPlus has them"
    )

    out = add_verb(
        data,
        "export",
        _export,
        "annotations in the form that another program reads",
        "expllm data export raf-db.jsonl --format llava --out raf-db.llava.json",
    )
    out.add_argument("annotations", help="a file of `data import` or `engine narrate`")
    out.add_argument("--format", required=True, choices=_FORMATS, help="whose form; expllm is the released JSON")
    out.add_argument("--out", required=True, help="the file to write; it must not exist")
    out.add_argument(
        "--at-least",
        type=natural,
        metavar="GRADE",
        help="of facial-r1, which needs it: the grade, 1 to 5, from which on a unit is active",
    )
    out.add_argument("--lossy", action="store_true", help="leave out what has no place in the form")

    check = add_verb(
        data,
        "validate",
        _validate,
        "look at every picture and compare with what is published; status 1 if there is something to look at",
        "expllm data validate raf-db ~/data/RAF-DB --html raf-db.html",
    )
    check.add_argument("what", help="a name from `expllm data datasets`, or a .jsonl file of annotations")
    check.add_argument("root", help="where it lies, or the folder that the file's pictures are relative to")
    _which_part(check)
    check.add_argument(
        "--pictures", metavar="FOLDER", help="of a dataset that lies in one file: its pictures (default: beside it)"
    )
    check.add_argument("--html", metavar="FILE", help="a page to write, with pictures")
    check.add_argument("--samples", type=natural, default=6, help="pictures of each class on the page (default: 6)")
    check.add_argument("--workers", type=natural, default=0, help="threads (default: one per core)")

    build = add_verb(
        data,
        "build",
        _build,
        "tokenise: rendered faces with their texts, or annotation files",
        "expllm data build laptop --annotations raf-db.jsonl --pictures ~/data/RAF-DB --out records/raf-db",
    )
    build.add_argument("experiment", help="a name from `expllm config list`, or a .py file")
    build.add_argument("--out", required=True, help="the run's folder or, with --annotations, the records folder")
    override_argument(build)
    build.add_argument(
        "--annotations", action="append", default=[], metavar="FILE", help="of `data import`; may be repeated"
    )
    build.add_argument("--pictures", metavar="FOLDER", help="that the annotations' pictures are relative to")
    build.add_argument("--workers", type=natural, default=0, help="processes (default: one per core)")
    _on_error(build)
    build.add_argument("--overwrite", action="store_true", help="replace a records folder that is there")

    verify = add_verb(
        data,
        "verify",
        _verify,
        "read records through and compare every byte with the manifest",
        "expllm data verify records/raf-db",
    )
    verify.add_argument("records", metavar="FOLDER", help="of `data build`")

    inspect = add_verb(
        data,
        "inspect",
        _inspect,
        "one record, as a person would see it",
        "expllm data inspect --run runs/a --index 3 --html record.html",
    )
    where = inspect.add_mutually_exclusive_group()
    where.add_argument("--run", default=DEFAULT_RUN, help=f"the run's folder (default: {DEFAULT_RUN})")
    where.add_argument("--records", metavar="FOLDER", help="a records folder instead")
    inspect.add_argument("--split", default="train", help="train, clean, mild, hard, … (default: train)")
    inspect.add_argument("--index", type=natural, default=0, help="which record (default: 0)")
    inspect.add_argument("--html", metavar="FILE", help="a page to write, with the picture")
    data_add_units.add(data)
    plan.add(data)
    data_label_frames.add(data)


def _which_part(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--split", default="", help="one split only (default: all)")
    verb.add_argument("--layout", default="", help="how it lies on the disk (default: found out)")


def _on_error(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="stop at the first thing that is wrong, or leave such things out and list them (default: raise)",
    )
