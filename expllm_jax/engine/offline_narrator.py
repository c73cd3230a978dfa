"""The offline narrator behind the loop's questions: rules and tables, no network, the same answer every time.

It describes what `read_face` finds, reads that description back with the readers of `cot`, and infers the expression
whose pattern the words match best (`evidence`). Told that it inferred another expression than the label, it names the
units that go with the label first and gives the others less weight. It states the same units with the same words for
their intensity in every round, so that a face which does not show its label stays rejected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np

from expllm_jax import __version__
from expllm_jax.cot import Finding, Statement, band, find_statements
from expllm_jax.engine.evidence import BAND_STRENGTH, expression_scores
from expllm_jax.engine.memory import Attempt, Memory
from expllm_jax.engine.narration import Inference, Verdict
from expllm_jax.engine.narrator import NarratorConfig, narrate
from expllm_jax.engine.reading import ShownMovement, read_face
from expllm_jax.engine.task import FaceTask
from expllm_jax.engine.wording import listed
from expllm_jax.faces import Vocabulary, associated_expressions, vocabulary

_WEIGHTS = {"Visible": 1.0, "Most telling": 1.0, "Less telling": 0.5, "Hardly telling": 0.25}
"""How a list of movements is opened → what the movements in it weigh."""

_SUPPORTED_SHARE = 0.25  # of what is stated, by strength, must go with the expression for the two to agree
_NEUTRAL_BELOW = 0.55  # a neutral face has no unit this strong that goes with some expression: bands' "strong"


class OfflineNarrator:
    """Answers from the face's units and the tables alone.

    Args:
      config: style and vocabulary of the refined text; the vocabulary is that of the faces.
    """

    name = "offline"

    def __init__(self, config: NarratorConfig) -> None:
        self._config = config
        vocabulary(config.vocabulary)
        decides = json.dumps({"version": __version__, **asdict(config)}, sort_keys=True)
        self.fingerprint = hashlib.sha256(decides.encode()).hexdigest()[:16]
        self.provenance: Mapping[str, str] = {"style": config.style}

    def report(self) -> dict[str, Any]:
        """Nothing is spent."""
        return {}

    async def describe(self, face: FaceTask, memory: Memory) -> str:
        """Everything the face shows, with its intensity; after a failed attempt sorted by what its label asks for."""
        # What is shown does not depend on the expression that a reading is made for.
        shown = read_face("Neutral", face.units, face.vocabulary).findings
        if not shown:
            return "Nothing moves clearly: every part of the face is close to rest."
        if not memory or face.label is None:
            return _listed_after("Visible", shown, face.vocabulary)
        telling = [movement for movement in shown if face.label in movement.associated]
        rest = [movement for movement in shown if face.label not in movement.associated]
        lists = (("Most telling", telling), ("Less telling" if len(memory) == 1 else "Hardly telling", rest))
        return " ".join(_listed_after(opening, movements, face.vocabulary) for opening, movements in lists if movements)

    async def infer(self, face: FaceTask, description: str) -> Inference:
        """The allowed expression whose pattern the described movements match best, Neutral if none well enough."""
        strengths: dict[str, float] = {}
        for opening, statement in _statements(description, face.vocabulary):
            if not statement.negated and statement.band is not None:
                strengths[statement.code] = BAND_STRENGTH[statement.band] * _WEIGHTS[opening]
        scores = expression_scores(strengths, face.vocabulary, face.allowed)
        best = max(scores, key=scores.__getitem__)  # of equals the first one allowed
        fitting = [code for code in strengths if best in associated_expressions(code, face.vocabulary)]
        if best == "Neutral":
            return Inference(best, "no pattern is clear enough")
        return Inference(best, f"{listed(fitting)} {'goes' if len(fitting) == 1 else 'go'} with it")

    async def confirm(self, face: FaceTask, description: str, expression: str) -> Verdict:
        """Whether enough of what the values show goes with the expression, however the description weighs it."""
        shown = read_face(expression, face.units, face.vocabulary)
        if expression == "Neutral":
            strong = [
                movement for movement in shown.findings if movement.associated and movement.value > _NEUTRAL_BELOW
            ]
            if not strong:
                return Verdict(True, "nothing strong speaks against a face at rest")
            names = listed([movement.name for movement in strong])
            return Verdict(False, f"{names} {'is' if len(strong) == 1 else 'are'} too strong for a neutral face")
        total = sum(movement.value for movement in shown.findings)
        fitting = sum(movement.value for movement in shown.fitting)
        if not fitting:
            return Verdict(False, f"no visible movement goes with {expression.lower()}")
        if fitting < _SUPPORTED_SHARE * total:
            return Verdict(False, f"only {fitting / total:.0%} of what is visible goes with {expression.lower()}")
        return Verdict(True, f"{fitting / total:.0%} of what is visible goes with {expression.lower()}")

    async def reflect(self, face: FaceTask, memory: Memory, attempt: Attempt) -> str:
        """Which of the visible movements go with the label, if there is one."""
        if face.label is None:
            return attempt.problem
        telling = read_face(face.label, face.units, face.vocabulary).fitting
        if not telling:
            return f"{attempt.problem}; no visible movement goes with {face.label.lower()}"
        names = listed([movement.name for movement in telling])
        return f"{attempt.problem}; {names} should weigh more, for {face.label.lower()}"

    async def refine(
        self, face: FaceTask, description: str, expression: str, findings: tuple[Finding, ...] = ()
    ) -> str:
        """The text of `narrate`; with findings another wording of it."""
        rng = np.random.default_rng([face.seed, len(findings)])
        return narrate(expression, face.units, self._config, rng)

    async def close(self) -> None:
        """There is nothing to let go of."""


def _listed_after(opening: str, movements: list[ShownMovement] | tuple[ShownMovement, ...], words: Vocabulary) -> str:
    return f"{opening}: {', '.join(_stated(movement, words) for movement in movements)}."


def _stated(movement: ShownMovement, words: Vocabulary) -> str:
    side = "" if movement.side == "both" else f"{movement.side} "
    code = f" ({movement.codes[0]})" if words.name == "facs" else ""  # FEAFA's numbers would be taken for FACS numbers
    return f"{band(movement.band).adjectives[0]} {side}{movement.name}{code}"


@lru_cache(maxsize=4096)  # most faces of a regime share their description with others
def _statements(description: str, words: Vocabulary) -> tuple[tuple[str, Statement], ...]:
    """What a description states, each with the opening of the list it stands in; nothing outside such lists counts."""
    found: list[tuple[str, Statement]] = []
    starts = sorted((description.find(f"{opening}: "), opening) for opening in _WEIGHTS)
    starts = [start for start in starts if start[0] >= 0]
    for position, (start, opening) in enumerate(starts):
        end = starts[position + 1][0] if position + 1 < len(starts) else len(description)
        found += [(opening, statement) for statement in find_statements(description, words, start, end)]
    return tuple(found)
