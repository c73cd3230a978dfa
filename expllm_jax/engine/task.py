"""One face for the engine: what is given about it, and what it may be called."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation, Vocabulary


@dataclass(frozen=True)
class FaceTask:
    """What the loop knows of a face. Equal tasks get equal texts from a narrator that draws by the seed."""

    name: str  # the annotation's picture
    units: Mapping[str, float]  # code in `vocabulary` -> 0 to 1; a code that is left out counts as 0
    vocabulary: Vocabulary
    label: str | None  # the ground truth; None: unlabelled, so that nothing is compared
    allowed: tuple[str, ...]  # the expressions to choose from; the label is one of them
    picture: Path | None  # where the picture lies, for narrators that look at it
    seed: int  # of the wording, 64 bits; see `wording_seed`


def wording_seed(run_seed: int, picture: str) -> int:
    """64 bits that follow from the run's seed and the picture's name alone, so that neither the order of the faces nor
    how they are shared out among workers changes a text.
    """
    return int.from_bytes(hashlib.blake2b(f"{run_seed}\0{picture}".encode(), digest_size=8).digest(), "big")


def face_task(
    annotation: Annotation, vocabulary: Vocabulary, allowed: Sequence[str], *, run_seed: int, folder: Path | None
) -> FaceTask:
    """The task that an annotation is.

    Args:
      folder: that of the annotations file, which pictures are relative to; None if nobody looks at pictures.

    Raises:
      ExpllmError: it has no units of the vocabulary, or a label that is none of `allowed`.
    """
    if vocabulary.name not in annotation.units:
        has = ", ".join(annotation.units) or "none"
        raise ExpllmError(
            f"{annotation.picture} has no {vocabulary.name} units (it has: {has})",
            "choose the vocabulary that it has, or add units first",
        )
    if annotation.expression is not None and annotation.expression not in allowed:
        raise ExpllmError(
            f"{annotation.picture} has the expression {annotation.expression}, which is none of {', '.join(allowed)}",
            "allow it as well, or leave such faces out",
        )
    return FaceTask(
        name=annotation.picture,
        units=annotation.units[vocabulary.name],
        vocabulary=vocabulary,
        label=annotation.expression,
        allowed=tuple(allowed),
        picture=None if folder is None else folder / annotation.picture,
        seed=wording_seed(run_seed, annotation.picture),
    )
