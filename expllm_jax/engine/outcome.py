"""How the loop ended for a face."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from expllm_jax.cot.finding import Finding
from expllm_jax.engine.memory import Attempt, Memory
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
        """What the dead-letter file says of a face, plain JSON values: the annotation as it came, and why it has no
        text.
        """
        return {"annotation": self.annotation.to_json(), **self._course()}

    def dead_letter_line(self) -> str:
        """The line of the dead-letter file, with its line end."""
        return json.dumps(self.dead_letter(), ensure_ascii=False) + "\n"

    def to_json(self) -> dict[str, Any]:
        """All that the loop added to the annotation it was given, plain JSON values."""
        added = {"cot": self.annotation.cot, "provenance": self.annotation.provenance}
        return self._course() | (added if self.status == "accepted" else {})

    @classmethod
    def from_json(cls, given: Annotation, value: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_json` made a dict of.

        Args:
          given: the annotation as it was given to the loop.
        """
        accepted = value["status"] == "accepted"
        return cls(
            annotation=replace(given, cot=value["cot"], provenance=value["provenance"]) if accepted else given,
            status=value["status"],
            reason=value["reason"],
            rounds=value["rounds"],
            findings=tuple(Finding(**finding) for finding in value["findings"]),
            history=tuple(Attempt.from_json(attempt) for attempt in value["history"]),
        )

    def _course(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "reason": self.reason,
            "rounds": self.rounds,
            "findings": [vars(finding) for finding in self.findings],
            "history": [attempt.to_json() for attempt in self.history],
        }
