"""The Exp-CoT loop of the paper's data engine: describe, infer, confirm, compare; reflect and try again, or refine.

    units ─► Describe ─► Infer ─► Confirm ─► Compare ──yes──► Refine ─► verified text
               ▲                                │ no            │ findings
               └──────── memory ◄── Reflect ◄───┴───────────────┘

The paper shows the figure and says neither how many rounds there are nor what becomes of faces that never agree: here
the limit is a setting, and such faces are rejected with their history. Unlabelled faces go through the same loop
without the comparison; their provenance says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from expllm_jax import __version__
from expllm_jax.cot import Finding, VerifierRules, verify
from expllm_jax.engine.memory import Attempt, Memory
from expllm_jax.engine.narration import Narrator, NarratorFailed, UnusableReply
from expllm_jax.engine.outcome import Outcome
from expllm_jax.engine.steps import Compare, Confirm, Describe, Infer, Refine, Reflect
from expllm_jax.engine.task import FaceTask, face_task
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import BASIC_7, EXPRESSIONS, Annotation, vocabulary

VOCABULARY_KEY = "engine.vocabulary"
"""Where the provenance of a text says which units it speaks of, for annotations that have several vocabularies."""


@dataclass(frozen=True)
class EngineConfig:
    """What decides a text beside the narrator and the face. Runs with another config do not mix.

    Raises:
      ExpllmError: a value cannot be used.
    """

    rounds: int = 3  # descriptions a face gets before it is rejected
    refinements: int = 2  # versions of the refined text in a round, the later ones with the findings of the one before
    vocabulary: str = "facs"  # which units of the annotations are told: "facs" or "feafa"
    allowed: tuple[str, ...] = BASIC_7  # the expressions to choose from
    seed: int = 0
    rules: VerifierRules = field(default_factory=VerifierRules)  # what a text must keep to

    def __post_init__(self) -> None:
        for name in ("rounds", "refinements"):
            if getattr(self, name) < 1:
                raise ExpllmError(f"The engine's {name} is {getattr(self, name)}.", "Give it at least 1.")
        unknown = [name for name in self.allowed if name not in EXPRESSIONS]
        if unknown or not self.allowed:
            raise ExpllmError(
                f"The engine's allowed expressions are {', '.join(self.allowed) or 'none'}.",
                f"Use some of {', '.join(EXPRESSIONS)}.",
            )
        vocabulary(self.vocabulary)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values, equal for equal configs."""
        return asdict(self) | {"allowed": list(self.allowed)}


class ExpCotLoop:
    """Takes annotations through the loop, any number at once.

    Args:
      folder: that of the annotations file, which pictures are relative to; None if nobody looks at pictures.
    """

    def __init__(self, narrator: Narrator, config: EngineConfig = EngineConfig(), folder: Path | None = None) -> None:
        self.narrator, self.config, self._folder = narrator, config, folder
        self._vocabulary = vocabulary(config.vocabulary)
        self._describe, self._infer, self._confirm = Describe(narrator), Infer(narrator), Confirm(narrator)
        self._compare, self._reflect = Compare(), Reflect(narrator)
        self._refine = Refine(narrator, self._findings, config.refinements)

    def task(self, annotation: Annotation) -> FaceTask:
        """What the loop makes of an annotation.

        Raises:
          ExpllmError: it has no units of the config's vocabulary, or a label that is not allowed.
        """
        return face_task(
            annotation, self._vocabulary, self.config.allowed, run_seed=self.config.seed, folder=self._folder
        )

    async def run(self, annotation: Annotation) -> Outcome:
        """What becomes of one annotation.

        Raises:
          ExpllmError: as `task` does.
          BudgetSpent: the narrator may not ask any more; the annotation is as if it had never been begun.
        """
        face = self.task(annotation)
        memory: Memory = ()
        seen: list[Finding] = []
        while True:
            number = len(memory) + 1
            try:
                ended = await self._round(face, memory, seen)
                if isinstance(ended, _Accepted):
                    return Outcome(self._told(annotation, ended, number, seen), "accepted", "", number, (), memory)
                if number == self.config.rounds:
                    memory = (*memory, ended)  # nobody is asked for feedback that no round would hear
                    return Outcome(annotation, "rejected", ended.problem, number, ended.findings, memory)
                memory = (*memory, await self._reflect(face, memory, ended))
            except NarratorFailed as failure:
                return Outcome(annotation, "failed", failure.reason, number, (), memory)

    async def _round(self, face: FaceTask, memory: Memory, seen: list[Finding]) -> _Accepted | Attempt:
        """One round; `seen` gets what the verifier found in it."""
        description, inferred, agrees, text = "", None, False, ""
        findings: tuple[Finding, ...] = ()
        try:
            description = await self._describe(face, memory)
            inferred = (await self._infer(face, description)).expression
            verdict = await self._confirm(face, description, inferred)
            agrees = verdict.agrees
            problems = [self._compare(face, inferred), "" if agrees else verdict.reason or "the units do not agree"]
            problem = "; ".join(filter(None, problems))
            if not problem:
                refined = await self._refine(face, description, inferred)
                seen += (*refined.mended, *refined.findings)
                if not refined.findings:
                    return _Accepted(refined.text, inferred)
                text, findings = refined.text, refined.findings
                problem = "the text is not true to the face: " + " ".join(finding.reason for finding in findings)
        except UnusableReply as reply:
            problem = f"unusable reply: {reply.reason}"
        return Attempt(description, inferred, agrees, problem, text=text, findings=findings)

    def _findings(self, text: str, face: FaceTask, expression: str) -> tuple[Finding, ...]:
        return verify(
            text,
            units=face.units,
            vocabulary=face.vocabulary,
            expression=expression,
            allowed=face.allowed,
            rules=self.config.rules,
        )

    def _told(self, annotation: Annotation, accepted: _Accepted, rounds: int, seen: Iterable[Finding]) -> Annotation:
        counts = Counter(finding.code for finding in seen)
        labelled = annotation.expression is not None
        provenance = {
            "engine.version": __version__,
            "engine.narrator": self.narrator.name,
            "engine.fingerprint": self.narrator.fingerprint,
            **{f"engine.{key}": value for key, value in self.narrator.provenance.items()},
            "engine.rounds": str(rounds),
            "engine.findings": ", ".join(f"{code} ×{count}" for code, count in sorted(counts.items())) or "none",
            "engine.label": "compared" if labelled else f"none to compare with; inferred {accepted.expression}",
            VOCABULARY_KEY: self.config.vocabulary,
            "engine.units": units_source(annotation),
        }
        return replace(annotation, cot=accepted.text, provenance={**annotation.provenance, **provenance})


@dataclass(frozen=True)
class _Accepted:
    text: str
    expression: str


def units_source(annotation: Annotation) -> str:
    """Where an annotation's units come from, as far as its provenance says: `units` if they were added to the face,
    otherwise the source of the whole annotation.
    """
    for key in ("units", "source", "dataset"):
        if annotation.provenance.get(key):
            return annotation.provenance[key]
    return "unknown"
