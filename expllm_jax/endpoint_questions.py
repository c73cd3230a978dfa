"""Many questions to one endpoint, for whoever asks pictures or judges texts: each paid for once, counted, resumable.

What calls take, how they are tried again and where they stop is that of the engine's language model (`engine.llm`);
every answer lies in a cache before it is used, so that the same command goes on after any stop.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from expllm_jax.engine.llm.calls import Calls
from expllm_jax.engine.llm.config import LlmConfig
from expllm_jax.engine.llm.pictures import Picture
from expllm_jax.engine.llm.request import ChatRequest, Completion
from expllm_jax.engine.narration import BudgetSpent, NarratorFailed, UnusableReply


@dataclass(frozen=True)
class Prompt:
    """A system message and a question of a version, filled in by `string.Template`. A version is never edited."""

    version: str
    system: str
    question: str

    @property
    def digest(self) -> str:
        """SHA-256 of both texts, 64 hex digits."""
        return hashlib.sha256(f"{self.system}\0{self.question}".encode()).hexdigest()

    def request(self, config: LlmConfig, picture: Picture | None = None, **fields: str) -> ChatRequest:
        """The question with its fields filled in, asked as the configuration says."""
        settings: dict[str, Any] = {config.length_key: config.max_tokens}
        if config.temperature is not None:
            settings["temperature"] = config.temperature
        user = Template(self.question).substitute(fields)
        return ChatRequest(
            config.model, self.system, user, tuple(settings.items()), config.max_tokens, picture, config.draw
        )


def load_prompt(version: str, name: str) -> Prompt:
    """The question `name` of `prompts/VERSION/`, with its system message."""
    folder = resources.files("expllm_jax") / "prompts" / version
    system, question = ((folder / f"{file}.txt").read_text(encoding="utf-8").strip() for file in ("system", name))
    return Prompt(version, system, question)


@dataclass
class Replies:
    """What became of the questions, by their numbers."""

    answered: dict[int, Completion] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)  # the endpoint will not answer this one: why
    failed: dict[int, str] = field(default_factory=dict)  # no answer came, or it could not be asked: why
    stopped: str = ""  # why the rest was not asked; "": all was
    report: dict[str, Any] = field(default_factory=dict)  # calls, tokens and cost


def ask_all(
    questions: Sequence[Callable[[], ChatRequest]],
    config: LlmConfig,
    cache: Path,
    *,
    report: Callable[[int], None] = lambda done: None,
) -> Replies:
    """Asks all, at most `config.concurrency` at once; those that the cache holds an answer to cost nothing.

    Args:
      questions: each makes its question when its turn comes, so that not all pictures are in memory; it may raise
        NarratorFailed.
      config: which endpoint, and what it may cost.
      cache: the file that answers are kept in.
      report: is told how many are done.

    Raises:
      ExpllmError: the endpoint refuses every call, has not answered for too long, or cannot be asked. What was
        answered is in the cache.
    """
    return asyncio.run(_ask_all(questions, config, cache, report))


async def _ask_all(
    questions: Sequence[Callable[[], ChatRequest]], config: LlmConfig, cache: Path, report: Callable[[int], None]
) -> Replies:
    calls, replies = Calls(config, cache), Replies()
    left = iter(range(len(questions)))
    done = 0

    async def work() -> None:
        nonlocal done
        for number in left:
            if replies.stopped:
                return
            try:
                replies.answered[number] = await calls.answer(questions[number]())
            except UnusableReply as error:
                replies.refused[number] = error.reason
            except NarratorFailed as error:
                replies.failed[number] = error.reason
            except BudgetSpent as error:
                replies.stopped = str(error)
                return
            done += 1
            report(done)

    workers = [asyncio.create_task(work()) for _ in range(min(config.concurrency, len(questions)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await calls.close()
    replies.report = calls.report()
    return replies
