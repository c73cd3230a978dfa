"""Made-up annotations and pictures that the tests of this room share."""

from __future__ import annotations

import io

import numpy as np
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
