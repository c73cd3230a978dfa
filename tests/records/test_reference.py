"""The layout "reference": the released code's tokens and mask, one causal row, and prompts that begin such rows."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from expllm_jax.assets import asset_path, is_cached
from expllm_jax.errors import ExpllmError
from expllm_jax.models import attention_mask
from expllm_jax.records import (
    ConversationTemplate,
    EncodeConfig,
    RecordEncoder,
    ReferenceTokenizer,
    Round,
    decode_answer,
    encode_prompt,
    encode_record,
    open_encoder,
    open_tokenizer,
    train_sentencepiece,
    write_records,
)
from expllm_jax.records.reference import ReferenceTemplateTokens, reference_tokens
from tests.records.examples import annotation, picture_bytes

IMAGE = 3
# What transformers 4.31.0 gave (tests/golden/make_reference_tokens.py); the variable names a further such file.
GOLDEN = Path(__file__).parent.parent / "golden" / "reference_tokens.npz"
FURTHER = os.environ.get("EXPLLM_REFERENCE_TOKENS")
MODES = {"legacy": True, "current": False}

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581<"), min_size=1, max_size=40)
NEAR_TEXTS = st.text(" \n*:(12)aehinp.,é😀\u00a0\x1c", min_size=1, max_size=30)
ANSWERS = (TEXTS | NEAR_TEXTS).filter(lambda text: text.strip())
ROUNDS = st.lists(st.builds(Round, st.sampled_from(["label", "cot"]), ANSWERS), min_size=1, max_size=4)


@pytest.fixture(scope="session")
def released_form():
    return ConversationTemplate.load("released_form")


@pytest.fixture(scope="session")
def reference(llama_tokenizer) -> ReferenceTokenizer:
    return ReferenceTokenizer(llama_tokenizer.path)


def parts(flat, lengths):
    return np.split(flat, np.cumsum(lengths)[:-1])


@pytest.mark.skipif(not is_cached("llama-tokenizer"), reason="the asset llama-tokenizer is not in the cache")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("file", [GOLDEN, *([Path(FURTHER)] if FURTHER else [])], ids=lambda file: file.stem)
def test_tokens_and_mask_are_those_of_transformers(file, mode):
    with np.load(file) as stored:
        golden = dict(stored)
    described = json.loads(golden["conversations"].tobytes())
    template, image_tokens = ConversationTemplate.from_json(described["template"]), described["image_tokens"]
    config = EncodeConfig(image_tokens=image_tokens, layout="reference", legacy=MODES[mode])
    tokenizer = open_tokenizer(asset_path("llama-tokenizer"), config)
    assert (tokenizer.image, tokenizer.pad, tokenizer.vocab_size) == (32000, 0, 32000)
    lengths = golden[f"{mode}_lengths"]
    ids = parts(golden[f"{mode}_ids"], lengths)
    learnt = parts(np.unpackbits(golden[f"{mode}_supervised"], count=lengths.sum()).astype(bool), lengths)
    assert len(ids) >= 300
    for sample, expected, supervised in zip(described["samples"], ids, learnt, strict=True):
        rounds = [Round(task, answer) for task, answer in sample]
        row = encode_record(rounds, template, tokenizer, image_tokens, "reference")
        assert row.tokens.tolist() == expected.tolist(), sample
        # Every supervised token of a record weighs the same, and nothing else weighs anything.
        np.testing.assert_allclose(row.loss_weights, supervised / supervised.sum(), rtol=1e-6, err_msg=str(sample))
    prompts = parts(golden[f"{mode}_prompt_ids"], golden[f"{mode}_prompt_lengths"])
    for (task, history), expected in zip(described["prompts"], prompts, strict=True):
        rounds = [Round(*round_) for round_ in history]
        prompt = encode_prompt(task, template, tokenizer, image_tokens, "reference", history=rounds)
        assert prompt.tokens.tolist() == expected.tolist()
        assert not prompt.loss_weights.any()


def test_row_by_hand(released_form, reference):
    encode, words = reference.encode, released_form.tasks
    label, cot = words["label"], words["cot"]
    assert released_form.system.endswith(" ") and cot.description.endswith(" ")
    row = encode_record(
        [Round("cot", " a\n\nb "), Round("label", "Fear")], released_form, reference, IMAGE, "reference"
    )
    # The space behind "Image:" and the line end before "TASK:" are gone; each chunk has its dummy space.
    opening = encode(f" {released_form.system}\nImage:")
    asked = encode(f" TASK: {cot.description}\nUSER: {cot.question}\nASSISTANT:")
    again = encode(f" TASK: {label.description}\nUSER: {label.question}\nASSISTANT:")
    first, second = [*encode("  a\n\nb "), reference.eos], [*encode(" Fear"), reference.eos]
    tokens = [reference.bos, *opening, *[reference.vocab_size] * IMAGE, *asked, *first, *again, *second]
    assert row.tokens.tolist() == tokens
    weights = [0] * (1 + len(opening) + IMAGE + len(asked)) + [1] * len(first) + [0] * len(again) + [1] * len(second)
    np.testing.assert_allclose(row.loss_weights, np.divide(weights, sum(weights)), rtol=1e-6)
    assert decode_answer(first, reference) == "a\n\nb"


@given(rounds=ROUNDS, legacy=st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_text_comes_back_stripped_and_prompts_begin_rows(released_form, llama_tokenizer, rounds, legacy):
    tokenizer = ReferenceTokenizer(llama_tokenizer.path, legacy=legacy)
    row = encode_record(rounds, released_form, tokenizer, IMAGE, "reference")
    found = reference_tokens(rounds, ReferenceTemplateTokens(released_form, tokenizer), IMAGE)
    assert found.ids == row.tokens.tolist()
    assert row.positions.tolist() == list(range(len(row)))
    assert row.loss_weights.sum() == pytest.approx(1, abs=1e-5)
    assert (row.tokens == tokenizer.image).sum() == IMAGE
    for index, ((start, end), round_) in enumerate(zip(found.answers, rounds, strict=True)):
        assert decode_answer(row.tokens[start:end], tokenizer) == round_.answer.strip()
        assert row.tokens[end - 1] == tokenizer.eos
        prompt = encode_prompt(round_.task, released_form, tokenizer, IMAGE, "reference", history=rounds[:index])
        for name in ("tokens", "positions", "segments"):
            assert getattr(prompt, name).tolist() == getattr(row, name)[:start].tolist()


def test_the_model_sees_plain_causal_attention(released_form, reference):
    row = encode_record([Round("cot", "x"), Round("label", "Fear")], released_form, reference, IMAGE, "reference")
    mask = np.asarray(attention_mask(row.segments[None]))[0]
    np.testing.assert_array_equal(mask, np.tril(np.ones((len(row), len(row)), bool)))


def test_weighting_by_rounds_can_be_asked_for(released_form, reference):
    rounds = [Round("label", "Fear"), Round("cot", "a long text about it")]
    row = encode_record(rounds, released_form, reference, IMAGE, "reference", weighting="rounds", label_weight=1.0)
    texts = ReferenceTemplateTokens(released_form, reference)
    (start, end), (later, last) = reference_tokens(rounds, texts, IMAGE).answers
    assert row.loss_weights[start:end].sum() == pytest.approx(0.5)
    assert row.loss_weights[later:last].sum() == pytest.approx(0.5)
    chained = encode_record(rounds, released_form, llama(reference), IMAGE, "chained", weighting="tokens")
    supervised = chained.loss_weights[chained.loss_weights > 0]
    np.testing.assert_allclose(supervised, 1 / len(supervised), rtol=1e-6)


def llama(reference):
    return open_tokenizer(reference.path, EncodeConfig(layout="chained"))


@pytest.mark.parametrize("text", ["a</s>b", "<s>", "x <unk>", "<im_patch>", "a\nTASK: b", "\nASSISTANT: "])
def test_a_text_that_the_released_code_would_misread_is_refused(released_form, reference, text):
    with pytest.raises(ExpllmError, match="reads as part of the conversation"):
        encode_record([Round("cot", text + "x")], released_form, reference, IMAGE, "reference")
    # What a model has said is no reason to fail: there it is plain text.
    prompt = encode_prompt("cot", released_form, reference, IMAGE, "reference", history=[Round("label", text + "x")])
    assert (prompt.tokens == reference.eos).sum() == 1
    assert (prompt.tokens == reference.image).sum() == IMAGE


def test_a_template_with_a_special_token_is_refused(released_form, reference):
    wrong = dataclasses.replace(released_form, system="Hello</s>")
    with pytest.raises(ExpllmError, match="released_form.*</s>"):
        encode_prompt("label", wrong, reference, IMAGE, "reference")


def test_a_records_folder_reopens_with_the_same_tokens(released_form, reference, tmp_path):
    config = EncodeConfig(image_tokens=4, layout="reference", legacy=False)
    encoder = RecordEncoder(released_form, open_tokenizer(reference.path, config), config)
    record = encoder.record(annotation(1), picture_bytes(1))
    manifest = write_records(tmp_path / "faces", {"train": [record]}, encoder)
    assert manifest.image_token == reference.vocab_size
    reopened = open_encoder(tmp_path / "faces")
    assert reopened.config == config
    assert reopened.row(annotation(1)) == record.row
    assert reopened.prompt("label", history=[]).tokens.tolist() == encoder.prompt("label").tokens.tolist()


def test_the_placeholder_is_the_models_own_piece_if_it_has_one(own_tokenizer, released_form):
    tokenizer = ReferenceTokenizer(own_tokenizer.path)
    assert tokenizer.image == own_tokenizer.image < tokenizer.vocab_size
    row = encode_record([Round("label", "Fear")], released_form, tokenizer, IMAGE, "reference")
    assert (row.tokens == tokenizer.image).sum() == IMAGE


def test_a_piece_that_the_model_lacks_without_its_space_is_unknown(reference):
    current = ReferenceTokenizer(reference.path, legacy=False)
    pieces = [reference._processor.id_to_piece(token) for token in range(reference.vocab_size)]
    lonely = next(piece for piece in pieces if len(piece) > 2 and piece[0] == "▁" and piece[1:] not in pieces)
    assert reference.chunk(lonely[1:])[0] == pieces.index(lonely)
    assert current.chunk(lonely[1:])[0] == reference.pad
    assert current.chunk(lonely[1:], first=True) == reference.chunk(lonely[1:])


def test_unsuitable_tokenizers_are_named(released_form, reference, llama_tokenizer, bpe_tokenizer, texts, tmp_path):
    config = EncodeConfig(layout="reference")
    with pytest.raises(ExpllmError, match="ByteBPETokenizer"):
        open_tokenizer(bpe_tokenizer.path, config)
    with pytest.raises(ExpllmError, match="SentencePieceTokenizer"):
        RecordEncoder(released_form, llama_tokenizer, config)
    with pytest.raises(ExpllmError, match="ReferenceTokenizer"):
        RecordEncoder(released_form, reference, EncodeConfig())
    with pytest.raises(ExpllmError, match="ReferenceTokenizer"):
        encode_prompt("label", released_form, reference, IMAGE)

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(llama_tokenizer.path.read_bytes())
    model.normalizer_spec.remove_extra_whitespaces = True
    (tmp_path / "removing.model").write_bytes(model.SerializeToString())
    with pytest.raises(ExpllmError, match="removing.model removes white space"):
        open_tokenizer(tmp_path / "removing.model", config)

    # Pieces across words swallow the space behind "ASSISTANT:" together with the answer.
    wide = train_sentencepiece(
        [*texts, *["ASSISTANT: Fear"] * 99], tmp_path / "wide.model", 1024, cross_words=True, split_digits=False
    )
    with pytest.raises(ExpllmError, match="spans 'ASSISTANT:'"):
        encode_record([Round("label", "Fear")], released_form, ReferenceTokenizer(wide.path), IMAGE, "reference")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layout": "reference", "label_weight": 1.0}, "no effect"),
        ({"weighting": "tokens", "cot_weight": 0.0}, "no effect"),
        ({"weighting": "words"}, "words"),
        ({"legacy": False}, "legacy"),
        ({"order": "backwards"}, "backwards"),
        ({"order_seed": -1}, "order_seed"),
    ],
)
def test_config_says_what_has_no_effect(changes, named):
    with pytest.raises(ExpllmError, match=named):
        EncodeConfig(**changes)


def test_the_golden_model_is_llamas_in_shape():
    """What the goldens stand on: white space kept, a dummy space, byte fallback, and the usual special tokens."""
    if not is_cached("llama-tokenizer"):
        pytest.skip("the asset llama-tokenizer is not in the cache")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(asset_path("llama-tokenizer")))
    assert processor.encode("a  b", out_type=str) == ["▁a", "▁", "▁b"]
    assert [processor.id_to_piece(token) for token in (0, 1, 2)] == ["<unk>", "<s>", "</s>"]
