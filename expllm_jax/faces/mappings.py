"""Between vocabularies: ARKit coefficients to FACS and FEAFA units, FACS units back to ARKit, and the sided units of
FEAFA and OpenGraphAU to FACS.

ARKit is the common tongue because a tracker measures it and a face model is driven by it. Where a FACS unit has a
coefficient for each side, the unit is as strong as its stronger side (FACS scores a one-sided movement at its own
strength).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from expllm_jax.errors import ExpllmError
from expllm_jax.faces.units import ARKIT_52, FACS, FEAFA_24, OPENGRAPHAU_41, RENDERED_UNITS, Side, Vocabulary

JAW_DROP_LIMIT = 0.45
"""The jawOpen at which AU26 is complete. FACS scores one of AU26 and AU27: a jaw that merely falls open, or a mouth
pulled further open than that. We let AU26 use jawOpen from 0 to this, and AU27 the rest up to 1, so that jawOpen > 0.45
reads as AU27 and every value of either comes back as itself."""


def _sides(stem: str) -> tuple[str, ...]:
    return (f"{stem}Left", f"{stem}Right")


# FACS unit -> the ARKit coefficients that show it, all driven alike. AU26 and AU27 share jawOpen and are handled apart.
# Pairing after py-feat's reference of action units and blendshapes.
_ARKIT_OF_FACS: dict[str, tuple[str, ...]] = {
    "AU1": ("browInnerUp",),
    "AU2": _sides("browOuterUp"),
    "AU4": _sides("browDown"),
    "AU5": _sides("eyeWide"),
    "AU6": _sides("cheekSquint"),
    "AU7": _sides("eyeSquint"),
    "AU9": _sides("noseSneer"),
    "AU10": _sides("mouthUpperUp"),
    "AU12": _sides("mouthSmile"),
    "AU14": _sides("mouthDimple"),
    "AU15": _sides("mouthFrown"),
    "AU16": _sides("mouthLowerDown"),
    "AU17": ("mouthShrugLower",),
    "AU18": ("mouthPucker",),
    "AU20": _sides("mouthStretch"),
    "AU22": ("mouthFunnel",),
    "AU24": _sides("mouthPress"),
    "AU28": ("mouthRollLower", "mouthRollUpper"),
    "AU33": ("cheekPuff",),
    "AU43": _sides("eyeBlink"),
}
ARKIT_OF_FACS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    _ARKIT_OF_FACS | {"AU26": ("jawOpen",), "AU27": ("jawOpen",)}
)
"""FACS unit -> the ARKit coefficients that show it, of RENDERED_UNITS."""

# FEAFA unit -> the coefficients of which the strongest is its value. FEAFA raises a brow as a whole, ARKit's inner part
# has no sides; FEAFA's lip, nose and cheek units have no sides either.
_ARKIT_OF_FEAFA: tuple[tuple[str, ...], ...] = (
    ("eyeBlinkLeft",),
    ("eyeBlinkRight",),
    ("eyeWideLeft",),
    ("eyeWideRight",),
    ("browDownLeft",),
    ("browDownRight",),
    ("browInnerUp", "browOuterUpLeft"),
    ("browInnerUp", "browOuterUpRight"),
    ("jawOpen",),
    ("jawLeft",),
    ("jawRight",),
    ("mouthSmileLeft",),
    ("mouthSmileRight",),
    ("mouthStretchLeft",),
    ("mouthStretchRight",),
    ("mouthRollUpper",),
    ("mouthRollLower",),
    ("jawForward",),
    _sides("mouthUpperUp"),
    _sides("mouthLowerDown"),
    ("mouthShrugLower",),
    ("mouthPucker",),
    ("cheekPuff",),
    _sides("noseSneer"),
)

ARKIT_OF_FEAFA: Mapping[str, tuple[str, ...]] = MappingProxyType(
    dict(zip(FEAFA_24.codes, _ARKIT_OF_FEAFA, strict=True))
)
"""FEAFA unit -> the ARKit coefficients that show it."""

# FACS unit -> the FEAFA units that show it; its value is the strongest one's. Read off FEAFA+'s own descriptions
# (arXiv 2111.02751), and so that a face measured in ARKit's coefficients gets the same FACS units by way of FEAFA. The
# jaw drop (FEAFA9) is handled apart: FACS splits it. Cheeks full of air are AU33, as for ARKit's cheekPuff.
_FEAFA_OF_FACS: dict[str, tuple[str, ...]] = {
    "AU1": ("FEAFA7", "FEAFA8"),
    "AU2": ("FEAFA7", "FEAFA8"),
    "AU4": ("FEAFA5", "FEAFA6"),
    "AU5": ("FEAFA3", "FEAFA4"),
    "AU43": ("FEAFA1", "FEAFA2"),
    "AU9": ("FEAFA24",),
    "AU33": ("FEAFA23",),
    "AU10": ("FEAFA19",),
    "AU12": ("FEAFA12", "FEAFA13"),
    "AU16": ("FEAFA20",),
    "AU18": ("FEAFA22",),
    "AU20": ("FEAFA14", "FEAFA15"),
    "AU28": ("FEAFA16", "FEAFA17"),
    "AU17": ("FEAFA21",),
    "AU29": ("FEAFA18",),
    "AU30": ("FEAFA10", "FEAFA11"),
}

FACS_OF_FEAFA: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        feafa: tuple(code for code, names in _FEAFA_OF_FACS.items() if feafa in names)
        if feafa != "FEAFA9"
        else ("AU26", "AU27")
        for feafa in FEAFA_24.codes
    }
)
"""FEAFA unit -> the FACS units that it shows."""


def check_intensities(units: Mapping[str, float], vocabulary: Vocabulary) -> None:
    """Raises ExpllmError unless every code belongs to the vocabulary and every value is a number from 0 to 1."""
    for code, value in units.items():
        vocabulary.index(code)
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            raise ExpllmError(f"The intensity of {code} is {value}.", "Intensities run from 0 (absent) to 1 (maximal).")


def facs_from_arkit(coefficients: Mapping[str, float]) -> dict[str, float]:
    """The FACS units that ARKit coefficients show.

    Args:
        coefficients: ARKit name -> 0 to 1; names left out are 0.
    Returns:
        code -> intensity above 0 to 1, in FACS order; units that are absent are left out. Only RENDERED_UNITS can
        occur.
    Raises:
        ExpllmError: a name is not ARKit's, or a value is outside 0 to 1.
    """
    check_intensities(coefficients, ARKIT_52)
    units = {code: _strongest(coefficients, names) for code, names in _ARKIT_OF_FACS.items()}
    units |= _jaw_units(coefficients.get("jawOpen", 0.0))
    return {code: float(units[code]) for code in FACS.codes if units.get(code, 0.0) > 0.0}


def _jaw_units(opening: float) -> dict[str, float]:
    """The AU26 and AU27 of a jaw opened from 0 to 1; one of them is 0."""
    if opening > JAW_DROP_LIMIT:
        return {"AU26": 0.0, "AU27": min(1.0, (opening - JAW_DROP_LIMIT) / (1.0 - JAW_DROP_LIMIT))}
    return {"AU26": min(1.0, opening / JAW_DROP_LIMIT), "AU27": 0.0}


def facs_from_feafa(units: Mapping[str, float]) -> dict[str, float]:
    """The FACS units that FEAFA's show: each is as strong as the strongest FEAFA unit that shows it.

    FEAFA raises a brow as a whole, so AU1 and AU2 get the same value.

    Args:
        units: FEAFA code -> 0 to 1; codes left out are unknown.
    Returns:
        code -> 0 to 1 in FACS order, zeros included; a unit is left out as unknown unless all that show it are given.
    Raises:
        ExpllmError: a code is not FEAFA's, or a value is outside 0 to 1.
    """
    check_intensities(units, FEAFA_24)
    found = {
        code: _strongest(units, names) for code, names in _FEAFA_OF_FACS.items() if all(name in units for name in names)
    }
    if "FEAFA9" in units:
        found |= _jaw_units(units["FEAFA9"])
    return {code: float(found[code]) for code in FACS.codes if code in found}


def facs_from_opengraphau(units: Mapping[str, float]) -> dict[str, float]:
    """FACS units without sides from OpenGraphAU's: AU12 is as strong as the strongest of AU12, AUL12 and AUR12.

    Args:
        units: OpenGraphAU code -> 0 to 1; codes left out are unknown.
    Returns:
        code -> 0 to 1 in FACS order, zeros included; a unit is left out as unknown unless it is given itself or on both
        sides.
    Raises:
        ExpllmError: a code is not OpenGraphAU's, or a value is outside 0 to 1.
    """
    check_intensities(units, OPENGRAPHAU_41)
    found = {}
    for code in FACS.codes:
        sides = (f"AUL{code[2:]}", f"AUR{code[2:]}")
        if code in units or all(side in units for side in sides):
            found[code] = float(_strongest(units, (code, *sides)))
    return found


def feafa_from_arkit(coefficients: Mapping[str, float]) -> dict[str, float]:
    """The 24 FEAFA units that ARKit coefficients show: code -> 0 to 1, all 24, in the released order.

    Raises like :func:`facs_from_arkit`.
    """
    check_intensities(coefficients, ARKIT_52)
    return {code: float(_strongest(coefficients, names)) for code, names in ARKIT_OF_FEAFA.items()}


def arkit_from_facs(units: Mapping[str, float], *, one_sided: Mapping[str, Side] | None = None) -> dict[str, float]:
    """The ARKit coefficients that show FACS units: the inverse of :func:`facs_from_arkit` on RENDERED_UNITS.

    AU26 and AU27 exclude each other; given both, the jaw opens as far as the wider one says and reads back as that one.

    Args:
        units: FACS code -> 0 to 1.
        one_sided: code -> "left" or "right" for a unit that only one side shows, such as AU14 in contempt.
    Returns:
        ARKit name -> above 0 to 1, in ARKIT_52's order; coefficients of 0 are left out.
    Raises:
        ExpllmError: a unit is not in RENDERED_UNITS, a value is outside 0 to 1, or a unit without sides is given one.
    """
    check_intensities(units, FACS)
    one_sided = one_sided or {}
    coefficients: dict[str, float] = {}
    for code, value in units.items():
        if code not in RENDERED_UNITS:
            raise ExpllmError(
                f"{code} ({FACS.unit(code).name}) has no counterpart in ARKit's coefficients.",
                f"Leave it out, or use one of {', '.join(RENDERED_UNITS)}.",
            )
        for name, amount in _drive(code, value, one_sided.get(code, "both")):
            coefficients[name] = max(coefficients.get(name, 0.0), amount)
    return {name: float(coefficients[name]) for name in ARKIT_52.codes if coefficients.get(name, 0.0) > 0.0}


def _drive(code: str, value: float, side: Side) -> list[tuple[str, float]]:
    names: tuple[str, ...] = ("jawOpen",)
    if code == "AU26":
        value = JAW_DROP_LIMIT * value
    elif code == "AU27":
        value = JAW_DROP_LIMIT + (1.0 - JAW_DROP_LIMIT) * value if value > 0.0 else 0.0
    else:
        names = _ARKIT_OF_FACS[code]
    if side != "both":
        names = tuple(name for name in names if ARKIT_52.unit(name).side == side)
        if not names:
            raise ExpllmError(f"{code} ({FACS.unit(code).name}) has no {side} side.", "Leave it out of `one_sided`.")
    return [(name, value) for name in names]


def _strongest(coefficients: Mapping[str, float], names: Iterable[str]) -> float:
    return max(coefficients.get(name, 0.0) for name in names)
