"""What the verifier finds wrong with a text: a code for counting, a span for showing, a reason for mending."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

FINDING_CODES: Mapping[str, str] = MappingProxyType(
    {
        "missing-part": "one of the three parts is not there",
        "extra-part": "there is a paragraph too many",
        "parts-out-of-order": "the three parts are there, in another order",
        "empty-part": "a heading has nothing under it",
        "inexact-heading": "a heading is not written exactly as it should be",
        "extra-bold": "words are bold that are no heading",
        "wrong-length": "the text has fewer or more words than it should",
        "unsupported-unit": "a unit is stated that the values do not show",
        "wrong-side": "a unit is stated on a side that does not show it",
        "wrong-intensity": "the word for a unit's intensity does not fit its value",
        "denied-unit": "a unit is denied that the values show",
        "omitted-unit": "a strong unit is not mentioned",
        "unsupported-association": "a unit is tied to an expression that no source ties it to",
        "label-in-observations": "the observations name the label that is still to be concluded",
        "no-conclusion": "the conclusion names no label",
        "several-conclusions": "the conclusion names more than one label",
        "wrong-conclusion": "the conclusion names another label than the right one",
        "wrong-number": "a quoted number is not the unit's value",
        "unknown-unit": "a quoted code belongs to no unit",
        "bare-number": "a number stands for an intensity and belongs to no value",
        "personal-word": "the text speaks of age, sex, ethnicity or identity",
    }
)
"""Code -> what it means. Their order is that of reports."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a text."""

    code: str  # one of FINDING_CODES
    start: int  # where, in the text that was checked: text[start:end]; empty at the place where something is missing
    end: int
    reason: str  # a sentence for people and for a language model that is to mend it: says what would be right
