"""A conversation about one picture as one row of tokens, with what may be seen and what is learnt.

Two layouts:

* "branched": the prefix (begin token, system line, image tokens) is segment 1, and every round is a branch of its own,
  segment 2, 3, …, whose positions restart right behind the prefix. With the model's mask (a token sees segment 1 and
  its own segment) the row computes what one row per round would, and pays for the picture once.
* "chained": all rounds stand in segment 2 one behind the other, so that a round sees those before it. This is how the
  reference trains (ExpLLM released code, `datasets/facetask.py`); the order of the rounds is the caller's.

Every text is tokenised on its own and the tokens are joined, in training and in inference alike; so a prompt for
inference is, token for token, the beginning of a training row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.records.conversation import TASKS, ConversationTemplate, Round, check_task, rounds_of
from expllm_jax.records.pictures import storable_picture
from expllm_jax.records.tokenizers import Tokenizer

LAYOUTS = ("branched", "chained")
PADDING, PREFIX = 0, 1
"""Segment numbers, as the model's attention mask reads them; rounds count up from PREFIX + 1."""


@dataclass(frozen=True, eq=False)
class EncodedRow:
    """One row, T tokens long; all arrays are [T].

    tokens: int32 ids. positions: int32, for RoPE. segments: int32, see the module. loss_weights: float32, the weight of
    *predicting* tokens[t] (from what stands before it), 0 for everything that is given; over a training row they sum to
    1.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    loss_weights: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedRow) and all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)
        )


@dataclass(frozen=True)
class EncodeConfig:
    """How annotations become rows."""

    image_tokens: int = 256  # placeholders per picture, as many as the projector gives; 1 to 4096
    layout: str = "branched"  # "branched" or "chained"
    tasks: tuple[str, ...] = TASKS  # which rounds, in which order; those an annotation has no answer for are left out
    label_weight: float = 3.0  # share of the label round in the loss, against …
    cot_weight: float = 1.0  # … that of the CoT round (3 : 1 as ExpLLM's lists repeat them); 0 learns nothing from it

    def __post_init__(self) -> None:
        _check_layout(self.image_tokens, self.layout)
        _round_weights(self.tasks, self.label_weight, self.cot_weight)
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ExpllmError(f"tasks {self.tasks} is empty or names a task twice", f"choose among {', '.join(TASKS)}")


def encode_record(
    rounds: Sequence[Round],
    template: ConversationTemplate,
    tokenizer: Tokenizer,
    image_tokens: int,
    layout: str = "branched",
    *,
    label_weight: float = 3.0,
    cot_weight: float = 1.0,
) -> EncodedRow:
    """The training row of one picture's `rounds`.

    Supervised are the answers and the end token behind each. A round's weight (label_weight or cot_weight over the sum
    of those present) is spread evenly over its supervised tokens, so the row sums to 1: the loss is a mean over records
    of means over tokens, which neither batch size nor packing changes.

    Raises ExpllmError for no rounds, an unknown layout, weights that are negative or all zero, image_tokens out of
    range, or a text that holds the image placeholder.
    """
    _check_layout(image_tokens, layout)
    weights = _round_weights([round_.task for round_ in rounds], label_weight, cot_weight)
    row = _RowBuilder(template, tokenizer, image_tokens, layout)
    for round_, weight in zip(rounds, weights, strict=True):
        row.ask(round_.task)
        row.answer(round_.answer, weight)
    return row.build()


def encode_prompt(
    task: str,
    template: ConversationTemplate,
    tokenizer: Tokenizer,
    image_tokens: int,
    *,
    history: Sequence[Round] = (),
) -> EncodedRow:
    """What generation starts from: exactly a training row up to and including "ASSISTANT:", with no loss weights.

    Without `history` it is the prefix and this task's branch, whichever branch that was in training (and the first
    round of a chained row). With `history` it is the chained row in which those rounds have been answered.
    """
    check_task(task)
    _check_layout(image_tokens, "chained")
    row = _RowBuilder(template, tokenizer, image_tokens, "chained")
    for round_ in history:
        row.ask(round_.task)
        row.answer(round_.answer, 0.0)
    row.ask(task)
    return row.build()


def decode_answer(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The answer in generated `ids`: up to the first end token, without the space that joins it to "ASSISTANT:"."""
    ids = [int(token) for token in ids]
    if tokenizer.eos in ids:
        ids = ids[: ids.index(tokenizer.eos)]
    return tokenizer.decode(ids).removeprefix(" ")


@dataclass(frozen=True, eq=False)
class Record:
    """One stored example: the picture as encoded bytes (JPEG or PNG), what is known of it, and its row."""

    id: str  # unique in the data set
    picture: bytes
    annotation: Annotation
    row: EncodedRow


