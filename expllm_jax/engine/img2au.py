"""Img2AU: action units, with how uncertain they are, from pictures of one face each.

A run of `expllm train img2au` holds, beside `frozen/` (the tower) and `checkpoints/` (the head), the file units.json:
what the head states, how pictures are prepared, and the calibration.

Shape letters: P pictures, U units.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from expllm_jax.checkpoints import Checkpointer, load_frozen
from expllm_jax.engine.unit_calibration import UnitCalibration
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation, vocabulary
from expllm_jax.files import write_whole
from expllm_jax.infer.run_files import dataclass_from_json
from expllm_jax.models import ModelDef, Params, UnitRegressorConfig, ViTConfig, abstract, merge
from expllm_jax.records import normalise, read_picture, square

UNIT_MODEL = "units.json"
FORMAT = 1
"""Version of units.json; a reader refuses another."""

BATCH = 16
"""Pictures at a time; the last ones are filled up."""

DEVIATION = "sd"
"""Last part of the attributes that hold uncertainties: `facs.AU12.sd` is the standard deviation of FACS's AU12."""


@dataclasses.dataclass(frozen=True)
class UnitModelFiles:
    """Everything but the parameters that an Img2AU model needs."""

    outputs: tuple[tuple[str, str], ...]  # (vocabulary, code) of every output
    vision: ViTConfig
    vision_layers: tuple[int, ...]
    head: UnitRegressorConfig
    calibration: UnitCalibration
    picture_size: int = 224
    normalisation: str = "clip"

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", tuple((str(name), str(code)) for name, code in self.outputs))
        object.__setattr__(self, "vision_layers", tuple(self.vision_layers))
        for name, code in self.outputs:
            vocabulary(name).index(code)
        if not len(self.outputs) == self.head.units == len(self.calibration.slope):
            raise ExpllmError(
                f"{len(self.outputs)} outputs, {self.head.units} units of the head, "
                f"{len(self.calibration.slope)} calibrated",
                "train the run again",
            )


def write_unit_model(run: Path, files: UnitModelFiles) -> None:
    """Writes units.json into the run's folder. Raises ExpllmError if it cannot."""
    write_whole(run / UNIT_MODEL, json.dumps({"format": FORMAT, **dataclasses.asdict(files)}, indent=2) + "\n")


def read_unit_model(run: Path) -> UnitModelFiles:
    """Reads what `write_unit_model` wrote. Raises ExpllmError if the folder is no finished run, or it is damaged."""
    path = run / UNIT_MODEL
    if not path.is_file():
        what = f"holds no {UNIT_MODEL}" if run.is_dir() else "does not exist"
        raise ExpllmError(f"the run {run} {what}", f"train one: expllm train img2au --out {run}")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if (found := described.pop("format")) != FORMAT:
            raise ExpllmError(f"{path} is of format {found}, not {FORMAT}", "train the run again")
        return dataclass_from_json(UnitModelFiles, described)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExpllmError(f"{path} is damaged ({error!r})", "copy it again from where the model was trained") from error


@dataclasses.dataclass(frozen=True)
class UnitValues:
    """Calibrated units of pictures."""

    outputs: tuple[tuple[str, str], ...]
    value_PU: np.ndarray  # float64, 0 to 1
    deviation_PU: np.ndarray  # float64, standard deviation of each value


