"""Which action units go with which expression, and where that is written.

Faces differ, and the sources disagree (on disgust most), so a unit is *associated with* an expression, never proof of
it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

from expllm_jax.errors import ExpllmError
from expllm_jax.faces.expressions import EXPRESSIONS
from expllm_jax.faces.mappings import FACS_OF_FEAFA, arkit_from_facs, feafa_from_arkit
from expllm_jax.faces.units import FACS, FEAFA_24, Side, Vocabulary

PROTOTYPES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        # The sets are EMFACS's, with the changes noted; the intensities are ours, for a clear but not theatrical face.
        "Neutral": {},
        "Happiness": {"AU6": 0.7, "AU12": 0.8},
        "Sadness": {"AU1": 0.8, "AU4": 0.5, "AU15": 0.8, "AU17": 0.5},  # AU17: 67 % of Du et al.'s subjects
        "Surprise": {"AU1": 0.8, "AU2": 0.8, "AU5": 0.7, "AU27": 0.7},  # AU27 for AU26: the strong form
        "Fear": {"AU1": 0.8, "AU2": 0.5, "AU4": 0.5, "AU5": 0.8, "AU20": 0.8, "AU26": 0.6},
        "Disgust": {"AU9": 0.9, "AU10": 0.7, "AU15": 0.4, "AU17": 0.5},  # AU10, AU17: Du et al. and FACS table 11-1
        "Anger": {"AU4": 0.9, "AU5": 0.4, "AU7": 0.7, "AU24": 0.8},  # AU24 for AU23: FACS table 11-1
        "Contempt": {"AU14": 0.6},  # one side of the face only: see ONE_SIDED
    }
)
"""Expression -> FACS unit -> typical intensity, 0 to 1."""

ONE_SIDED: Mapping[str, Mapping[str, Side]] = MappingProxyType({"Contempt": {"AU14": "left"}})
"""Expression -> unit -> the side that shows it; contempt is the one expression that one side of the face tells."""

Source = Literal["EMFACS", "FACS 11-1", "Du 2014"]


@dataclass(frozen=True)
class Association:
    """One source's word that a unit goes with an expression."""

    expression: str
    unit: str  # FACS code
    source: Source
    share: float | None = None  # of the subjects who showed the unit, where the source counted; at least this much
    at_least: str = ""  # the weakest FACS letter that the source asks for
    side: Side = "both"  # the side that shows it, where the source says one
    optional: bool = False  # the source leaves the unit out in some of the expression's forms


_MOST_SUBJECTS = 0.7
"""Du et al. list the units of most subjects without a number: more than 70 % of them."""


def _named(expression: str, source: Source, units: str) -> tuple[Association, ...]:
    """From codes such as "5", "5B" (at least B), "R14A" (that side) and "(7)" (optional)."""
    found = []
    for code in units.split():
        side, number, letter = re.fullmatch(r"\(?([LR]?)(\d+)([A-E]?)\)?", code).groups()  # type: ignore[union-attr]
        sides: dict[str, Side] = {"": "both", "L": "left", "R": "right"}
        optional = code.startswith("(")
        found.append(
            Association(expression, f"AU{number}", source, at_least=letter, side=sides[side], optional=optional)
        )
    return tuple(found)


def _counted(expression: str, most: str, **others: float) -> tuple[Association, ...]:
    """Du et al.'s units: those of most subjects, then others with their share, as AU6=0.51."""
    shares = dict.fromkeys((f"AU{number}" for number in most.split()), _MOST_SUBJECTS) | others
    return tuple(Association(expression, unit, "Du 2014", share) for unit, share in shares.items())


