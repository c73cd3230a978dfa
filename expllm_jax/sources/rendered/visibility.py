"""How far a unit moves the face in a picture, and which units can be seen there at all.

Shape letters: V vertices.
"""

from __future__ import annotations

import numpy as np

from expllm_jax.faces import RENDERED_UNITS, arkit_from_facs
from expllm_jax.sources.rendered.head import HeadModel
from expllm_jax.sources.rendered.scene import SIZE, camera_target, projected

VISIBLE_FROM = 1.5
"""Pixels by which the 95th percentile of the vertices that a unit moves has to move at full strength."""

VISIBLE_UNITS: tuple[str, ...] = tuple(
    """AU1 AU2 AU4 AU5 AU7 AU43 AU9 AU6 AU33 AU10 AU12 AU14 AU15 AU16 AU18 AU20 AU22 AU24 AU28 AU17 AU26
    AU27""".split()
)
"""The FACS units that are visible: see `visible_units`, which a test compares with. Frozen before the first regressor
was trained, since its bar is a mean over them. They are all of RENDERED_UNITS: the least visible one, AU1, moves 2.8
pixels. Taken over all vertices of the face instead of those that a unit moves, units of small parts would be out: AU1,
AU2, AU16 and AU17, which are among the hard ones."""


def displacements(head: HeadModel, coefficients: dict[str, float]) -> np.ndarray:
    """Pixels (V,) by which ARKit coefficients move each vertex of the base mesh, seen straight on at 224 x 224."""
    target = camera_target(head, head.rest_V3)
    moved_V3 = head.deform(head.rest_V3, coefficients)
    rest, moved = (projected(vertices - target, SIZE)[:, :2] for vertices in (head.rest_V3, moved_V3))
    return np.linalg.norm(moved - rest, axis=1)


def visible_units(head: HeadModel) -> tuple[str, ...]:
    """The rendered FACS units at whose full strength the 95th percentile of the vertices that they move (at all) moves
    by VISIBLE_FROM pixels or more.
    """

    def reach(code: str) -> float:
        pixels = displacements(head, arkit_from_facs({code: 1.0}))
        return float(np.percentile(pixels[pixels > 0], 95))

    return tuple(code for code in RENDERED_UNITS if reach(code) >= VISIBLE_FROM)
