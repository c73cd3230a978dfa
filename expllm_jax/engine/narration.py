"""What the loop asks of a narrator, whoever that is: rules and tables, or a language model at an endpoint.

Every question may be answered late, badly or not at all. A narrator raises `UnusableReply` for an answer that is not
what was asked, `NarratorFailed` where no answer came although it was tried again, and `BudgetSpent` where it may not
ask any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from expllm_jax.cot.finding import Finding
from expllm_jax.engine.memory import Attempt, Memory
from expllm_jax.engine.task import FaceTask


@dataclass(frozen=True)
class Inference:
    """The expression that a description suggests."""

    expression: str  # one of the task's `allowed`
    reason: str = ""  # why, in a sentence


@dataclass(frozen=True)
class Verdict:
    """Whether units and expression agree."""

    agrees: bool
    reason: str = ""  # why, in a sentence; goes into the feedback if they do not agree


class UnusableReply(Exception):
    """The narrator answered, but not what was asked: the round is lost, the face is not."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NarratorFailed(Exception):
    """No answer after all retries: the face is set aside as failed, and tried again when the run is started anew."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BudgetSpent(Exception):
    """The narrator may not ask any more: the run stops, what is finished is kept. The message says what was spent."""


class Narrator(Protocol):
    """Writes, reads and judges texts about a face. All methods may be called for many faces at once."""

    @property
    def name(self) -> str:
        """ "offline", "llm", …"""

    @property
    def fingerprint(self) -> str:
        """A short hash of all that decides what it writes: its version, or its prompts, model and settings."""

    @property
    def provenance(self) -> Mapping[str, str]:
        """More about who wrote a text, such as the model and the prompts' hash; goes into every annotation."""

    def report(self) -> dict[str, Any]:
        """What was asked and spent so far, plain JSON values; goes into the run's summary."""

    async def describe(self, face: FaceTask, memory: Memory) -> str:
        """A description of what the units show; `memory` holds what went wrong with earlier ones."""

    async def infer(self, face: FaceTask, description: str) -> Inference:
        """The expression of `face.allowed` that the description suggests, told from the description alone."""

    async def confirm(self, face: FaceTask, description: str, expression: str) -> Verdict:
        """Whether the face's units and the expression agree."""

    async def reflect(self, face: FaceTask, memory: Memory, attempt: Attempt) -> str:
        """Feedback on an attempt that failed (its `feedback` is empty), for the next round."""

    async def refine(
        self, face: FaceTask, description: str, expression: str, findings: tuple[Finding, ...] = ()
    ) -> str:
        """The description as a text of three headed parts that concludes with the expression, at the released length.

        Args:
          findings: what the verifier found in the text of the call before this one; empty at first.
        """

    async def close(self) -> None:
        """Lets go of connections; the runner calls it when the run ends, on the event loop that the calls were on."""
