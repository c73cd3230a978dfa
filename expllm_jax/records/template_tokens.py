"""The texts of a conversation template as token ids, each tokenised once for all the rows that it stands in."""

from __future__ import annotations

from expllm_jax.records.conversation import ConversationTemplate
from expllm_jax.records.tokenizers import Tokenizer


class TemplateTokens:
    """What stands around the answers, for rows of separately tokenised texts."""

    def __init__(self, template: ConversationTemplate, tokenizer: Tokenizer) -> None:
        self.template, self.tokenizer = template, tokenizer
        self._known: dict[tuple[str, bool], tuple[int, ...]] = {}

    def opening(self) -> tuple[int, ...]:
        """The begin token and what stands before the image tokens."""
        return self._ids(self.template.prefix_text(), first=True)

    def prompt(self, task: str, *, after_image: bool) -> tuple[int, ...]:
        """A task's text up to "ASSISTANT:"; see `ConversationTemplate.prompt_text`."""
        return self._ids(self.template.prompt_text(task, after_image=after_image))

    def _ids(self, text: str, *, first: bool = False) -> tuple[int, ...]:
        found = self._known.get((text, first))
        if found is None:
            found = self._known[text, first] = tuple(self._read(text, first=first))
        return found

    def _read(self, text: str, *, first: bool) -> list[int]:
        return self.tokenizer.encode(text, first=first)
