"""`expllm engine units`: action units, with how uncertain they are, from pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from expllm_jax.cli.parsing import add_verb, one_line, show
from expllm_jax.errors import ExpllmError

_SHOWN = 5  # pictures whose units are printed
_STRONG = 0.1  # units from here on are printed


def _units(options: argparse.Namespace) -> dict[str, Any]:
    import dataclasses
    import os

    from expllm_jax.engine.img2au import Img2Au, annotated
    from expllm_jax.faces import Annotation, read_annotations, write_annotations
    from expllm_jax.train import Progress

    target = Path(options.out)
    if target.exists():
        raise ExpllmError(f"{target} exists already", "name another file with --out; nothing is overwritten")
    faces: list[Annotation] = []
    files: list[Path] = []
    for given in map(Path, options.pictures):
        found = read_annotations(given) if given.suffix == ".jsonl" else [Annotation(given.name)]
        for face in found:
            file = given.parent / face.picture
            name = os.path.relpath(file, target.absolute().parent)  # as an annotations file names its pictures
            faces.append(dataclasses.replace(face, picture=Path(name).as_posix()))
            files.append(file)
    model = Img2Au.open(options.run)
    progress = Progress(len(files), "units", "pictures")
    units = model.regress(files, report=progress.update)
    progress.close()
    written = annotated(faces, units, model.origin)
    write_annotations(target, written)
    for face in written[:_SHOWN]:
        show(options, _told(face))
    if len(written) > _SHOWN:
        show(options, f"... and {len(written) - _SHOWN:,} more")
    show(options, f"\n{len(written):,} faces in {target}\n"
                  f"next: expllm engine run {target} --out texts")  # fmt: skip
    return {"annotations": str(target), "faces": len(written), "units_from": model.origin}


def _told(face: Any) -> str:
    """A picture's FACS units from the strongest down: 0 to 1 with the standard deviation, and FACS's 0 to 5."""
    from expllm_jax.faces import FACS, grade_of

    found = sorted(((value, code) for code, value in face.units["facs"].items() if value >= _STRONG), reverse=True)
    lines = [
        f"  {code:<5} {FACS.unit(code).name:<22} {value:.2f} ± {face.attributes[f'facs.{code}.sd']:.2f}   "
        f"{grade_of(value)} of 5"
        for value, code in found
    ]
    return "\n".join([one_line(face.picture), *(lines or ["  no unit of 0.1 or more"])])


def add(engine: Any) -> None:
    """Adds the verb to the group."""
    units = add_verb(engine, "units", _units, "action units, with how uncertain they are, from pictures of a face each",
                     "expllm engine units face.jpg --run runs/img2au --out units.jsonl")  # fmt: skip
    units.add_argument(
        "pictures", nargs="+", metavar="PICTURE",
        help="picture of one face that fills it, or an annotations.jsonl whose other fields are kept",
    )  # fmt: skip
    units.add_argument("--run", required=True, help="the folder that `expllm train img2au` made")
    units.add_argument("--out", required=True, help="the annotations file to write")
