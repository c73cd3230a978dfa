"""Which action units a rendered face shows: four regimes from textbook expressions to units sampled on their own.

| regime        | each prototype unit dropped | unrelated units added (mean) |
|---------------|-----------------------------|------------------------------|
| `clean`       | never                       | 0                            |
| `mild`        | with probability 0.1        | 0.5                          |
| `hard`        | with probability 0.2        | 1.0                          |
| `independent` | –  (no expression)          | every unit on its own        |

`clean` faces can be told by heart once the expression is known; the other regimes cannot, which is what they are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import PROTOTYPES, RENDERED_UNITS

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
    r.name: r for r in (Regime("clean", 0, 0), Regime("mild", 0.1, 0.5), Regime("hard", 0.2, 1.0))
}
INDEPENDENT = "independent"


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
