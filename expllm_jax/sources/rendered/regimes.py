"""Which action units a rendered face shows: six regimes from textbook expressions to units sampled on their own.

| regime        | each prototype unit dropped | unrelated units added (mean) |
|---------------|-----------------------------|------------------------------|
| `clean`       | never                       | 0                            |
| `mild`        | with probability 0.1        | 0.5                          |
| `hard`        | with probability 0.2        | 1.0                          |
| `loose`       | with probability 0.4        | 2.0                          |
| `independent` | –  (no expression)          | every unit on its own        |
| `sided`       | –  (no expression)          | every unit and side          |

`clean` faces can be told by heart once the expression is known; the other regimes cannot, which is what they are for.
Of `loose` faces reciting an expression's units says least: half of what they show has nothing to do with it.
All but the last show every unit alike on both sides. `sided` faces are crooked, and their jaws slide and thrust as
well, so that all 24 FEAFA units move, left and right apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import ARKIT_52, PROTOTYPES, RENDERED_UNITS, arkit_from_facs

PRESENT_FROM = 0.2  # a sampled unit is either absent (0) or at least this strong
_INDEPENDENT_RATE = 0.18  # probability of each unit in the `independent` regime: about four a face

# Units that one face cannot show together: same muscle in two ways, or opposite movements of the same part.
_EXCLUSIVE: Mapping[str, tuple[str, ...]] = {
    "AU5": ("AU43",),
    "AU7": ("AU43",),
    "AU10": (
        "AU24",
        "AU28",
    ),
    "AU12": (
        "AU15",
        "AU18",
        "AU22",
    ),
    "AU14": (
        "AU18",
        "AU22",
    ),
    "AU16": (
        "AU24",
        "AU28",
    ),
    "AU18": (
        "AU20",
        "AU22",
        "AU24",
        "AU27",
        "AU28",
    ),
    "AU20": ("AU22",),
    "AU22": (
        "AU24",
        "AU27",
        "AU28",
    ),
    "AU24": (
        "AU26",
        "AU27",
        "AU28",
    ),
    "AU26": (
        "AU27",
        "AU28",
        "AU33",
    ),
    "AU27": (
        "AU28",
        "AU33",
    ),
}


@dataclass(frozen=True)
class Regime:
    """How far a face strays from its expression's prototype."""

    name: str
    drop: float  # probability with which each prototype unit is left out
    added: float  # mean number of unrelated units (Poisson)


REGIMES: Mapping[str, Regime] = {
    r.name: r
    for r in (Regime("clean", 0, 0), Regime("mild", 0.1, 0.5), Regime("hard", 0.2, 1.0), Regime("loose", 0.4, 2.0))
}
INDEPENDENT = "independent"
SIDED = "sided"
UNEXPRESSIVE: tuple[str, ...] = (INDEPENDENT, SIDED)
"""Regimes whose faces show no expression."""

SEED_ORDER: tuple[str, ...] = ("clean", "mild", "hard", *UNEXPRESSIVE, "loose")
"""Every regime, at the place that the draws of its faces are seeded with; a new one goes to the end."""

_ONE_SIDED_RATE = 0.5  # of the `sided` regime: units that are weaker on one side
_ABSENT_RATE = 0.5  # of those: absent there
_JAW_RATE = 0.15  # probability of a jaw that slides, and of one that thrusts


def sample_units(expression: str | None, regime: str, rng: np.random.Generator) -> dict[str, float]:
    """FACS units (code → intensity in [0.2, 1]) of one face.

    `expression` names a row of PROTOTYPES; it must be None in the `independent` regime and only there.
    """
    if regime == INDEPENDENT:
        if expression is not None:
            raise ExpllmError("the regime 'independent' takes no expression", "leave the expression out")
        return _add_units({}, [u for u in RENDERED_UNITS if rng.random() < _INDEPENDENT_RATE], rng)
    if regime not in REGIMES:
        known = ", ".join([*REGIMES, INDEPENDENT])
        raise ExpllmError(f"unknown regime '{regime}'", f"use one of: {known}")
    if expression is None or expression not in PROTOTYPES:
        raise ExpllmError(f"no prototype for the expression '{expression}'", f"use one of: {', '.join(PROTOTYPES)}")
    prototype = PROTOTYPES[expression]
    rule = REGIMES[regime]
    strength = rng.uniform(0.75, 1.05)  # how expressive this face is, shared by its units
    units = {}
    for code, typical in prototype.items():
        intensity = float(np.clip(typical * strength * (1 + rng.normal(0, 0.12)), PRESENT_FROM, 1))
        if rng.random() >= rule.drop:
            units[code] = round(intensity, 3)
    unrelated = [code for code in RENDERED_UNITS if code not in prototype]
    rng.shuffle(unrelated)
    wanted = int(rng.poisson(rule.added)) if rule.added else 0
    # Exclusions look at the whole prototype: a dropped jaw drop must not return as a mouth stretch.
    possible = [code for code in unrelated if not _excluded(code, prototype)]
    return _add_units(units, possible, rng, limit=wanted)


def sample_sided(rng: np.random.Generator) -> dict[str, float]:
    """ARKit coefficients (name → 0 to 1, zeros left out) of one face of the regime `sided`.

    Units as in `independent`; then half of those with two sides, or with an upper and a lower lip as AU28, are weaker
    or absent on one of the two, and the jaw may slide or thrust. The gaze is no part of it.
    """
    coefficients = arkit_from_facs(sample_units(None, INDEPENDENT, rng))
    pairs = [(code, ARKIT_52.unit(code).mirror) for code in coefficients if ARKIT_52.unit(code).side == "left"]
    if "mouthRollLower" in coefficients:
        pairs.append(("mouthRollLower", "mouthRollUpper"))
    for pair in pairs:
        if rng.random() < _ONE_SIDED_RATE:
            weaker = pair[int(rng.integers(2))]
            coefficients[weaker] *= 0.0 if rng.random() < _ABSENT_RATE else float(rng.uniform())
    if rng.random() < _JAW_RATE:
        coefficients["jawLeft" if rng.random() < 0.5 else "jawRight"] = float(rng.uniform(0.25, 0.95))
    if rng.random() < _JAW_RATE:
        coefficients["jawForward"] = float(rng.uniform(0.25, 0.95))
    return {code: coefficients[code] for code in ARKIT_52.codes if coefficients.get(code, 0.0) > 0.0}


def can_show(code: str, expression: str | None, units: Mapping[str, float]) -> bool:
    """Whether a face that shows `units` can show the rendered unit `code` as well, by the rules of `sample_units`.

    With an expression its whole prototype counts as shown, unless `code` belongs to it.
    """
    prototype = {} if expression is None or code in PROTOTYPES[expression] else PROTOTYPES[expression]
    return code in RENDERED_UNITS and not _excluded(code, {**units, **prototype})


def _excluded(code: str, others: Mapping[str, float]) -> bool:
    return any(other in _EXCLUSIVE.get(code, ()) or code in _EXCLUSIVE.get(other, ()) for other in others)


def _add_units(
    units: dict[str, float], candidates: list[str], rng: np.random.Generator, limit: int | None = None
) -> dict[str, float]:
    units = dict(units)
    room = len(candidates) if limit is None else limit
    for code in candidates:
        if room == 0:
            break
        if not _excluded(code, units):
            units[code] = round(float(rng.uniform(0.25, 0.95)), 3)
            room -= 1
    return {code: units[code] for code in RENDERED_UNITS if code in units}
