"""A conversation about one picture as one row of tokens, with what may be seen and what is learnt.

Three layouts:

* "branched": the prefix (begin token, system line, image tokens) is segment 1, and every round is a branch of its own,
  segment 2, 3, …, whose positions restart right behind the prefix. With the model's mask (a token sees segment 1 and
  its own segment) the row computes what one row per round would, and pays for the picture once.
* "chained": all rounds stand in segment 2 one behind the other, so that a round sees those before it. This is how the
  reference trains (ExpLLM released code, `datasets/facetask.py`); the order of the rounds is the caller's.
* "reference": chained as well, and with the very tokens of the released code, which come from one string for the whole
  conversation (see `records.reference`). It is what a released checkpoint has learnt from.

In the first two every text is tokenised on its own and the tokens are joined, in training and in inference alike. In
all three a prompt for inference is, token for token, the beginning of a training row.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from expllm_jax.cot.mirror import mirror_text
from expllm_jax.faces import Annotation
from expllm_jax.faces.mirror import mirrored
from expllm_jax.records.answers import LOCATED_TASKS, Size, check_task
from expllm_jax.records.conversation import ConversationTemplate, Round, rounds_of
from expllm_jax.records.encode_config import COT_WEIGHT, LABEL_WEIGHT, EncodeConfig, check_layout
from expllm_jax.records.framing import padded_square
from expllm_jax.records.pictures import open_picture
from expllm_jax.records.preparation import stored_picture
from expllm_jax.records.reference import ReferenceTokenizer
from expllm_jax.records.round_order import QUESTION_INDEX, choose_rounds
from expllm_jax.records.rows import EncodedRow, answer_tokens, check_kind, prompt_row, template_tokens, training_row
from expllm_jax.records.template_tokens import TemplateTokens
from expllm_jax.records.tokenizers import SentencePieceTokenizer, Tokenizer, load_tokenizer


def encode_record(
    rounds: Sequence[Round],
    template: ConversationTemplate,
    tokenizer: Tokenizer,
    image_tokens: int,
    layout: str = "branched",
    *,
    weighting: str = "",
    label_weight: float = LABEL_WEIGHT,
    cot_weight: float = COT_WEIGHT,
) -> EncodedRow:
    """The training row of one picture's `rounds`.

    Supervised are the answers and the end token behind each. The weights of a row sum to 1, so that the loss is a mean
    over records, which neither batch size nor packing changes. Within the row, with `weighting` "rounds" a round's
    weight (label_weight, cot_weight or OTHER_WEIGHT over the sum of those present) is spread evenly over its supervised
    tokens; with "tokens" every supervised token of the row weighs the same, as in the released code, whose 3 : 1 of
    labels to texts comes from repeating records instead (`records.list_file`). "" is "tokens" in the layout "reference"
    and "rounds" in the others.

    Raises ExpllmError for no rounds, an unknown layout or weighting, weights that are negative, all zero or without
    effect, image_tokens out of range, a tokenizer that the layout cannot use, or a text that holds the image
    placeholder (or what `check_readable` refuses).
    """
    texts = template_tokens(template, tokenizer, layout)
    return training_row(rounds, texts, image_tokens, layout, weighting, label_weight, cot_weight)


def encode_prompt(
    task: str,
    template: ConversationTemplate,
    tokenizer: Tokenizer,
    image_tokens: int,
    layout: str = "branched",
    *,
    history: Sequence[Round] = (),
) -> EncodedRow:
    """What generation starts from: exactly a training row up to and including "ASSISTANT:", with no loss weights.

    Without `history` it is the prefix and this task's branch, whichever branch that was in training (and the first
    round of a chained row). With `history` it is the chained row in which those rounds have been answered.
    """
    check_task(task)
    check_layout(image_tokens, layout)
    return prompt_row(task, history, template_tokens(template, tokenizer, layout), image_tokens, layout)


def decode_answer(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The answer in generated `ids`: up to the first end token, without the space that joins it to "ASSISTANT:".

    A ReferenceTokenizer's answer is stripped of all white space around it, as the released code does.
    """
    ids = [int(token) for token in ids]
    if tokenizer.eos in ids:
        ids = ids[: ids.index(tokenizer.eos)]
    text = tokenizer.decode(ids)
    return text.strip() if isinstance(tokenizer, ReferenceTokenizer) else text.removeprefix(" ")


def open_tokenizer(path: str | Path, config: EncodeConfig) -> Tokenizer:
    """The tokenizer file at `path` as `config.layout` needs it. Raises ExpllmError if it is of the wrong kind."""
    tokenizer = load_tokenizer(path)
    if config.layout == "reference":
        check_kind(config.layout, tokenizer, needed=SentencePieceTokenizer)
        return ReferenceTokenizer(path, legacy=config.legacy)
    return tokenizer


