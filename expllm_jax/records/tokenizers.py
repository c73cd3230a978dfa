"""Text to token ids and back, losslessly: SentencePiece models and GPT-2 style byte BPE behind one protocol.

`encode(text, first=False)` is exact: `decode(encode(text)) == text` for every Unicode text, newlines and double spaces
included, and nothing is added. That is what makes joining separately encoded texts safe. `first=True` is for the text
that opens a sequence: the begin token comes first, and a SentencePiece model that was trained with a dummy space gets
it there, and only there, as its pretraining had it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2

from expllm_jax.errors import ExpllmError
from expllm_jax.files import write_whole

IMAGE_PIECE = "<im_patch>"
"""The placeholder that a projected image token takes the place of (ExpLLM's name for it)."""

SMALLEST_VOCABULARY = 512
"""256 byte pieces, the special tokens, the characters of English text, and a few words."""


class Tokenizer(Protocol):
    """What the rest of the package needs of a tokenizer. `pad` and `image` never come out of `encode`, `pad != image`;
    padding is told by segment 0, never by id, so `pad` may be a token that also means something else."""

    vocab_size: int
    bos: int
    eos: int
    pad: int
    image: int
    fingerprint: str  # SHA-256 (hex) of the model file
    file_name: str  # the name under which `load_tokenizer` recognises a copy

    def encode(self, text: str, *, first: bool = False) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token_bytes(self) -> list[bytes]: ...

    def save(self, folder: str | Path) -> Path: ...


class _FileTokenizer:
    """What both kinds share: the model is one file, and the image placeholder must not be smuggled in by a text."""

    kind: str
    file_name: str
    image: int

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._content = self.path.read_bytes()
        except OSError as error:
            raise ExpllmError(f"tokenizer {self.path} cannot be read ({error.strerror})", "check the path") from error
        self.fingerprint = hashlib.sha256(self._content).hexdigest()

    def save(self, folder: str | Path) -> Path:
        """Writes a copy of the model file into `folder` under `file_name` and returns its path."""
        path = Path(folder) / self.file_name
        write_whole(path, self._content)
        return path

    def _without_image(self, ids: list[int], text: str) -> list[int]:
        if self.image in ids:
            raise ExpllmError(
                f"the text {text[:60]!r} holds the image placeholder (token {self.image})",
                "take it out: image tokens are put in by the encoder alone",
            )
        return ids


class SentencePieceTokenizer(_FileTokenizer):
    """A SentencePiece model file: our own (`train_sentencepiece`) or a LLaMA-style one.

    A model without an `<im_patch>` piece (LLaMA, Vicuna, Mistral) lends its unknown token as the placeholder: with byte
    fallback no text ever produces it, and the embedding table needs no extra row. A model without a padding token is
    padded with its end token.

    Raises ExpllmError if the file is not a SentencePiece model, or has no begin or end token or no byte fallback.
    """

    kind = "sentencepiece"
    file_name = "tokenizer.model"

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        model = sentencepiece_model_pb2.ModelProto()
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            model.ParseFromString(self._content)
            self._dummy_space = model.normalizer_spec.add_dummy_prefix
            self._removes_spaces = model.normalizer_spec.remove_extra_whitespaces
            # Both settings lose white space; `encode` puts the dummy space back where pretraining had it.
            model.normalizer_spec.add_dummy_prefix = False
            model.normalizer_spec.remove_extra_whitespaces = False
            self._processor.LoadFromSerializedProto(model.SerializeToString())
        except Exception as error:  # protobuf's DecodeError and SentencePiece's RuntimeError share no base class
            raise ExpllmError(f"{self.path} is not a SentencePiece model", "give a tokenizer.model file") from error
        processor = self._processor
        self.vocab_size = processor.vocab_size()
        self.bos, self.eos = processor.bos_id(), processor.eos_id()
        if min(self.bos, self.eos) < 0 or not processor.is_byte(processor.piece_to_id("<0x0A>")):
            raise ExpllmError(
                f"{self.path} has no begin token, no end token or no byte fallback",
                "train it with byte_fallback=True and bos_id and eos_id ≥ 0 (train_sentencepiece does)",
            )
        image = processor.piece_to_id(IMAGE_PIECE)  # the unknown id if there is no such piece: what we want then
        self.image = image
        self.pad = processor.pad_id() if processor.pad_id() >= 0 else self.eos
        self._silent = {self.bos, self.eos, self.pad, self.image, processor.unk_id()}

    def encode(self, text: str, *, first: bool = False) -> list[int]:
        """Token ids of `text`; with `first`, behind the begin token. Raises ExpllmError on a smuggled placeholder."""
        if not first:
            return self._without_image(self._processor.encode(text), text)
        opening = " " + text if self._dummy_space else text
        return [self.bos, *self._without_image(self._processor.encode(opening), text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out; bytes that are not UTF-8 become U+FFFD."""
        ids = [int(token) for token in ids]
        text = self._processor.decode([token for token in ids if token not in self._silent])
        opened = ids[:1] == [self.bos] and self._dummy_space
        return text.removeprefix(" ") if opened else text

    def token_bytes(self) -> list[bytes]:
        """What every token stands for inside a text: `decode` reads these bytes, joined, as UTF-8. b"" for the special
        tokens."""
        processor = self._processor

        def of(token: int) -> bytes:
            if token in self._silent or processor.is_control(token) or processor.is_unused(token):
                return b""
            piece = processor.id_to_piece(token)
            return bytes([int(piece[3:5], 16)]) if processor.is_byte(token) else piece.replace("▁", " ").encode()

        return [of(token) for token in range(self.vocab_size)]


class ByteBPETokenizer(_FileTokenizer):
    """A `tokenizer.json` of the `tokenizers` library (GPT-2 style byte BPE, for example SmolLM2's).

    The special tokens are found by name, first match: begin, end, padding and image placeholder, the last being a
    special token that conversations never use. Special tokens written out in a text are encoded as plain text.

    Raises ExpllmError if the file is no tokenizer.json or none of the names of a role is in it.
    """

    kind = "byte_bpe"
    file_name = "tokenizer.json"
    BOS = ("<s>", "<|im_start|>", "<|begin_of_text|>", "<|endoftext|>")
    EOS = ("</s>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>")
    PAD = ("<pad>", "<|endoftext|>", "<|im_end|>", "</s>")
    IMAGE = (IMAGE_PIECE, "<image>", "<filename>", "<file_sep>", "<jupyter_start>", "<|reserved_special_token_0|>")

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(self._content.decode())
        except Exception as error:  # the library raises bare Exception
            raise ExpllmError(
                f"{self.path} is not a tokenizer.json: {error}", "give one of the tokenizers library"
            ) from error
        # A text that spells out "<|im_end|>" must not end the answer.
        self._tokenizer.encode_special_tokens = True
        self.vocab_size = self._tokenizer.get_vocab_size()
        self.bos = self._special("begin", self.BOS)
        self.eos = self._special("end", self.EOS)
        self.pad = self._special("padding", self.PAD)
        self.image = self._special("image placeholder", self.IMAGE)
        self._silent = {self.bos, self.eos, self.pad, self.image}

    def encode(self, text: str, *, first: bool = False) -> list[int]:
        """Token ids of `text`; with `first`, behind the begin token. Raises ExpllmError on a smuggled placeholder."""
        ids = self._without_image(self._tokenizer.encode(text, add_special_tokens=False).ids, text)
        return [self.bos, *ids] if first else ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out; bytes that are not UTF-8 become U+FFFD."""
        return self._tokenizer.decode([int(token) for token in ids if int(token) not in self._silent])

    def token_bytes(self) -> list[bytes]:
        """What every token stands for inside a text: `decode` reads these bytes, joined, as UTF-8. b"" for the special
        tokens, and for numbers that no token has."""
        added, byte_of = self._tokenizer.get_added_tokens_decoder(), _byte_of_character()

        def of(token: int) -> bytes:
            if token in self._silent or (token in added and added[token].special):
                return b""
            piece = self._tokenizer.id_to_token(token) or ""
            return piece.encode() if token in added else bytes(byte_of[character] for character in piece)

        return [of(token) for token in range(self.vocab_size)]

    def _special(self, role: str, names: Sequence[str]) -> int:
        for name in names:
            token = self._tokenizer.token_to_id(name)
            if token is not None:
                return token
        raise ExpllmError(
            f"{self.path} has no {role} token", f"add one of these to its special tokens: {', '.join(names)}"
        )


def _byte_of_character() -> dict[str, int]:
    """GPT-2's way to write bytes as letters: printable Latin-1 as itself, the others in order from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


def load_tokenizer(path: str | Path) -> SentencePieceTokenizer | ByteBPETokenizer:
    """Opens a tokenizer file by what it holds: JSON is byte BPE, anything else SentencePiece."""
    path = Path(path)
    try:
        json.loads(path.read_bytes())
    except OSError as error:
        raise ExpllmError(f"tokenizer {path} cannot be read ({error.strerror})", "check the path") from error
    except ValueError:
        return SentencePieceTokenizer(path)
    return ByteBPETokenizer(path)


def train_sentencepiece(
    texts: Iterable[str],
    path: str | Path,
    vocab_size: int = 1024,
    *,
    cross_words: bool = False,
    split_digits: bool = True,
) -> SentencePieceTokenizer:
    """Trains a lossless byte-pair SentencePiece model with byte fallback, writes it to `path` and opens it.

    A line end is always one token of its own. The same texts in the same order give the same file
    (one thread, no sampling). A corpus too small for `vocab_size` pieces gives fewer; see `.vocab_size` of the result.

    Args:
      texts: what to learn from; see `conversation.training_texts`.
      path: where the model goes; written whole or not at all.
      vocab_size: pieces, from SMALLEST_VOCABULARY up.
      split_digits: makes every digit a piece of its own, as LLaMA does, and parts letters from marks;
        without it a code such as "(AU12)," may be one piece.
      cross_words: lets a piece span words. Much shorter sequences on formulaic text, but pieces that fuse facts.

    Raises:
      ExpllmError: for a vocabulary that is too small, no texts, or a path that cannot be written.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ExpllmError(f"a vocabulary of {vocab_size} pieces is too small", f"use {SMALLEST_VOCABULARY} or more")
    texts = [text for text in texts if text]
    if not texts:
        raise ExpllmError("there are no texts to train a tokenizer on", "give the conversations of the training split")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            split_digits=split_digits,
            split_by_number=split_digits,
            split_by_unicode_script=split_digits,
            split_by_whitespace=not cross_words,
            user_defined_symbols=[IMAGE_PIECE, "\n"],
            pad_id=0, unk_id=1, bos_id=2, eos_id=3,
            # Lossless: the text reaches the pieces as it is.
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            # Rare characters are left to the byte pieces.
            character_coverage=0.9995,
            max_sentence_length=1 << 20,
            # Deterministic: no sampling, no shuffling, one thread.
            shuffle_input_sentence=False,
            num_threads=1,
            minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        raise ExpllmError(
            f"SentencePiece cannot train on these {len(texts)} texts: {error}", "give more text"
        ) from error
    write_whole(Path(path), model.getvalue())
    return SentencePieceTokenizer(path)
