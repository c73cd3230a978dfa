"""A scripted endpoint of OpenAI's chat completions on the loopback: does what it is told, counts what it served."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_PHRASES = {
    "describe": "Describe what this face does",
    "infer": "Which expression does the description suggest?",
    "confirm": "the expression was taken to be",
    "reflect": "tell the writer what to do better",
    "refine": "Rewrite the description",
}


@dataclass(frozen=True)
class Served:
    """One request as it came in."""

    path: str
    headers: Mapping[str, str]  # names in lower case
    body: Mapping[str, Any]

    @property
    def user(self) -> str:
        """The text of the user's message."""
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else content[-1]["text"]

    @property
    def step(self) -> str:
        """Which step of the loop asks, by a phrase of its prompt."""
        return next((step for step, phrase in _PHRASES.items() if phrase in self.user), "")

    @property
    def said(self) -> str:
        """The whole question, equal for equal questions."""
        return json.dumps(self.body, sort_keys=True)


@dataclass(frozen=True)
class Sent:
    """One answer to send."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    hang: float = 0.0  # seconds before anything is sent
    cut: int | None = None  # bytes of the body that are sent; its whole length is announced
    drip: float = 0.0  # seconds between two bytes of the body


def completion(
    content: Any, *, finish: str = "stop", usage: tuple[int, int] | None = (100, 50), hang: float = 0.0, **message: Any
) -> Sent:
    """A whole answer that says `content`."""
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
        ],
    }
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Sent(json.dumps(body).encode(), hang=hang)


def refusal(status: int, message: str = "no", code: str | None = None, **headers: str) -> Sent:
    """An answer with an error's status; keywords are headers, with underscores for dashes."""
    error = {"error": {"message": message, "type": "error", "code": code}}
    return Sent(json.dumps(error).encode(), status, {name.replace("_", "-"): text for name, text in headers.items()})


class Endpoint:
    """What was served, in order."""

    def __init__(self, answer: Callable[[Served], Sent]) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self._now = 0
        self.served: list[Served] = []
        self.most_at_once = 0
        self.url = ""

    @property
    def steps(self) -> list[str]:
        """The step of each request served."""
        return [served.step for served in list(self.served)]

    def take(self, served: Served) -> Sent:
        """Counts a request and says what to send, when it is time to."""
        with self._lock:
            self.served.append(served)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            sent = self._answer(served)
            time.sleep(sent.hang)
            return sent
        finally:
            with self._lock:
                self._now -= 1


def in_turn(*script: Sent) -> Callable[[Served], Sent]:
    """Sends one after the other, and the last one for ever."""
    left, lock = list(script), threading.Lock()

    def answer(_: Served) -> Sent:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return answer


def _pieces(sent: Sent) -> list[bytes]:
    body = sent.body[: sent.cut]
    return [body[start : start + 1] for start in range(len(body))] if sent.drip else [body]


@contextmanager
def serving(answer: Callable[[Served], Sent]) -> Iterator[Endpoint]:
    """An endpoint while the block runs; `answer` is called from many threads."""
    endpoint = Endpoint(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            sent = endpoint.take(Served(self.path, headers, json.loads(body)))
            try:
                self.send_response(sent.status)
                for name, value in {"Content-Type": sent.content_type, **sent.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(sent.body)))
                self.end_headers()
                for piece in _pieces(sent):
                    self.wfile.write(piece)
                    time.sleep(sent.drip)
            except OSError:  # nobody waits for it any more
                self.close_connection = True
            self.close_connection = self.close_connection or sent.cut is not None

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads, block_on_close = True, False

        def handle_error(self, *_: Any) -> None:
            pass  # a client that was killed, or waited no longer

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