# EMFACS: the core sets, as retold by OpenDBM's documentation; FACS 11-1: the most intense forms in table 11-1 of the
# FACS investigator's guide; Du 2014: Du, Tao & Martinez, PNAS 2014, what their subjects showed.
ASSOCIATIONS: tuple[Association, ...] = (
    *_named("Happiness", "EMFACS", "6 12"),
    *_named("Happiness", "FACS 11-1", "6 12 25"),
    *_counted("Happiness", "12 25", AU6=0.51),
    *_named("Sadness", "EMFACS", "1 4 15"),
    *_named("Sadness", "FACS 11-1", "1 4 15"),
    *_counted("Sadness", "4 15", AU1=0.60, AU6=0.50, AU17=0.67),
    *_named("Surprise", "EMFACS", "1 2 5B 26 (27)"),
    *_named("Surprise", "FACS 11-1", "1 2 5 26"),
    *_counted("Surprise", "1 2 25 26", AU5=0.66),
    *_named("Fear", "EMFACS", "1 2 4 5 (7) 20 26"),
    *_named("Fear", "FACS 11-1", "1 2 4 5 20 25"),
    *_counted("Fear", "1 4 20 25", AU2=0.57, AU5=0.63, AU26=0.33),
    *_named("Disgust", "EMFACS", "9 15 16"),
    *_named("Disgust", "FACS 11-1", "10 17 4"),
    *_counted("Disgust", "9 10 17"),
    *_named("Anger", "EMFACS", "4 5 7 23"),
    *_named("Anger", "FACS 11-1", "4 5 7 24"),
    *_counted("Anger", "4 7 24", AU17=0.52),
    *_named("Contempt", "EMFACS", "R12A R14A"),
)
"""Every association with its source. The sources disagree, on disgust most."""

_ATTESTED_FROM = 0.5
"""The share of subjects from which a unit counts as the expression's in SOURCED_UNITS."""


def _sourced(expression: str) -> Mapping[str, tuple[str, ...]]:
    units: dict[str, tuple[str, ...]] = {}
    for entry in ASSOCIATIONS:
        if entry.expression == expression and (entry.share is None or entry.share >= _ATTESTED_FROM):
            units[entry.source] = (*units.get(entry.source, ()), entry.unit)
    return MappingProxyType(units)


SOURCED_UNITS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {expression: _sourced(expression) for expression in dict.fromkeys(entry.expression for entry in ASSOCIATIONS)}
)
"""Expression -> source -> units, from half of the subjects on where they were counted."""


@cache
def associated_expressions(code: str, vocabulary: Vocabulary = FACS) -> tuple[str, ...]:
    """The expressions a unit is associated with by any source, most widely attested first; () where none says so.

    Raises:
        ExpllmError: the vocabulary is neither FACS nor FEAFA, or has no such unit.
    """
    vocabulary.index(code)
    if vocabulary == FACS:
        facs: tuple[str, ...] = (code,)
    elif vocabulary == FEAFA_24:
        facs = FACS_OF_FEAFA[code]
    else:
        raise ExpllmError(f"No associations are known for the vocabulary {vocabulary.name!r}.", "Use FACS or FEAFA_24.")
    attested = {
        expression: sum(bool(set(facs) & set(units)) for units in sources.values())
        + sum(unit in PROTOTYPES[expression] for unit in facs) / 2
        for expression, sources in SOURCED_UNITS.items()
    }
    ranked = sorted(attested, key=lambda expression: (-attested[expression], EXPRESSIONS.index(expression)))
    return tuple(expression for expression in ranked if attested[expression] > 0)


def prototype_units(expression: str, vocabulary: Vocabulary = FACS) -> dict[str, float]:
    """A prototype in a vocabulary: code -> typical intensity above 0.

    In FEAFA's it is what the FACS prototype shows there, so units FEAFA has no name for (such as AU6) fall away.

    Raises:
        ExpllmError: the expression is unknown, or the vocabulary is neither FACS nor FEAFA.
    """
    if expression not in PROTOTYPES:
        raise ExpllmError(f"{expression!r} is no expression.", f"Use one of {', '.join(EXPRESSIONS)}.")
    if vocabulary == FACS:
        return dict(PROTOTYPES[expression])
    if vocabulary != FEAFA_24:
        raise ExpllmError(f"No prototypes are known for the vocabulary {vocabulary.name!r}.", "Use FACS or FEAFA_24.")
    coefficients = arkit_from_facs(PROTOTYPES[expression], one_sided=ONE_SIDED.get(expression))
    return {code: value for code, value in feafa_from_arkit(coefficients).items() if value > 0}
