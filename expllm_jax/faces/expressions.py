"""The expressions and the order every data set numbers them in."""

from __future__ import annotations

import difflib
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


def _worded(words: str) -> Mapping[str, str]:
    return MappingProxyType({word: word.capitalize() for word in words.split()})


_ALPHABETICAL_7 = "Anger Disgust Fear Happiness Neutral Sadness Surprise"
_ALPHABETICAL_8 = "Anger Contempt Disgust Fear Happiness Neutral Sadness Surprise"

LABEL_ORDERS: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        # RAF-DB's list file starts at 1; getting this wrong by one still trains, on the wrong classes. Loaders that
        # sort the folders 1 to 7 of its ImageFolder copies number the same order from 0.
        "raf-db": _numbered(1, "Surprise Fear Disgust Happiness Sadness Anger Neutral"),
        "raf-db-zero-based": _numbered(0, "Surprise Fear Disgust Happiness Sadness Anger Neutral"),
        "affectnet": _numbered(0, "Neutral Happiness Sadness Surprise Fear Disgust Anger Contempt"),
        "affectnet-kaggle-csv": _numbered(1, "Neutral Happiness Sadness Surprise Fear Disgust Anger Contempt"),
        # EmotiEffLib's networks, and whatever sorts folders that are called by the expressions' names.
        "emotiefflib-8": _numbered(0, _ALPHABETICAL_8),
        "emotiefflib-7": _numbered(0, _ALPHABETICAL_7),
        "ferplus-csv": _numbered(0, "Neutral Happiness Surprise Sadness Anger Disgust Fear Contempt"),
        "ferplus-folders": _numbered(0, _ALPHABETICAL_8),  # FERBench's copy: angry, contempt, disgust, ...
        "fer2013": _numbered(0, "Anger Disgust Fear Happiness Sadness Surprise Neutral"),
        "sfew": _numbered(0, _ALPHABETICAL_7),  # folders Angry, Disgust, Fear, Happy, Neutral, Sad, Surprise
        "dfew": _numbered(1, "Happiness Sadness Neutral Anger Surprise Disgust Fear"),
    }
)
"""Data set -> its label number -> our label word. Numbers that stand for no expression are in ``NOT_EXPRESSIONS``."""

LABEL_WORDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "casme2": _worded("happiness disgust surprise sadness fear"),
        "samm": _worded("anger contempt disgust fear happiness sadness surprise"),
    }
)
"""Data set -> the class word of its table, in lower case -> our label word, for sets that write words."""

NOT_EXPRESSIONS: Mapping[str, Mapping[int | str, str]] = MappingProxyType(
    {
        "affectnet": MappingProxyType({8: "none", 9: "uncertain", 10: "no face"}),
        "ferplus-csv": MappingProxyType({8: "unknown", 9: "not a face (NF)"}),
        "casme2": MappingProxyType({"others": "others", "repression": "repression"}),
        "samm": MappingProxyType({"other": "other"}),
    }
)
"""Data set -> label number or class word -> what it stands for. Faces labelled so are left out on purpose; any other
label that is not in the data set's order is a mistake."""


def expression_of(dataset: str, number: int) -> str:
    """The label word for a data set's label number.

    Raises:
        ExpllmError: the data set is not registered, has no such label, or the label stands for no expression.
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
        meaning = NOT_EXPRESSIONS.get(dataset, {}).get(number)
        what = f" (it means {meaning!r})" if meaning else ""
        raise ExpllmError(
            f"{dataset} has no expression with label {number}{what}.",
            f"Its labels run from {min(order)} ({order[min(order)]}) to {max(order)} ({order[max(order)]}).",
        ) from None


_WORDS: Mapping[str, str] = MappingProxyType(
    {
        word: expression
        for expression, words in {
            "Neutral": "neutral neutrality",
            "Happiness": "happiness happy joy joyful",
            "Sadness": "sadness sad",
            "Surprise": "surprise surprised",
            "Fear": "fear fearful afraid scared",
            "Disgust": "disgust disgusted",
            "Anger": "anger angry",
            "Contempt": "contempt contemptuous",
        }.items()
        for word in words.split()
    }
)


def expression_word(text: str) -> str:
    """The label word for what a person, folder or table calls an expression: "angry", "ANGER" -> "Anger".

    Nouns and adjectives in any case, with blanks around them; nothing is guessed.

    Raises:
        ExpllmError: it is no such word; the nearest one is named.
    """
    word = text.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    nearest = difflib.get_close_matches(word, _WORDS, n=1, cutoff=0.5)
    hint = f"Did you mean {nearest[0]!r} ({_WORDS[nearest[0]]})? " if nearest else ""
    raise ExpllmError(f"{text!r} names no expression.", f"{hint}The label words are {', '.join(EXPRESSIONS)}.")