@dataclass(frozen=True, eq=False)
class Record:
    """One stored example: one picture as encoded bytes (JPEG or PNG), what is known of it, and its rows.

    A record never holds more than that one picture. Rows of several pictures are made when batches are packed
    (`records.packing`), out of records whose segments do not see each other.

    Where it comes from is in the annotation: `split`, and in `provenance` what the reader (data set, label file, line)
    and the CoT engine wrote, unchanged. Template, tokenizer and configuration are the same for all records of a folder
    and stand in its manifest.
    """

    id: str  # unique in the data set
    picture: bytes
    annotation: Annotation  # positions in pixels of `picture`
    row: EncodedRow
    mirrored: EncodedRow | None = None  # the row of the mirrored picture; None where it equals `row`
    located: bool = False  # a round states positions or angles, which only the flip keeps true (by way of `mirrored`)


@dataclass(frozen=True)
class RecordEncoder:
    """Template, tokenizer and configuration together: annotation in, record out; and the matching prompts.

    Raises ExpllmError if the layout cannot use the tokenizer (`open_tokenizer` gives one that it can), or the template
    has no words for a task.
    """

    template: ConversationTemplate
    tokenizer: Tokenizer
    config: EncodeConfig

    def __post_init__(self) -> None:
        check_kind(self.config.layout, self.tokenizer)
        for task in self.config.tasks:
            self.template.check_worded(task)

    def rounds(self, annotation: Annotation, size: Size | None = None, *, draw: int = 0) -> tuple[Round, ...]:
        """The annotation's rounds in `config`'s order.

        Args:
          annotation: what is known of the face.
          size: width and height of the picture whose pixels the annotation counts; "bbox" and "landmark" need it.
          draw: counts the copies (or epochs) of an annotation that are to differ. A shuffled order is a function of
            order_seed, the picture's name and this.

        Raises ExpllmError as `rounds_of` and `choose_rounds`.
        """
        config = self.config
        rounds = rounds_of(annotation, config.tasks, size)
        if config.order == "tasks":
            return rounds
        rng = np.random.default_rng([config.order_seed, zlib.crc32(annotation.picture.encode()), draw])
        by_task = {round_.task: round_ for round_ in rounds}
        return tuple(by_task[task] for task in choose_rounds(by_task, QUESTION_INDEX[config.order], rng))

    def mirrored_rounds(self, annotation: Annotation, size: Size, *, draw: int = 0) -> tuple[Round, ...]:
        """The rounds of the mirrored picture, in the order of `rounds` with the same arguments: left and right change
        places in texts, positions and angles."""
        # The square is what gets mirrored; padding may be a pixel wider on one side of the picture.
        side = max(size)
        flipped = mirrored(padded_square(size).moved(annotation, side), side)
        cot, caption = (text and mirror_text(text) for text in (flipped.cot, flipped.caption))
        return self.rounds(replace(flipped, cot=cot, caption=caption), (side, side), draw=draw)

    def row(self, annotation: Annotation, size: Size | None = None, *, draw: int = 0) -> EncodedRow:
        """The training row of the annotation's rounds, as `config` says."""
        return self._row(self.rounds(annotation, size, draw=draw))

    def record(self, annotation: Annotation, picture: bytes | str | Path, *, id: str = "", draw: int = 0) -> Record:
        """The record of `annotation`; `picture` is a file or its content. The id is the annotation's picture path by
        default.

        Raises ExpllmError naming the picture if it cannot be read (see `pictures.read_picture`), or if it cannot be
        said where in it the annotation's positions are.
        """
        content, annotation, size = stored_picture(
            open_picture(picture, name=annotation.picture), annotation, self.config
        )
        rounds = self.rounds(annotation, size, draw=draw)
        flipped = self.mirrored_rounds(annotation, size, draw=draw) if self.config.mirror else rounds
        return Record(
            id or annotation.picture,
            content,
            annotation,
            self._row(rounds),
            mirrored=None if flipped == rounds else self._row(flipped),
            located=any(round_.task in LOCATED_TASKS for round_ in rounds),
        )

    def _row(self, rounds: Sequence[Round]) -> EncodedRow:
        config = self.config
        return training_row(
            rounds, self._texts, config.image_tokens, config.layout,
            config.weighting, config.label_weight, config.cot_weight,
        )  # fmt: skip

    @cached_property
    def _texts(self) -> TemplateTokens:
        return template_tokens(self.template, self.tokenizer, self.config.layout)

    def prompt(self, task: str, *, history: Sequence[Round] = ()) -> EncodedRow:
        """See `encode_prompt`."""
        check_task(task)
        return prompt_row(task, history, self._texts, self.config.image_tokens, self.config.layout)

    def answer_tokens(self, task: str, answer: str, *, history: Sequence[Round] = ()) -> list[int]:
        """The ids of an answer (or of how it begins) as they stand behind `prompt`, without the end token.

        Raises ExpllmError for an empty answer.
        """
        return answer_tokens(task, answer, history, self._texts, self.config.layout)
