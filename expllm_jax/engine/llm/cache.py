"""Every answer that arrived, on the disk before it is used, so that none is ever paid for twice."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from expllm_jax.engine.llm.budget import Spent
from expllm_jax.engine.llm.request import Completion
from expllm_jax.errors import ExpllmError

FORMAT = 1
"""Version of the table, in SQLite's user_version; another one is refused."""

_COLUMNS = "content, finish_reason, tokens_in, tokens_out, estimated, cost"
_TABLE = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    content TEXT,
    finish_reason TEXT NOT NULL,
    tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    cost REAL NOT NULL
) WITHOUT ROWID
"""

T = TypeVar("T")


class ReplyCache:
    """Answers by the hash of their question, in one SQLite file. It holds no questions, no pictures and no keys.

    All of it happens in one thread of its own: SQLite waits for the disk, and calls under way shall not.

    Raises:
      ExpllmError: the file cannot be made or opened, or is something else.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replies")
        try:
            self._database = self._thread.submit(self._opened).result()
        except ExpllmError:
            self._thread.shutdown()
            raise

    async def get(self, key: str) -> Completion | None:
        """The answer to a question, or None."""
        query = f"SELECT {_COLUMNS} FROM replies WHERE key = ?"
        row = await self._run(lambda: self._database.execute(query, (key,)).fetchone())
        if row is None:
            return None
        content, finish_reason, tokens_in, tokens_out, estimated, cost = row
        return Completion(content, finish_reason, tokens_in, tokens_out, bool(estimated), cost)

    async def put(self, key: str, model: str, reply: Completion) -> None:
        """Keeps an answer; when this returns, not even a power cut loses it. A key that is there stays as it is."""
        values = (reply.content, reply.finish_reason, reply.tokens_in, reply.tokens_out, reply.estimated, reply.cost)
        insert = f"INSERT OR IGNORE INTO replies (key, model, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

        def write() -> None:
            with self._database:
                self._database.execute(insert, (key, model, *values))

        await self._run(write)

    def spent(self) -> Spent:
        """What all answers in the file took. Waits; to be asked before the first call."""
        sums = "count(*), sum(tokens_in), sum(tokens_out), sum(estimated), sum(cost)"
        query = f"SELECT {sums} FROM replies"
        row = self._thread.submit(self._explained, lambda: self._database.execute(query).fetchone()).result()
        return Spent(*(value or 0 for value in row))

    def close(self) -> None:
        """Closes the file; a second time does nothing."""
        try:
            self._thread.submit(self._database.close)
        except RuntimeError:  # the thread is gone already
            return
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._explained, work)

    def _explained(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.Error as error:
            raise ExpllmError(
                f"{self._path} cannot be used ({error})",
                "see that it is a cache of replies, on a local disk with room, and that no other run has it open",
            ) from error

    def _opened(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExpllmError(
                f"{self._path.parent} cannot be made ({error.strerror})", "choose a folder that you may write to"
            ) from error
        return self._explained(self._connected)

    def _connected(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=30)
        version = database.execute("PRAGMA user_version").fetchone()[0]
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version != FORMAT and (version or tables):
            database.close()
            raise ExpllmError(
                f"{self._path} is no cache of replies of format {FORMAT}",
                "choose another folder, or move the file away",
            )
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        if not version:
            with database:
                database.execute("BEGIN IMMEDIATE")
                database.execute(_TABLE)
                database.execute(f"PRAGMA user_version = {FORMAT}")
        return database
