"""What a text about a face has to state: its findings, from the top of the face down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from expllm_jax.cot import STATED_FROM, Movement, band_of, codes_of_movements, movement_of
from expllm_jax.faces import REGIONS, Side, Vocabulary, associated_expressions, prototype_units, vocabulary

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
    told: set[str] = set()  # of two names of one unit the first counts
    for entry in _movements(vocabulary.name):
        stated = [code for code in entry.codes if units.get(code, 0.0) >= STATED_FROM and code not in told]
        if not stated:
            continue
        told.update(stated)
        if len(stated) == len(entry.codes) and len({band_of(units[code]) for code in stated}) == 1:
            findings.append(_finding(entry, tuple(stated), entry.sides[0] if len(stated) == 1 else "both", units))
        else:
            findings.extend(_finding(entry, (code,), entry.sides[entry.codes.index(code)], units) for code in stated)
    missing = tuple(
        (name, code)
        for name, code, both_sides in _prototype(expression, vocabulary.name)
        if _all_below(units, both_sides)
    )
    resting = tuple(region for region, codes in _regions(vocabulary.name).items() if _all_below(units, codes))
    return Reading(expression, tuple(findings), missing, resting)


class _Entry(NamedTuple):
    """A movement of a vocabulary that is written about, with all that is the same for every face."""

    movement: Movement
    codes: tuple[str, ...]
    sides: tuple[Side, ...]  # of the codes
    region: str
    associated: Mapping[str, tuple[str, ...]]  # code -> expressions


# What follows is made once per vocabulary, which is named, since a vocabulary itself takes long to hash.
@cache
def _movements(name: str) -> tuple[_Entry, ...]:
    """From the top of the face down."""
    vocab = vocabulary(name)
    entries = [
        _Entry(
            movement_of(codes[0], vocab),
            codes,
            tuple(vocab.unit(code).side for code in codes),
            vocab.unit(codes[0]).region,
            {code: associated_expressions(code, vocab) for code in codes},
        )
        for codes in codes_of_movements(vocab).values()
        # Several units without sides: a name that is only read; each of them has its own.
        if len(codes) == 1 or vocab.unit(codes[0]).side != "both"
    ]
    return tuple(sorted(entries, key=lambda entry: (REGIONS.index(entry.region), vocab.index(entry.codes[0]))))


@cache
def _prototype(expression: str, name: str) -> tuple[tuple[str, str, tuple[str, str]], ...]:
    """(movement name, code, code and its mirror) of each movement of an expression's prototype."""
    vocab = vocabulary(name)
    codes = {movement_of(code, vocab).name: code for code in prototype_units(expression, vocab)}
    return tuple((movement, code, (code, vocab.unit(code).mirror)) for movement, code in codes.items())


@cache
def _regions(name: str) -> Mapping[str, tuple[str, ...]]:
    """Region -> its units, from the top of the face down."""
    units = vocabulary(name).units
    return {region: tuple(unit.code for unit in units if unit.region == region) for region in REGIONS}


def _finding(entry: _Entry, codes: tuple[str, ...], side: Side, units: Mapping[str, float]) -> ShownMovement:
    strongest = max(codes, key=lambda code: units[code])
    return ShownMovement(
        movement=entry.movement,
        codes=codes,
        side=side,
        band=band_of(units[strongest]),
        value=float(units[strongest]),
        region=entry.region,
        associated=entry.associated[codes[0]],
    )


def _all_below(units: Mapping[str, float], codes: Iterable[str]) -> bool:
    for code in codes:
        if units.get(code, 0.0) >= AT_REST_BELOW:
            return False
    return True
