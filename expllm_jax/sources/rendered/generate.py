"""Renders a data set of faces whose action units are known exactly: pictures, annotations, splits by identity."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import (
    ARKIT_52,
    BASIC_7,
    RENDERED_UNITS,
    Annotation,
    arkit_from_facs,
    facs_from_arkit,
    feafa_from_arkit,
    head_pose,
    write_annotations,
)
from expllm_jax.sources.rendered.head import HeadModel, load_head
from expllm_jax.sources.rendered.identity import Identity, sample_identity
from expllm_jax.sources.rendered.regimes import REGIMES, SEED_ORDER, SIDED, UNEXPRESSIVE, sample_sided, sample_units
from expllm_jax.sources.rendered.scene import Picture, Scene, gaze_units, pose_300w, render, sample_scene

RENDERER_VERSION = "2"  # part of the provenance; raise it when pictures or annotations of the same seed change
ANNOTATIONS_FILE = "annotations.jsonl"
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class RenderedConfig:
    """A data set of rendered faces. Training and test identities never overlap."""

    train_identities: int = 400  # people in the split `train`; each shows every expression
    train_faces_each: int = 1  # pictures per person and expression
    train_regimes: tuple[str, ...] = ("mild", "hard")  # drawn uniformly per training picture
    test_identities: int = 84  # people of the test splits; the same people in each of them
    test_regimes: tuple[str, ...] = ("clean", "mild", "hard")  # one split each
    expressions: tuple[str, ...] = BASIC_7
    seed: int = 0

    def __post_init__(self) -> None:
        known = (*REGIMES, *UNEXPRESSIVE)
        for field, regimes in (("train_regimes", self.train_regimes), ("test_regimes", self.test_regimes)):
            for regime in regimes:
                if regime not in known:
                    raise ExpllmError(
                        f"{field} names the unknown regime '{regime}'", f"use some of: {', '.join(known)}"
                    )
        for field, least in (("train_identities", 1), ("train_faces_each", 1), ("test_identities", 0)):
            if getattr(self, field) < least:
                raise ExpllmError(f"{field} is {getattr(self, field)}", f"the smallest value is {least}")
        if not self.train_regimes:
            raise ExpllmError("train_regimes is empty", f"name at least one of: {', '.join(known)}")


@dataclass(frozen=True)
class FaceSpec:
    """One picture to be rendered: everything in it follows from these values and the data set's seed."""

    split: str
    identity: int
    expression: str | None
    regime: str
    take: int

    @property
    def name(self) -> str:
        return f"{self.split}/p{self.identity:05d}_{(self.expression or 'none').lower()}_{self.take}.jpg"


def plan(config: RenderedConfig) -> list[FaceSpec]:
    """The faces of a data set in a fixed order, grouped by identity."""
    specs = []
    for identity in range(config.train_identities):
        rng = np.random.default_rng([config.seed, 1, identity])
        for take in range(config.train_faces_each):
            for place, expression in enumerate(config.expressions):
                regime = config.train_regimes[int(rng.integers(len(config.train_regimes)))]
                if regime in UNEXPRESSIVE:  # told apart by the take alone
                    specs.append(FaceSpec("train", identity, None, regime, take * len(config.expressions) + place))
                else:
                    specs.append(FaceSpec("train", identity, expression, regime, take))
    for person in range(config.test_identities):
        for regime in config.test_regimes:
            for take, expression in enumerate(config.expressions):
                bare = regime in UNEXPRESSIVE
                specs.append(
                    FaceSpec(
                        regime,
                        config.train_identities + person,
                        None if bare else expression,
                        regime,
                        take if bare else 0,
                    )
                )
    return specs


@lru_cache(maxsize=64)
def _identity(head: HeadModel, seed: int, number: int) -> Identity:
    return sample_identity(head, f"p{number:05d}", np.random.default_rng([seed, 2, number]))


@dataclass(frozen=True, eq=False)
class DrawnFace:
    """Everything that a `FaceSpec` stands for, before it is rendered."""

    person: Identity
    arkit: Mapping[str, float]  # coefficients above 0, without the gaze
    scene: Scene