@dataclass(frozen=True)
class RecordEncoder:
    """Template, tokenizer and configuration together: annotation in, record out; and the matching prompts."""

    template: ConversationTemplate
    tokenizer: Tokenizer
    config: EncodeConfig

    def row(self, annotation: Annotation) -> EncodedRow:
        """The training row of the annotation's rounds, as `config` says."""
        config = self.config
        return encode_record(
            rounds_of(annotation, config.tasks), self.template, self.tokenizer, config.image_tokens, config.layout,
            label_weight=config.label_weight, cot_weight=config.cot_weight,
        )  # fmt: skip

    def record(self, annotation: Annotation, picture: bytes | str | Path, *, id: str = "") -> Record:
        """The record of `annotation`; `picture` is a file or its content. The id is the annotation's picture path by
        default.

        Raises ExpllmError naming the picture if it cannot be read (see `pictures.read_picture`).
        """
        content = storable_picture(picture, name=annotation.picture)
        return Record(id or annotation.picture, content, annotation, self.row(annotation))

    def prompt(self, task: str, *, history: Sequence[Round] = ()) -> EncodedRow:
        """See `encode_prompt`."""
        return encode_prompt(task, self.template, self.tokenizer, self.config.image_tokens, history=history)


def pad_row(row: EncodedRow, length: int, pad_token: int) -> EncodedRow:
    """`row` filled up on the right to `length` with segment 0 and weight 0. Raises ExpllmError if it is longer."""
    missing = length - len(row)
    if missing < 0:
        raise ExpllmError(
            f"a row of {len(row)} tokens does not fit into {length}", f"set row_length to {len(row)} or more"
        )
    return EncodedRow(
        np.pad(row.tokens, (0, missing), constant_values=pad_token),
        np.pad(row.positions, (0, missing)),
        np.pad(row.segments, (0, missing), constant_values=PADDING),
        np.pad(row.loss_weights, (0, missing)),
    )


class _RowBuilder:
    """Grows a row text by text."""

    def __init__(self, template: ConversationTemplate, tokenizer: Tokenizer, image_tokens: int, layout: str) -> None:
        self._template, self._tokenizer, self._branched = template, tokenizer, layout == "branched"
        self._segment = PREFIX
        self._tokens: list[int] = []
        self._positions: list[int] = []
        self._segments: list[int] = []
        self._weights: list[float] = []
        self._add(tokenizer.encode(template.prefix_text(), first=True) + [tokenizer.image] * image_tokens)
        self._prefix_length = len(self._tokens)

    def ask(self, task: str) -> None:
        """Adds the prompt of a round, in a new branch if the layout has branches."""
        opening = self._segment == PREFIX
        self._segment = self._segment + 1 if self._branched or opening else self._segment
        after_image = self._branched or opening
        start = self._prefix_length if after_image else len(self._tokens)
        self._add(self._tokenizer.encode(self._template.prompt_text(task, after_image=after_image)), start=start)

    def answer(self, answer: str, weight: float) -> None:
        """Adds the answer and the end token, which share `weight`."""
        ids = [*self._tokenizer.encode(self._template.answer_text(answer)), self._tokenizer.eos]
        self._add(ids, start=self._positions[-1] + 1, weight=weight / len(ids))

    def build(self) -> EncodedRow:
        return EncodedRow(
            np.asarray(self._tokens, np.int32),
            np.asarray(self._positions, np.int32),
            np.asarray(self._segments, np.int32),
            np.asarray(self._weights, np.float32),
        )

    def _add(self, ids: list[int], *, start: int = 0, weight: float = 0.0) -> None:
        self._tokens += ids
        self._positions += range(start, start + len(ids))
        self._segments += [self._segment] * len(ids)
        self._weights += [weight] * len(ids)


def _check_layout(image_tokens: int, layout: str) -> None:
    if layout not in LAYOUTS:
        raise ExpllmError(f"unknown layout {layout!r}", f"use one of: {', '.join(LAYOUTS)}")
    if not 1 <= image_tokens <= 4096:
        raise ExpllmError(f"image_tokens is {image_tokens}", "use a number from 1 to 4096")


def _round_weights(tasks: Sequence[str], label_weight: float, cot_weight: float) -> list[float]:
    """Shares of the rounds in a row's loss; they sum to 1."""
    for task in tasks:
        check_task(task)
    shares = {"label": label_weight, "cot": cot_weight}
    total = sum(shares[task] for task in tasks)
    if not tasks or min(label_weight, cot_weight) < 0 or not 0 < total < float("inf"):
        raise ExpllmError(
            f"nothing to learn: rounds {list(tasks)} with label_weight {label_weight} and cot_weight {cot_weight}",
            "give at least one round a weight above 0, and none a negative one",
        )
    return [shares[task] / total for task in tasks]
