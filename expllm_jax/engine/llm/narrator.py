"""The narrator that asks a language model: a question for every step of the loop, the answer read strictly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expllm_jax.cot.finding import Finding
from expllm_jax.engine.llm.calls import Calls
from expllm_jax.engine.llm.config import LlmConfig
from expllm_jax.engine.llm.pictures import read_picture
from expllm_jax.engine.llm.prompt_files import load_prompts
from expllm_jax.engine.llm.replies import read_description, read_inference, read_parts, read_verdict, text_of
from expllm_jax.engine.llm.request import ChatRequest, Completion
from expllm_jax.engine.llm.unit_list import unit_list
from expllm_jax.engine.memory import Attempt, Memory
from expllm_jax.engine.narration import Inference, Verdict
from expllm_jax.engine.task import FaceTask
from expllm_jax.errors import ExpllmError

_SEED_BITS = 31  # what every endpoint takes
# What decides the answers, of the configuration; the rest only says where, how fast and at what price.
_DECIDES = ("model", "temperature", "max_tokens", "length_key", "picture_mode", "prompts")


class LlmNarrator:
    """A `Narrator` that asks the model of a configuration.

    The model is told the units (and sees the picture in picture mode), never the picture's name. The question for the
    description holds no label, beside what the feedback on earlier ones may have said of it, and a description that
    names an expression is refused; the question for the expression holds the description alone. A question that was
    asked before gets its answer from the cache: a round ends otherwise than the last only if its description differs.

    Args:
      replies: the file that answers are kept in; see `cache`.

    Raises:
      ExpllmError: the configuration cannot be used: no such prompts, no key, no package `openai`.
    """

    name = "llm"

    def __init__(self, config: LlmConfig, replies: str | Path) -> None:
        self._config = config
        self._prompts = load_prompts(config.prompts)
        self._calls = Calls(config, Path(replies))

    @property
    def fingerprint(self) -> str:
        """A hash of model, settings and prompts, 16 hex digits."""
        decides = {key: getattr(self._config, key) for key in _DECIDES} | {"digest": self._prompts.digest}
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def provenance(self) -> Mapping[str, str]:
        """What wrote the texts, for their record."""
        return {
            "model": self._config.model,
            "prompts": self._prompts.version,
            "prompts_sha256": self._prompts.digest,
            "picture_mode": self._config.picture_mode,
        }

    def report(self) -> dict[str, Any]:
        """What was asked and what it took: plain JSON values."""
        return self._calls.report()

    async def close(self) -> None:
        """Waits for the requests on the wire, keeps their answers, and closes all; a second time does nothing."""
        await self._calls.close()

    async def describe(self, face: FaceTask, memory: Memory) -> str:
        user = self._prompts.fill(
            "describe", units=unit_list(face), picture=self._about_picture(), earlier=self._earlier(memory)
        )
        reply = await self._ask(face, user, writes=True, looks=True, turn=len(memory))
        return read_description(reply, face.allowed)

    async def infer(self, face: FaceTask, description: str) -> Inference:
        user = self._prompts.fill("infer", description=description, allowed=", ".join(face.allowed))
        return read_inference(await self._ask(face, user), face.allowed)

    async def confirm(self, face: FaceTask, description: str, expression: str) -> Verdict:
        user = self._prompts.fill(
            "confirm",
            units=unit_list(face),
            picture=self._about_picture(),
            description=description,
            expression=expression,
        )
        return read_verdict(await self._ask(face, user, looks=True))

    async def reflect(self, face: FaceTask, memory: Memory, attempt: Attempt) -> str:
        user = self._prompts.fill(
            "reflect",
            units=unit_list(face),
            description=attempt.description or "(none)",
            inferred=attempt.inferred or "(none)",
            label=face.label or "(not known)",
            problem="\n".join([attempt.problem, *(finding.reason for finding in attempt.findings)]),
            earlier=self._earlier(memory),
        )
        return text_of(await self._ask(face, user, writes=True, turn=len(memory)))

    async def refine(
        self, face: FaceTask, description: str, expression: str, findings: tuple[Finding, ...] = ()
    ) -> str:
        listed = "\n".join(f"- {finding.reason}" for finding in findings)
        user = self._prompts.fill(
            "refine",
            units=unit_list(face, with_associations=True),
            description=description,
            expression=expression,
            others=", ".join(name for name in face.allowed if name != expression),
            findings=self._prompts.fill("findings", findings=listed) if findings else "",
        )
        return read_parts(await self._ask(face, user, writes=True, turn=len(findings)))

    async def _ask(
        self, face: FaceTask, user: str, *, writes: bool = False, looks: bool = False, turn: int = 0
    ) -> Completion:
        """One question.

        Args:
          writes: the answer is free text, drawn by the face's seed; otherwise it is a judgement.
          looks: the picture goes along in picture mode.
          turn: changes the draw where a face asks much the same again.
        """
        config = self._config
        settings: dict[str, Any] = {config.length_key: config.max_tokens}
        if config.temperature is not None:
            settings["temperature"] = config.temperature if writes else 0.0
            if writes and config.temperature > 0:
                settings["seed"] = (face.seed + turn + 7919 * config.draw) % 2**_SEED_BITS
        picture = None
        if looks and config.picture_mode == "picture":
            if face.picture is None:
                raise ExpllmError(
                    f"{face.name}: it is not known where the picture lies",
                    "picture mode needs the folder of the pictures",
                )
            picture = read_picture(face.picture, config.picture_bytes)
        system = self._prompts.fill("system")
        return await self._calls.answer(
            ChatRequest(config.model, system, user, tuple(settings.items()), config.max_tokens, picture, config.draw)
        )

    def _about_picture(self) -> str:
        return self._prompts.fill("picture") if self._config.picture_mode == "picture" else ""

    def _earlier(self, memory: Memory) -> str:
        attempts = [
            self._prompts.fill(
                "attempt",
                number=number,
                description=attempt.description or "(none)",
                feedback=attempt.feedback or attempt.problem,
            )
            for number, attempt in enumerate(memory, 1)
        ]
        return self._prompts.fill("earlier", attempts="\n\n".join(attempts)) if attempts else ""

    def __repr__(self) -> str:
        return f"LlmNarrator({dataclasses.asdict(self._config)})"
