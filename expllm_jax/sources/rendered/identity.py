"""Who is rendered: a random but reproducible person as head shape, skin, hair and eyes.

Race words below are the names of MakeHuman's shape targets; they are blended continuously and are no claim about
anyone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from expllm_jax.sources.rendered.head import HeadModel

RACE_TARGETS = ("african", "asian", "caucasian")
_LIGHT_SKIN, _DARK_SKIN = np.array([0.93, 0.74, 0.64]), np.array([0.34, 0.20, 0.13])
_HAIR = np.array([[0.05, 0.04, 0.03], [0.12, 0.07, 0.04], [0.30, 0.18, 0.09], [0.55, 0.42, 0.25], [0.50, 0.50, 0.50]])
_IRIS = np.array([[0.25, 0.14, 0.06], [0.28, 0.40, 0.55], [0.30, 0.42, 0.26], [0.12, 0.07, 0.04]])


@dataclass(frozen=True, eq=False)
class Identity:
    """One person. Colours are linear RGB in [0, 1]; `age` and `sex` are the blend of the young/old and
    female/male targets.
    """

    name: str
    shape_V3: np.ndarray
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    shirt: np.ndarray
    sex: str
    age: float
    race_blend: tuple[float, float, float]
    brow_thickness: float
    hair_line: float  # decimetres by which the hair line is moved up
    hair_volume: float  # decimetres
    stubble: float
    noise_seed: int


def sample_identity(head: HeadModel, name: str, rng: np.random.Generator) -> Identity:
    """Draws a person; the same head, name and generator state give the same person."""
    blend = rng.dirichlet([0.35] * 3)
    male = float(rng.random() < 0.5)
    age = float(min(1.0, rng.beta(1.2, 2.2)))
    weight = float(np.clip(rng.normal(0, 0.45), -1, 1))
    shape = head.rest_V3.copy()

    def add(target: str, amount: float) -> None:
        if amount > 1e-3:
            np.add(shape, np.float32(amount) * head.shapes[target], out=shape)

    for sex, of_sex in (("female", 1 - male), ("male", male)):
        for stage, of_age in (("young", 1 - age), ("old", age)):
            for race, share in zip(RACE_TARGETS, blend, strict=True):
                add(f"{race}-{sex}-{stage}", share * of_sex * of_age)
            for build, share in (("average", 1 - abs(weight)), ("max", max(0.0, weight)), ("min", max(0.0, -weight))):
                add(f"universal-{sex}-{stage}-averagemuscle-{build}weight", share * of_sex * of_age)
    for target in head.shapes:
        if target.startswith("local:") and rng.random() < 0.35:
            add(target, float(np.clip(abs(rng.normal(0, 0.3)), 0, 0.8)))

    dark = float(np.clip(blend @ [0.9, 0.25, 0.08] + rng.normal(0, 0.1), 0, 1))
    mostly_caucasian = blend[2] > 0.5
    if mostly_caucasian:
        hair = _HAIR[rng.choice(5, p=[0.42, 0.26, 0.16, 0.08, 0.08])]
        iris = _IRIS[rng.choice(4, p=[0.4, 0.25, 0.1, 0.25])]
    else:
        hair = np.array([0.05, 0.04, 0.035]) * rng.uniform(0.7, 1.6)
        iris = _IRIS[3]
    if age > 0.6 and rng.random() < 0.6:
        hair = np.array([0.5, 0.5, 0.5]) * rng.uniform(0.6, 1.3)
    return Identity(
        name=name,
        shape_V3=shape,
        skin=(1 - dark) * _LIGHT_SKIN + dark * _DARK_SKIN,
        hair=hair,
        iris=iris,
        shirt=rng.uniform(0.05, 0.8, 3),
        sex="male" if male else "female",
        age=age,
        race_blend=(float(blend[0]), float(blend[1]), float(blend[2])),
        brow_thickness=float(rng.uniform(0.7, 1.5)),
        hair_line=float(rng.normal(0, 0.06)),
        hair_volume=float(rng.uniform(0.04, 0.16)),
        stubble=male * max(0.0, float(rng.normal(0, 0.25))),
        noise_seed=int(rng.integers(1 << 30)),
    )
