"""Where the faces are in pictures that a model is asked about."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import read_annotations

FaceBox = tuple[float, ...]
"""x, y, width and height in pixels of the picture, counted as in `faces.Annotation`."""


def annotated_face_boxes(pictures: Sequence[str | Path], annotations: str | Path) -> list[FaceBox]:
    """The face box of every picture, from a JSON Lines file of annotations; their paths are relative to its folder.

    Raises ExpllmError if the file cannot be read, or does not hold exactly one face with a box for each picture.
    """
    folder = Path(annotations).parent
    boxes: dict[str, list[FaceBox]] = {}
    for annotation in read_annotations(annotations):
        if annotation.face_box:
            boxes.setdefault(os.path.realpath(folder / annotation.picture), []).append(annotation.face_box)
    found = [boxes.get(os.path.realpath(picture), []) for picture in pictures]
    for picture, faces in zip(pictures, found, strict=True):
        if len(faces) != 1:
            raise ExpllmError(
                f"{annotations} has {len(faces) or 'no'} face boxes for {picture}",
                "give one annotation with a face_box for each picture, with its path as seen from that file",
            )
    return [faces[0] for faces in found]
