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
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from expllm_jax.cot.mirror import mirror_text
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.faces.mirror import mirrored
from expllm_jax.records.answers import LOCATED_TASKS, TASKS, Size, check_task
from expllm_jax.records.conversation import EXPRESSION_TASKS, ConversationTemplate, Round, rounds_of
from expllm_jax.records.framing import Region, face_region, padded_square
from expllm_jax.records.pictures import (
    RESIZES,
    SMALLEST_SIDE,
    OpenPicture,
    check_picture_format,
    check_resize,
    encoded_picture,
    open_picture,
    prepared_picture,
)
from expllm_jax.records.reference import (
    ReferenceTemplateTokens,
    ReferenceTokenizer,
    check_readable,
    reference_tokens,
)
from expllm_jax.records.round_order import QUESTION_INDEX, choose_rounds
from expllm_jax.records.template_tokens import TemplateTokens
from expllm_jax.records.tokenizers import SentencePieceTokenizer, Tokenizer, load_tokenizer

LAYOUTS = ("branched", "chained", "reference")
WEIGHTINGS = ("rounds", "tokens")
LABEL_WEIGHT, COT_WEIGHT = 3.0, 1.0
"""Of the rounds in a row's loss by default: 3 : 1, as ExpLLM's lists repeat label and CoT records."""
OTHER_WEIGHT = 1.0
"""Of a round of any other task: ExpLLM's lists for those have every record once."""
PICTURES = ("original", "square", "face")
PICTURE_SIZE = 224
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
    layout: str = "branched"  # "branched", "chained" or "reference"
    tasks: tuple[str, ...] = EXPRESSION_TASKS  # which rounds, in which order; without those that have no answer
    order: str = "tasks"  # "tasks", or "all", "box", "box_first", "shuffled": see records.round_order
    order_seed: int = 0  # of the shuffled orders, together with the picture's name; 0 to 2³² - 1
    weighting: str = ""  # of the loss: "rounds", "tokens"; "" is "tokens" in layout "reference" and "rounds" in others
    label_weight: float = LABEL_WEIGHT  # with "rounds": share of the label round in the loss, against …
    cot_weight: float = COT_WEIGHT  # … that of the CoT round; 0 learns nothing from it
    legacy: bool = True  # layout "reference": the key of that name in the checkpoint's tokenizer_config.json
    mirror: bool = True  # make the row of the mirrored picture as well; False where training never flips
    picture: str = "original"  # what is stored: "original", as the file has it; "square", padded and resized; or …
    crop_margin: float = 0.0  # … "face", cut to the face box and this part of its size on each side, then "square"
    picture_size: int = PICTURE_SIZE  # pixels a side of what is stored, unless it is "original"
    resize: str = "antialiased"  # to that size; "reference" does it as OpenCV does, which aliases
    picture_format: str = "png"  # of what is stored, unless "original": "png", or "jpeg", which is not exact

    def __post_init__(self) -> None:
        _check_layout(self.image_tokens, self.layout)
        _check_weighting(self.layout, self.weighting, self.label_weight, self.cot_weight)
        _round_weights(self.tasks, self.label_weight, self.cot_weight)
        if self.order not in ("tasks", *QUESTION_INDEX):
            raise ExpllmError(f"unknown order {self.order!r}", f"use one of: tasks, {', '.join(QUESTION_INDEX)}")
        if not 0 <= self.order_seed < 2**32:
            raise ExpllmError(f"order_seed is {self.order_seed}", "use 0 to 4294967295")
        if not self.legacy and self.layout != "reference":
            raise ExpllmError(
                f'legacy is false, which has no effect in layout "{self.layout}"',
                'leave it out, or set layout="reference"',
            )
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ExpllmError(f"tasks {self.tasks} is empty or names a task twice", f"choose among {', '.join(TASKS)}")
        self._check_picture()

    def _check_picture(self) -> None:
        check_picture_format(self.picture_format)
        check_resize(self.resize)
        made = (self.picture_size, self.resize, self.picture_format)
        for holds, problem, remedy in (
            (self.picture in PICTURES, f"unknown picture {self.picture!r}", f"use one of: {', '.join(PICTURES)}"),
            (SMALLEST_SIDE <= self.picture_size <= 4096, f"picture_size is {self.picture_size}",
             f"use {SMALLEST_SIDE} to 4096"),
            (0 <= self.crop_margin <= 4, f"crop_margin is {self.crop_margin}", "use 0 to 4"),
            (self.picture == "face" or self.crop_margin == 0, "crop_margin has no effect without a crop",
             'leave it out, or set picture="face"'),
            (self.picture != "original" or made == (PICTURE_SIZE, RESIZES[0], "png"),
             "picture_size, resize and picture_format have no effect on original pictures",
             'leave them out, or set picture="square"'),
        ):  # fmt: skip
            if not holds:
                raise ExpllmError(problem, remedy)


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
    texts = _template_tokens(template, tokenizer, layout)
    return _training_row(rounds, texts, image_tokens, layout, weighting, label_weight, cot_weight)


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
    _check_layout(image_tokens, layout)
    return _prompt_row(task, history, _template_tokens(template, tokenizer, layout), image_tokens, layout)


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
        _check_kind(config.layout, tokenizer, needed=SentencePieceTokenizer)
        return ReferenceTokenizer(path, legacy=config.legacy)
    return tokenizer


