"""The expressions and the order every data set numbers them in."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from expllm_jax.errors import ExpllmError

EXPRESSIONS: tuple[str, ...] = (
    "Neutral",
    "Happiness",
    "Sadness",
    "Surprise",
    "Fear",
    "Disgust",
    "Anger",
    "Contempt",
)
"""The label words, in AffectNet's order; the model answers with exactly one of them."""

BASIC_7: tuple[str, ...] = EXPRESSIONS[:7]
"""What RAF-DB labels: everything but contempt."""


def _numbered(first: int, names: str) -> Mapping[int, str]:
    return MappingProxyType(dict(enumerate(names.split(), start=first)))


LABEL_ORDERS: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        # RAF-DB's list file starts at 1; getting this wrong by one still trains, on the wrong classes.
        "raf-db": _numbered(1, "Surprise Fear Disgust Happiness Sadness Anger Neutral"),
        "affectnet": _numbered(0, "Neutral Happiness Sadness Surprise Fear Disgust Anger Contempt"),
        "affectnet-kaggle-csv": _numbered(1, "Neutral Happiness Sadness Surprise Fear Disgust Anger Contempt"),
        "emotiefflib-8": _numbered(0, "Anger Contempt Disgust Fear Happiness Neutral Sadness Surprise"),
        "ferplus-csv": _numbered(0, "Neutral Happiness Surprise Sadness Anger Disgust Fear Contempt"),
        "fer2013": _numbered(0, "Anger Disgust Fear Happiness Sadness Surprise Neutral"),
        "dfew": _numbered(1, "Happiness Sadness Neutral Anger Surprise Disgust Fear"),
    }
)
"""Data set -> its label number -> our label word. AffectNet's 8 to 10 (none, uncertain, no face) are no expressions."""


def expression_of(dataset: str, number: int) -> str:
    """The label word for a data set's label number.

    Raises:
        ExpllmError: the data set is not registered, or has no such label.
    """
    try:
        order = LABEL_ORDERS[dataset]
    except KeyError:
        raise ExpllmError(
            f"No label order is known for {dataset!r}.", f"Use one of {', '.join(LABEL_ORDERS)}."
        ) from None
    try:
        return order[number]
    except KeyError:
        raise ExpllmError(
            f"{dataset} has no expression with label {number}.",
            f"Its labels run from {min(order)} ({order[min(order)]}) to {max(order)} ({order[max(order)]}).",
        ) from None
