"""The Exp-CoT Engine: writes the chain-of-thought text of an annotated face, and accepts it only if it is true.

``ExpCotLoop`` takes an annotation through the steps of the paper's figure (``steps``) and ends in an ``Outcome``; it
asks a ``Narrator``, of which there are two: ``OfflineNarrator`` (rules and tables) and ``llm.LlmNarrator`` (any
OpenAI-compatible endpoint). ``run`` does so for a file and can be killed, ``beam`` on a cluster. ``narrate`` is the
offline narrator's last step alone: from action units to a text of three parts, in a full style like the released texts
or in a brief one for very small decoders.
"""

from expllm_jax.engine.loop import EngineConfig, ExpCotLoop
from expllm_jax.engine.narration import BudgetSpent, Inference, Narrator, NarratorFailed, UnusableReply, Verdict
from expllm_jax.engine.narrator import NarratorConfig, narrate
from expllm_jax.engine.offline_narrator import OfflineNarrator
from expllm_jax.engine.outcome import Outcome

__all__ = [
    "BudgetSpent",
    "EngineConfig",
    "ExpCotLoop",
    "Inference",
    "Narrator",
    "NarratorConfig",
    "NarratorFailed",
    "OfflineNarrator",
    "Outcome",
    "UnusableReply",
    "Verdict",
    "narrate",
]
