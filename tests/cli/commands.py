"""The command in this process, and what a refusal looks like."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

from expllm_jax import cli


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one command did."""

    status: int
    out: str
    err: str


def expllm(*arguments: object) -> Outcome:
    """Runs the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            status = int(stop.code or 0)
    return Outcome(status, out.getvalue(), err.getvalue())


def assert_refused(outcome: Outcome, *named: object) -> None:
    """One error on stderr that names the things, status 2, nothing else."""
    lines = outcome.err.splitlines()
    assert outcome.status == 2, outcome
    assert len(lines) == 2 and lines[0].startswith("expllm: error: ") and lines[1].startswith("  to mend it: "), outcome
    assert outcome.out == ""
    for name in named:
        assert str(name) in outcome.err, outcome


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder with its time and size."""
    found = {str(path.relative_to(folder)): path.lstat() for path in sorted(folder.rglob("*"))}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


@contextlib.contextmanager
def unchanged(*folders: Path) -> Iterator[None]:
    before = [contents(folder) for folder in folders]
    yield
    assert [contents(folder) for folder in folders] == before


def a_face(run: Path) -> Path:
    return min((run / "faces" / "pictures" / "mild").iterdir())
