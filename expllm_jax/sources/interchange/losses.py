"""What a format cannot say is refused on the way out, unless the caller allows the loss.

Split and provenance are not counted: a file is the split that its name says, and where its entries came from is what
its own reader will say of it.
"""

from __future__ import annotations

from collections.abc import Collection

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation

CONTENT = ("expression", "units", "cot", "caption", "identity", "attributes", "landmarks", "face_box")
"""The fields of an annotation that say something about the face."""


def check_loss(
    annotation: Annotation, carried: Collection[str], *, lossy: bool, into: str, details: Collection[str] = ()
) -> None:
    """Checks that a format carries all that an annotation says.

    Args:
        annotation: what is to be written.
        carried: those of CONTENT that the format has a place for.
        lossy: whether the rest may be lost.
        into: the name of the format.
        details: what is lost of the fields that it has a place for, in words.

    Raises:
        ExpllmError: something would be lost and may not be, or nothing but the picture's name would be left.
    """
    said = [name for name in CONTENT if getattr(annotation, name) not in (None, "", (), {})]
    lost = [name for name in said if name not in carried] + list(details)
    if lost and not lossy:
        raise ExpllmError(
            f"{annotation.picture}: {into} has no place for {', '.join(lost)}.",
            "Allow the loss (lossy=True), or export a format that keeps it.",
        )
    if not set(said) & set(carried):
        raise ExpllmError(
            f"{annotation.picture}: nothing of the annotation can be written as {into}.",
            f"It takes {', '.join(name for name in CONTENT if name in carried)}.",
        )
