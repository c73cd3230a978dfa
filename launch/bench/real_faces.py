"""How little does a model trained on rendered faces know about photographs of real people?

    python launch/bench/real_faces.py --run runs/demo > real_faces.json

It is asked about the 400 ORL photographs (40 people). No person has labelled them, so Google's face landmarker stands
in: a picture shows a smile, lowered brows or an open jaw where its blendshapes pass a threshold. That is only a
machine's opinion: decent for smiles, rough for brows (on renders, whose truth is known, it follows AU12 with r = 0.89,
AU4 with 0.41), none on most units. Two of its outputs, cheekSquint and noseSneer, hardly ever move and are left out.

Balanced accuracy and AUC are 0.5 in expectation for answers that do not depend on the picture, whatever they say. An
unparsable answer states nothing; no picture is left out. Intervals are 95 %, over people (Wilson's for unparsable).

Shape letters: P pictures, L levels of a statement, K = 2 L counts (not shown by level, then shown by level).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from expllm_jax.assets import ASSETS, asset_path, cache_dir, report_to_stderr
from expllm_jax.cot import BANDS
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import bootstrap, cluster_totals, wilson
from expllm_jax.evaluate.scores import ratio
from expllm_jax.faces import FACS
from expllm_jax.files import write_whole
from expllm_jax.infer import Answer, PredictConfig, Predictor
from expllm_jax.sources.face_landmarker import FaceLandmarker
from expllm_jax.sources.teacher import framed

RECIPE = {"upscale": 3, "border": 64, "version": 1}  # of the pseudo-labels; other numbers, other labels
DEAD = ("cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight")
ENOUGH = 10  # pictures that show a movement, and that do not; with fewer, nothing is computed
LEVEL = {None: 1} | {band.name: number for number, band in enumerate(BANDS, 1)}  # of a stated unit; 0: not stated
LEVELS = len(BANDS) + 1
SMILE, BROWS = ("mouthSmileLeft", "mouthSmileRight"), ("browDownLeft", "browDownRight")
UNPARSABLE = "(unparsable)"


@dataclass(frozen=True)
class Question:
    """Something the model may say, beside the pseudo-label it is compared with."""

    name: str
    codes: tuple[str, ...]  # the action units that say so; none: the label Happiness does
    blendshapes: tuple[str, ...]  # their mean ...
    shown_above: float  # ... is above this where it shows

    def shown(self, blendshapes: Mapping[str, float]) -> bool:
        """The pseudo-label."""
        return sum(blendshapes[name] for name in self.blendshapes) / len(self.blendshapes) > self.shown_above

    def level(self, answer: Answer) -> int:
        """How strongly the answer says so: 0 (not at all) to LEVELS - 1; 1 if it has no word for how strongly."""
        if not self.codes:
            return int(answer.label == "Happiness")
        stated = answer.stated_units if answer.parsed else {}
        return max((LEVEL[stated[code]] for code in self.codes if code in stated), default=0)


QUESTIONS = (
    Question("Happiness / smile", (), SMILE, 0.5),
    Question("AU12 / smile", ("AU12",), SMILE, 0.5),
    Question("AU4 / brows down", ("AU4",), BROWS, 0.4),
    Question("AU26, AU27 / jaw open", ("AU26", "AU27"), ("jawOpen",), 0.3),
)


def pseudo_labels(folder: Path) -> dict[str, dict[str, Any]]:
    """Picture ("s1/1.pgm") -> {"box": [left, top, right, bottom] in pixels, "blendshapes": name -> 0 to 1}; cached."""
    made_from = {name: ASSETS[name].sha256 for name in ("orl-faces", "face-landmarker")} | {"recipe": RECIPE}
    path = cache_dir() / "pseudo-labels" / "orl-faces.json"
    try:
        cached = json.loads(path.read_text(encoding="utf-8"))
        if cached["made_from"] == made_from:
            return cached["faces"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent or damaged: made again
    landmarker, faces = FaceLandmarker(asset_path("face-landmarker")), {}
    report_to_stderr("pseudo-labelling the photographs (once) ...")
    for picture in sorted(folder.glob("s*/*.pgm")):
        image = ImageOps.scale(Image.open(picture).convert("RGB"), RECIPE["upscale"])
        seen = landmarker(ImageOps.expand(image, RECIPE["border"], (128, 128, 128)))
        if seen is None:
            raise ExpllmError(f"the face landmarker sees no face in {picture}", "run: expllm doctor --verify")
        landmarks = (seen.landmarks - RECIPE["border"]) / RECIPE["upscale"]
        faces[picture.relative_to(folder).as_posix()] = {
            "box": np.concatenate([landmarks.min(0), landmarks.max(0)]).round(2).tolist(),
            "blendshapes": {name: round(value, 4) for name, value in seen.blendshapes.items() if name not in DEAD},
        }
    report_to_stderr(f"  in {write_whole(path, json.dumps({'made_from': made_from, 'faces': faces}))}")
    return faces


def frame_like_renders(picture: Path, box: Sequence[float], target: Path) -> Path:
    """Writes the square around a face in which it is as large, and as high up, as faces are in the renders."""
    framed(Image.open(picture).convert("RGB"), np.reshape(box, (2, 2))).save(target)
    return target


def stated_shares(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[..., K] -> how often it is stated where it does not show, and where it does."""
    counts = counts.reshape(*counts.shape[:-1], 2, LEVELS)
    stated = ratio(counts[..., 1:].sum(-1), counts.sum(-1))
    return stated[..., 0], stated[..., 1]


