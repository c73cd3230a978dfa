"""Training records: from an annotated picture to the rows of tokens that a model learns from.

`RecordEncoder` (a conversation template, a tokenizer and an `EncodeConfig`) turns annotations into `Record`s and makes
the prompts that match them; `answer_of` and `read_answer` say what is answered to each task. `build_records` encodes
whole data sets in parallel and keeps them in a TFDS data set of ArrayRecord files, which `open_records` reads;
`batches` streams them through Grain; `read_list_file` and `RepeatedRows` mix several sets of them. `read_picture`,
`square` and `normalise` are the way from any picture file to pixels.
"""

from __future__ import annotations

from expllm_jax.records.answers import LOCATED_TASKS, TASKS, answer_of, read_answer
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
from expllm_jax.records.index import Lengths
from expllm_jax.records.list_file import ListEntry, RepeatedRows, read_list_file, repeated
from expllm_jax.records.manifest import Manifest, ShardFile, SplitSummary
from expllm_jax.records.pictures import (
    PAD_COLOUR,
    STATISTICS,
    normalise,
    prepared_picture,
    read_picture,
    square,
    storable_picture,
)
from expllm_jax.records.pipeline import PADDED_RECORD, BatchConfig, RowSource, batches, batches_per_epoch
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
    "STATISTICS",
    "TASKS",
    "BatchConfig",
    "BuildPlan",
    "ByteBPETokenizer",
    "ConversationTemplate",
    "CorruptRecord",
    "EncodeConfig",
    "EncodedRow",
    "Lengths",
    "ListEntry",
    "Manifest",
    "Record",
    "RecordEncoder",
    "RecordSource",
    "ReferenceTokenizer",
    "RepeatedRows",
    "Roles",
    "Round",
    "RowSource",
    "SentencePieceTokenizer",
    "ShardFile",
    "SkippedRecord",
    "SplitSummary",
    "TaskWords",
    "Tokenizer",
    "answer_of",
    "batches",
    "batches_per_epoch",
    "build_records",
    "choose_rounds",
    "decode_answer",
    "encode_prompt",
    "encode_record",
    "load_tokenizer",
    "normalise",
    "open_encoder",
    "open_records",
    "open_tokenizer",
    "pad_row",
    "plan_records",
    "prepared_picture",
    "read_answer",
    "read_list_file",
    "read_picture",
    "repeated",
    "rounds_of",
    "square",
    "storable_picture",
    "train_sentencepiece",
    "training_texts",
    "verify_records",
    "write_records",
]
