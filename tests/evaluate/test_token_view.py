"""Rows read as text, whichever tokenizer they come from: nothing lost, nothing added, weights beside their tokens."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers

from expllm_jax.evaluate.token_view import view_row, weight_ranks
from expllm_jax.records import (
    ByteBPETokenizer,
    ConversationTemplate,
    Round,
    encode_record,
    load_tokenizer,
    train_sentencepiece,
    training_texts,
)
from tests.records.examples import train_llama_style

ANSWER = "Ein Lächeln 🙂 – naïve 顔.\n\n" + "A line of words, and another one.\n" * 6 + "The end."


@pytest.fixture(scope="module")
def template() -> ConversationTemplate:
    return ConversationTemplate.load("face_v1")


@pytest.fixture(scope="module", params=["own", "llama", "bpe"])
def tokenizer(request, template, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    texts = [*training_texts([[Round("cot", "A line of words."), Round("label", "Fear")]] * 40, template)]
    if request.param == "own":
        return train_sentencepiece(texts, folder / "tokenizer.model", 512)
    if request.param == "llama":
        train_llama_style(texts, folder / "tokenizer.model")
        return load_tokenizer(folder / "tokenizer.model")
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<filename>"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(
        texts,
        tokenizers.trainers.BpeTrainer(
            vocab_size=400, show_progress=False, initial_alphabet=alphabet, special_tokens=special
        ),
    )
    model.save(str(folder / "tokenizer.json"))
    return ByteBPETokenizer(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def row(template, tokenizer):
    return encode_record([Round("label", "Fear"), Round("cot", ANSWER)], template, tokenizer, image_tokens=5)


def test_the_texts_of_the_tokens_are_the_conversation(row, template, tokenizer):
    views = view_row(row, tokenizer)
    text = "".join(view.text for view in views if not view.special)
    assert text.strip() == (
        template.prefix_text() + template.prompt_text("label") + " Fear" + template.prompt_text("cot") + " " + ANSWER
    )
    assert [view.text for view in views if view.special] == ["begin", "picture: 5 places", "end", "end"]
    assert len(views) == len(row) - 4  # the places of the picture are shown as one


def test_every_token_has_its_own_numbers(row, tokenizer):
    views = view_row(row, tokenizer)
    learnt = np.flatnonzero(row.loss_weights)
    shown = [view for view in views if view.weight > 0]
    assert [view.token for view in shown] == row.tokens[learnt].tolist()
    assert [view.position for view in shown] == row.positions[learnt].tolist()
    assert [view.segment for view in shown] == row.segments[learnt].tolist()
    assert [view.weight for view in shown] == row.loss_weights[learnt].tolist()
    assert "".join(view.text for view in shown if view.segment == 2 and not view.special).strip() == "Fear"


def test_weights_are_ranked_from_the_largest(row, tokenizer):
    views = view_row(row, tokenizer)
    label = next(view.weight for view in views if view.segment == 2 and view.weight)
    text = next(view.weight for view in views if view.segment == 3 and view.weight)
    assert weight_ranks(views) == {label: 1, text: 2} and weight_ranks([]) == {}
