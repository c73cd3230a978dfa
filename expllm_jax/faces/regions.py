"""Where on a face an action unit shows, in terms of the 68 landmarks (numbered from 0 in the 300-W order).

Each unit has two centres, given by landmarks and a vertical offset in units of d, the distance between the inner eye
corners (`region_centres`); and one or two upright ellipses that cover what changes when it moves (`region_ellipses`).
Left is the left of the picture here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    points = _checked(code, landmarks)
    region = LANDMARK_REGIONS[code]
    distance = float(np.linalg.norm(points[INNER_EYE_CORNERS[0]] - points[INNER_EYE_CORNERS[1]]))
    centres = np.stack([points[list(group)].mean(axis=0) for group in (region.first, region.second)])
    centres[:, 1] += region.down * distance
    return centres


def _checked(code: str, landmarks: np.ndarray) -> np.ndarray:
    if code not in LANDMARK_REGIONS:
        raise ExpllmError(f"No landmark region is known for {code!r}.", f"Use one of {', '.join(LANDMARK_REGIONS)}.")
    points = np.asarray(landmarks, np.float64)
    if points.shape != (68, 2):
        raise ExpllmError(f"The landmarks have the shape {points.shape}.", "Regions need 68 points (x, y).")
    return points


CROP_SIDE = 224
"""The published ellipses have sizes in pixels of a face crop of this side."""

_CROP_PER_EXTENT = 1.4  # how much wider than the landmarks' box such a crop is: forehead, hair and some background

_Ellipse = tuple[float, float, float, float]


def region_ellipses(code: str, landmarks: np.ndarray) -> np.ndarray:
    """The ellipses that a unit shows in.

    They are those of Belharbi et al. (FG 2024, released code), with sizes that grow with the face instead of a fixed
    number of pixels, and mended where their left and right differ (AU5, AU7, AU43, AU10, AU17, AU20). The units that
    they do not draw are ours: the mouth as a whole, or a spot at each of the unit's centres.

    Args:
        code: a FACS code.
        landmarks: float [68, 2], pixels (x, y).
    Returns:
        float64 [E, 4], E 1 or 2: centre x, centre y and the semi-axes along x and y, in pixels.
    Raises:
        ExpllmError: as `region_centres`.
    """
    points = _checked(code, landmarks)
    pixel = _CROP_PER_EXTENT * float(np.ptp(points, axis=0).max()) / CROP_SIDE
    return np.array(_ELLIPSES.get(code, _spots(code))(points, pixel), np.float64)


def _around(
    first: int, second: int, across: float, up: float, *, down: float = 0.0, outward: float = 0.0
) -> Callable[[np.ndarray, float], list[_Ellipse]]:
    """An ellipse at each of two landmarks, moved down and away from the face's middle; all in pixels of the crop."""

    def ellipses(points: np.ndarray, pixel: float) -> list[_Ellipse]:
        (left, upper), (right, lower) = points[first], points[second]
        return [
            (left - outward * pixel, upper + down * pixel, across * pixel, up * pixel),
            (right + outward * pixel, lower + down * pixel, across * pixel, up * pixel),
        ]

    return ellipses


def _crossing(
    columns: tuple[int, int], rows: tuple[int, int], radius: float
) -> Callable[[np.ndarray, float], list[_Ellipse]]:
    """A circle where the column of one landmark meets the row of another, on each side of the face."""

    def ellipses(points: np.ndarray, pixel: float) -> list[_Ellipse]:
        return [
            (points[column, 0], points[row, 1], radius * pixel, radius * pixel)
            for column, row in zip(columns, rows, strict=True)
        ]

    return ellipses


def _halfway(*pairs: tuple[int, int], radius: float) -> Callable[[np.ndarray, float], list[_Ellipse]]:
    """A circle halfway between each pair of landmarks."""

    def ellipses(points: np.ndarray, pixel: float) -> list[_Ellipse]:
        return [(*points[list(pair)].mean(axis=0), radius * pixel, radius * pixel) for pair in pairs]

    return ellipses


def _spanning(
    *spans: tuple[int, int, int, int], least: float, taller: float = 0.0
) -> Callable[[np.ndarray, float], list[_Ellipse]]:
    """An ellipse from landmark to landmark across and from landmark to landmark down, for each (left, right, top,
    bottom), with semi-axes of at least `least`."""

    def ellipses(points: np.ndarray, pixel: float) -> list[_Ellipse]:
        found = []
        for left, right, top, bottom in spans:
            (x0, x1), (y0, y1) = points[[left, right], 0], points[[top, bottom], 1]
            across, up = abs(x1 - x0) / 2, (abs(y1 - y0) + taller * pixel) / 2
            found.append(((x0 + x1) / 2, (y0 + y1) / 2, max(across, least * pixel), max(up, least * pixel)))
        return found

    return ellipses


def _spots(code: str) -> Callable[[np.ndarray, float], list[_Ellipse]]:
    return lambda points, pixel: [(x, y, 20 * pixel, 20 * pixel) for x, y in region_centres(code, points)]


_EYES = ((36, 39, 38, 41), (42, 45, 43, 46))
_MOUTH = _spanning((48, 54, 51, 57), least=5)
_BROWS = {"across": 28.0, "up": 22.0}  # an eighth of the crop's width, a tenth of its height

_ELLIPSES: Mapping[str, Callable[[np.ndarray, float], list[_Ellipse]]] = MappingProxyType(
    {
        "AU1": _around(20, 23, **_BROWS),
        "AU2": _around(18, 25, **_BROWS),
        "AU4": _spanning((19, 24, 19, 24), least=10),
        "AU5": _spanning(*_EYES, least=5),
        "AU7": _spanning(*_EYES, least=5, taller=20),
        "AU43": _spanning(*_EYES, least=5, taller=20),
        "AU6": _around(41, 46, 22, 22, down=37),
        "AU9": _crossing((31, 35), (29, 29), 20),
        "AU10": _crossing((48, 54), (50, 52), 20),
        "AU12": _around(48, 54, 20, 20),
        "AU13": _around(48, 54, 20, 20),
        "AU15": _around(48, 54, 20, 20),
        "AU14": _around(48, 54, 20, 20, outward=20),
        "AU16": _around(59, 55, 20, 20),
        "AU17": _spanning((59, 55, 57, 8), least=5),
        "AU20": _halfway((48, 6), (54, 10), radius=20),
        "AU25": _around(51, 57, 25, 10),
        **dict.fromkeys(("AU18", "AU19", "AU22", "AU23", "AU24", "AU26", "AU27", "AU28", "AU32"), _MOUTH),
    }
)
"""FACS code -> its ellipses from landmarks [68, 2] and the length of a crop's pixel in the picture's."""
