"""What evaluation reads: one picture's truth beside what the model said about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from expllm_jax.errors import ExpllmError


@dataclass(frozen=True)
class EvaluatedFace:
    """One picture with its exact truth and the model's own answer; every metric is a function of a list of these.

    Raises ExpllmError when the parts contradict each other: no identity, an intensity outside 0–1, or a reasoning
    that both failed to parse and concludes something.
    """

    record: str  # unique id of the record
    identity: str  # who is shown: intervals resample people; use the record id where people are unknown
    split: str  # "clean", "mild", "hard", or a dataset's own split name
    expression: str  # true expression
    units: Mapping[str, float]  # true FACS units: code → intensity 0–1, 0 = known to be absent; left out = unknown
    label_text: str  # the model's answer to the label question, as generated
    predicted: str | None  # label parsed from it; None = unparsable, counts as wrong
    cot: str  # the model's reasoning text, as generated
    cot_failure: str | None = None  # why the reasoning could not be parsed; None = it parsed
    stated: Mapping[str, str | None] = field(default_factory=dict)  # code → intensity band (None: no word given)
    concluded: str | None = None  # expression the reasoning concludes; None exactly when cot_failure is given
    tries: int = 1  # how often the model was asked until it parsed; above 1 its first answer did not
    picture: Path | None = None  # file shown in the report's gallery

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
        if (self.cot_failure is None) != (self.concluded is not None):
            raise ExpllmError(
                f"record {self.record!r}: concluded={self.concluded!r} with cot_failure={self.cot_failure!r}",
                "a reasoning either parses and concludes one expression, or has a reason why it does not parse",
            )

    @property
    def correct(self) -> bool:
        """Whether the label answer is right; an unparsable one is wrong."""
        return self.predicted == self.expression

    @property
    def unparsable(self) -> int:
        """How many of the two answers (label, reasoning) could not be parsed: 0, 1 or 2."""
        return int(self.predicted is None) + int(self.cot_failure is not None)

    @property
    def credited(self) -> Mapping[str, str | None]:
        """The units the reasoning gets credit for: none when it does not parse, so that broken text never scores."""
        return self.stated if self.cot_failure is None else {}
