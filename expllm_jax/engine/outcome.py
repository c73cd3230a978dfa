"""How the loop ended for a face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from expllm_jax.cot.finding import Finding
from expllm_jax.engine.memory import Memory
from expllm_jax.faces import Annotation

Status = Literal["accepted", "rejected", "failed"]
"""accepted: a text without findings; rejected: no such text within the rounds; failed: the narrator did not answer, to
be tried again."""


@dataclass(frozen=True)
class Outcome:
    """What became of one annotation. None is ever dropped: it is accepted, or comes with the reason why not."""

    annotation: Annotation  # accepted: with text and provenance; otherwise as it came
    status: Status
    reason: str  # "" if accepted
    rounds: int  # begun, the last one included
    findings: tuple[Finding, ...]  # of the last text that was checked; empty if accepted
    history: Memory = ()  # the rounds that did not end well

    def dead_letter(self) -> dict[str, Any]:
        """The line of the dead-letter file, plain JSON values: the annotation as it came, and why it has no text."""
        return {
            "annotation": self.annotation.to_json(),
            "status": self.status,
            "reason": self.reason,
            "rounds": self.rounds,
            "findings": [vars(finding) for finding in self.findings],
            "history": [attempt.to_json() for attempt in self.history],
        }
