"""Training records: from an annotated picture to the rows of tokens that a model learns from.

`RecordEncoder` (a conversation template, a tokenizer and an `EncodeConfig`) turns annotations into `Record`s and makes
the prompts that match them; `write_records` and `open_records` keep them in a TFDS data set of ArrayRecord files;
`batches` streams them through Grain, packed if wanted; `read_list_file` and `MixedRows` mix several sets of them.
`read_picture`, `square` and `normalise` are the way from any picture file to pixels.
"""

from __future__ import annotations

from expllm_jax.records.conversation import (
    TASKS,
    ConversationTemplate,
    Roles,
    Round,
    TaskWords,
    rounds_of,
    training_texts,
)
from expllm_jax.records.dataset import (
    Manifest,
    RecordSource,
    SplitSummary,
    open_encoder,
    open_records,
    verify_records,
    write_records,
)
from expllm_jax.records.encode import (
    EncodeConfig,
    EncodedRow,
    Record,
    RecordEncoder,
    decode_answer,
    encode_prompt,
    encode_record,
    open_tokenizer,
    pad_row,
)
from expllm_jax.records.list_file import ListEntry, read_list_file
from expllm_jax.records.mixture import MixedRows, MixtureEntry
from expllm_jax.records.order import Order, Part
from expllm_jax.records.packing import SEGMENTS, Layout, Lengths, PackingConfig, Plan, Shape
from expllm_jax.records.pictures import PAD_COLOUR, STATISTICS, normalise, read_picture, square, storable_picture
from expllm_jax.records.pipeline import (
    PADDED_RECORD,
    BatchConfig,
    BatchIterator,
    RowSource,
    batches,
    batches_per_epoch,
    order_of,
    plan_of,
)
from expllm_jax.records.reference import ReferenceTokenizer
from expllm_jax.records.round_order import QUESTION_INDEX, REFERENCE_KEYS, choose_rounds
from expllm_jax.records.row_shapes import Candidate, choose, render_table
from expllm_jax.records.tokenizers import (
    ByteBPETokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    train_sentencepiece,
)

__all__ = [
    "PADDED_RECORD",
    "PAD_COLOUR",
    "QUESTION_INDEX",
    "REFERENCE_KEYS",
    "SEGMENTS",
    "STATISTICS",
    "TASKS",
    "BatchConfig",
    "BatchIterator",
    "ByteBPETokenizer",
    "Candidate",
    "ConversationTemplate",
    "EncodeConfig",
    "EncodedRow",
    "Layout",
    "Lengths",
    "ListEntry",
    "Manifest",
    "MixedRows",
    "MixtureEntry",
    "Order",
    "PackingConfig",
    "Part",
    "Plan",
    "Record",
    "RecordEncoder",
    "RecordSource",
    "ReferenceTokenizer",
    "Roles",
    "Round",
    "RowSource",
    "SentencePieceTokenizer",
    "Shape",
    "SplitSummary",
    "TaskWords",
    "Tokenizer",
    "batches",
    "batches_per_epoch",
    "choose",
    "choose_rounds",
    "decode_answer",
    "encode_prompt",
    "encode_record",
    "load_tokenizer",
    "normalise",
    "open_encoder",
    "open_records",
    "open_tokenizer",
    "order_of",
    "pad_row",
    "plan_of",
    "read_list_file",
    "read_picture",
    "render_table",
    "rounds_of",
    "square",
    "storable_picture",
    "train_sentencepiece",
    "training_texts",
    "verify_records",
    "write_records",
]
