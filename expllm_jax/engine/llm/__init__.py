"""The narrator that asks a language model, at any endpoint that speaks OpenAI's chat completions.

``LlmNarrator(LlmConfig(...), replies)`` is the whole of it. Each concern is a module: prompts are files in
``prompts/``, ``client`` sends and tries again, ``cache`` keeps every paid answer, ``budget`` stops before too much is
spent, ``replies`` reads strictly. The package ``openai`` is imported when a narrator is made, not before.
"""

from expllm_jax.engine.llm.config import LlmConfig
from expllm_jax.engine.llm.narrator import LlmNarrator

__all__ = ["LlmConfig", "LlmNarrator"]
