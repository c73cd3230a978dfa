"""The JSON of the released ExpLLM code: a list of objects, one a picture.

===================  ===========================================================  ==============================
key                  value                                                        in an Annotation
===================  ===========================================================  ==============================
``file_name``        path of the picture in its folder                            ``picture``
``emo``              the label word                                               ``expression``
``au``               24 numbers, 0 to 1                                           ``units["feafa"]``, all 24
``description``      the three-part text                                          ``cot``
``bbox``             x, y, width, height in pixels                                ``face_box``
``landmark``         five [x, y]: eyes, nose tip, mouth corners, left to right    ``landmarks``
``attr``             40 of 0 and 1, in CelebA's order                             ``attributes``, by CelebA's names
``headpose``         yaw, pitch, roll in degrees, as 300W-LP counts them          ``attributes`` of these names
``age_gender_race``  three codes, see AGE_GROUPS, GENDERS, RACES                  ``attributes`` of these names
===================  ===========================================================  ==============================

All keys but the first may be missing. What the code reads them for: `datasets/facetask.py`; who writes them:
`datasets/tools/*.py` there. Its list files name such a JSON, the folder of its pictures and a repeat on every line.
`records.list_file.read_list_file` takes a list apart; `read_released(entry.annotations, pictures=entry.pictures)`
reads one of its lines, and the repeats are then a matter of mixing records.

Nothing is lost on the way in. On the way out, `identity`, `caption`, other units, 68 landmarks and other attributes
have no place; an expression and a text are written as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import FEAFA_24, Annotation
from expllm_jax.faces.attributes import CELEBA_40
from expllm_jax.sources.dataset import Problems, raise_first
from expllm_jax.sources.interchange.json_objects import Entry, read_annotated, write_json_list
from expllm_jax.sources.interchange.losses import check_loss

# The codes are those of the released converters: merge_convert_fairface.py and merge_convert_utkface.py.
AGE_GROUPS = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+")
"""FairFace's age groups by their code."""
GENDERS = ("female", "male")
"""By their code; UTKFace itself counts the other way round."""
RACES = ("White", "Black", "Asian", "Indian", "Others")
"""By their code, UTKFace's words."""
HEADPOSE = ("yaw", "pitch", "roll")
"""In the order of the key."""

_AGE_GENDER_RACE = {"age_group": AGE_GROUPS, "gender": GENDERS, "race": RACES}
_KEYS = ("file_name", "emo", "au", "description", "bbox", "landmark", "attr", "headpose", "age_gender_race")
_CARRIED = ("expression", "units", "cot", "attributes", "landmarks", "face_box")


def read_released(
    path: str | os.PathLike[str],
    *,
    pictures: str | os.PathLike[str] | None = None,
    split: str = "",
    problems: Problems = raise_first,
) -> Iterator[Annotation]:
    """The annotations of a released JSON file, in its order.

    Args:
        path: the file.
        pictures: the folder of its pictures; every picture that is named must lie there. None checks nothing.
        split: which split the file is, for it does not say so itself.
        problems: is told of every entry that is left out, with its index in the list.

    Raises:
        ExpllmError: the file cannot be read; or, from `problems`, an entry has an unknown or malformed key, a value out
            of range, the picture of an earlier entry, or one that is not there.
    """
    return read_annotated(path, partial(_annotation, split=split), pictures=pictures, problems=problems)


def write_released(path: str | os.PathLike[str], annotations: Iterable[Annotation], *, lossy: bool = False) -> int:
    """Writes a released JSON file and returns how many entries it holds.

    Raises:
        ExpllmError: an annotation says what has no place in the format (unless `lossy`), its FEAFA units are only
            partly known, or the file cannot be written.
    """
    return write_json_list(path, (_value(annotation, lossy) for annotation in annotations))


def _annotation(entry: Entry, split: str) -> Annotation:
    value = entry.value
    if "gt_emo" in value:
        raise entry.error(
            "this is a file of predictions: `emo` holds a model's answer, and `gt_emo` the label.",
            "Give the file of annotations that the predictions were made for.",
        )
    entry.check_keys(_KEYS)
    known: dict[str, Any] = {"picture": entry.picture("file_name"), "split": split}
    if "emo" in value:
        known["expression"] = entry.text("emo")
    if "description" in value:
        known["cot"] = entry.text("description")
    if "au" in value:
        known["units"] = {"feafa": dict(zip(FEAFA_24.codes, entry.numbers("au", 24), strict=True))}
    if "bbox" in value:
        known["face_box"] = tuple(entry.numbers("bbox", 4))
    if "landmark" in value:
        known["landmarks"] = _points(entry)
    known["attributes"] = _attributes(entry)
    known["provenance"] = {"dataset": "expllm", **entry.provenance()}
    return Annotation(**known)