class Img2Au:
    """A model ready to look at pictures.

    Args:
        files: what units.json says.
        tower, head: the parameters of both.
        origin: what annotations say the units come from.
    """

    def __init__(self, files: UnitModelFiles, tower: Params, head: Params, origin: str) -> None:
        self.files, self.origin = files, origin
        self._tower, self._head = tower, head
        self._tower_def, self._head_def = abstract(files.vision)[0], abstract(files.head)[0]

    @classmethod
    def open(cls, run: str | Path) -> Img2Au:
        """Opens a run at its latest checkpoint. Raises ExpllmError if there is none, or it is damaged."""
        run = Path(run)
        files = read_unit_model(run)
        with Checkpointer(run, create=False) as checkpointer:
            step = checkpointer.latest_step
            head = checkpointer.load_params(step)
        return cls(files, load_frozen(run), head, f"img2au {run.name} at update {step}")

    def regress(self, pictures: Sequence[str | Path], *, report: Callable[[int], None] | None = None) -> UnitValues:
        """The units of picture files, each of one face and framed as those that the model learnt from.

        Args:
            pictures: paths.
            report: is told after every batch how many pictures are done.

        Raises:
            ExpllmError: there are no pictures, or one cannot be read.
        """

        def features() -> Iterator[jax.Array]:
            for start in range(0, len(pictures), BATCH):
                chunk = [self._pixels(picture) for picture in pictures[start : start + BATCH]]
                filled = np.stack(chunk + [chunk[-1]] * (BATCH - len(chunk)))
                yield _encoded(self._tower_def, self.files.vision_layers, self._tower, filled)
                if report is not None:
                    report(start + len(chunk))

        return self._values(features(), len(pictures))

    def from_features(self, features_PND: np.ndarray) -> UnitValues:
        """The units of pictures whose tower features are known already (`train.extract_features`)."""

        def features() -> Iterator[np.ndarray]:
            for start in range(0, len(features_PND), BATCH):
                chunk = np.asarray(features_PND[start : start + BATCH])
                yield np.concatenate([chunk, np.repeat(chunk[-1:], BATCH - len(chunk), 0)])

        return self._values(features(), len(features_PND))

    def _pixels(self, picture: str | Path) -> np.ndarray:
        pixels = square(read_picture(picture), self.files.picture_size)
        return normalise(pixels, self.files.normalisation)

    def _values(self, features: Iterable[np.ndarray | jax.Array], pictures: int) -> UnitValues:
        if not pictures:
            raise ExpllmError("there are no pictures to look at", "give at least one")
        parts = [raw_estimates(self._head_def, self._head, each) for each in features]
        mean_PU, deviation_PU = (np.concatenate(column)[:pictures] for column in zip(*parts, strict=True))
        return UnitValues(self.files.outputs, *self.files.calibration(mean_PU, deviation_PU))


def raw_estimates(
    head_def: ModelDef, head: Params, features_BND: np.ndarray | jax.Array
) -> tuple[np.ndarray, np.ndarray]:
    """(means, standard deviations) of a head before calibration, float64 [B, U] each."""
    mean, log_variance = _estimated(head_def, head, features_BND)
    return np.asarray(mean, np.float64), np.exp(0.5 * np.asarray(log_variance, np.float64))


def annotated(faces: Sequence[Annotation], units: UnitValues, origin: str) -> list[Annotation]:
    """Annotations with these units in place of any they had of the same vocabularies.

    Uncertainties become attributes (`facs.AU12.sd`), and provenance says where the units come from.
    """
    told = []
    for face, values, deviations in zip(faces, units.value_PU, units.deviation_PU, strict=True):
        found: dict[str, dict[str, float]] = {}
        spread: dict[str, float] = {}
        for (name, code), value, deviation in zip(units.outputs, values, deviations, strict=True):
            found.setdefault(name, {})[code] = round(float(value), 4)
            spread[f"{name}.{code}.{DEVIATION}"] = round(float(deviation), 4)
        told.append(
            dataclasses.replace(
                face,
                units={**face.units, **found},
                attributes={**face.attributes, **spread},
                provenance={**face.provenance, "units": origin},
            )
        )
    return told


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encoded(tower_def: ModelDef, layers: tuple[int, ...], tower: Params, pixels_BHWC: jax.Array) -> jax.Array:
    # Rounded as cached features are, so that a picture has the same units whichever way it comes.
    return merge(tower_def, tower)(pixels_BHWC, layers=layers or None).astype(jnp.float16)


@functools.partial(jax.jit, static_argnums=0)
def _estimated(head_def: ModelDef, head: Params, features_BND: jax.Array) -> tuple[jax.Array, jax.Array]:
    return merge(head_def, head)(features_BND)