def balanced_accuracy(counts: np.ndarray) -> np.ndarray:
    """[..., K] -> mean of the shares rightly stated and rightly not stated."""
    not_shown, shown = stated_shares(counts)
    return (1 - not_shown + shown) / 2


def auc(counts: np.ndarray) -> np.ndarray:
    """[..., K] -> how often, of two pictures, the one that shows it has the stronger statement; ties count a half."""
    counts = counts.reshape(*counts.shape[:-1], 2, LEVELS)
    not_shown, shown = counts[..., 0, :], counts[..., 1, :]
    weaker = not_shown.cumsum(-1) - not_shown / 2
    return ratio((shown * weaker).sum(-1), shown.sum(-1) * not_shown.sum(-1))


STATISTICS = {
    "stated_where_shown": lambda counts: stated_shares(counts)[1],
    "stated_elsewhere": lambda counts: stated_shares(counts)[0],
    "balanced_accuracy": balanced_accuracy,
    "auc": auc,  # the same where there are two levels only, as for a label
}


def judge(question: Question, answers: Sequence[Answer], shown: np.ndarray, people: Sequence[str]) -> dict[str, Any]:
    """One question's numbers; a statistic is [value, low, high], or null where too few pictures decide it.

    Args:
      shown: bool [P], the pseudo-labels.
      people: who is in each picture.
    """
    counts_PK = np.zeros((len(answers), 2 * LEVELS))
    counts_PK[np.arange(len(answers)), shown * LEVELS + [question.level(answer) for answer in answers]] = 1
    totals = cluster_totals(people, counts_PK)
    values: dict[str, Any] = {"shown_in": int(shown.sum()), "shown_by_people": len(set(np.array(people)[shown]))}
    for name, statistic in STATISTICS.items():
        values[name] = None
        if ENOUGH <= shown.sum() <= len(shown) - ENOUGH:
            found = bootstrap(totals, statistic)
            numbers = (found.value, found.low, found.high)
            values[name] = None if any(map(math.isnan, numbers)) else [round(number, 4) for number in numbers]
    return asdict(question) | values


