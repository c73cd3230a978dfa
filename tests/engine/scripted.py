"""A narrator that answers as the offline one does, but for what a script says of some faces; it notes whom it is asked
about. Started as a program, it works on a run slowly enough to be killed in the middle.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from expllm_jax.engine.loop import EngineConfig, ExpCotLoop
from expllm_jax.engine.memory import Memory
from expllm_jax.engine.narrator import NarratorConfig
from expllm_jax.engine.offline_narrator import OfflineNarrator
from expllm_jax.engine.run import run_engine

Script = Mapping[tuple[str, str], Iterable[object]]
"""(Face, step) → what the step gives, call by call; an exception is raised, None and all later calls are the offline
narrator's."""


class ScriptedNarrator(OfflineNarrator):
    """See the module.

    Args:
      delay: seconds that a description takes.
      log: gets a line with the face's name for every description.
    """

    name = "scripted"

    def __init__(self, script: Script | None = None, *, delay: float = 0.0, log: Path | None = None) -> None:
        super().__init__(NarratorConfig(style="brief"))
        self.fingerprint = "scripted"
        self._script = {key: iter(replies) for key, replies in (script or {}).items()}
        self._delay, self._log = delay, log
        self.calls: list[tuple[str, str, tuple]] = []  # (face, step, what it was asked beside the face)
        self.closed = False
        self.most_at_once = self._at_once = 0

    async def _ask(self, step, face, *asked):
        self.calls.append((face.name, step, asked))
        reply = next(self._script.get((face.name, step), iter(())), None)
        if isinstance(reply, Exception):
            raise reply
        return await getattr(super(), step)(face, *asked) if reply is None else reply

    async def describe(self, face, memory: Memory):
        if self._log is not None:
            with self._log.open("a") as log:
                log.write(face.name + "\n")
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(self._delay)
        self._at_once -= 1
        return await self._ask("describe", face, memory)

    async def infer(self, face, description):
        return await self._ask("infer", face, description)

    async def confirm(self, face, description, expression):
        return await self._ask("confirm", face, description, expression)

    async def reflect(self, face, memory, attempt):
        return await self._ask("reflect", face, memory, attempt)

    async def refine(self, face, description, expression, findings=()):
        return await self._ask("refine", face, description, expression, findings)

    async def close(self) -> None:
        self.closed = True

    def steps(self, face: str) -> list[str]:
        """The steps that were asked about a face, in order."""
        return [step for name, step, _ in self.calls if name == face]


if __name__ == "__main__":
    source, folder, log = map(Path, sys.argv[1:])
    run_engine(source, folder, ExpCotLoop(ScriptedNarrator(delay=0.02, log=log), EngineConfig()), concurrency=3)
