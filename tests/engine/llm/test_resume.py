"""A run that is killed and started again makes no call twice whose answer had arrived, counted at the server."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from expllm_jax.engine.llm import LlmNarrator
from expllm_jax.engine.llm.request import ChatRequest
from expllm_jax.engine.loop import ExpCotLoop
from expllm_jax.engine.run import run_engine
from expllm_jax.faces import write_annotations
from tests.engine.llm.endpoint import Served, serving
from tests.engine.llm.faces import faces, quick, well

FACES, CONCURRENCY, STEPS = 40, 5, 4
KILLED_AFTER = 60  # requests


def run(source: Path, folder: Path, url: str) -> None:
    """The same run again and again; also what the process does that is killed."""
    narrator = LlmNarrator(quick(url, concurrency=CONCURRENCY), folder / "replies.sqlite")
    run_engine(source, folder, ExpCotLoop(narrator), concurrency=CONCURRENCY)


def key_of(served: Served) -> str:
    """What the cache keeps the answer under."""
    settings = {key: value for key, value in served.body.items() if key not in ("model", "messages")}
    system, user = (message["content"] for message in served.body["messages"])
    return ChatRequest(served.body["model"], system, user, tuple(settings.items()), 0).key


def kept(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "replies.sqlite")) as database:
        return {key for (key,) in database.execute("SELECT key FROM replies")}


def test_killed_and_started_again(tmp_path):
    write_annotations(tmp_path / "faces.jsonl", faces(FACES))
    code = "import sys; from pathlib import Path; from tests.engine.llm.test_resume import run; "
    code += "run(*map(Path, sys.argv[1:3]), sys.argv[3])"
    with serving(lambda served: replace(well(served), hang=0.01)) as endpoint:
        arguments = [str(tmp_path / "faces.jsonl"), str(tmp_path / "killed"), endpoint.url]
        with subprocess.Popen([sys.executable, "-c", code, *arguments]) as process:
            while len(endpoint.served) < KILLED_AFTER and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        time.sleep(0.1)  # requests that were on the wire reach the server
        before, arrived = len(endpoint.served), kept(tmp_path / "killed")
        assert KILLED_AFTER - CONCURRENCY <= len(arrived) < FACES * STEPS
        assert before - len(arrived) <= CONCURRENCY  # all others were on the wire

        run(tmp_path / "faces.jsonl", tmp_path / "killed", endpoint.url)
        asked_again = {key_of(served) for served in endpoint.served[before:]}
        assert not asked_again & arrived
        assert len(endpoint.served) - before == FACES * STEPS - len(arrived)
        assert kept(tmp_path / "killed") == asked_again | arrived

        run(tmp_path / "faces.jsonl", tmp_path / "alone", endpoint.url)
    texts = [(tmp_path / name / "annotations.jsonl").read_bytes() for name in ("killed", "alone")]
    assert texts[0] == texts[1] and texts[0].count(b"\n") == FACES