def measure(run: str, framing: str, each: int, batch: int) -> dict[str, Any]:
    """Asks the model of `run` about the first `each` pictures of every person; returns what is printed as JSON."""
    predictor = Predictor.open(run, PredictConfig(batch=batch))
    if predictor.files.vocabulary != FACS.name:
        raise ExpllmError(f"the model of {run} states {predictor.files.vocabulary} units", "give one that states FACS")
    folder = asset_path("orl-faces")
    faces = {name: face for name, face in pseudo_labels(folder).items() if int(Path(name).stem) <= each}
    people = [Path(name).parent.name for name in faces]
    with tempfile.TemporaryDirectory() as scratch:
        pictures = [folder / name for name in faces]
        if framing == "face":
            pictures = [
                frame_like_renders(
                    folder / name, face["box"], Path(scratch, name.replace("/", "_")).with_suffix(".png")
                )
                for name, face in faces.items()
            ]
        answers = predictor.answer(pictures, report=lambda done: report_to_stderr(f"  {done} of {len(faces)} answered"))
    shown = {asked: np.array([asked.shown(face["blendshapes"]) for face in faces.values()]) for asked in QUESTIONS}
    said = np.array([answer.label or UNPARSABLE for answer in answers])
    of_all, of_smiles = Counter(said), Counter(said[shown[QUESTIONS[0]]])
    unparsable = {}
    for what in ("unparsable", "label_failure", "cot_failure"):
        count = sum(getattr(answer, what) is not None for answer in answers)
        unparsable[what] = [round(share, 4) for share in (count / len(answers), *wilson(count, len(answers)))]
    return {
        "run": run,
        "pictures": len(faces),
        "people": len(set(people)),
        "framing": framing,
        "truth": "pseudo-labels by Google's face landmarker; no person has labelled these photographs",
        **unparsable,
        "labels": {name: [of_all[name], of_smiles[name]] for name in (*predictor.files.labels, UNPARSABLE)},
        "questions": [judge(question, answers, shown_P, people) for question, shown_P in shown.items()],
    }


def table(found: Mapping[str, Any]) -> str:
    """The numbers for people."""

    def cell(numbers: Sequence[float] | None) -> str:
        return "too few" if numbers is None else "{:.2f} [{:.2f}, {:.2f}]".format(*numbers)

    lines = ["", f"{found['pictures']} photographs of {found['people']} people; truth: {found['truth']}", ""]
    lines += [f"unparsable {cell(found['unparsable'])}", "", f"{'label':<24}{'said of':>10}{'smiling':>10}"]
    lines += [f"{name:<24}{everyone:>10}{smiling:>10}" for name, (everyone, smiling) in found["labels"].items()]
    rows = [("said / shown", "shown in", *STATISTICS)]
    rows += [(row["name"], row["shown_in"], *(cell(row[name]) for name in STATISTICS)) for row in found["questions"]]
    lines += ["", *("{:<24}{:>10}{:>21}{:>21}{:>21}{:>21}".format(*row) for row in rows)]
    return "\n".join([*lines, "", "balanced accuracy and AUC: 0.50 is chance; 95 % intervals over people"])


def main() -> int:
    """Parses, measures, prints; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="What a model trained on rendered faces says about 400 photographs, beside pseudo-labels.",
        epilog="example: python launch/bench/real_faces.py --run runs/demo > real_faces.json",
    )
    framings = {"picture": "as they are", "face": "cropped to the face like the renders"}
    add = parser.add_argument
    add("--run", default="runs/demo", help="folder of a run or an export (default: runs/demo)")
    add("--framing", choices=framings, default="picture", help="; ".join(map(": ".join, framings.items())))
    add("--each", type=int, choices=range(1, 11), metavar="1-10", default=10, help="pictures a person (default: all)")
    add("--batch", type=int, default=32, help="pictures at a time (default: 32)")
    options = parser.parse_args()
    try:
        found = measure(options.run, options.framing, options.each, options.batch)
    except ExpllmError as error:
        print(f"real_faces: error: {error.problem}", file=sys.stderr)
        if error.remedy:
            print(f"  to mend it: {error.remedy}", file=sys.stderr)
        return error.exit_status
    print(table(found), file=sys.stderr)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