def draw_face(head: HeadModel, spec: FaceSpec, seed: int) -> DrawnFace:
    """Draws person, units and scene; a pure function of its arguments."""
    where = SEED_ORDER.index(spec.regime)
    which = BASIC_7.index(spec.expression) if spec.expression in BASIC_7 else 7
    rng = np.random.default_rng([seed, 3, spec.identity, where, which, spec.take, spec.split == "train"])
    if spec.regime == SIDED:
        arkit = sample_sided(rng)
    else:
        arkit = arkit_from_facs(sample_units(spec.expression, spec.regime, rng))
    return DrawnFace(_identity(head, seed, spec.identity), arkit, sample_scene(rng))


def render_face(head: HeadModel, spec: FaceSpec, seed: int) -> tuple[Picture, Annotation]:
    """One face with its annotation; a pure function of its arguments. See `render_drawn`."""
    return render_drawn(head, spec, draw_face(head, spec, seed), seed)


def render_drawn(head: HeadModel, spec: FaceSpec, drawn: DrawnFace, seed: int) -> tuple[Picture, Annotation]:
    """The picture of a drawn face with its annotation.

    The annotation holds the ARKit coefficients that were rendered, gaze included, and what they mean as FACS and FEAFA
    units. Those that the face does not show are there with 0.0, since that is known. FACS units outside RENDERED_UNITS
    are left out as unknown: no coefficient stands for them, but others may show them (a dropped jaw parts the lips).
    """
    person, arkit, scene = drawn.person, dict(drawn.arkit), drawn.scene
    picture = render(head, person, arkit, scene)
    shown, facs, feafa = arkit | gaze_units(scene.gaze), facs_from_arkit(arkit), feafa_from_arkit(arkit)
    annotation = Annotation(
        picture=f"pictures/{spec.name}",
        expression=spec.expression,
        units={
            "arkit": {code: round(shown.get(code, 0.0), 5) for code in ARKIT_52.codes},
            "facs": {code: round(facs.get(code, 0.0), 4) for code in RENDERED_UNITS},
            "feafa": {code: round(value, 4) for code, value in feafa.items()},
        },
        cot=None,
        identity=person.name,
        split=spec.split,
        attributes={
            "gender": person.sex,
            "age_blend": round(person.age, 3),  # of the young and the old target; there are no years
            "regime": spec.regime,
            **{name: round(angle, 2) + 0.0 for name, angle in head_pose(pose_300w(scene)).items()},  # no -0.0
        },
        landmarks=tuple((round(float(x), 2), round(float(y), 2)) for x, y in picture.landmarks_68_2),
        face_box=tuple(round(v, 2) for v in picture.face_box),
        provenance={"source": "rendered", "renderer": RENDERER_VERSION, "seed": str(seed)},
    )
    return picture, annotation


def encode_jpeg(picture: Picture) -> bytes:
    """The picture's file, as `generate` writes it."""
    encoded = io.BytesIO()
    Image.fromarray(picture.pixels).save(encoded, "JPEG", quality=_JPEG_QUALITY)
    return encoded.getvalue()


def generate(
    config: RenderedConfig,
    head_folder: Path,
    folder: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Path:
    """Renders the data set into `folder` (which must not exist) and returns the path of its annotations.

    Faces are rendered on all cores (the kernels release the GIL) and appear only when all are done: a crash leaves
    `folder` absent. Raises ExpllmError when the folder exists or cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise ExpllmError(f"{folder} exists already", "delete it or name another folder; nothing is overwritten")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    head = load_head(head_folder)
    specs = plan(config)

    def one(spec: FaceSpec) -> Annotation:
        picture, annotation = render_face(head, spec, config.seed)
        (partial / annotation.picture).write_bytes(encode_jpeg(picture))
        return annotation

    def annotations() -> Iterator[Annotation]:
        with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
            for done, annotation in enumerate(pool.map(one, specs, chunksize=1), start=1):
                if progress:
                    progress(done, len(specs))
                yield annotation

    try:
        for split in sorted({spec.split for spec in specs}):
            (partial / "pictures" / split).mkdir(parents=True)
        write_annotations(partial / ANNOTATIONS_FILE, annotations())
        os.replace(partial, folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ExpllmError(
            f"cannot write the rendered faces to {folder}: {error.strerror or error}",
            "name a folder on a disk that has room and that you may write to",
        ) from error
    return folder / ANNOTATIONS_FILE
