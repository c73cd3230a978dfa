"""Small tokenizers of every kind, trained on the spot."""

from __future__ import annotations

import pytest
import tokenizers

from expllm_jax.records import (
    ByteBPETokenizer,
    ConversationTemplate,
    EncodeConfig,
    RecordEncoder,
    SentencePieceTokenizer,
    rounds_of,
    train_sentencepiece,
    training_texts,
)
from tests.records.examples import annotation, train_llama_style


@pytest.fixture(scope="session")
def template() -> ConversationTemplate:
    return ConversationTemplate.load("face_v1")


@pytest.fixture(scope="session")
def texts(template: ConversationTemplate) -> list[str]:
    return list(training_texts([rounds_of(annotation(index)) for index in range(60)], template))


@pytest.fixture(scope="session")
def own_tokenizer(texts, tmp_path_factory) -> SentencePieceTokenizer:
    return train_sentencepiece(texts, tmp_path_factory.mktemp("own") / "tokenizer.model", 1024)


@pytest.fixture(scope="session")
def llama_tokenizer(texts, tmp_path_factory) -> SentencePieceTokenizer:
    path = tmp_path_factory.mktemp("llama") / "tokenizer.model"
    train_llama_style(texts, path)
    return SentencePieceTokenizer(path)


@pytest.fixture(scope="session")
def bpe_tokenizer(texts, tmp_path_factory) -> ByteBPETokenizer:
    """Made as SmolLM2's is: GPT-2 byte level, ChatML tokens, and special tokens that no conversation uses."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<filename>"],
    )
    model.train_from_iterator(texts, trainer)
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    model.save(str(path))
    return ByteBPETokenizer(path)


@pytest.fixture(scope="session", params=["own", "llama", "bpe"])
def tokenizer(request, own_tokenizer, llama_tokenizer, bpe_tokenizer):
    return {"own": own_tokenizer, "llama": llama_tokenizer, "bpe": bpe_tokenizer}[request.param]


@pytest.fixture(scope="session")
def encoder(template, own_tokenizer) -> RecordEncoder:
    return RecordEncoder(template, own_tokenizer, EncodeConfig(image_tokens=4))
