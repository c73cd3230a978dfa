"""Made-up annotations and pictures that the tests of this room share."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sentencepiece
from PIL import Image

from expllm_jax.faces import EXPRESSIONS, Annotation

COT = (
    "**Key Observations:** A {word} lip corner pull (AU12) of 0.{number}.\n\n"
    "**Overall Emotional Interpretation:** The units agree.\n\n**Conclusion:** The face shows {expression}."
)


def annotation(index: int) -> Annotation:
    """The index-th made-up face; every third one has no text."""
    expression = EXPRESSIONS[index % 7]
    text = COT.format(word=("slight", "strong")[index % 2], number=index % 10, expression=expression.lower())
    return Annotation(
        picture=f"faces/{index:04d}.png",
        expression=expression,
        cot=text if index % 3 else None,
        units={"facs": {"AU12": index % 10 / 10}},
        identity=f"person{index // 4}",
        split="train",
        attributes={"age": 0.25, "light": "soft"},
        landmarks=tuple((index + point / 3, point * 0.1) for point in range(68)),
        face_box=(1.0, 2.0, 30.5, 40.25),
        provenance={"made": "by the test"},
    )


def picture_bytes(index: int, size: int = 32) -> bytes:
    """A PNG whose pixels all have the value `index`."""
    content = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), index % 256, np.uint8)).save(content, "PNG")
    return content.getvalue()


def train_llama_style(texts: Iterable[str], path: Path) -> None:
    """Writes a SentencePiece model made as LLaMA's: a dummy space, unk 0, bos 1, eos 2, no padding, no image piece."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.replace("\n", " ") for text in texts]), model_writer=model, model_type="bpe",
        vocab_size=600, hard_vocab_limit=False, byte_fallback=True, split_digits=True, add_dummy_prefix=True,
        remove_extra_whitespaces=False, normalization_rule_name="identity", minloglevel=2, num_threads=1,
    )  # fmt: skip
    path.write_bytes(model.getvalue())
