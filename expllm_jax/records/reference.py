"""The tokens of the released ExpLLM code: one string for a whole conversation, read by LLaMA's slow tokenizer.

The released code writes the conversation as one string, with `<im_patch>` once per image token, and leaves the rest to
`LlamaTokenizer` of transformers 4.31.0 (`datasets/facetask.py`, `models/locllm.py`). What that tokenizer does, as read
in its source (`tokenization_utils.py`, `models/llama/tokenization_llama.py`) and checked against it token by token
(tests/golden/make_reference_tokens.py), and what `ReferenceTokenizer` does therefore:

* The string is cut at its special tokens, `<s>`, `</s>`, `<unk>` and the added `<im_patch>`.
* White space on both sides of `<im_patch>` is lost: the space behind "Image:" and the line end before "TASK:". The
  other special tokens keep the white space around them.
* Every chunk between two special tokens is tokenised as a text of its own, so each gets LLaMA's dummy space: the round
  behind a `</s>` begins with "▁T" although nothing separates the two.
* The begin token comes first. The id of `<im_patch>` is the first one behind the vocabulary (32000 for LLaMA), for
  which there is no embedding, and padding is the unknown token.

The released masking counts the tokens of each round's text, and in it those up to the space behind "ASSISTANT:", that
space left out. So it learns each answer, from the piece that holds its space on, and the end token behind it.

The released code truncates at 2,048 tokens; nothing is truncated here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.records.conversation import ConversationTemplate, Round
from expllm_jax.records.template_tokens import TemplateTokens
from expllm_jax.records.tokenizers import IMAGE_PIECE, SentencePieceTokenizer

_SPACE = "▁"  # how SentencePiece writes one


class ReferenceTokenizer(SentencePieceTokenizer):
    """A LLaMA-style SentencePiece model with what the released code makes of it: see the module.

    `image` lies behind the vocabulary, unless the model has an `<im_patch>` piece, and `pad` is the unknown token.

    Args:
      path: a tokenizer.model file.
      legacy: the key of that name in the tokenizer_config.json beside the checkpoint's tokenizer.model; a file without
        it means true. False takes the dummy space off the first piece behind a special token: "T" instead of "▁T".

    Raises:
      ExpllmError: as SentencePieceTokenizer, and for a model that removes white space, which would be lost.
    """

    def __init__(self, path: str | Path, *, legacy: bool = True) -> None:
        super().__init__(path)
        if self._removes_spaces:
            raise ExpllmError(
                f"{path} removes white space from texts, so their line ends and double spaces would be lost",
                'give a LLaMA-style model, or use the layout "branched" or "chained"',
            )
        self.legacy = legacy
        processor = self._processor
        unknown, image = processor.unk_id(), processor.piece_to_id(IMAGE_PIECE)
        self.image = self.vocab_size if image == unknown else image
        self.pad = unknown
        self._silent = {self.bos, self.eos, self.pad, self.image}
        names = [processor.id_to_piece(token) for token in (self.bos, self.eos, unknown)]
        self._special = re.compile("|".join(map(re.escape, [*names, IMAGE_PIECE])))

    def chunk(self, text: str, *, first: bool = False) -> list[int]:
        """Token ids of what stands between two special tokens; `first`: at the beginning of the conversation."""
        spaced = " " + text if self._dummy_space and text else text
        ids = self._without_image(self._processor.encode(spaced), text)
        if self.legacy or first or not ids or text.startswith(" "):
            return ids
        opening = self._processor.id_to_piece(ids[0])
        if not opening.startswith(_SPACE):
            return ids
        # The piece without its space is looked up as it stands: one that the model lacks becomes the unknown token.
        rest = opening.removeprefix(_SPACE)
        return [self._processor.piece_to_id(rest), *ids[1:]] if rest else ids[1:]

    def special_in(self, text: str) -> str:
        """The first special token that is written out in `text`; "" if there is none."""
        found = self._special.search(text)
        return found.group() if found else ""


@dataclass(frozen=True)
class ReferenceTokens:
    """A conversation as the released code tokenises it."""

    ids: list[int]
    prefix: int  # how many of them reach to the last image token
    answers: list[tuple[int, int]]  # of every round: first supervised token, and one past its end token


class ReferenceTemplateTokens(TemplateTokens):
    """A template's texts as the released code tokenises them: chunks between special tokens.

    Raises ExpllmError where a text is asked for that holds a special token.
    """

    tokenizer: ReferenceTokenizer

    def opening(self) -> tuple[int, ...]:
        return self._ids(self.template.prefix_text().rstrip(), first=True)

    def prompt(self, task: str, *, after_image: bool) -> tuple[int, ...]:
        return self._ids(self.prompt_text(task, after_image=after_image))

    def prompt_text(self, task: str, *, after_image: bool) -> str:
        """The prompt as it is read: white space next to the image tokens is lost."""
        text = self.template.prompt_text(task, after_image=after_image)
        return text.lstrip() if after_image else text

    def _read(self, text: str, *, first: bool) -> list[int]:
        if special := self.tokenizer.special_in(text):
            raise ExpllmError(
                f"the conversation template {self.template.name!r} holds the special token {special}",
                "take it out: special tokens are put in by the encoder alone",
            )
        ids = self.tokenizer.chunk(text, first=first)
        return [self.tokenizer.bos, *ids] if first else ids


def reference_tokens(
    rounds: Sequence[Round], texts: ReferenceTemplateTokens, image_tokens: int, *, asked: str = ""
) -> ReferenceTokens:
    """The conversation in which `rounds` have been answered and, if `asked` names a task, that is asked next.

    A special token that is written out in an answer is plain text here; see `check_readable`.

    Raises ExpllmError for a template with a special token, or a model whose pieces span prompt and answer.
    """
    template, tokenizer = texts.template, texts.tokenizer
    ids = [*texts.opening(), *[tokenizer.image] * image_tokens]
    prefix, answers = len(ids), []
    for number, round_ in enumerate(rounds):
        after_image = number == 0
        given = texts.prompt(round_.task, after_image=after_image)
        prompt = texts.prompt_text(round_.task, after_image=after_image)
        both = tokenizer.chunk(prompt + template.answer_text(round_.answer))
        if tuple(both[: len(given)]) != given:
            raise ExpllmError(
                f"{tokenizer.path} has a piece that spans {template.roles.assistant!r} and the answer behind it",
                "use a tokenizer whose pieces end at a space, as LLaMA's do",
            )
        answers.append((len(ids) + len(given), len(ids) + len(both) + 1))
        ids += [*both, tokenizer.eos]
    if asked:
        ids += texts.prompt(asked, after_image=not rounds)
    return ReferenceTokens(ids, prefix, answers)


def check_readable(rounds: Sequence[Round], template: ConversationTemplate, tokenizer: ReferenceTokenizer) -> None:
    """Raises ExpllmError for an answer that the released code would misread: a special token is written out in it, or
    a line that opens a round."""
    opens = [f"\n{role} " for role in (template.roles.task, template.roles.assistant)]
    for round_ in rounds:
        answer = round_.answer
        found = tokenizer.special_in(answer) or next((text for text in opens if text in answer), "")
        if found:
            raise ExpllmError(
                f"the answer {answer[:60]!r} of a {round_.task!r} round holds {found!r}, which the released code reads "
                "as part of the conversation",
                'take it out of the text, or use the layout "branched" or "chained"',
            )
