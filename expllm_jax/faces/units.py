"""Action units: the movements a face is described by, in four vocabularies.

``FACS`` numbers movements by muscle (AU12 is the lip corner puller). ``FEAFA_24`` is the list behind the released
RAF-DB texts: 24 values, left and right apart, whose numbers are not FACS numbers. ``ARKIT_52`` holds the blendshape
coefficients that face trackers give and face models take. ``OPENGRAPHAU_41`` is what a public detector of action units
gives: FACS units, seven of them for each side as well. Left is the person's left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from expllm_jax.errors import ExpllmError

Side = Literal["both", "left", "right"]
_LEFT_RIGHT: tuple[Literal["left", "right"], ...] = ("left", "right")

REGIONS: tuple[str, ...] = ("brows", "eyes", "nose", "cheeks", "mouth", "chin", "jaw")
"""The parts of the face, top to bottom: the order in which texts describe them."""


@dataclass(frozen=True)
class ActionUnit:
    """One movement of the face."""

    code: str  # "AU12", "FEAFA12" or an ARKit name; unique in its vocabulary
    name: str  # what the movement is called in the source of the vocabulary
    side: Side  # "both" where the vocabulary does not tell the sides apart
    region: str  # one of REGIONS
    muscles: tuple[str, ...] = ()  # the muscles that make it; empty where the source names none
    mirror: str = ""  # the code of the same movement on the other side; its own code if it has no sides

    def __post_init__(self) -> None:
        if not self.mirror:
            object.__setattr__(self, "mirror", self.code)


@dataclass(frozen=True)
class Vocabulary:
    """An ordered, named set of action units. The order is the order of vectors of intensities."""

    name: str
    units: tuple[ActionUnit, ...]

    @cached_property
    def codes(self) -> tuple[str, ...]:
        return tuple(unit.code for unit in self.units)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {code: position for position, code in enumerate(self.codes)}

    def __hash__(self) -> int:
        return hash(self.name)  # the units would be hashed anew at every look-up of what is cached by vocabulary

    def __contains__(self, code: object) -> bool:
        return code in self._positions

    def __len__(self) -> int:
        return len(self.units)

    def index(self, code: str) -> int:
        """The position of a code.

        Raises:
            ExpllmError: the vocabulary has no such code.
        """
        try:
            return self._positions[code]
        except KeyError:
            raise ExpllmError(
                f"The vocabulary {self.name!r} has no action unit {code!r}.", f"Its codes are {', '.join(self.codes)}."
            ) from None

    def unit(self, code: str) -> ActionUnit:
        """The unit with a code; raises like :meth:`index`."""
        return self.units[self.index(code)]


def _facs(number: int, name: str, region: str, *muscles: str) -> ActionUnit:
    return ActionUnit(f"AU{number}", name, "both", region, muscles)


# Names and muscles: Ekman & Friesen's Facial Action Coding System. Ordered by region from the top of the face down.
FACS = Vocabulary(
    "facs",
    (
        _facs(1, "inner brow raiser", "brows", "frontalis, pars medialis"),
        _facs(2, "outer brow raiser", "brows", "frontalis, pars lateralis"),
        _facs(4, "brow lowerer", "brows", "corrugator supercilii", "depressor supercilii"),
        _facs(5, "upper lid raiser", "eyes", "levator palpebrae superioris"),
        _facs(7, "lid tightener", "eyes", "orbicularis oculi, pars palpebralis"),
        _facs(43, "eyes closed", "eyes", "relaxation of levator palpebrae superioris"),
        _facs(9, "nose wrinkler", "nose", "levator labii superioris alaeque nasi"),
        _facs(38, "nostril dilator", "nose", "nasalis, pars alaris"),
        _facs(39, "nostril compressor", "nose", "nasalis, pars transversa", "depressor septi nasi"),
        _facs(6, "cheek raiser", "cheeks", "orbicularis oculi, pars orbitalis"),
        _facs(11, "nasolabial deepener", "cheeks", "zygomaticus minor"),
        _facs(33, "cheek blow", "cheeks", "buccinator"),
        _facs(34, "cheek puff", "cheeks", "buccinator"),
        _facs(10, "upper lip raiser", "mouth", "levator labii superioris"),
        _facs(12, "lip corner puller", "mouth", "zygomaticus major"),
        _facs(13, "sharp lip puller", "mouth", "levator anguli oris"),
        _facs(14, "dimpler", "mouth", "buccinator"),
        _facs(15, "lip corner depressor", "mouth", "depressor anguli oris"),
        _facs(16, "lower lip depressor", "mouth", "depressor labii inferioris"),
        _facs(18, "lip pucker", "mouth", "incisivii labii"),
        _facs(19, "tongue show", "mouth"),
        _facs(20, "lip stretcher", "mouth", "risorius"),
        _facs(22, "lip funneler", "mouth", "orbicularis oris"),
        _facs(23, "lip tightener", "mouth", "orbicularis oris"),
        _facs(24, "lip pressor", "mouth", "orbicularis oris"),
        _facs(25, "lips part", "mouth", "depressor labii inferioris", "relaxation of mentalis"),
        _facs(28, "lip suck", "mouth", "orbicularis oris"),
        _facs(32, "lip bite", "mouth"),
        _facs(17, "chin raiser", "chin", "mentalis"),
        _facs(26, "jaw drop", "jaw", "relaxation of masseter"),
        _facs(27, "mouth stretch", "jaw", "pterygoids", "digastric"),
        _facs(29, "jaw thrust", "jaw"),
        _facs(30, "jaw sideways", "jaw"),
    ),
)

RENDERED_UNITS: tuple[str, ...] = tuple(
    """AU1 AU2 AU4 AU5 AU7 AU43 AU9 AU6 AU33 AU10 AU12 AU14 AU15 AU16 AU18 AU20 AU22 AU24 AU28 AU17 AU26
    AU27""".split()
)
"""The FACS units that rendered faces show, top to bottom: those with an exact counterpart in ARKit's coefficients. A
list of its own, since the faces that a seed draws depend on it."""


def _feafa(number: int, name: str, region: str, side: Side = "both") -> ActionUnit:
    mirror = {"left": number + 1, "right": number - 1, "both": number}[side]
    return ActionUnit(f"FEAFA{number}", name, side, region, mirror=f"FEAFA{mirror}")


# FEAFA+ (arXiv 2111.02751); the order is that of the released `au` lists. 10 and 11 mirror each other as well: a jaw
# that slides to the left slides to the right in a mirror.
FEAFA_24 = Vocabulary(
    "feafa",
    (
        _feafa(1, "left eye close", "eyes", "left"),
        _feafa(2, "right eye close", "eyes", "right"),
        _feafa(3, "left lid raise", "eyes", "left"),
        _feafa(4, "right lid raise", "eyes", "right"),
        _feafa(5, "left brow lower", "brows", "left"),
        _feafa(6, "right brow lower", "brows", "right"),
        _feafa(7, "left brow raise", "brows", "left"),
        _feafa(8, "right brow raise", "brows", "right"),
        _feafa(9, "jaw drop", "jaw"),
        _feafa(10, "jaw slide left", "jaw", "left"),
        _feafa(11, "jaw slide right", "jaw", "right"),
        _feafa(12, "left lip corner pull", "mouth", "left"),
        _feafa(13, "right lip corner pull", "mouth", "right"),
        _feafa(14, "left lip corner stretch", "mouth", "left"),
        _feafa(15, "right lip corner stretch", "mouth", "right"),
        _feafa(16, "upper lip suck", "mouth"),
        _feafa(17, "lower lip suck", "mouth"),
        _feafa(18, "jaw thrust", "jaw"),
        _feafa(19, "upper lip raise", "mouth"),
        _feafa(20, "lower lip depress", "mouth"),
        _feafa(21, "chin raise", "chin"),
        _feafa(22, "lip pucker", "mouth"),
        _feafa(23, "cheek puff", "cheeks"),
        _feafa(24, "nose wrinkle", "nose"),
    ),
)

# ARKit's blendshape locations, one line a region; a name ending in "*" stands for ...Left and ...Right.
_ARKIT_BY_REGION = {
    "brows": "browDown* browInnerUp browOuterUp*",
    "eyes": "eyeBlink* eyeLookDown* eyeLookIn* eyeLookOut* eyeLookUp* eyeSquint* eyeWide*",
    "nose": "noseSneer*",
    "cheeks": "cheekPuff cheekSquint*",
    "mouth": "mouthClose mouthDimple* mouthFrown* mouthFunnel mouthLeft mouthLowerDown* mouthPress* mouthPucker"
    " mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmile* mouthStretch* mouthUpperUp*"
    " tongueOut",
    "jaw": "jawForward jawLeft jawOpen jawRight",
}


def _arkit(code: str, region: str) -> ActionUnit:
    name = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in code)
    if code.endswith("Left"):
        return ActionUnit(code, name, "left", region, mirror=f"{code[:-4]}Right")
    if code.endswith("Right"):
        return ActionUnit(code, name, "right", region, mirror=f"{code[:-5]}Left")
    return ActionUnit(code, name, "both", region)


ARKIT_52 = Vocabulary(
    "arkit",
    tuple(
        _arkit(code, region)
        for region, names in _ARKIT_BY_REGION.items()
        for name in names.split()
        for code in ((f"{name[:-1]}Left", f"{name[:-1]}Right") if name.endswith("*") else (name,))
    ),
)


def _sided(number: int, side: Literal["left", "right"]) -> ActionUnit:
    of_both = FACS.unit(f"AU{number}")
    code, mirror = (f"AUL{number}", f"AUR{number}") if side == "left" else (f"AUR{number}", f"AUL{number}")
    return ActionUnit(code, f"{side} {of_both.name}", side, of_both.region, of_both.muscles, mirror)


# OpenGraphAU (by the authors of ME-GraphAU): 27 units without sides, then 14 with, left before right, in the order of
# its networks' outputs. Its README prints "AUL1" twice and calls AUL12 and AUR12 after AU11; the numbers count.
OPENGRAPHAU_41 = Vocabulary(
    "opengraphau",
    (
        *(
            FACS.unit(f"AU{number}")
            for number in (
                *(1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 23, 24, 25, 26, 27),
                *(32, 38, 39),
            )
        ),
        *(_sided(number, side) for number in (1, 2, 4, 6, 10, 12, 14) for side in _LEFT_RIGHT),
    ),
)

VOCABULARIES: Mapping[str, Vocabulary] = MappingProxyType(
    {v.name: v for v in (FACS, FEAFA_24, ARKIT_52, OPENGRAPHAU_41)}
)


def vocabulary(name: str) -> Vocabulary:
    """The vocabulary of a name ("facs", "feafa", "arkit" or "opengraphau").

    Raises:
        ExpllmError: there is none of that name.
    """
    try:
        return VOCABULARIES[name]
    except KeyError:
        raise ExpllmError(
            f"There is no vocabulary of action units called {name!r}.", f"Use one of {', '.join(VOCABULARIES)}."
        ) from None
