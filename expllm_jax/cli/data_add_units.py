"""`expllm data add-units`: action units that another tool measured, into annotations."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from expllm_jax.cli.parsing import add_verb, say, show
from expllm_jax.errors import ExpllmError

_TOOLS = ("openface", "py-feat", "libreface", "opengraphau")
_SEVERAL_FACES = ("error", "most-confident", "largest")


def _add_units(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.faces import read_annotations, write_annotations
    from expllm_jax.files import write_whole
    from expllm_jax.sources.dataset import raise_first
    from expllm_jax.sources.unit_tables import UnitTableOptions, add_units, read_unit_table, unit_tool

    tool = unit_tool(options.tool)
    how = UnitTableOptions(
        min_confidence=options.min_confidence,
        several_faces=options.several_faces,
        picture_column=options.picture_column,
        percent=options.percent,
        replace=options.replace,
    )
    target, skipped_list = Path(options.out), Path(f"{options.out}.skipped.jsonl")
    for file in (target, skipped_list):
        if file.exists():
            raise ExpllmError(f"{file} exists already", "name another file with --out; nothing is overwritten")
    skip = options.on_error == "skip"
    problems: list[ExpllmError] = []
    tell = problems.append if skip else raise_first
    faces = read_annotations(options.annotations)
    done = add_units(faces, read_unit_table(Path(options.table), tool, tell, how), tool, how, tell)
    unmatched = _unmatched(options, len(done.without_row), len(done.without_annotation))
    if unmatched and not skip:
        example = [*done.without_row, *done.without_annotation][0]
        raise ExpllmError(f"{unmatched}; the first is {example}", "compare the names, or give --on-error skip")
    if not done.added:
        first = f"; the first of {len(problems):,} problems: {problems[0].problem}" if problems else ""
        raise ExpllmError(f"{options.table} gave units to no picture{first}", "compare the names of the pictures")
    write_annotations(target, done.annotations)
    if problems:
        lines = (json.dumps({"problem": each.problem, "remedy": each.remedy}, ensure_ascii=False) for each in problems)
        write_whole(skipped_list, "".join(f"{line}\n" for line in lines))
        say(f"skipped: {len(problems):,} problems, listed in {skipped_list}")
    if unmatched:
        say(f"left as they were: {unmatched}")
    show(
        options,
        f"units of {tool.name} for {done.added:,} of {len(faces):,} annotations, in {target}\n"
        f"next: expllm engine narrate {target} --out told.jsonl",
    )
    return {
        "annotations": str(target),
        "count": len(faces),
        "with_units": done.added,
        "without_row": len(done.without_row),
        "rows_without_annotation": len(done.without_annotation),
        "skipped": len(problems),
        "skipped_list": str(skipped_list) if problems else None,
        "tool": tool.name,
        "values": tool.means,
    }


def _unmatched(options: argparse.Namespace, without_row: int, without_annotation: int) -> str:
    """What found no partner, in words; "" if all did."""
    counts = (
        (without_row, f"annotations have no row in {options.table}"),
        (without_annotation, f"pictures of {options.table} have no annotation in {options.annotations}"),
    )
    return " and ".join(f"{number:,} {what}" for number, what in counts if number)


def add(data: Any) -> None:
    """Adds the verb to the group."""
    verb = add_verb(
        data,
        "add-units",
        _add_units,
        "action units that another tool measured, joined by the pictures' names",
        "expllm data add-units raf-db.jsonl openface_tables/ --tool openface --out raf-db.units.jsonl",
    )
    verb.add_argument("annotations", help="a JSONL file of annotations")
    verb.add_argument("table", help="the tool's CSV with a column of pictures, or a folder of CSVs called like them")
    verb.add_argument("--tool", required=True, choices=_TOOLS, help="which tool wrote the table")
    verb.add_argument("--out", required=True, help="the annotations file to write; it must not exist")
    verb.add_argument(
        "--min-confidence", type=float, default=0.0, metavar="SHARE", help="0 to 1, of the face (default: 0)"
    )
    verb.add_argument(
        "--several-faces",
        choices=_SEVERAL_FACES,
        default="error",
        help="which face of a picture counts (default: several are an error)",
    )
    verb.add_argument("--picture-column", default="", metavar="NAME", help="the column that names the picture")
    verb.add_argument("--percent", action="store_true", help="the values are 0 to 100 (OpenGraphAU prints them so)")
    verb.add_argument("--replace", action="store_true", help="units that are there give way to the table's")
    verb.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="stop at the first thing that is wrong, or leave such rows out and list them (default: raise)",
    )
