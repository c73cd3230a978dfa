"""Does Img2AU follow a real face that it never saw, after learning from rendered faces and from other real people?

    expllm train img2au --out runs/img2au
    expllm data label-frames a.mp4 --out frames/a      # and so on, a folder for each person, or for photographs
    python launch/bench/video_units.py --run runs/img2au --frames frames/a frames/b frames/photographs \\
        --hold-out a > video_units.json

The frames of the held-out folders are asked about; all others are mixed into training, a share of the pictures together
(--share). Two folders may show one person: then both are to be held out. Truth is what the blendshape teacher says of
the held-out frames, of its reliable outputs only: a machine's opinion, and what the mixed-in frames were labelled with.

Intervals are 95 %, by a bootstrap over blocks of neighbouring frames of a video, since neighbours are alike: single
frames would give intervals that are far too narrow. They say nothing about other people than the one held out.

Shape letters: P frames, U units.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expllm_jax.engine.img2au import Img2Au, UnitValues
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import bootstrap, cluster_totals
from expllm_jax.evaluate.scores import ratio
from expllm_jax.faces import read_annotations
from expllm_jax.unit_experiment import OUTPUTS
from expllm_jax.unit_regression import Pictures, open_unit_run, reopen_unit_run, train_run

ASKED = {  # output of the teacher -> the FEAFA units whose mean is compared
    "mouth corner": ("FEAFA12", "FEAFA13"),
    "jaw": ("FEAFA9",),
    "brow raised": ("FEAFA7", "FEAFA8"),
    "brow lowered": ("FEAFA5", "FEAFA6"),
    "blink": ("FEAFA1", "FEAFA2"),
}


def correlation(sums: np.ndarray) -> np.ndarray:
    """Sums of (1, x, y, xx, yy, xy), [..., 6] -> Pearson's r."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = np.clip(n * xx - x * x, 0, None) * np.clip(n * yy - y * y, 0, None)
    return ratio(n * xy - x * y, np.sqrt(spread))


def judge(units: UnitValues, truth_PU: np.ndarray, blocks: Sequence[str]) -> dict[str, Any]:
    """Output -> its r with both ends of the interval, and how much the teacher's own output varies."""
    found = {}
    for name, codes in ASKED.items():
        columns = [OUTPUTS.index(("feafa", code)) for code in codes]
        said, truth = units.value_PU[:, columns].mean(1), truth_PU[:, columns].mean(1).astype(np.float64)
        sums = np.stack([np.ones_like(truth), said, truth, said**2, truth**2, said * truth], 1)
        r = bootstrap(cluster_totals(blocks, sums), correlation)
        found[name] = {"r": r.value, "low": r.low, "high": r.high, "teacher_sd": float(truth.std())}
    return found


def measure(run: Path, frames: Sequence[Path], held_out: Sequence[str], out: Path, options: Any) -> dict[str, Any]:
    """Trains in `out` on the faces of `run` and on the frames that are not held out; asks both runs about the rest."""
    folders = {folder.name: folder for folder in frames}
    if unknown := [name for name in held_out if name not in folders]:
        raise ExpllmError(f"{unknown[0]} is not among --frames", f"hold out some of: {', '.join(folders)}")
    others = [folder for name, folder in folders.items() if name not in held_out]
    if not others:
        raise ExpllmError("all frames are held out", "leave some to learn from")
    rendered = reopen_unit_run(run, lambda text: None)
    share = options.share / len(others)
    experiment = dataclasses.replace(
        rendered.experiment,
        mixture=tuple(f"{folder / 'annotations.jsonl'}@{share:.6g}" for folder in others),
        train=dataclasses.replace(rendered.experiment.train, steps=options.steps or rendered.experiment.train.steps),
    )
    mixed = open_unit_run(out, experiment, lambda text: print(text, file=sys.stderr))
    for name in ("faces", "features/learning.npy", "features/learning.json", "features/calibration.npy",
                 "features/calibration.json"):  # fmt: skip
        if not (out / name).exists():  # what both runs share is not made twice
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).symlink_to((run / name).resolve())
    train_run(mixed)
    told: dict[str, Any] = {"held_out": list(held_out), "learnt_from": [folder.name for folder in others], "runs": {}}
    annotations = {name: read_annotations(folders[name] / "annotations.jsonl") for name in held_out}
    truth_PU = np.concatenate([Pictures(folders[name], tuple(each)).values() for name, each in annotations.items()])
    files = [folders[name] / face.picture for name, each in annotations.items() for face in each]
    blocks = [f"{a.identity} {place // options.block}" for each in annotations.values() for place, a in enumerate(each)]
    told |= {"frames": len(files), "blocks": len(set(blocks)), "block": options.block}
    for name, folder in (("rendered faces alone", run), ("with other people's frames", out)):
        told["runs"][name] = judge(Img2Au.open(folder).regress(files), truth_PU, blocks)
    return told


def table(told: dict[str, Any]) -> str:
    """The numbers for people."""
    who = ", ".join(told["held_out"])
    lines = [f"{told['frames']:,} frames of {who}, in {told['blocks']} blocks; r with what the teacher says"]
    lines.append(f"{'':<16}" + "".join(f"{name:>30}" for name in told["runs"]) + f"{'teacher sd':>14}")
    for output in ASKED:
        rows = [found[output] for found in told["runs"].values()]
        cells = (f"{row['r']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" for row in rows)
        lines.append(f"{output:<16}" + "".join(f"{cell:>30}" for cell in cells) + f"{rows[0]['teacher_sd']:>14.3f}")
    return "\n".join(lines)


def main() -> int:
    """Parses, measures, prints; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="How well Img2AU follows a real person that it never saw.",
        epilog="example: python launch/bench/video_units.py --run runs/img2au --frames frames/* --hold-out a",
    )
    add = parser.add_argument
    add("--run", required=True, type=Path, help="a finished run of `expllm train img2au`, on rendered faces alone")
    add("--frames", required=True, nargs="+", type=Path, help="folders that `expllm data label-frames` wrote")
    add("--hold-out", required=True, nargs="+", help="names of those folders that are asked about and not learnt from")
    add("--out", type=Path, help="folder of the mixed run (default: RUN-without-NAMES)")
    add("--share", type=float, default=0.3, help="share of real pictures in training (default: 0.3)")
    add("--steps", type=int, default=0, help="updates of the mixed run (default: those of RUN)")
    add("--block", type=int, default=20, help="frames of a block of the bootstrap (default: 20)")
    options = parser.parse_args()
    out = options.out or options.run.with_name(f"{options.run.name}-without-{'-'.join(options.hold_out)}")
    try:
        told = measure(options.run, options.frames, options.hold_out, out, options)
    except ExpllmError as error:
        print(f"video_units: error: {error.problem}", file=sys.stderr)
        if error.remedy:
            print(f"  to mend it: {error.remedy}", file=sys.stderr)
        return error.exit_status
    print(table(told), file=sys.stderr)
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