def _points(entry: Entry) -> tuple[tuple[float, float], ...]:
    points = entry.value["landmark"]
    if not (isinstance(points, list) and len(points) == 5 and all(isinstance(p, list) and len(p) == 2 for p in points)):
        raise entry.error("the key 'landmark' does not hold five points [x, y].", "Mend the entry.")
    flat = replace(entry, value={"landmark": [number for point in points for number in point]})
    numbers = flat.numbers("landmark", 10)
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _attributes(entry: Entry) -> dict[str, str | float]:
    value = entry.value
    attributes: dict[str, str | float] = {}
    if "attr" in value:
        flags = entry.numbers("attr", len(CELEBA_40))
        if any(flag not in (0, 1) for flag in flags):
            raise entry.error("the key 'attr' holds something other than 0 and 1.", "Turn CelebA's -1 into 0.")
        attributes.update(zip(CELEBA_40, flags, strict=True))
    if "headpose" in value:
        attributes.update(zip(HEADPOSE, entry.numbers("headpose", 3), strict=True))
    if "age_gender_race" in value:
        codes = entry.numbers("age_gender_race", 3)
        for (name, words), code in zip(_AGE_GENDER_RACE.items(), codes, strict=True):
            if code not in range(len(words)):
                raise entry.error(
                    f"the {name} of 'age_gender_race' is {code:g}.", f"Its codes run from 0 to {len(words) - 1}."
                )
            attributes[name] = words[int(code)]
    return attributes


def _value(annotation: Annotation, lossy: bool) -> dict[str, Any]:
    attributes = annotation.attributes
    # The codes say less than some data sets do (FairFace tells seven races apart), so a word without one is a loss.
    coded = all(attributes.get(name) in words for name, words in _AGE_GENDER_RACE.items())
    groups = {
        "attr": CELEBA_40 if all(attributes.get(name) in (0, 1) for name in CELEBA_40) else (),
        "headpose": HEADPOSE if all(name in attributes for name in HEADPOSE) else (),
        "age_gender_race": tuple(_AGE_GENDER_RACE) if coded else (),
    }
    placed = {name for names in groups.values() for name in names}
    details = [f"units.{name}" for name in annotation.units if name != "feafa"]
    details += [f"attributes.{name}" for name in attributes if name not in placed]
    if len(annotation.landmarks) not in (0, 5):
        details.append(f"{len(annotation.landmarks)} landmarks")
    check_loss(annotation, _CARRIED, lossy=lossy, into="released JSON", details=details)
    value: dict[str, Any] = {"file_name": annotation.picture}
    if annotation.expression is not None:
        value["emo"] = annotation.expression
    if "feafa" in annotation.units:
        value["au"] = _all_units(annotation.picture, annotation.units["feafa"])
    if annotation.cot is not None:
        value["description"] = annotation.cot
    if annotation.face_box:
        value["bbox"] = [_plain(number) for number in annotation.face_box]
    if len(annotation.landmarks) == 5:
        value["landmark"] = [[_plain(x), _plain(y)] for x, y in annotation.landmarks]
    if groups["attr"]:
        value["attr"] = [int(attributes[name]) for name in CELEBA_40]
    if groups["headpose"]:
        value["headpose"] = [attributes[name] for name in HEADPOSE]
    if groups["age_gender_race"]:
        value["age_gender_race"] = [words.index(attributes[name]) for name, words in _AGE_GENDER_RACE.items()]
    return value


def _all_units(picture: str, units: Mapping[str, float]) -> list[float]:
    missing = [code for code in FEAFA_24.codes if code not in units]
    if missing:
        raise ExpllmError(
            f"{picture}: nothing is known of {missing[0]}, and the format has no way of saying so.",
            "Write pictures whose 24 FEAFA units are all known.",
        )
    return [units[code] for code in FEAFA_24.codes]


def _plain(number: float) -> int | float:
    """Whole pixels as the released converters write them, without a decimal point."""
    return int(number) if number == int(number) else number