@dataclass(frozen=True, eq=False)
class Record:
    """One stored example: the picture as encoded bytes (JPEG or PNG), what is known of it, and its rows.

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
        _check_kind(self.config.layout, self.tokenizer)
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
        content, annotation, size = self._prepared(open_picture(picture, name=annotation.picture), annotation)
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

    def _prepared(self, opened: OpenPicture, annotation: Annotation) -> tuple[bytes, Annotation, Size]:
        """What is stored of a picture, the annotation in its pixels, and its width and height."""
        if opened.turned and (annotation.face_box or annotation.landmarks):
            raise ExpllmError(
                f"{annotation.picture} has to be turned to stand upright (EXIF), and the annotation has positions",
                "store the picture upright and give the positions in it",
            )
        config = self.config
        if config.picture == "original":
            return opened.storable(), annotation, opened.size
        whole = Region(0, 0, *opened.size)
        region = face_region(annotation, config.crop_margin, opened.size) if config.picture == "face" else whole
        pixels = prepared_picture(opened.pixels, config.picture_size, region, config.resize)
        moved = region.squared().moved(annotation, config.picture_size)
        return encoded_picture(pixels, config.picture_format), moved, (config.picture_size, config.picture_size)

    def _row(self, rounds: Sequence[Round]) -> EncodedRow:
        config = self.config
        return _training_row(
            rounds, self._texts, config.image_tokens, config.layout,
            config.weighting, config.label_weight, config.cot_weight,
        )  # fmt: skip

    @cached_property
    def _texts(self) -> TemplateTokens:
        return _template_tokens(self.template, self.tokenizer, self.config.layout)

    def prompt(self, task: str, *, history: Sequence[Round] = ()) -> EncodedRow:
        """See `encode_prompt`."""
        check_task(task)
        return _prompt_row(task, history, self._texts, self.config.image_tokens, self.config.layout)


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


def _template_tokens(template: ConversationTemplate, tokenizer: Tokenizer, layout: str) -> TemplateTokens:
    """The template's tokens as `layout` needs them; raises ExpllmError if it cannot use the tokenizer."""
    _check_kind(layout, tokenizer)
    if isinstance(tokenizer, ReferenceTokenizer):
        return ReferenceTemplateTokens(template, tokenizer)
    return TemplateTokens(template, tokenizer)


def _training_row(
    rounds: Sequence[Round],
    texts: TemplateTokens,
    image_tokens: int,
    layout: str,
    weighting: str,
    label_weight: float,
    cot_weight: float,
) -> EncodedRow:
    """See `encode_record`."""
    _check_layout(image_tokens, layout)
    weighting = _check_weighting(layout, weighting, label_weight, cot_weight)
    shares = _round_weights([round_.task for round_ in rounds], label_weight, cot_weight)
    row = _row(rounds, texts, image_tokens, layout)
    if isinstance(texts, ReferenceTemplateTokens):
        check_readable(rounds, texts.template, texts.tokenizer)
    lengths = [end - start for start, end in row.answers]
    if weighting == "tokens":
        shares = [length / sum(lengths) for length in lengths]
    return row.encoded(shares)


def _prompt_row(
    task: str, history: Sequence[Round], texts: TemplateTokens, image_tokens: int, layout: str
) -> EncodedRow:
    """See `encode_prompt`."""
    layout = "chained" if layout == "branched" else layout
    return _row(history, texts, image_tokens, layout, asked=task).encoded()


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


def _check_layout(image_tokens: int, layout: str) -> None:
    if layout not in LAYOUTS:
        raise ExpllmError(f"unknown layout {layout!r}", f"use one of: {', '.join(LAYOUTS)}")
    if not 1 <= image_tokens <= 4096:
        raise ExpllmError(f"image_tokens is {image_tokens}", "use a number from 1 to 4096")


def _check_kind(layout: str, tokenizer: Tokenizer, *, needed: type = ReferenceTokenizer) -> None:
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


def _check_weighting(layout: str, weighting: str, label_weight: float, cot_weight: float) -> str:
    """The weighting that is meant; raises ExpllmError if it is unknown or makes a chosen weight meaningless."""
    if weighting not in ("", *WEIGHTINGS):
        raise ExpllmError(f"unknown weighting {weighting!r}", f"use one of: {', '.join(WEIGHTINGS)}")
    meant = weighting or ("tokens" if layout == "reference" else "rounds")
    if meant == "tokens" and (label_weight, cot_weight) != (LABEL_WEIGHT, COT_WEIGHT):
        raise ExpllmError(
            f'label_weight {label_weight:g} and cot_weight {cot_weight:g} have no effect with weighting "tokens"',
            'leave them out, or set weighting="rounds"',
        )
    return meant


def _round_weights(tasks: Sequence[str], label_weight: float, cot_weight: float) -> list[float]:
    """Shares of the rounds in a row's loss; they sum to 1."""
    for task in tasks:
        check_task(task)
    named = {"label": label_weight, "cot": cot_weight}
    weights = [named.get(task, OTHER_WEIGHT) for task in tasks]
    total = sum(weights)
    if not tasks or min(label_weight, cot_weight) < 0 or not 0 < total < float("inf"):
        raise ExpllmError(
            f"nothing to learn: rounds {list(tasks)} with label_weight {label_weight} and cot_weight {cot_weight}",
            "give at least one round a weight above 0, and none a negative one",
        )
    return [weight / total for weight in weights]
