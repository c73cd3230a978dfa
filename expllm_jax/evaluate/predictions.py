"""What any model answered, from a file, held against annotations: the same `EvaluatedFace` as for our own runs.

A file has one JSON object a line (or is one list of them). Each names its face with ``picture``, ``id`` or ``record``
(so that answers.jsonl of a run can be read by other protocols as well), and holds what the model said:

=================================  ====================================================================================
``label`` or ``label_text``        the answer to the question for the label
``cot``                            the reasoning, asked for beside it
``text``                           one answer that holds both; the label is the one it comes to
``truncated`` or                   whether it was cut off: true, or "length" as endpoints say it
``finish_reason``
``prompt_tokens``, ``new_tokens``  what it took
=================================  ====================================================================================

Other keys are not looked at. A face is found by the path of its picture, or else by the file's name, with or without
its ending, where only one face has it. Every face with a true label is scored, whatever the file holds: one without a
usable prediction counts as unparsable. All that does not fit is counted, and shown with its place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from expllm_jax.cot import (
    UnparsableAnswer,
    find_free_statements,
    find_statements,
    parse_cot,
    read_label,
    split_parts,
    stated_units,
)
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.faces import BASIC_7, EXPRESSIONS, FACS, Annotation, Vocabulary
from expllm_jax.faces.annotation import iter_annotations
from expllm_jax.sources.interchange.json_objects import Entry, read_objects

NAMES = ("picture", "id", "record")
SAID = ("label_text", "label", "cot", "text")
GROUPS = ("gender", "race", "age_group")  # attributes that are words
_SHOWN = 5  # places that a summary quotes


@dataclass(frozen=True)
class Truth:
    """The faces to score against, by picture."""

    faces: Mapping[str, Annotation]  # all of the split that have a label
    allowed: tuple[str, ...]  # the labels that may be given: seven, or eight where a face shows contempt
    elsewhere: frozenset[str]  # pictures of other splits
    unlabelled: tuple[str, ...]  # pictures of the split without a label, which nothing can be held against
    folder: Path  # where the pictures lie


@dataclass
class Unfit:
    """All in a file of predictions that does not simply answer one face; nothing of it is dropped in silence."""

    missing: list[str] = field(default_factory=list)  # faces without a prediction: they count as unparsable
    duplicate: list[str] = field(default_factory=list)  # further predictions for a face: the first one counts
    contradicting: list[str] = field(default_factory=list)  # of these, those that say something else
    unknown: list[str] = field(default_factory=list)  # predictions for pictures that no annotation knows
    unscored: list[str] = field(default_factory=list)  # predictions for faces of other splits, or without a label
    malformed: list[str] = field(default_factory=list)  # lines that are no prediction
    mended: list[str] = field(default_factory=list)  # texts with halves of characters, which became "?"

    def counts(self) -> dict[str, int]:
        """How many there are of each kind."""
        return {name: len(places) for name, places in vars(self).items()}

    def told(self) -> list[str]:
        """A line for each kind that there is, with the first places."""
        lines = []
        for name, places in vars(self).items():
            if places:
                more = f" and {len(places) - _SHOWN:,} more" if len(places) > _SHOWN else ""
                lines.append(f"{name:<14}{len(places):>8,}  {'; '.join(places[:_SHOWN])}{more}")
        return lines


@dataclass(frozen=True)
class Predictions:
    """A file of predictions beside the truth."""

    faces: list[EvaluatedFace]  # one for each face of the truth, in its order
    unfit: Unfit


def read_truth(path: str | os.PathLike[str], *, split: str | None = None) -> Truth:
    """The annotations that predictions are scored against.

    Args:
      path: JSON Lines of annotations.
      split: score only the faces of this split.

    Raises:
      ExpllmError: the file cannot be read, a picture is in it twice, or no face has a label.
    """
    faces: dict[str, Annotation] = {}
    line_of: dict[str, int] = {}
    elsewhere, unlabelled = [], []
    for number, annotation in iter_annotations(path):
        first = line_of.setdefault(annotation.picture, number)
        if first != number:
            raise ExpllmError(
                f"{path}, line {number}: the picture {annotation.picture!r} is on line {first} already",
                "keep one annotation of each picture: a prediction for it has to be right or wrong",
            )
        if split is not None and annotation.split != split:
            elsewhere.append(annotation.picture)
        elif annotation.expression is None:
            unlabelled.append(annotation.picture)
        else:
            faces[annotation.picture] = annotation
    if not faces:
        of_split = "" if split is None else f" of the split {split!r}"
        raise ExpllmError(f"{path} has no face{of_split} with a label", "give annotations with `expression`")
    labels = {annotation.expression for annotation in faces.values()}
    allowed = BASIC_7 if labels <= set(BASIC_7) else EXPRESSIONS
    return Truth(faces, allowed, frozenset(elsewhere), tuple(unlabelled), Path(path).parent)


def read_predictions(
    path: str | os.PathLike[str],
    truth: Truth,
    *,
    protocol: str = "strict",
    corrected: bool = False,
    vocabulary: Vocabulary = FACS,
) -> Predictions:
    """Every face of the truth with what the file says of it.

    Args:
      path: the predictions, see above.
      truth: what they are held against.
      protocol: how answers are read, a name in `cot.PROTOCOLS`.
      corrected: reads without the protocol's faults.
      vocabulary: of the units that texts and truth speak of.

    Raises:
      ExpllmError: the file cannot be read, or is neither lines nor a list of JSON.
    """
    unfit = Unfit()
    found: dict[str, dict[str, Any]] = {}
    places = _Places(truth)

    def malformed(error: ExpllmError) -> None:
        unfit.malformed.append(error.problem)

    for entry in read_objects(path, malformed):
        names = _names(entry)
        if not names:
            unfit.malformed.append(f"{entry.where}: none of {', '.join(NAMES)} names a face")
            continue
        name = next((name for name in names if places.of(name) is not None), names[0])
        picture = places.of(name)
        if picture is None:
            known = any(map(places.is_unscored, names))
            (unfit.unscored if known else unfit.unknown).append(f"{name} ({entry.place})")
            continue
        told = _told(entry, unfit)
        if picture not in found:
            found[picture] = told
            continue
        unfit.duplicate.append(f"{name} ({entry.place})")
        if told != found[picture]:
            unfit.contradicting.append(f"{name} ({entry.place})")
    unfit.missing.extend(picture for picture in truth.faces if picture not in found)
    reader = _Reader(protocol, corrected, vocabulary, truth.allowed)
    faces = [reader.evaluated(face, found.get(picture, {}), truth.folder) for picture, face in truth.faces.items()]
    return Predictions(faces, unfit)


class _Places:
    """Which face a name stands for: the picture's path, or the file's name (also without its ending) where only one
    face has it."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._others = truth.elsewhere | set(truth.unlabelled)
        named: dict[str, list[str]] = {}
        for picture in (*truth.faces, *self._others):
            path = PurePosixPath(picture)
            for file in {path.name, path.stem}:
                named.setdefault(file, []).append(picture)
        self._by_file_name = {file: pictures[0] for file, pictures in named.items() if len(pictures) == 1}

    def of(self, name: str) -> str | None:
        picture = self._picture(name)
        return picture if picture in self._truth.faces else None

    def is_unscored(self, name: str) -> bool:
        return self._picture(name) in self._others

    def _picture(self, name: str) -> str | None:
        for path in (name, name.removeprefix("/"), name.removeprefix("./")):
            if path in self._truth.faces or path in self._others:
                return path
        return self._by_file_name.get(PurePosixPath(name).name)


