"""What was tried on a face so far: the paper's memory of descriptions and feedback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expllm_jax.cot.finding import Finding


@dataclass(frozen=True)
class Attempt:
    """One round that did not end in an accepted text."""

    description: str  # "" if the narrator gave none
    inferred: str | None  # the expression that the description suggested; None if none was told
    agrees: bool  # whether the narrator found units and expression to agree
    problem: str  # why the round did not end well, a sentence for people
    feedback: str = ""  # what the narrator is told in the next round; empty while it is being thought of
    text: str = ""  # the refined text, if it came so far
    findings: tuple[Finding, ...] = ()  # what the verifier found in it; their spans are those of `text`

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values, for the journal and the dead-letter file."""
        return {
            "description": self.description,
            "inferred": self.inferred,
            "agrees": self.agrees,
            "problem": self.problem,
            "feedback": self.feedback,
            "text": self.text,
            "findings": [vars(finding) for finding in self.findings],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Attempt:
        """The attempt that `to_json` made a dict of."""
        return cls(**{**value, "findings": tuple(Finding(**finding) for finding in value["findings"])})


Memory = tuple[Attempt, ...]
"""All attempts on one face, the first one first."""
