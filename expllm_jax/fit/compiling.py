"""The compiler as a function: `TpuCompiler.compile(request) -> Answer`, in a child process that is started once."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.fit.checks import check
from expllm_jax.fit.child import ENVIRONMENT
from expllm_jax.fit.request import GIB, Answer, Compiled, FitRequest

PYTHON = "EXPLLM_FIT_PYTHON"
"""Environment variable: the Python that has libtpu, if it is another than this one."""
_FOREIGN = ("JAX_", "XLA_", "TPU_", "LIBTPU_", "PJRT_", "MEGASCALE_")  # settings that are meant for real devices
_ROOT = Path(__file__).resolve().parents[2]

Say = Callable[[str], None]


class TpuCompiler:
    """A child process with the TPU compiler; a context manager.

    The same request is compiled once: answers are remembered.

    Args:
      time_limit: seconds that one program may take.
      say: is told what is being compiled.
    """

    def __init__(self, time_limit: float = 900, say: Say = lambda text: None) -> None:
        self._time_limit, self._say = time_limit, say
        self._answers: dict[FitRequest, Answer] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._complaints: Any = None  # what the child writes to stderr
        self._unread = b""

    def __enter__(self) -> TpuCompiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def compile(self, request: FitRequest) -> Answer:
        """Compiles the programs of a request, up to the first that does not fit.

        Raises ExpllmError: the request is impossible (before anything is compiled), there is no libtpu, a program
        takes longer than the limit, or the compiler fails for another reason than memory.
        """
        if request not in self._answers:
            check(request)
            self._answers[request] = self._ask(request)
        return self._answers[request]

    def close(self) -> None:
        """Ends the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()
            self._complaints.close()

    def _ask(self, request: FitRequest) -> Answer:
        child = self._started()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(request.to_json()).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        programs: list[Compiled] = []
        refusal: ExpllmError | None = None
        while (event := self._next_event())["event"] != "done":
            if event["event"] == "refused":
                refusal = ExpllmError(event["problem"], event["remedy"])
            elif event["event"] == "program":
                programs.append(Compiled(**event["program"]))
                self._say(f"  {_told(programs[-1])}")
        if refusal is not None:
            raise refusal
        return Answer(request, tuple(programs))

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            python = os.environ.get(PYTHON) or sys.executable
            environment = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
            paths = [str(_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
            environment |= {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}
            self._complaints = tempfile.TemporaryFile()  # noqa: SIM115, closed with the child
            try:
                self._child = subprocess.Popen(
                    [python, "-m", "expllm_jax.fit.child"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, env=environment,
                )  # fmt: skip
            except OSError as error:
                self._complaints.close()
                raise ExpllmError(
                    f"{python} cannot be started ({error.strerror})", f"set {PYTHON} to a Python that has libtpu"
                ) from error
            self._unread = b""
        return self._child

    def _next_event(self) -> dict[str, Any]:
        """The child's next line; ends the child if it takes too long, or finds that it died."""
        child = self._child
        assert child is not None and child.stdout is not None
        deadline = time.monotonic() + self._time_limit
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    raise ExpllmError(
                        f"the compiler took longer than {self._time_limit:.0f} s for one program",
                        "give it more time (--time-limit), or a smaller program",
                    )
                part = os.read(child.stdout.fileno(), 1 << 16)
                if not part:
                    raise self._died()
                self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def _died(self) -> ExpllmError:
        child = self._child
        assert child is not None
        status = child.wait()
        self._complaints.seek(0)
        lines = [line for line in self._complaints.read().decode(errors="replace").splitlines() if line.strip()]
        self.close()
        why = "it was killed, perhaps for lack of memory" if status == -9 else f"status {status}"
        last = f": {lines[-1]}" if lines else ""
        return ExpllmError(
            f"the process of the TPU compiler ended ({why}){last}", "it needs about 4 GB of memory; try again"
        )


def _told(compiled: Compiled) -> str:
    verdict = "fits" if compiled.fits else "does not fit"
    return (
        f"{compiled.program}: {compiled.peak_bytes / GIB:.2f} of {compiled.limit_bytes / GIB:.2f} GiB, {verdict} "
        f"({compiled.compile_seconds:.0f} s)"
    )
