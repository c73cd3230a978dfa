"""What is true of a picture once it has been flipped left to right.

Sided units change sides, landmarks and boxes move and are renumbered, the head turns and tilts the other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from expllm_jax.errors import ExpllmError
from expllm_jax.faces.annotation import Annotation
from expllm_jax.faces.units import Vocabulary, vocabulary

MIRRORED_5: tuple[int, ...] = (1, 0, 2, 4, 3)
"""For each of CelebA's five points, which point of the picture it is in the mirror: eyes and mouth corners swap."""

# The 300-W layout, part by part, each read backwards or with its other side.
MIRRORED_68: tuple[int, ...] = (
    *range(16, -1, -1),  # 0-16 jaw line
    *range(26, 16, -1),  # 17-26 brows
    *range(27, 31),  # 27-30 bridge of the nose
    *range(35, 30, -1),  # 31-35 nostrils
    *(45, 44, 43, 42, 47, 46),  # 36-41 eye on the left of the picture: upper lid outwards in, then lower lid
    *(39, 38, 37, 36, 41, 40),  # 42-47 eye on the right
    *range(54, 47, -1),  # 48-54 upper lip, outside
    *range(59, 54, -1),  # 55-59 lower lip, outside
    *range(64, 59, -1),  # 60-64 upper lip, inside
    *range(67, 64, -1),  # 65-67 lower lip, inside
)
"""The same for the 68 points."""

_TURNED = ("yaw", "roll")
"""Attributes that change their sign; the others of ``faces.attributes`` are the same in a mirror."""


def mirrored(annotation: Annotation, width: int) -> Annotation:
    """The annotation of the same picture flipped left to right.

    Points at pixel centre x move to ``width - 1 - x``; the box's left edge x moves to ``width - x - its width``. Texts
    (``cot``, ``caption``) and everything else stay: ``cot.mirror_text`` turns texts round.

    Args:
        annotation: what is known of the picture.
        width: of the picture as stored, in pixels.
    Raises:
        ExpllmError: the width is not positive, or yaw or roll is no number.
    """
    if width < 1:
        raise ExpllmError(f"{annotation.picture} is said to be {width} pixels wide.", "Give its width in pixels.")
    attributes = dict(annotation.attributes)
    for name in _TURNED:
        if name in attributes:
            attributes[name] = _negated(annotation.picture, name, attributes[name])
    return replace(
        annotation,
        units={name: mirrored_units(units, vocabulary(name)) for name, units in annotation.units.items()},
        landmarks=_mirrored_points(annotation.landmarks, width),
        face_box=_mirrored_box(annotation.face_box, width),
        attributes=attributes,
    )


def mirrored_units(units: Mapping[str, float], vocab: Vocabulary) -> dict[str, float]:
    """Intensities with left and right swapped, for the codes that are given; raises ExpllmError for a foreign code."""
    return {vocab.unit(code).mirror: value for code, value in units.items()}


def _mirrored_points(points: Sequence[tuple[float, float]], width: int) -> tuple[tuple[float, float], ...]:
    if not points:
        return ()
    order = MIRRORED_5 if len(points) == len(MIRRORED_5) else MIRRORED_68
    return tuple((width - 1 - points[index][0], points[index][1]) for index in order)


def _mirrored_box(box: Sequence[float], width: int) -> tuple[float, ...]:
    if not box:
        return ()
    x, y, box_width, box_height = box
    return (width - x - box_width, y, box_width, box_height)


def _negated(picture: str, name: str, angle: str | float) -> float:
    if isinstance(angle, str):
        raise ExpllmError(f"{picture} has the {name} {angle!r}.", "Angles are numbers.")
    return 0.0 - angle  # not -angle, which makes -0.0 of an unturned head
