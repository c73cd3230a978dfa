"""The progress line: in place on a terminal, now and then elsewhere."""

from __future__ import annotations

import io

import pytest

from expllm_jax.train import Progress, duration


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def steps(stream, clock, seconds: float, count: int, **changes) -> Progress:
    progress = Progress(100, "job", "things", stream=stream, clock=clock, **changes)
    for done in range(1, count + 1):
        clock.now += seconds
        progress.update(done, "loss 1.0")
    progress.close()
    return progress


def test_elsewhere_a_line_comes_every_so_many_seconds() -> None:
    stream = io.StringIO()
    steps(stream, Clock(), 1.0, 35, every=10)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "job 1/100  loss 1.0  1 things/s  1 min 39 s left"
    assert [line.split()[1] for line in lines] == ["1/100", "11/100", "21/100", "31/100"]


def test_on_a_terminal_the_line_is_rewritten() -> None:
    stream = Terminal()
    steps(stream, Clock(), 0.5, 3)
    assert stream.getvalue().count("\r") == 3 and stream.getvalue().endswith("left\n")
    assert stream.getvalue().count("\n") == 1


def test_the_end_is_always_told_without_a_time_left() -> None:
    stream = io.StringIO()
    steps(stream, Clock(), 0.01, 100, every=1000)
    assert (
        stream.getvalue().splitlines()[-1].startswith("job 100/100")
        and "left" not in stream.getvalue().splitlines()[-1]
    )


def test_the_rate_is_of_this_process_only() -> None:
    clock = Clock()
    progress = Progress(100, "job", "things", done=60, stream=io.StringIO(), clock=clock)
    clock.now = 5.0
    progress.update(70)
    assert progress.rate == pytest.approx(2.0)


@pytest.mark.parametrize("seconds, told", [(6.6, "7 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations_are_readable(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_where_the_end_is_not_known_the_rate_is_told_after_a_while() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(None, "reading", "things", stream=stream, clock=clock, every=10)
    for done in range(1, 26):
        clock.now += 1.0
        progress.update(done)
    progress.close()
    assert stream.getvalue().splitlines() == ["reading 10  1 things/s", "reading 20  1 things/s"]
