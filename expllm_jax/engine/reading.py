"""What a text about a face has to state: its findings, from the top of the face down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from expllm_jax.cot import STATED_FROM, Movement, band_of, codes_of_movements, movement_of
from expllm_jax.faces import REGIONS, Side, Vocabulary, associated_expressions, prototype_units

AT_REST_BELOW = 0.06
"""Below this (the "minimal" band) a unit may be called absent and its region at rest. Units between this and
STATED_FROM are passed over in silence, since neither claim would be safe."""


@dataclass(frozen=True)
class ShownMovement:
    """One movement that is stated: a unit, or the left and right unit of a movement that lie in the same band."""

    movement: Movement
    codes: tuple[str, ...]
    side: Side  # "both" if the vocabulary has no sides here or the sides agree
    band: str
    value: float  # 0 to 1, the stronger side
    region: str
    associated: tuple[str, ...]  # expressions, most widely attested first

    @property
    def name(self) -> str:
        return self.movement.name


@dataclass(frozen=True)
class Reading:
    """Everything a text about one face may say."""

    expression: str
    findings: tuple[ShownMovement, ...]  # top of the face to bottom
    missing: tuple[tuple[str, str], ...]  # (movement name, code) of the expression's prototype that the face lacks
    resting: tuple[str, ...]  # regions in which nothing moves

    @property
    def fitting(self) -> tuple[ShownMovement, ...]:
        """Findings that some source associates with the expression."""
        return tuple(finding for finding in self.findings if self.expression in finding.associated)

    @property
    def unusual(self) -> tuple[ShownMovement, ...]:
        """Findings that no source associates with the expression."""
        return tuple(finding for finding in self.findings if self.expression not in finding.associated)


def read_face(expression: str, units: Mapping[str, float], vocabulary: Vocabulary) -> Reading:
    """Sorts the units of a face into what is stated, what is missing and what is at rest.

    Args:
        units: code -> 0 to 1, checked by the caller; a code that is left out counts as 0.
    Raises:
        ExpllmError: the expression is unknown, or the vocabulary has no words.
    """
    findings: list[ShownMovement] = []
    for codes in codes_of_movements(vocabulary).values():
        stated = [code for code in codes if units.get(code, 0.0) >= STATED_FROM]
        if len(codes) > 1 and vocabulary.unit(codes[0]).side == "both":
            continue  # a reading-only name for several units, each of which has its own
        bands = {band_of(units[code]) for code in stated}
        if len(stated) == len(codes) and len(bands) == 1:
            findings.append(_finding(tuple(stated), "both", units, vocabulary))
        else:
            findings.extend(_finding((code,), vocabulary.unit(code).side, units, vocabulary) for code in stated)
    unique = {finding.codes: finding for finding in reversed(findings)}  # two names of one unit: the first counts
    ordered = sorted(unique.values(), key=lambda f: (REGIONS.index(f.region), vocabulary.index(f.codes[0])))
    missing = {
        movement_of(code, vocabulary).name: code
        for code in prototype_units(expression, vocabulary)
        if _all_below(units, (code, vocabulary.unit(code).mirror))
    }
    resting = tuple(
        region
        for region in REGIONS
        if _all_below(units, (unit.code for unit in vocabulary.units if unit.region == region))
    )
    return Reading(expression, tuple(ordered), tuple(missing.items()), resting)


def _finding(codes: tuple[str, ...], side: Side, units: Mapping[str, float], vocabulary: Vocabulary) -> ShownMovement:
    strongest = max(codes, key=lambda code: units[code])
    return ShownMovement(
        movement=movement_of(codes[0], vocabulary),
        codes=codes,
        side=side,
        band=band_of(units[strongest]),
        value=float(units[strongest]),
        region=vocabulary.unit(codes[0]).region,
        associated=associated_expressions(codes[0], vocabulary),
    )


def _all_below(units: Mapping[str, float], codes: Iterable[str]) -> bool:
    return all(units.get(code, 0.0) < AT_REST_BELOW for code in codes)
