"""Scales of intensity: 0 to 1 (ours), 0 to 5 (DISFA) and the letters A to E (FACS)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from expllm_jax.errors import ExpllmError

LETTERS = "ABCDE"
"""FACS: A trace, B slight, C marked or pronounced, D severe or extreme, E maximum; DISFA's 1 to 5. Absent is ""."""

Scale = Literal["unit", "grade", "letter"]
SCALES: tuple[Scale, ...] = ("unit", "grade", "letter")
"""0 to 1, 0 to 5, and A to E with "" for absent."""

BINARISATIONS: Mapping[str, int] = MappingProxyType(
    {
        "me-graphau": 2,
        "py-feat": 2,
        "opengraphau": 1,
        "disfa": 1,
        "ck+": 2,  # OpenGraphAU's rule for CK+ says "more than 1", which on whole grades is the same
    }
)
"""Who binarises from which grade on. F1 scores across different grades are not comparable, so there is no default."""


def grade_of(value: float) -> int:
    """0 to 1 -> the nearest of DISFA's six grades, halves upwards.

    Raises:
        ExpllmError: the value is outside 0 to 1.
    """
    if not 0.0 <= value <= 1.0:
        raise ExpllmError(f"{value} is no intensity.", "Intensities run from 0 (absent) to 1 (maximal).")
    # The tiny term keeps halves such as 0.3 * 5, which floating point puts just under 1.5, going upwards.
    return math.floor(value * 5 + 0.5 + 1e-9)


def value_of_grade(grade: float) -> float:
    """DISFA's 0 to 5 -> 0 to 1; fractional grades (means over coders) are allowed.

    Raises:
        ExpllmError: the grade is outside 0 to 5.
    """
    if not 0 <= grade <= 5:
        raise ExpllmError(f"{grade} is no grade of intensity.", "Grades run from 0 (absent) to 5 (maximal).")
    return grade / 5


def letter_of(value: float) -> str:
    """0 to 1 -> FACS's letter, "" where the unit is absent; raises like :func:`grade_of`."""
    grade = grade_of(value)
    return LETTERS[grade - 1] if grade else ""


def value_of_letter(letter: str) -> float:
    """FACS's letter (or "" for absent) -> 0 to 1.

    Raises:
        ExpllmError: it is none of A to E.
    """
    if letter and (len(letter) != 1 or letter not in LETTERS):
        raise ExpllmError(
            f"{letter!r} is no FACS intensity.", "Use one of A, B, C, D, E, or nothing for an absent unit."
        )
    return value_of_grade(LETTERS.index(letter) + 1 if letter else 0)


def is_active(value: float, *, at_least: int) -> bool:
    """Whether an intensity of 0 to 1 counts as present.

    ``at_least`` is a grade and has no default: published F1 scores use 1 or 2 and are not comparable across the two.
    """
    return grade_of(value) >= at_least


def value_on(scale: Scale, value: float | str) -> float:
    """An intensity of any of SCALES -> 0 to 1.

    Raises:
        ExpllmError: there is no such scale, or the value is not on it.
    """
    if scale not in SCALES:
        raise ExpllmError(f"There is no scale of intensity called {scale!r}.", f"Use one of {', '.join(SCALES)}.")
    if isinstance(value, str) != (scale == "letter"):
        raise ExpllmError(
            f"{value!r} is no intensity on the scale {scale!r}.", "Give letters as text, numbers as such."
        )
    if isinstance(value, str):
        return value_of_letter(value)
    if scale == "grade":
        return value_of_grade(value)
    if not 0.0 <= value <= 1.0:
        raise ExpllmError(f"{value} is no intensity.", "Intensities run from 0 (absent) to 1 (maximal).")
    return float(value)


def binarise(value: float | str, scale: Scale, *, at_least: int | str) -> bool:
    """Whether an intensity counts as present.

    Values between two grades count as the nearest, as in :func:`grade_of`.

    Args:
        value: an intensity on the scale.
        scale: one of SCALES.
        at_least: the grade from which on a unit is present, 1 to 5, or the name of a published rule in BINARISATIONS.
            Save it with the result.
    Raises:
        ExpllmError: the value is not on the scale, or there is no such rule or grade.
    """
    if isinstance(at_least, str):
        if at_least not in BINARISATIONS:
            raise ExpllmError(
                f"No binarisation is called {at_least!r}.", f"Use one of {', '.join(BINARISATIONS)}, or a grade."
            )
        at_least = BINARISATIONS[at_least]
    if not 1 <= at_least <= 5:
        raise ExpllmError(f"Units cannot be present from grade {at_least} on.", "Use a grade from 1 to 5.")
    return is_active(value_on(scale, value), at_least=at_least)
