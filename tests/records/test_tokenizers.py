"""Tokenizers: lossless, deterministic, and closed to smuggled special tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.records import ByteBPETokenizer, SentencePieceTokenizer, load_tokenizer, train_sentencepiece

# Surrogates are no text: they cannot be encoded as UTF-8.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NEAR_TEXTS = st.text("aeiou AU12.\n\t*:é√😀</s>▁", max_size=40)


@given(text=TEXTS | NEAR_TEXTS)
@settings(max_examples=150, deadline=None)
def test_own_and_bpe_round_trip_every_text(own_tokenizer, bpe_tokenizer, llama_tokenizer, text):
    for tokenizer in (own_tokenizer, bpe_tokenizer, llama_tokenizer):
        if "\u2581" in text and tokenizer is not bpe_tokenizer:
            continue  # SentencePiece writes a space as this sign, and so cannot tell the two apart
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        opened = tokenizer.encode(text, first=True)
        assert opened[0] == tokenizer.bos
        assert tokenizer.decode(opened) == text


def test_special_ids(tokenizer):
    special = [tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.image]
    assert all(0 <= token < tokenizer.vocab_size for token in special)
    assert tokenizer.pad != tokenizer.image
    assert len({tokenizer.bos, tokenizer.eos, tokenizer.image}) == 3
    text = tokenizer.encode(" Happiness")
    assert tokenizer.decode([tokenizer.bos, *text, tokenizer.image, tokenizer.eos, tokenizer.pad]).endswith("Happiness")


def test_the_dummy_space_stands_only_where_pretraining_had_it(llama_tokenizer):
    processor = llama_tokenizer._processor
    assert processor.id_to_piece(llama_tokenizer.encode("The", first=True)[1]).startswith("▁")
    assert processor.id_to_piece(llama_tokenizer.encode("\nTASK")[0]) == "<0x0A>"
    assert llama_tokenizer.pad == llama_tokenizer.eos == 2
    assert llama_tokenizer.image == 0


def test_own_model_splits_digits_and_line_ends(own_tokenizer):
    assert len(own_tokenizer.encode("123")) == 3
    newline = own_tokenizer.encode("\n")
    assert len(newline) == 1
    assert own_tokenizer.encode("\n\n") == newline * 2
    assert own_tokenizer.encode(" lip") != own_tokenizer.encode("lip")


def test_training_is_deterministic(texts, own_tokenizer, tmp_path):
    again = train_sentencepiece(iter(texts), tmp_path / "again.model", 1024)
    assert again.fingerprint == own_tokenizer.fingerprint
    other = train_sentencepiece(texts, tmp_path / "other.model", 600)
    assert other.fingerprint != own_tokenizer.fingerprint
    assert other.vocab_size <= 600


def test_pieces_across_words_shorten_and_stay_lossless(texts, own_tokenizer, tmp_path):
    wide = train_sentencepiece(texts, tmp_path / "wide.model", 1024, cross_words=True)
    longest = max(texts, key=len)
    assert len(wide.encode(longest)) < len(own_tokenizer.encode(longest))
    assert wide.decode(wide.encode(longest)) == longest


def test_image_placeholder_cannot_be_smuggled_in(own_tokenizer):
    with pytest.raises(ExpllmError, match="placeholder"):
        own_tokenizer.encode("a picture <im_patch> here")


def test_special_tokens_in_a_text_are_plain_text(own_tokenizer, bpe_tokenizer):
    for tokenizer, text in ((own_tokenizer, "</s><s>"), (bpe_tokenizer, "<|im_end|><filename><|im_start|>")):
        ids = tokenizer.encode(text)
        assert not {tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.image} & set(ids)
        assert tokenizer.decode(ids) == text


def test_save_and_load(tokenizer, tmp_path):
    copy = load_tokenizer(tokenizer.save(tmp_path / "made"))
    assert type(copy) is type(tokenizer)
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.encode("the same\n", first=True) == tokenizer.encode("the same\n", first=True)


def test_errors_name_the_file(tmp_path):
    nothing = tmp_path / "nothing.model"
    nothing.write_bytes(b"\x01not a model")
    for opening in (SentencePieceTokenizer, ByteBPETokenizer, load_tokenizer):
        with pytest.raises(ExpllmError, match="nothing.model"):
            opening(nothing)
        with pytest.raises(ExpllmError, match="absent"):
            opening(tmp_path / "absent")
    empty = tmp_path / "empty.json"
    empty.write_text('{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}')
    with pytest.raises(ExpllmError, match="begin token"):
        load_tokenizer(empty)


def test_training_refuses_what_cannot_work(texts, tmp_path):
    with pytest.raises(ExpllmError, match="too small"):
        train_sentencepiece(texts, tmp_path / "a.model", 100)
    with pytest.raises(ExpllmError, match="no texts"):
        train_sentencepiece(["", ""], tmp_path / "a.model")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExpllmError, match="cannot be written"):
        train_sentencepiece(texts, tmp_path / "file" / "a.model", 600)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("text", ["The face shows anger.", "  two  spaces\nand a line", "naïve 😀 ▁", "<|im_end|></s>"])
def test_token_bytes_are_what_a_text_is_made_of(tokenizer, text):
    if isinstance(tokenizer, SentencePieceTokenizer) and "▁" in text:
        text = text.replace("▁", "")  # SentencePiece writes spaces as this
    contents = tokenizer.token_bytes()
    assert b"".join(contents[token] for token in tokenizer.encode(text)).decode() == text
    assert {contents[token] for token in (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.image)} == {b""}
