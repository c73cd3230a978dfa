"""The same picture with one action unit changed: person, light, pose, gaze, background and noise stay as they were.

Everything of a rendered face is drawn from its `FaceSpec`, units first and scene after them, so a unit is changed once
all is drawn, and moves nothing else. Only faces that `sample_units` could have drawn are made: a unit that excludes
another one is not added beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import ARKIT_OF_FACS, RENDERED_UNITS, Annotation, arkit_from_facs, facs_from_arkit
from expllm_jax.sources.rendered.generate import FaceSpec, draw_face, render_drawn
from expllm_jax.sources.rendered.head import HeadModel
from expllm_jax.sources.rendered.regimes import SIDED, can_show
from expllm_jax.sources.rendered.scene import Picture


def addable_units(spec: FaceSpec, units: Mapping[str, float]) -> tuple[str, ...]:
    """The rendered units that a face lacks and could show.

    Args:
      spec: the face.
      units: its FACS units, zeros included or not.
    """
    shown = {code: value for code, value in units.items() if value > 0}
    return tuple(code for code in RENDERED_UNITS if code not in shown and can_show(code, spec.expression, shown))


def counterfactual_face(
    head: HeadModel, spec: FaceSpec, seed: int, changed: Mapping[str, float]
) -> tuple[Picture, Annotation]:
    """The face of `spec` as `render_face` renders it, but with the units of `changed` at the intensities given there.

    Args:
      head, spec, seed: as for `render_face`; nothing changed gives the very picture that it gives.
      changed: FACS code, of RENDERED_UNITS, -> 0 (taken away) to 1.

    Raises:
      ExpllmError: the face is of the regime `sided`, whose units are no FACS units; or a unit is not rendered, its
        intensity is outside 0 to 1, or it excludes another one that the face shows.
    """
    if spec.regime == SIDED:
        raise ExpllmError(f"{spec.name} is crooked: its sides move apart", "change faces of another regime")
    drawn = draw_face(head, spec, seed)
    shown = {code: value for code, value in facs_from_arkit(dict(drawn.arkit)).items() if code in RENDERED_UNITS}
    arkit = dict(drawn.arkit)
    for code, value in changed.items():
        others = {other: intensity for other, intensity in {**shown, **changed}.items() if other != code and intensity}
        if value > 0 and not can_show(code, spec.expression, others):
            raise ExpllmError(
                f"{spec.name} cannot show {code} beside {', '.join(others)}", "change a unit of `addable_units`"
            )
        for name in ARKIT_OF_FACS.get(code, ()):
            arkit.pop(name, None)
        arkit |= arkit_from_facs({code: value})
    return render_drawn(head, spec, replace(drawn, arkit=arkit), seed)