@dataclass(frozen=True)
class _Reader:
    """How the answers of one file are read."""

    protocol: str
    corrected: bool
    vocabulary: Vocabulary
    allowed: tuple[str, ...]

    def evaluated(self, annotation: Annotation, told: Mapping[str, Any], folder: Path) -> EvaluatedFace:
        """A face with what was said of it; nothing said is an answer to the label question that has no text."""
        return EvaluatedFace(
            record=annotation.picture,
            identity=annotation.identity or annotation.picture,
            split=annotation.split or "all",
            expression=annotation.expression or "",
            units=dict(annotation.units.get(self.vocabulary.name, {})),
            picture=folder / annotation.picture,
            groups={key: str(value) for key in GROUPS if (value := annotation.attributes.get(key)) is not None},
            truncated=told.get("truncated", False),
            prompt_tokens=told.get("prompt_tokens", 0),
            new_tokens=told.get("new_tokens", 0),
            **self._said(told),
        )

    def _said(self, told: Mapping[str, Any]) -> dict[str, Any]:
        label_text, cot = told.get("label_text"), told.get("cot")
        if label_text is None and cot is None and "text" in told:
            label_text, cot = (None, told["text"]) if self._is_reasoning(told["text"]) else (told["text"], None)
        if label_text is None and cot is not None:
            reasoning = self._reasoning(cot)
            return {"order": "reasoning-first", "label_text": None, "predicted": reasoning["concluded"], **reasoning}
        label_text = label_text or ""
        said = {"label_text": label_text, "predicted": self._label(label_text)}
        if cot is None:
            return {"order": "label-only", "cot": None, **said}
        return {"order": "label-first", **said, **self._reasoning(cot)}

    @property
    def _knows_parts(self) -> bool:
        """Whether the protocol takes a reasoning only in its three parts; the others read a label in any text."""
        return self.protocol in ("strict", "expllm")

    def _is_reasoning(self, text: str) -> bool:
        """Whether one answer is a reasoning, and not a label alone."""
        try:
            split_parts(text)
        except UnparsableAnswer:
            return not self._knows_parts
        return True

    def _label(self, text: str) -> str | None:
        try:
            return read_label(text, self.protocol, self.allowed, corrected=self.corrected)
        except UnparsableAnswer:
            return None

    def _reasoning(self, text: str) -> dict[str, Any]:
        try:
            if self._knows_parts:
                concluded = parse_cot(text, self.vocabulary, self.allowed).expression
            else:
                concluded = read_label(text, self.protocol, self.allowed, corrected=self.corrected)
        except UnparsableAnswer as error:
            return {"cot": text, "cot_failure": error.reason, "concluded": None}
        return {"cot": text, "stated": said_units(text, self.vocabulary), "concluded": concluded}


