"""Signals and maintenance events are noticed between updates, and the signals given back."""

from __future__ import annotations

import http.server
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from expllm_jax.checkpoints import Preempted, Preemption
from expllm_jax.errors import ExpllmError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_due_after_the_update_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Preemption() as notice:
        assert notice.due(1) is None
        os.kill(os.getpid(), number)
        assert notice.due(2) == number.name
        os.kill(os.getpid(), signal.SIGTERM)  # a second one changes nothing
        assert notice.due(3) == number.name
    assert signal.getsignal(number) == before


def test_preempted_says_where_it_goes_on_and_is_nothing_to_mend() -> None:
    assert "after update 7 (SIGTERM)" in str(Preempted(7, "SIGTERM"))
    assert not issubclass(Preempted, ExpllmError)


class _Metadata(http.server.BaseHTTPRequestHandler):
    said: dict[str, str]
    asked: threading.Semaphore

    def do_GET(self) -> None:
        name = self.path.removeprefix("/instance/")
        known = self.headers["Metadata-Flavor"] == "Google" and name in self.said
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(self.said.get(name, "").encode())
        self.asked.release()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[_Metadata]]]:
    answers = type("Answers", (_Metadata,), {"said": {"maintenance-event": "NONE"}, "asked": threading.Semaphore(0)})
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), answers)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}/instance", answers
    listening.shutdown()
    listening.server_close()
    thread.join()


def wait_for_questions(answers: type[_Metadata], number: int) -> None:
    for _ in range(number):
        assert answers.asked.acquire(timeout=20)


@pytest.mark.parametrize(
    "name, answer", [("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE"), ("preempted", "TRUE")]
)
def test_a_maintenance_event_is_due(server, name: str, answer: str) -> None:
    url, answers = server
    with Preemption(metadata_url=url, poll_seconds=0.01) as notice:
        wait_for_questions(answers, 4)
        assert notice.due(1) is None
        answers.said[name] = answer
        for _ in range(2000):
            if notice.due(2):
                break
            time.sleep(0.01)
        assert notice.due(2) == f"{name}: {answer}"


def test_a_live_migration_and_an_event_that_stood_before_do_not_stop_a_run(server) -> None:
    url, answers = server
    answers.said |= {"maintenance-event": "MIGRATE_ON_HOST_MAINTENANCE", "preempted": "TRUE"}
    with Preemption(metadata_url=url, poll_seconds=0.01) as notice:
        wait_for_questions(answers, 8)
        assert notice.due(1) is None


def test_no_server_is_asked_unless_one_is_named(monkeypatch: pytest.MonkeyPatch, server) -> None:
    url, answers = server
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    with Preemption():
        assert not [thread for thread in threading.enumerate() if thread.name == "maintenance events"]
    monkeypatch.setenv("GCE_METADATA_HOST", url.removeprefix("http://").removesuffix("/instance"))
    with Preemption(poll_seconds=0.01):
        wait_for_questions(answers, 2)
