"""The FACS units that data sets code and papers score, in the order of their columns.

A unit that a data set does not code is unknown, not absent: :func:`unit_vector` gives the mask that tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.faces.mappings import check_intensities
from expllm_jax.faces.units import FACS, OPENGRAPHAU_41


def _units(numbers: str) -> tuple[str, ...]:
    return tuple(f"AU{number}" for number in numbers.split())


DISFA_12 = _units("1 2 4 5 6 9 12 15 17 20 25 26")
"""What DISFA's coders coded, 0 to 5 (columns as in OpenGraphAU's dataset_process.py)."""

DISFA_8 = _units("1 2 4 6 9 12 25 26")
"""What papers score on DISFA (ME-GraphAU)."""

BP4D_12 = _units("1 2 4 6 7 10 12 14 15 17 23 24")
"""What papers score on BP4D (ME-GraphAU)."""

FABA_20 = _units("1 2 4 5 6 7 9 10 12 14 15 16 17 20 23 24 25 26 27 43")
"""What FABA-Instruct labels (EmoLA)."""

FABA_12 = _units("1 2 4 5 6 10 12 17 24 25 26 43")
"""What FABA-Bench scores (EmoLA)."""

UNIT_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "disfa-12": DISFA_12,
        "disfa-8": DISFA_8,
        "bp4d-12": BP4D_12,
        "faba-20": FABA_20,
        "faba-12": FABA_12,
        "opengraphau-27": OPENGRAPHAU_41.codes[:27],
    }
)
"""Name -> FACS codes in order."""


def unit_vector(units: Mapping[str, float], codes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """FACS units as a vector over an ordered set, with a mask of what is known.

    Args:
        units: FACS code -> 0 to 1; codes outside the set are left out, codes of the set that are not given are unknown.
        codes: an entry of UNIT_SETS, or any FACS codes.
    Returns:
        float32 [U] intensities, 0 where unknown; and bool [U], whether each is known.
    Raises:
        ExpllmError: a code is not FACS's or comes twice in the set, or an intensity is outside 0 to 1.
    """
    check_intensities(units, FACS)
    for code in codes:
        FACS.index(code)
    if len(set(codes)) != len(codes):
        raise ExpllmError(f"A code comes twice in {', '.join(codes)}.", "Name every unit of the set once.")
    values_U = np.array([units.get(code, 0.0) for code in codes], np.float32)
    return values_U, np.array([code in units for code in codes], bool)


def units_of_vector(values: np.ndarray, known: np.ndarray, codes: Sequence[str]) -> dict[str, float]:
    """The inverse of :func:`unit_vector`: the known units of a set, code -> 0 to 1.

    Raises:
        ExpllmError: the three do not have the same length, or as :func:`unit_vector`.
    """
    if not len(values) == len(known) == len(codes):
        raise ExpllmError(
            f"There are {len(values)} intensities and {len(known)} masks for {len(codes)} units.",
            "Give one of each for every unit of the set.",
        )
    units = {code: float(value) for code, value, known_ in zip(codes, values, known, strict=True) if known_}
    check_intensities(units, FACS)
    return units
