"""Rendered faces: unlimited people whose action units are known exactly.

`plan` lists the faces of a `RenderedConfig`, `render_face` makes one, `generate` writes them all with annotations.
The head
is MakeHuman's (CC0), its expressions are the 52 ARKit units, so the truth is a number that was rendered and not one
that
somebody estimated. What it is not: skin has no photographic texture and hair is painted; a model trained on it knows
renders.
"""

from expllm_jax.sources.rendered.generate import (
    ANNOTATIONS_FILE,
    FaceSpec,
    RenderedConfig,
    generate,
    plan,
    render_face,
)
from expllm_jax.sources.rendered.head import HeadModel, load_head
from expllm_jax.sources.rendered.identity import Identity, sample_identity
from expllm_jax.sources.rendered.regimes import INDEPENDENT, PRESENT_FROM, REGIMES, Regime, sample_units
from expllm_jax.sources.rendered.scene import SIZE, Picture, Scene, frontal, render, sample_scene

__all__ = [
    "ANNOTATIONS_FILE",
    "INDEPENDENT",
    "PRESENT_FROM",
    "REGIMES",
    "SIZE",
    "FaceSpec",
    "HeadModel",
    "Identity",
    "Picture",
    "Regime",
    "RenderedConfig",
    "Scene",
    "frontal",
    "generate",
    "load_head",
    "plan",
    "render",
    "render_face",
    "sample_identity",
    "sample_scene",
    "sample_units",
]
