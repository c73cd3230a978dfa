"""What evaluation reads: one picture's truth beside what the model said about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from expllm_jax.errors import ExpllmError


@dataclass(frozen=True)
class EvaluatedFace:
    """One picture with its exact truth and the model's own answer; every metric is a function of a list of these.

    What was not asked for is None (`label_text`, `cot`) or empty; what was asked for and came out unusable is there as
    generated, and counts as wrong.

    Raises ExpllmError when the parts contradict each other: no identity, an intensity outside 0–1, probabilities that
    do not sum to 1, or a reasoning that both failed to parse and concludes something.
    """

    record: str  # unique id of the record
    identity: str  # who is shown: intervals resample people; use the record id where people are unknown
    split: str  # "clean", "mild", "hard", or a dataset's own split name
    expression: str  # true expression
    units: Mapping[str, float]  # true FACS units: code → intensity 0–1, 0 = known to be absent; left out = unknown
    label_text: str | None  # the model's answer to the label question, as generated; None = not asked
    predicted: str | None  # the answer's label, by the rule of `order`; None = unparsable, counts as wrong
    cot: str | None  # the model's reasoning text, as generated; None = not asked
    cot_failure: str | None = None  # why the reasoning could not be parsed; None = it parsed, or was not asked for
    stated: Mapping[str, str | None] = field(default_factory=dict)  # code → intensity band (None: no word given)
    concluded: str | None = None  # expression the reasoning concludes; None when it failed or was not asked for
    tries: int = 1  # how often the model was asked until it parsed; above 1 its first answer did not
    picture: Path | None = None  # file shown in the report's gallery
    order: str = "label-first"  # in which order label and reasoning were asked for: see infer.ORDERS
    probabilities: Mapping[str, float] = field(default_factory=dict)  # label → its share of the labels' likelihood
    truncated: bool = False  # an answer was cut off for lack of room
    prompt_tokens: int = 0  # tokens that the model read for this face, image tokens included; 0 = not known
    new_tokens: int = 0  # tokens that it generated for this face, all tries and chains together
    votes: Mapping[str, int] = field(default_factory=dict)  # label → chains that ended in it, where several were drawn
    groups: Mapping[str, str] = field(default_factory=dict)  # attribute → the group annotators put the person in

    def __post_init__(self) -> None:
        if not self.identity:
            raise ExpllmError(
                f"record {self.record!r} has no identity, and intervals are clustered by identity",
                "give the person's id, or the record's own id where people are unknown",
            )
        for code, intensity in self.units.items():
            if not 0.0 <= intensity <= 1.0:
                raise ExpllmError(
                    f"record {self.record!r}: true intensity of {code} is {intensity}",
                    "intensities are fractions from 0 to 1; convert FACS letters or 0–5 scores first",
                )
        if (self.cot is not None and self.cot_failure is None) != (self.concluded is not None):
            raise ExpllmError(
                f"record {self.record!r}: concluded={self.concluded!r} with cot_failure={self.cot_failure!r}",
                "a reasoning either parses and concludes one expression, or has a reason why it does not parse",
            )
        if self.probabilities and not math.isclose(sum(self.probabilities.values()), 1.0, abs_tol=1e-3):
            raise ExpllmError(
                f"record {self.record!r}: the probabilities of its labels sum to {sum(self.probabilities.values())}",
                "give shares of all labels that were allowed",
            )

    @property
    def correct(self) -> bool:
        """Whether the label answer is right; an unparsable one is wrong."""
        return self.predicted == self.expression

    @property
    def contradicts(self) -> bool:
        """Whether the reasoning concludes another expression than the one answered; not where either is missing."""
        return self.concluded is not None and self.predicted is not None and self.concluded != self.predicted

    @property
    def asked(self) -> int:
        """How many answers were asked for: the label, the reasoning, or both."""
        return int(self.label_text is not None) + int(self.cot is not None)

    @property
    def unparsable_label(self) -> bool:
        """Whether the label was asked for and not given."""
        return self.label_text is not None and self.predicted is None

    @property
    def unparsable_cot(self) -> bool:
        """Whether the reasoning was asked for and does not keep to the form."""
        return self.cot_failure is not None

    @property
    def unparsable(self) -> int:
        """How many of the answers that were asked for could not be parsed: 0, 1 or 2."""
        return int(self.unparsable_label) + int(self.unparsable_cot)

    @property
    def credited(self) -> Mapping[str, str | None]:
        """The units the reasoning gets credit for: none when it does not parse, so that broken text never scores."""
        return self.stated if self.cot_failure is None else {}

    @property
    def strongest(self) -> float:
        """The true intensity of the strongest known unit; nan where no unit is known."""
        return max(self.units.values(), default=math.nan)
