"""An experiment that trains a regressor of action units, for `expllm train`; see `config` for the other kind."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import FEAFA_24, RENDERED_UNITS
from expllm_jax.models import UnitRegressorConfig, ViTConfig, vit_s14
from expllm_jax.sources.rendered import INDEPENDENT, SIDED, UNEXPRESSIVE, RenderedConfig
from expllm_jax.train import UnitTrainConfig

OUTPUTS: tuple[tuple[str, str], ...] = (
    *(("facs", code) for code in RENDERED_UNITS),
    *(("feafa", code) for code in FEAFA_24.codes),
)
"""(vocabulary, code) of what the head states, in order."""

PICTURE_SIZE = 224  # pixels a side; what the tower sees


@dataclass(frozen=True)
class AnnotatedPictures:
    """A file of annotations whose pictures are mixed in, and their share of the pictures that are trained on."""

    file: Path
    share: float

    @classmethod
    def parse(cls, text: str) -> AnnotatedPictures:
        """Reads `frames/annotations.jsonl@0.25`; raises ExpllmError."""
        place, at, number = text.rpartition("@")
        try:
            share = float(number) if at else math.nan
        except ValueError:
            share = math.nan
        if not place or not 0 < share < 1:
            raise ExpllmError(
                f"mixture has {text!r}", "write FILE@SHARE, such as frames/annotations.jsonl@0.25, with a share below 1"
            )
        return cls(Path(place), share)


@dataclass(frozen=True)
class UnitExperiment:
    """Everything that decides the outcome of a run. `train.seed` sets parameters and order, `data.seed` the faces."""

    name: str
    about: str  # one sentence for lists and reports
    data: RenderedConfig = field(
        default_factory=lambda: RenderedConfig(
            train_identities=1500,
            train_faces_each=4,
            train_regimes=(INDEPENDENT, SIDED),
            test_identities=500,
            test_regimes=(INDEPENDENT, SIDED),
            expressions=("Neutral",),  # how many pictures a person has in each regime is what counts here: one
        )
    )
    # Share of the training identities, the last ones, that train nothing: values and uncertainties are calibrated on
    # them.
    calibration_share: float = 0.1
    # Annotations files of other pictures, FILE@SHARE each: share of the pictures that are trained on; rendered faces
    # have the rest. Every picture shows one face, framed as rendered ones are.
    mixture: tuple[str, ...] = ()
    mirror: bool = False  # train on every picture and on its mirror image, whose units change sides
    vision: ViTConfig = field(default_factory=lambda: vit_s14(unroll=0))
    vision_layers: tuple[int, ...] = (5,)  # blocks of the tower, from 0, whose tokens the head reads
    tower: str = "dinov2-s"  # the tower's weights: this asset, or the path of weights that `weights import` reads
    normalisation: str = "clip"
    head: UnitRegressorConfig = field(default_factory=lambda: UnitRegressorConfig(units=len(OUTPUTS), width=384))
    train: UnitTrainConfig = field(default_factory=UnitTrainConfig)

    def __post_init__(self) -> None:
        for name in ("mixture", "vision_layers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("train_regimes", "test_regimes"):
            for regime in getattr(self.data, name):
                if regime not in UNEXPRESSIVE:
                    raise ExpllmError(
                        f"data.{name} names '{regime}', whose units hang together",
                        f"use some of: {', '.join(UNEXPRESSIVE)}",
                    )
        if len(self.data.expressions) != 1:
            raise ExpllmError(
                f"data.expressions names {len(self.data.expressions)}, but these faces show none",
                "name one; data.train_faces_each says how many pictures a person has",
            )
        if not 0 < self.calibration_share < 1 or not 0 < self.calibrating < self.data.train_identities:
            raise ExpllmError(
                f"calibration_share is {self.calibration_share}: {self.calibrating} of {self.data.train_identities} "
                "people would calibrate",
                "leave at least one person to train on and one to calibrate with",
            )
        shares = [AnnotatedPictures.parse(text).share for text in self.mixture]
        if sum(shares) >= 1:
            raise ExpllmError(f"the shares of the mixture sum to {sum(shares):g}", "leave some to rendered faces")
        down, across = self.vision.grid(PICTURE_SIZE, PICTURE_SIZE)
        for name, wanted in (
            ("units", len(OUTPUTS)),
            ("width", self.vision.width * max(1, len(self.vision_layers))),
            ("tokens", down * across),
        ):
            if getattr(self.head, name) != wanted:
                raise ExpllmError(f"head.{name} is {getattr(self.head, name)}", f"set head.{name}={wanted}")

    @property
    def calibrating(self) -> int:
        """How many training identities, the last ones, calibrate."""
        return round(self.calibration_share * self.data.train_identities)
