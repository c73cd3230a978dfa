"""Writes the chain-of-thought text of an annotated face.

``narrate`` is the narrator that needs no language model: it turns action units into a text of three parts that is true
to them, in a full style like the released texts or in a brief one for very small decoders.
"""

from expllm_jax.engine.narrator import NarratorConfig, narrate

__all__ = ["NarratorConfig", "narrate"]
