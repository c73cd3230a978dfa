"""What an annotation's ``attributes`` may say, and the codebooks that data sets write it in.

Keys: "gender", "race", "age_group" (words), "age" (years), "yaw", "pitch", "roll" (degrees), "valence", "arousal" (-1
to 1), and CelebA's forty under their own names (1.0 or 0.0). An attribute that is left out is unknown. Races and age
groups are each data set's own words, since they cut people up differently and cannot be translated.

Head poses have the signs of 300W-LP and AFLW2000, seen in the picture: a positive **yaw** points the nose to the left
of the picture (the person's right), a positive **pitch** points it up, a positive **roll** turns the head clockwise.
That is how 3DDFA's rotation matrix and Hopenet's drawing of the axes read the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from expllm_jax.errors import ExpllmError

# The header of list_attr_celeba.txt.
CELEBA_40: tuple[str, ...] = tuple(
    """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
    Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
    Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
    Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
    Wearing_Necktie Young""".split()
)
"""CelebA's attributes in the order of its columns."""


def _coded(*words: str) -> Mapping[str, str]:
    """Number as text and word in lower case -> word."""
    numbers = {str(number): word for number, word in enumerate(words)}
    return MappingProxyType(numbers | {word.lower(): word for word in words})


# RAF-DB: *_manu_attri.txt, by descriptions of the file; nobody here has seen one.
RAFDB_GENDER = _coded("male", "female", "unsure")
RAFDB_RACE = _coded("Caucasian", "African-American", "Asian")
RAFDB_AGE = _coded("0-3", "4-19", "20-39", "40-69", "70+")

# FairFace: words in fairface_label_*.csv; the numbers are those of the authors' predictor (predict.py).
FAIRFACE_GENDER = _coded("male", "female")
FAIRFACE_RACE = _coded("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern")
_FAIRFACE_AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+")
FAIRFACE_AGE = MappingProxyType({**_coded(*_FAIRFACE_AGES), "more than 70": "70+"})

# UTKFace: [age]_[gender]_[race]_[date].jpg; the age is in years.
UTKFACE_GENDER = _coded("male", "female")
UTKFACE_RACE = _coded("White", "Black", "Asian", "Indian", "Others")

CODEBOOKS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "raf-db gender": RAFDB_GENDER,
        "raf-db race": RAFDB_RACE,
        "raf-db age group": RAFDB_AGE,
        "fairface gender": FAIRFACE_GENDER,
        "fairface race": FAIRFACE_RACE,
        "fairface age group": FAIRFACE_AGE,
        "utkface gender": UTKFACE_GENDER,
        "utkface race": UTKFACE_RACE,
    }
)
"""All of the above: name -> what a file may hold (as text, lower case) -> the attribute's word."""


def decoded(codebook: str, entry: int | str) -> str:
    """The word that a data set's entry stands for; numbers may come as text, words in any case.

    Raises:
        ExpllmError: there is no such codebook, or no such entry in it.
    """
    if codebook not in CODEBOOKS:
        raise ExpllmError(f"There is no codebook {codebook!r}.", f"Use one of {', '.join(CODEBOOKS)}.")
    book = CODEBOOKS[codebook]
    word = book.get(str(entry).strip().lower())
    if word is None:
        known = ", ".join(f"{key} ({value})" for key, value in book.items() if key.isdecimal())
        raise ExpllmError(f"{entry!r} is no {codebook}.", f"Use one of {known}, as number or word.")
    return word


def head_pose(pose_para: Sequence[float]) -> dict[str, float]:
    """``Pose_Para`` of a 300W-LP or AFLW2000 file -> "yaw", "pitch" and "roll" in degrees, with the same signs.

    Args:
        pose_para: pitch, yaw and roll in radians; what follows (translation and scale) is not used.
    Raises:
        ExpllmError: there are fewer than three numbers, or one of the three is not finite.
    """
    if len(pose_para) < 3 or not all(math.isfinite(angle) for angle in pose_para[:3]):
        raise ExpllmError(
            f"Pose_Para is {list(pose_para)}.", "It begins with three finite angles: pitch, yaw and roll in radians."
        )
    pitch, yaw, roll = (math.degrees(angle) for angle in pose_para[:3])
    return {"yaw": yaw, "pitch": pitch, "roll": roll}
