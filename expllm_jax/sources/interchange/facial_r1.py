"""Facial-R1's lines: ``{id, dataset, image, question, AUs, labels, description, meta_info}``, one object a line.

================  ======================================  =====================================================
key               value                                   in an Annotation
================  ======================================  =====================================================
``image``         path in the folder of pictures          ``picture``
``labels``        at most one word, noun or adjective     ``expression``; the word itself in the provenance
``AUs``           ["AU1", "AU4"]: those that are active   ``units["facs"]``, 1.0 each
``description``   the reasoning                           ``cot``; "" is none
the others        what was asked, and of what             provenance "facial-r1.KEY" (``meta_info`` as JSON)
================  ======================================  =====================================================

The format does not say which units were looked for, so a unit that is not listed is unknown, not absent. Files come
back as they were. An entry with several labels is refused, for an annotation has one.

On the way out: the caller says from which grade on a unit counts as active (1 or 2 in published work). Intensities
other than 0 and 1, the fact that a unit is known to be absent, and everything but picture, expression, FACS units and
text have no place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import FACS, Annotation, is_active
from expllm_jax.faces.expressions import expression_word
from expllm_jax.sources.dataset import Problems, raise_first
from expllm_jax.sources.interchange.json_objects import Entry, read_annotated, write_json_lines
from expllm_jax.sources.interchange.losses import check_loss

QUESTION = "Which emotion does the face in the picture show, and which action units show it?"
"""The question for annotations that bring none."""

_TEXTS = ("id", "dataset", "question")
_KEYS = ("id", "dataset", "image", "question", "AUs", "labels", "description", "meta_info")
_PREFIX = "facial-r1."


def read_facial_r1(
    path: str | os.PathLike[str],
    *,
    pictures: str | os.PathLike[str] | None = None,
    split: str = "",
    problems: Problems = raise_first,
) -> Iterator[Annotation]:
    """The annotations of a Facial-R1 file, in its order.

    Arguments and errors as `released.read_released`; but a picture may come several times, with other questions, and it
    is the `id` that may not.
    """
    return read_annotated(
        path,
        partial(_annotation, split=split),
        pictures=pictures,
        problems=problems,
        name_of=lambda entry: entry.value.get("id"),
    )


def write_facial_r1(
    path: str | os.PathLike[str],
    annotations: Iterable[Annotation],
    *,
    at_least: int,
    dataset: str = "",
    lossy: bool = False,
) -> int:
    """Writes a Facial-R1 file and returns how many lines it has.

    Args:
        path: the file.
        annotations: what to write.
        at_least: the grade, 1 to 5, from which on a FACS unit is listed as active.
        dataset: the name of the data set, for annotations whose provenance names none.
        lossy: whether what has no place in the format may be left out.

    Raises:
        ExpllmError: `at_least` is out of range, an annotation says what has no place (unless `lossy`), or the file
            cannot be written.
    """
    if at_least not in range(1, 6):
        raise ExpllmError(f"at_least is {at_least}.", "Use a grade from 1 (trace) to 5 (maximum).")
    return write_json_lines(
        path, (_value(annotation, at_least, dataset, number, lossy) for number, annotation in enumerate(annotations))
    )


def _annotation(entry: Entry, split: str) -> Annotation:
    entry.check_keys(_KEYS)
    value, provenance = entry.value, {"dataset": "facial-r1", **entry.provenance()}
    for key in _TEXTS:
        if key in value:
            provenance[_PREFIX + key] = entry.text(key)
    if "meta_info" in value:
        provenance[_PREFIX + "meta_info"] = json.dumps(value["meta_info"], ensure_ascii=False)
    expression = None
    labels = _words(entry, "labels")
    if len(labels) > 1:
        raise entry.error(f"there are {len(labels)} labels.", "An annotation has one expression; choose it.")
    if labels:
        expression = expression_word(labels[0])
        provenance[_PREFIX + "label"] = labels[0]
    units = dict.fromkeys(_words(entry, "AUs"), 1.0)
    unknown = [code for code in units if code not in FACS]
    if unknown:
        raise entry.error(f"{unknown[0]!r} is no FACS unit known here.", f"The units are {', '.join(FACS.codes)}.")
    return Annotation(
        entry.picture("image"),
        expression,
        units={"facs": units} if units else {},
        cot=(entry.text("description") or None) if "description" in value else None,
        split=split,
        provenance=provenance,
    )


def _words(entry: Entry, key: str) -> list[str]:
    words = entry.value.get(key, [])
    if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise entry.error(f"the key {key!r} holds no list of words.", "Mend the entry.")
    return words


def _value(annotation: Annotation, at_least: int, dataset: str, number: int, lossy: bool) -> dict[str, Any]:
    units = annotation.units.get("facs", {})
    details = [f"units.{name}" for name in annotation.units if name != "facs"]
    # In this order: a list of units says of none that it is absent, and of none how strong it is.
    if any(value == 0 for value in units.values()):
        details.append("which units are absent")
    if any(value not in (0, 1) for value in units.values()):
        details.append("intensities")
    check_loss(annotation, ("expression", "units", "cot"), lossy=lossy, into="Facial-R1's format", details=details)
    came = annotation.provenance
    word = came.get(_PREFIX + "label", "")
    if annotation.expression is None:
        labels = []
    else:
        labels = [word if word and expression_word(word) == annotation.expression else annotation.expression]
    return {
        "id": came.get(_PREFIX + "id", str(number)),
        "dataset": came.get(_PREFIX + "dataset") or dataset or came.get("dataset", ""),
        "image": annotation.picture,
        "question": came.get(_PREFIX + "question", QUESTION),
        "AUs": [code for code, value in units.items() if is_active(value, at_least=at_least)],
        "labels": labels,
        "description": annotation.cot or "",
        "meta_info": json.loads(came.get(_PREFIX + "meta_info", "{}")),
    }
