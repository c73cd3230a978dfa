"""The steps of the paper's data engine, one class each; `ExpCotLoop` joins them.

A step puts its question to the narrator and checks that the answer can be used at all, so that the loop need not trust
whoever answers: a step that returns has returned what it promises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from expllm_jax.cot.finding import Finding
from expllm_jax.engine.memory import Attempt, Memory
from expllm_jax.engine.narration import Inference, Narrator, UnusableReply, Verdict
from expllm_jax.engine.task import FaceTask

Check = Callable[[str, FaceTask, str], tuple[Finding, ...]]
"""(Refined text, face, the expression it is to conclude with) → what is wrong with it."""


@dataclass(frozen=True)
class Describe:
    """AU2Des: units → description."""

    narrator: Narrator

    async def __call__(self, face: FaceTask, memory: Memory) -> str:
        """Raises UnusableReply, NarratorFailed or BudgetSpent, as all steps do that ask."""
        return _usable(await self.narrator.describe(face, memory), "the description")


@dataclass(frozen=True)
class Infer:
    """Des2Exp: description → expression, from the description alone."""

    narrator: Narrator

    async def __call__(self, face: FaceTask, description: str) -> Inference:
        inference = await self.narrator.infer(face, description)
        if inference.expression not in face.allowed:
            raise UnusableReply(f"the inferred expression {inference.expression!r} is none of the allowed ones")
        return inference


@dataclass(frozen=True)
class Confirm:
    """The result's verification: do the units and the inferred expression agree?"""

    narrator: Narrator

    async def __call__(self, face: FaceTask, description: str, expression: str) -> Verdict:
        return await self.narrator.confirm(face, description, expression)


@dataclass(frozen=True)
class Compare:
    """Pred == GT? Nobody is asked, and without a label nothing is compared."""

    def __call__(self, face: FaceTask, expression: str) -> str:
        """What is wrong, "" if nothing."""
        if face.label is None or expression == face.label:
            return ""
        return f"the description suggests {expression}, the label is {face.label}"


@dataclass(frozen=True)
class Reflect:
    """Feedback reflection: a failed attempt → the same with what is to be done better."""

    narrator: Narrator

    async def __call__(self, face: FaceTask, memory: Memory, attempt: Attempt) -> Attempt:
        if not attempt.description:
            return replace(attempt, feedback=attempt.problem)  # there is nothing to reflect on
        try:
            feedback = _usable(await self.narrator.reflect(face, memory, attempt), "the feedback")
        except UnusableReply:
            feedback = attempt.problem  # says less, but is no reason to lose the round to come
        return replace(attempt, feedback=feedback)


@dataclass(frozen=True)
class Refined:
    """A text of the final form, and what the verifier says of it and said of those before it."""

    text: str
    findings: tuple[Finding, ...]
    mended: tuple[Finding, ...]  # of earlier versions of the same round


@dataclass(frozen=True)
class Refine:
    """Format refinement: three headed parts at the released length, written again while the check finds something."""

    narrator: Narrator
    check: Check
    tries: int  # at least 1

    async def __call__(self, face: FaceTask, description: str, expression: str) -> Refined:
        mended: tuple[Finding, ...] = ()
        findings: tuple[Finding, ...] = ()
        for _ in range(self.tries):
            mended += findings
            text = _usable(await self.narrator.refine(face, description, expression, findings), "the refined text")
            findings = self.check(text, face, expression)
            if not findings:
                break
        return Refined(text, findings, mended)


def _usable(reply: str, what: str) -> str:
    """The reply without blanks around it, provided that it is text that can be stored."""
    reply = reply.strip()
    if not reply:
        raise UnusableReply(f"{what} is empty")
    try:
        reply.encode()  # fails on halves of characters, which JSON can spell
    except UnicodeEncodeError:
        raise UnusableReply(f"{what} holds characters that cannot be stored as text") from None
    if "\0" in reply:
        raise UnusableReply(f"{what} holds characters that cannot be stored as text")
    return reply
