"""The tokens of a row: what stands where, which segment and position it has, and how much each answer weighs.

`records.encode` says what the layouts mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.records.conversation import ConversationTemplate, Round
from expllm_jax.records.encode_config import check_layout, checked_weighting, round_shares
from expllm_jax.records.reference import (
    ReferenceTemplateTokens,
    ReferenceTokenizer,
    check_readable,
    reference_tokens,
)
from expllm_jax.records.template_tokens import TemplateTokens
from expllm_jax.records.tokenizers import Tokenizer

PADDING, PREFIX = 0, 1
"""Segment numbers, as the model's attention mask reads them; rounds count up from PREFIX + 1."""


@dataclass(frozen=True, eq=False)
class EncodedRow:
    """One row, T tokens long; all arrays are [T].

    tokens: int32 ids. positions: int32, for RoPE. segments: int32, see `records.encode`. loss_weights: float32, the
    weight of *predicting* tokens[t] (from what stands before it), 0 for everything that is given; over a training row
    they sum to 1.
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


@dataclass
class _Row:
    """A row before it is known how much each of its answers weighs."""

    tokens: list[int]
    runs: list[tuple[int, int, int]]  # tokens that count on: position of the first, segment, how many
    answers: list[tuple[int, int]]  # of every round: first supervised token, and one past its end token

    def encoded(self, shares: Sequence[float] = ()) -> EncodedRow:
        """The row with each answer's share spread evenly over its tokens; without shares, nothing is learnt."""
        weights = np.zeros(len(self.tokens), np.float32)
        for (start, end), share in zip(self.answers, shares, strict=False):
            weights[start:end] = share / (end - start)
        starts, segments, lengths = np.asarray(self.runs, np.int32).T
        before = np.cumsum(lengths, dtype=np.int32) - lengths
        positions = np.repeat(starts - before, lengths) + np.arange(len(self.tokens), dtype=np.int32)
        return EncodedRow(np.asarray(self.tokens, np.int32), positions, np.repeat(segments, lengths), weights)


def template_tokens(template: ConversationTemplate, tokenizer: Tokenizer, layout: str) -> TemplateTokens:
    """The template's tokens as `layout` needs them; raises ExpllmError if it cannot use the tokenizer."""
    check_kind(layout, tokenizer)
    if isinstance(tokenizer, ReferenceTokenizer):
        return ReferenceTemplateTokens(template, tokenizer)
    return TemplateTokens(template, tokenizer)


def training_row(
    rounds: Sequence[Round],
    texts: TemplateTokens,
    image_tokens: int,
    layout: str,
    weighting: str,
    label_weight: float,
    cot_weight: float,
) -> EncodedRow:
    """See `encode_record`."""
    check_layout(image_tokens, layout)
    weighting = checked_weighting(layout, weighting, label_weight, cot_weight)
    shares = round_shares([round_.task for round_ in rounds], label_weight, cot_weight)
    row = _row(rounds, texts, image_tokens, layout)
    if isinstance(texts, ReferenceTemplateTokens):
        check_readable(rounds, texts.template, texts.tokenizer)
    lengths = [end - start for start, end in row.answers]
    if weighting == "tokens":
        shares = [length / sum(lengths) for length in lengths]
    return row.encoded(shares)


def prompt_row(
    task: str, history: Sequence[Round], texts: TemplateTokens, image_tokens: int, layout: str
) -> EncodedRow:
    """See `encode_prompt`."""
    layout = "chained" if layout == "branched" else layout
    return _row(history, texts, image_tokens, layout, asked=task).encoded()


def answer_tokens(task: str, answer: str, history: Sequence[Round], texts: TemplateTokens, layout: str) -> list[int]:
    """The ids of an answer behind `prompt_row`, without its end token."""
    row = _row([*history, Round(task, answer)], texts, 0, "chained" if layout == "branched" else layout)
    start, end = row.answers[-1]
    return row.tokens[start : end - 1]


def _row(rounds: Sequence[Round], texts: TemplateTokens, image_tokens: int, layout: str, *, asked: str = "") -> _Row:
    """The row in which `rounds` have been answered and, if `asked` names a task, that is asked next."""
    if isinstance(texts, ReferenceTemplateTokens):
        found = reference_tokens(rounds, texts, image_tokens, asked=asked)
        runs = [(0, PREFIX, found.prefix), (found.prefix, PREFIX + 1, len(found.ids) - found.prefix)]
        return _Row(found.ids, runs, found.answers)
    builder = _RowBuilder(texts, image_tokens, layout)
    for round_ in rounds:
        builder.ask(round_.task)
        builder.answer(round_.answer)
    if asked:
        builder.ask(asked)
    return builder.row


class _RowBuilder:
    """Grows a row of separately tokenised texts."""

    def __init__(self, texts: TemplateTokens, image_tokens: int, layout: str) -> None:
        self._texts, self._branched = texts, layout == "branched"
        self._segment = PREFIX
        self.row = _Row([], [], [])
        self._add([*texts.opening(), *[texts.tokenizer.image] * image_tokens])
        self._prefix_length = len(self.row.tokens)

    def ask(self, task: str) -> None:
        """Adds the prompt of a round, in a new branch if the layout has branches."""
        opening = self._segment == PREFIX
        self._segment = self._segment + 1 if self._branched or opening else self._segment
        after_image = self._branched or opening
        start = self._prefix_length if after_image else len(self.row.tokens)
        self._add(self._texts.prompt(task, after_image=after_image), start=start)

    def answer(self, answer: str) -> None:
        """Adds the answer and the end token."""
        start = len(self.row.tokens)
        template, tokenizer = self._texts.template, self._texts.tokenizer
        ids = [*tokenizer.encode(template.answer_text(answer)), tokenizer.eos]
        asked_at, _, length = self.row.runs[-1]
        self._add(ids, start=asked_at + length)
        self.row.answers.append((start, start + len(ids)))

    def _add(self, ids: Sequence[int], *, start: int = 0) -> None:
        self.row.tokens += ids
        self.row.runs.append((start, self._segment, len(ids)))


def check_kind(layout: str, tokenizer: Tokenizer, *, needed: type = ReferenceTokenizer) -> None:
    """Raises ExpllmError unless `tokenizer` belongs to the layout: "reference" has a kind of its own."""
    if layout == "reference" and not isinstance(tokenizer, needed):
        raise ExpllmError(
            f'the layout "reference" cannot use a {type(tokenizer).__name__}',
            "open a LLaMA-style tokenizer.model with open_tokenizer, or use another layout",
        )
    if layout != "reference" and isinstance(tokenizer, ReferenceTokenizer):
        raise ExpllmError(
            f'a ReferenceTokenizer does not belong to the layout "{layout}"', "open the file with open_tokenizer"
        )
