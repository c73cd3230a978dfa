"""How far movements of a face speak for an expression, by the tables of prototypes and associations.

A face is held against each expression's pattern by the angle between the two vectors of intensities: the pattern has
the units of the prototype at their typical strength, and a little of every other unit that some source associates with
the expression. What shows too little of any pattern is neutral.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

from expllm_jax.cot import BANDS
from expllm_jax.faces import EXPRESSIONS, Vocabulary, associated_expressions, prototype_units

_OTHERS = 0.25  # an associated unit's strength in a pattern whose prototype lacks it
_FULL_FROM = 0.4  # a face whose vector is shorter speaks less clearly, in proportion: faint faces are near neutral
NEUTRAL_BELOW = 0.25
"""Patterns that a face matches less than this leave it neutral, 0 to 1."""

_UPPER = [band.low for band in BANDS[1:]] + [1.0]
BAND_STRENGTH: Mapping[str, float] = {
    band.name: (band.low + upper) / 2 for band, upper in zip(BANDS, _UPPER, strict=True)
}
"""What an intensity word is worth as a value: the middle of its band."""


def expression_scores(units: Mapping[str, float], vocabulary: Vocabulary, allowed: Sequence[str]) -> dict[str, float]:
    """How well a face matches each allowed expression, 0 to 1; "Neutral" has what is to be exceeded.

    Args:
      units: code -> strength, 0 to 1.

    Raises:
      ExpllmError: the vocabulary is neither FACS nor FEAFA, or has no such unit.
    """
    patterns = _patterns(vocabulary)
    length = max(_FULL_FROM, math.hypot(*units.values()))
    return {
        expression: NEUTRAL_BELOW
        if expression == "Neutral"
        else sum(strength * patterns[expression].get(code, 0.0) for code, strength in units.items()) / length
        for expression in allowed
    }


@cache
def _patterns(vocabulary: Vocabulary) -> Mapping[str, Mapping[str, float]]:
    """Expression -> code -> its part in a vector of length 1 (empty where the vocabulary has no unit for it)."""
    patterns = {}
    for expression in EXPRESSIONS:
        pattern = prototype_units(expression, vocabulary)
        for code in vocabulary.codes:
            if expression in associated_expressions(code, vocabulary):
                pattern.setdefault(code, _OTHERS)
        length = math.hypot(*pattern.values())
        patterns[expression] = {code: strength / length for code, strength in pattern.items()}
    return patterns
