"""Rendered faces: unlimited people whose action units are known exactly.

`plan` lists the faces of a `RenderedConfig`, `render_face` makes one, `generate` writes them all with annotations.
The head
is MakeHuman's (CC0), its expressions are the 52 ARKit units, so the truth is a number that was rendered and not one
that
somebody estimated. What it is not: skin has no photographic texture and hair is painted; a model trained on it knows
renders.
"""

from expllm_jax.sources.rendered.counterfactual import addable_units, counterfactual_face
from expllm_jax.sources.rendered.generate import (
    ANNOTATIONS_FILE,
    FaceSpec,
    RenderedConfig,
    encode_jpeg,
    generate,
    plan,
    render_face,
)
from expllm_jax.sources.rendered.head import HeadModel, load_head
from expllm_jax.sources.rendered.identity import Identity, sample_identity
from expllm_jax.sources.rendered.regimes import (
    INDEPENDENT,
    PRESENT_FROM,
    REGIMES,
    SIDED,
    UNEXPRESSIVE,
    Regime,
    sample_sided,
    sample_units,
)
from expllm_jax.sources.rendered.scene import SIZE, Picture, Scene, frontal, render, sample_scene
from expllm_jax.sources.rendered.visibility import VISIBLE_FROM, VISIBLE_UNITS, displacements, visible_units

__all__ = [
    "ANNOTATIONS_FILE",
    "INDEPENDENT",
    "PRESENT_FROM",
    "REGIMES",
    "SIDED",
    "SIZE",
    "UNEXPRESSIVE",
    "VISIBLE_FROM",
    "VISIBLE_UNITS",
    "FaceSpec",
    "HeadModel",
    "Identity",
    "Picture",
    "Regime",
    "RenderedConfig",
    "Scene",
    "addable_units",
    "counterfactual_face",
    "displacements",
    "encode_jpeg",
    "frontal",
    "generate",
    "load_head",
    "plan",
    "render",
    "render_face",
    "sample_identity",
    "sample_scene",
    "sample_sided",
    "sample_units",
    "visible_units",
]
