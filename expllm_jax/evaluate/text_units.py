"""F1 of action units read from texts: by their codes alone, as published evaluators do, or with denials understood.

The published reading is the pattern ``AU(\\d+)``: "there is no AU12" states AU12, and "the lip corners are pulled up"
states nothing. Means over units differ as well in which units they leave out, so each is here by its name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from expllm_jax.cot import STATED_FROM
from expllm_jax.errors import ExpllmError

_CODE = re.compile(r"AU(\d+)")
_THINK = re.compile("<think>"), re.compile("</think>")

Mean = Literal["faba", "facial-r1", "defined"]
"""Which units a mean is taken over: "faba": all that vary in truth or prediction; "facial-r1": those that some face
has; "defined": those that some face has or some text states."""


def mentioned_units(text: str, *, thinking_only: bool = False) -> frozenset[str]:
    """The codes that a text mentions, denied ones included: the published reading.

    Args:
      text: the answer.
      thinking_only: look only between the first <think> and </think>, if both are there, as Facial-R1 does.
    """
    if thinking_only:
        opening = _THINK[0].search(text)
        closing = opening and _THINK[1].search(text, opening.end())
        if opening and closing:
            text = text[opening.end() : closing.start()]
    return frozenset(f"AU{match[1]}" for match in _CODE.finditer(text))


@dataclass(frozen=True)
class UnitF1:
    """F1 of each unit, and their mean."""

    mean: float  # nan if no unit counts
    by_unit: Mapping[str, float]  # the units that the mean is taken over


def unit_f1(
    stated: Sequence[Collection[str]],
    truth: Sequence[Mapping[str, float]],
    codes: Sequence[str],
    *,
    over: Mean = "defined",
    present_from: float = STATED_FROM,
) -> UnitF1:
    """Mean F1 over units.

    Args:
      stated: the units that each text states.
      truth: each face's units, code -> 0 to 1; left out = unknown. The published means take unknown as absent, ours
        leaves those pairs out.
      codes: the units to score.
      over: which of them count.
      present_from: true intensity from which a unit is there.

    Raises:
      ExpllmError: there are no texts, or not as many as faces.
    """
    if not stated or len(stated) != len(truth):
        raise ExpllmError(
            f"{len(stated)} texts for {len(truth)} faces", "give one text for each face, and one at least"
        )
    by_unit: dict[str, float] = {}
    for code in codes:
        known = [over != "defined" or code in units for units in truth]
        present = np.array([units.get(code, 0.0) >= present_from for units in truth])[known]
        said = np.array([code in told for told in stated])[known]
        hits = int((present & said).sum())
        varies = len({*present.tolist(), *said.tolist()}) > 1
        if {"faba": varies, "facial-r1": bool(present.any()), "defined": bool(present.any() or said.any())}[over]:
            by_unit[code] = 2 * hits / int(present.sum() + said.sum()) if hits else 0.0
    return UnitF1(float(np.mean(list(by_unit.values()))) if by_unit else float("nan"), by_unit)
