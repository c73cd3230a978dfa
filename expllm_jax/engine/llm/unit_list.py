"""The face's action units as a list that a language model reads."""

from __future__ import annotations

from expllm_jax.cot import STATED_FROM, band_of, movement_of
from expllm_jax.engine.task import FaceTask
from expllm_jax.faces import FACS, REGIONS, associated_expressions


def unit_list(face: FaceTask, *, with_associations: bool = False) -> str:
    """One line for each unit that a text has to state, top of the face to bottom: its name as `cot` reads it, its side,
    the word of its intensity band, and its value.

    Args:
      with_associations: adds the expressions that the literature ties it to. Only for a text that already knows its
        expression: elsewhere they would give the answer away.

    Raises:
      ExpllmError: a code is not in the vocabulary, or an intensity outside 0 to 1.
    """
    vocabulary = face.vocabulary
    stated = [code for code, value in face.units.items() if value >= STATED_FROM]
    stated.sort(key=lambda code: (REGIONS.index(vocabulary.unit(code).region), vocabulary.index(code)))
    lines = []
    for code in stated:
        unit, value = vocabulary.unit(code), face.units[code]
        side = "" if unit.side == "both" else f"{unit.side} "
        # The numbers of other vocabularies would be taken for those of FACS.
        number = f" ({code})" if vocabulary.name == FACS.name else ""
        line = f"- {side}{movement_of(code, vocabulary).name}{number}: {band_of(value)}, {value:.2f}"
        if with_associations:
            tied = ", ".join(associated_expressions(code, vocabulary)) or "no expression in particular"
            line += f"; tied to {tied}"
        lines.append(line)
    return "\n".join(lines) or "- none: the whole face is at rest"
