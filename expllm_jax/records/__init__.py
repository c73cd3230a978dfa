"""Training records: from an annotated picture to the rows of tokens that a model learns from.

`RecordEncoder` (a conversation template, a tokenizer and an `EncodeConfig`) turns annotations into `Record`s and makes
the prompts that match them; `build_records` does so for whole data sets, in parallel, and keeps them in a TFDS data set
of ArrayRecord files, which `open_records` reads; `MixedRows` mixes several; `batches` streams them through Grain,
shuffled, packed by a `Plan` and augmented. `read_picture`, `square` and `normalise` are the way from any picture file
to pixels; `prepared_pixels` is the one that the records of a model went.
"""

from __future__ import annotations

from expllm_jax.records.answers import LOCATED_TASKS, TASKS, answer_of, read_answer
from expllm_jax.records.augmentation import AugmentConfig
from expllm_jax.records.building import BuildPlan, build_records, plan_records
from expllm_jax.records.conversation import (
    EXPRESSION_TASKS,
    ConversationTemplate,
    Roles,
    Round,
    TaskWords,
    rounds_of,
    training_texts,
)
from expllm_jax.records.encode import (
    Record,
    RecordEncoder,
    decode_answer,
    encode_prompt,
    encode_record,
    open_tokenizer,
)
from expllm_jax.records.encode_config import EncodeConfig
from expllm_jax.records.index import Lengths
from expllm_jax.records.list_file import ListEntry, read_list_file
from expllm_jax.records.manifest import Manifest, ShardFile, SplitSummary
from expllm_jax.records.mixture import MixedRows, MixtureEntry
from expllm_jax.records.order import Order, Part
from expllm_jax.records.packing import SEGMENTS, Layout, PackingConfig, Plan, Shape
from expllm_jax.records.pictures import (
    PAD_COLOUR,
    STATISTICS,
    normalise,
    prepared_picture,
    read_picture,
    square,
    storable_picture,
)
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
from expllm_jax.records.preparation import prepared_pixels, seen_picture
from expllm_jax.records.reading import (
    CorruptRecord,
    RecordSource,
    SkippedRecord,
    open_encoder,
    open_records,
    verify_records,
)
from expllm_jax.records.reference import ReferenceTokenizer
from expllm_jax.records.round_order import QUESTION_INDEX, REFERENCE_KEYS, choose_rounds
from expllm_jax.records.row_shapes import Candidate, choose, render_table
from expllm_jax.records.rows import EncodedRow, pad_row
from expllm_jax.records.tokenizers import (
    ByteBPETokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    train_sentencepiece,
)
from expllm_jax.records.writing import write_records

__all__ = [
    "EXPRESSION_TASKS",
    "LOCATED_TASKS",
    "PADDED_RECORD",
    "PAD_COLOUR",
    "QUESTION_INDEX",
    "REFERENCE_KEYS",
    "SEGMENTS",
    "STATISTICS",
    "TASKS",
    "AugmentConfig",
    "BatchConfig",
    "BatchIterator",
    "BuildPlan",
    "ByteBPETokenizer",
    "Candidate",
    "ConversationTemplate",
    "CorruptRecord",
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
    "ShardFile",
    "SkippedRecord",
    "SplitSummary",
    "TaskWords",
    "Tokenizer",
    "answer_of",
    "batches",
    "batches_per_epoch",
    "build_records",
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
    "plan_records",
    "prepared_picture",
    "prepared_pixels",
    "read_answer",
    "read_list_file",
    "read_picture",
    "render_table",
    "rounds_of",
    "seen_picture",
    "square",
    "storable_picture",
    "train_sentencepiece",
    "training_texts",
    "verify_records",
    "write_records",
]
