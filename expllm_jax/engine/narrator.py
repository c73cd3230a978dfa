"""The offline narrator: writes the reasoning text of a face from its action units, without any language model.

What it writes is true to the values it is given, and ``cot.stated_units`` reads exactly those values' bands back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from expllm_jax.engine import brief_style, full_style
from expllm_jax.engine.reading import read_face
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import EXPRESSIONS, check_intensities, vocabulary

_VOCABULARIES = ("facs", "feafa")
STYLE_WORDS: Mapping[str, tuple[int, int]] = {
    "full": (full_style.MIN_WORDS, full_style.MAX_WORDS),  # the shortest and the longest of the released texts
    "brief": (brief_style.MIN_WORDS, brief_style.MAX_WORDS),
}
"""Style -> the fewest and most words of its texts."""


@dataclass(frozen=True)
class NarratorConfig:
    """How the narrator writes."""

    vocabulary: str = "facs"  # "facs", or "feafa" for the 24 units of the released texts, with sides
    style: str = "full"  # "full": 84 to 146 words, varied; "brief": 30 to 60 words, nearly without variation

    def __post_init__(self) -> None:
        for key, allowed in (("vocabulary", _VOCABULARIES), ("style", tuple(STYLE_WORDS))):
            value = getattr(self, key)
            if value not in allowed:
                raise ExpllmError(f"The narrator's {key} is {value!r}.", f"Use one of {', '.join(allowed)}.")


def narrate(expression: str, units: Mapping[str, float], config: NarratorConfig, rng: np.random.Generator) -> str:
    """The three-part text about a face.

    Every unit of at least ``cot.STATED_FROM`` is stated, top of the face to bottom, with a word for its intensity;
    others are not, and only units in the "minimal" band are ever called absent. The conclusion names ``expression`` and
    no other. Full texts have 84 to 146 words and at most 1,000 characters as long as there are no more than 25 units to
    state, brief ones 30 to 60 words up to nine units.

    Args:
        expression: one of ``faces.EXPRESSIONS``.
        units: code in ``config.vocabulary`` -> 0 to 1; a code that is left out counts as 0.
        rng: draws the wording; the same state gives the same text.
    Raises:
        ExpllmError: the expression or a code is unknown, or an intensity is outside 0 to 1.
    """
    vocab = vocabulary(config.vocabulary)
    if expression not in EXPRESSIONS:
        raise ExpllmError(f"{expression!r} is no expression.", f"Use one of {', '.join(EXPRESSIONS)}.")
    check_intensities(units, vocab)
    reading = read_face(expression, units, vocab)
    # FEAFA's numbers would be taken for FACS numbers, so only FACS codes are quoted.
    write = brief_style.write_brief if config.style == "brief" else full_style.write_full
    return write(reading, rng, quote_codes=config.vocabulary == "facs")
