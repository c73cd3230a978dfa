"""Where on a face an action unit shows, in terms of the 68 landmarks.

Each unit has two centres, given by landmarks (numbered from 0 in the 300-W order) and a vertical offset in units of d,
the distance between the inner eye corners. Left is the left of the picture here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from expllm_jax.errors import ExpllmError

INNER_EYE_CORNERS = (39, 42)
"""The landmarks whose distance is d."""


@dataclass(frozen=True)
class LandmarkRegion:
    """The two centres of an action unit. Each is the mean of its landmarks, moved down the picture."""

    first: tuple[int, ...]  # on the left of the picture, or the upper of two centres on the midline
    second: tuple[int, ...]
    down: float = 0.0  # in units of d; negative is up
    source: Literal["JAA-Net", "ours"] = "JAA-Net"


def _at(first: int, second: int, down: float = 0.0) -> LandmarkRegion:
    return LandmarkRegion((first,), (second,), down)


def _ours(first: tuple[int, ...], second: tuple[int, ...], down: float = 0.0) -> LandmarkRegion:
    return LandmarkRegion(first, second, down, "ours")


# JAA-Net's centres (Shao et al., ECCV 2018) are given for 49 points; the indices among 68 are derived from them. The
# units that it does not treat are ours, put where the movement shows most.
LANDMARK_REGIONS: Mapping[str, LandmarkRegion] = MappingProxyType(
    {
        "AU1": _at(21, 22, -1 / 2),
        "AU2": _at(18, 25, -1 / 3),
        "AU4": _at(19, 24, 1 / 3),
        "AU5": _ours((37,), (44,)),  # upper lids, away from AU7's centres
        "AU7": _at(38, 43),
        "AU43": _ours((37, 41), (44, 46)),  # between the lids
        "AU9": _at(32, 34, -1 / 2),
        "AU38": _ours((31,), (35,)),  # nostril wings
        "AU39": _ours((31,), (35,)),
        "AU6": _at(41, 46, 1.0),
        "AU11": _ours((31, 48), (35, 54)),  # the fold from nostril to lip corner
        "AU33": _ours((4, 48), (12, 54)),  # the cheek between jaw line and lip corner
        "AU34": _ours((4, 48), (12, 54)),
        "AU10": _at(61, 63),
        "AU12": _at(48, 54),
        "AU13": _ours((48,), (54,)),
        "AU14": _at(48, 54),
        "AU15": _at(48, 54),
        "AU16": _ours((59,), (55,)),  # lower lip
        "AU18": _ours((51,), (57,)),  # the middle of both lips
        "AU19": _ours((62,), (66,)),  # the mouth's opening
        "AU20": _ours((48,), (54,)),
        "AU22": _ours((51,), (57,)),
        "AU23": _at(51, 57),
        "AU24": _at(51, 57),
        "AU25": _at(51, 57),
        "AU28": _ours((51,), (57,)),
        "AU32": _ours((62,), (66,)),
        "AU17": _at(58, 56, 1 / 2),
        "AU26": _at(58, 56, 1 / 2),
        "AU27": _ours((58,), (56,), 1 / 2),
        "AU29": _ours((7,), (9,)),  # chin
        "AU30": _ours((7,), (9,)),
    }
)
"""FACS code -> where it shows, for every unit of FACS, in the same order."""


def region_centres(code: str, landmarks: np.ndarray) -> np.ndarray:
    """The two centres of a unit on a face.

    Args:
        code: a FACS code.
        landmarks: float [68, 2], pixels (x, y).
    Returns:
        float64 [2, 2]: first and second centre, pixels (x, y).
    Raises:
        ExpllmError: the code has no region, or the landmarks are not 68 points.
    """
    if code not in LANDMARK_REGIONS:
        raise ExpllmError(f"No landmark region is known for {code!r}.", f"Use one of {', '.join(LANDMARK_REGIONS)}.")
    points = np.asarray(landmarks, np.float64)
    if points.shape != (68, 2):
        raise ExpllmError(f"The landmarks have the shape {points.shape}.", "Regions need 68 points (x, y).")
    region = LANDMARK_REGIONS[code]
    distance = float(np.linalg.norm(points[INNER_EYE_CORNERS[0]] - points[INNER_EYE_CORNERS[1]]))
    centres = np.stack([points[list(group)].mean(axis=0) for group in (region.first, region.second)])
    centres[:, 1] += region.down * distance
    return centres
