"""Which square of a picture the model sees, and where an annotation's points lie in it.

Pixels are counted as in `faces.Annotation`: pixel (0, 0) is the upper left one. A point (a landmark) is given in pixel
centres, so the middle of that pixel is (0.0, 0.0); a box is given in pixel edges, so (0, 0, width, height) is the whole
picture. With both rules a picture's mirror image is x -> 1 - x in parts of its width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation

LARGEST_CROP = 10_000
"""Pixels on a side; a face box that asks for more is a mistake, and would be filled up with padding."""


@dataclass(frozen=True)
class Region:
    """Whole pixels of a picture; what lies beyond the picture's edges is padding."""

    left: int
    top: int
    width: int
    height: int

    def squared(self) -> Region:
        """The smallest square around it; of an odd pixel of padding, the larger part goes to the right or below."""
        side = max(self.width, self.height)
        left = self.left - (side - self.width) // 2
        return Region(left, self.top - (side - self.height) // 2, side, side)

    def point(self, x: float, y: float, size: float) -> tuple[float, float]:
        """A point of the picture, in pixels of this (square) region when that is resized to `size`."""
        scale = size / self.width
        return (x + 0.5 - self.left) * scale - 0.5, (y + 0.5 - self.top) * scale - 0.5

    def box(self, box: tuple[float, ...], size: float) -> tuple[float, float, float, float]:
        """A box (x, y, width, height) of the picture, likewise."""
        scale = size / self.width
        x, y, width, height = box
        return (x - self.left) * scale, (y - self.top) * scale, width * scale, height * scale

    def moved(self, annotation: Annotation, size: int) -> Annotation:
        """`annotation` with box and landmarks in the pixels of this (square) region, resized to `size`."""
        if not annotation.landmarks and not annotation.face_box:
            return annotation
        return replace(
            annotation,
            landmarks=tuple(self.point(x, y, size) for x, y in annotation.landmarks),
            face_box=self.box(annotation.face_box, size) if annotation.face_box else (),
        )


def padded_square(size: tuple[int, int]) -> Region:
    """What the model sees of a whole picture of `size` (width, height): the picture, padded to a centred square."""
    return Region(0, 0, *size).squared()


def face_region(annotation: Annotation, margin: float, size: tuple[int, int]) -> Region:
    """The face box with `margin` of its width on the left and right and of its height above and below, rounded
    outwards to whole pixels.

    Raises ExpllmError naming the picture if it has no box, or one that lies outside the picture of `size` or is far too
    large.
    """
    if not annotation.face_box:
        raise ExpllmError(
            f"{annotation.picture}: the annotation has no face box to crop the picture by",
            'give it one, or set picture="square", which keeps the whole picture',
        )
    x, y, width, height = annotation.face_box
    edges = (x - margin * width, y - margin * height, x + (1 + margin) * width, y + (1 + margin) * height)
    across = all(map(math.isfinite, edges)) and edges[0] < size[0] and edges[1] < size[1] and min(edges[2:]) > 0
    if not across or max(edges[2] - edges[0], edges[3] - edges[1]) > LARGEST_CROP:
        raise ExpllmError(
            f"{annotation.picture}: the face box {annotation.face_box} does not fit a picture of {size[0]}×{size[1]} "
            "pixels",
            "give (x, y, width, height) in pixels of the picture",
        )
    left, top = math.floor(edges[0]), math.floor(edges[1])
    return Region(left, top, math.ceil(edges[2]) - left, math.ceil(edges[3]) - top)