def said_units(text: str, vocabulary: Vocabulary) -> dict[str, str | None]:
    """The units that any text states, denied ones left out: code -> intensity band, None where no word gives it.

    A text of three parts is read as `cot.stated_units` does. In any other, units count as well that are told in free
    words ("the corners of the mouth are pulled up").
    """
    stated = stated_units(text, vocabulary)
    try:
        split_parts(text)
    except UnparsableAnswer:
        denied = {told.code for told in find_statements(text, vocabulary) if told.negated}
        for told in find_free_statements(text, vocabulary, 0, len(text)):
            if not told.negated and told.code not in denied and stated.get(told.code) is None:
                stated[told.code] = told.band
    return {code: stated[code] for code in vocabulary.codes if code in stated}


def _names(entry: Entry) -> list[str]:
    """What a line calls its face; where it has several names, one that is known counts."""
    values = [entry.value.get(key) for key in NAMES]
    return [str(value) for value in values if value not in (None, "") and type(value) in (str, int)]


def _told(entry: Entry, unfit: Unfit) -> dict[str, Any]:
    """What a line says, as far as it can be used."""
    told: dict[str, Any] = {}
    for key in SAID:
        value = entry.value.get(key)
        if isinstance(value, str):
            text = value.encode("utf-8", "replace").decode()
            if text != value:
                unfit.mended.append(f"{entry.place}, {key!r}")
            told["label_text" if key == "label" and "label_text" not in told else key] = text
        elif value is not None:
            unfit.malformed.append(f"{entry.where}: {key!r} is no text")
    told.pop("label", None)  # beside the text that it was read from
    if not told:
        unfit.malformed.append(f"{entry.where}: none of {', '.join(SAID)} holds a text")
    told["truncated"] = entry.value.get("truncated") is True or entry.value.get("finish_reason") == "length"
    for key in ("prompt_tokens", "new_tokens"):
        value = entry.value.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            told[key] = value
    return told
