"""Scales of intensity: 0 to 1 (ours), 0 to 5 (DISFA) and the letters A to E (FACS)."""

from __future__ import annotations

import math

from expllm_jax.errors import ExpllmError

LETTERS = "ABCDE"
"""FACS: A trace, B slight, C marked or pronounced, D severe or extreme, E maximum; DISFA's 1 to 5. Absent is ""."""


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
