"""Kills training runs in every way one can think of and shows that none of it can be seen in the result.

::

    python launch/crash_campaign.py --kills 20            # what CI runs
    python launch/crash_campaign.py --kills 200 --seed 7  # overnight

One run of an experiment is left alone. Others begin from the same records and are killed at random moments (SIGKILL at
start-up, between updates and while a checkpoint is being written), told to stop (SIGTERM), given a disk that is full,
and robbed of their newest checkpoint, or of one bit of it. One run is of two processes, one of which is killed. After
each event the same command is given again. In the end every run must have the undisturbed one's losses and parameters,
bit for bit, each update's line exactly once, and must never have redone more updates than it may: none after SIGTERM;
after a kill those of one interval, and those that it made while a checkpoint was being written; one interval more where
its newest checkpoint was taken or damaged.

A full disk is played by a limit on the size of files (RLIMIT_FSIZE), which needs no rights and fails in the same
places. Prints a table, or JSON with --json; the exit status is 1 if anything deviates.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

OF_TRAINING = ("checkpoints", "frozen", "metrics.jsonl", "tensorboard")  # the rest of a run folder is its input
COMPARED = ("loss", "grad_norm", "learning_rate")
KILLS = ("kill at start-up", "kill between updates", "kill while saving")
OTHERS = ("SIGTERM", "full disk", "newest deleted", "bit flipped in newest")
PATIENCE = 300.0  # seconds for one start; beyond them the run counts as stuck
STATUS_STOPPED, STATUS_ERROR = 143, 2


@dataclasses.dataclass(eq=False)
class Event:
    """One disturbance and what became of it."""

    run: int
    kind: str
    update: int = 0  # the last one that the metrics show
    newest: int = 0  # step of the newest checkpoint left
    resumed: int | None = None  # where the next start went on; None: it was disturbed before that
    allowed: int = 0  # updates that may be redone
    wrong: str = ""

    @property
    def redone(self) -> int | None:
        return None if self.resumed is None else max(self.update - self.resumed, 0)


class Deviation(Exception):
    """A run did what it must not."""


@dataclasses.dataclass(frozen=True)
class Campaign:
    """What all runs of the campaign share."""

    folder: Path
    experiment: str
    steps: int
    interval: int
    ranks: int = 1

    @property
    def undisturbed(self) -> Path:
        return self.folder / f"undisturbed-{self.ranks}"

    def start(self, run_dir: Path, largest_file: int | None = None) -> Ranks:
        """`expllm train` in as many processes as there are ranks; `largest_file` in bytes is what the disk has room
        for."""
        address = f"127.0.0.1:{free_port()}"
        several = [["--coordinator", address, "--processes", str(self.ranks), "--process-id", str(rank)]
                   for rank in range(self.ranks)]  # fmt: skip
        started = [self._process(run_dir, several[rank] if self.ranks > 1 else [], largest_file)
                   for rank in range(self.ranks)]  # fmt: skip
        return Ranks(started)

    def _process(self, run_dir: Path, place: list[str], largest_file: int | None) -> subprocess.Popen[bytes]:
        settings = {"steps": self.steps, "checkpoint_every": self.interval, "log_every": 1}
        command = [sys.executable, "-m", "expllm_jax.cli", "train", self.experiment, "--out", str(run_dir), *place]
        for key, value in settings.items():
            command += ["--set", f"train.{key}={value}"]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }
        limit = (largest_file, largest_file)
        with (run_dir.parent / f"{run_dir.name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)) if largest_file else None,
            )

    def tail(self, run_dir: Path) -> str:
        """The last words of a run, for a report."""
        return (run_dir.parent / f"{run_dir.name}.log").read_text(errors="replace")[-600:]


class Ranks:
    """The processes of one start, each in a group of its own."""

    def __init__(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self._processes = processes

    def poll(self) -> int | None:
        """None while one is running; then 0 or the first status that is not."""
        statuses = [process.poll() for process in self._processes]
        return None if None in statuses else next((status for status in statuses if status), 0)

    def send(self, number: signal.Signals, rank: int = 0) -> None:
        self._processes[rank].send_signal(number)

    def kill(self) -> None:
        """Ends all of them and what they started."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def losses_of(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of updates in metrics.jsonl; a last one that is half written is left out."""
    try:
        lines = (run_dir / "metrics.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [line for line in map(json.loads, lines) if "loss" in line]


def last_update(run_dir: Path) -> int:
    return max((line["step"] for line in losses_of(run_dir)), default=0)


def saved_steps(run_dir: Path) -> list[int]:
    folder = run_dir / "checkpoints"
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def is_saving(run_dir: Path) -> bool:
    folder = run_dir / "checkpoints"
    return folder.is_dir() and any("orbax-checkpoint-tmp" in name for name in os.listdir(folder))


class ResumePoint:
    """Sees the update that a run goes on after: it writes metrics.jsonl anew, cut back to there, before it compiles."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._before = self._identity()
        self.step: int | None = None

    def look(self) -> None:
        if self.step is None and self._identity() != self._before:
            self.step = last_update(self._run_dir)

    def _identity(self) -> int | None:
        try:
            return (self._run_dir / "metrics.jsonl").stat().st_ino
        except FileNotFoundError:
            return None


def until(child: Ranks, happened: Callable[[], bool], resume: ResumePoint) -> bool:
    """Waits for the moment; False if the process ended before it. Raises Deviation if neither comes."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        resume.look()
        if child.poll() is not None:
            return False
        if happened():
            return True
        time.sleep(0.001)
    child.kill()
    raise Deviation(f"it did nothing for {PATIENCE:g} s")


def disturb(campaign: Campaign, run_dir: Path, event: Event, draw: random.Random) -> int | None:
    """Starts the run, lets the event happen and fills in what was seen; returns where this start had gone on.

    Raises Deviation if the run ended in another way than the event calls for.
    """
    resume = ResumePoint(run_dir)
    before = last_update(run_dir)
    if event.kind == "full disk":
        child = campaign.start(run_dir, largest_file=draw.choice((64, 200, 1_000, 4_000)) * 1_000)
        until(child, lambda: False, resume)
    else:
        child = campaign.start(run_dir)
        began, seconds = time.monotonic(), draw.uniform(0, 6)
        update = min((saved_steps(run_dir) or [0])[-1] + draw.randint(1, campaign.interval + 2), campaign.steps - 1)
        moments: dict[str, Callable[[], bool]] = {
            "kill at start-up": lambda: time.monotonic() > began + seconds,
            "kill while saving": lambda: is_saving(run_dir),
        }
        moment = moments.get(event.kind, lambda: resume.step is not None and last_update(run_dir) >= update)
        if until(child, moment, resume):
            time.sleep(draw.uniform(0, 0.03))
            number = signal.SIGTERM if event.kind == "SIGTERM" else signal.SIGKILL
            child.send(number, draw.randrange(campaign.ranks))
            until(child, lambda: False, resume)  # the other ranks have to end by themselves
            child.kill()  # workers that a killed trainer leaves behind
    resume.look()
    event.update, saved = max(last_update(run_dir), 0), saved_steps(run_dir)
    ends_well = {"SIGTERM": (0, STATUS_STOPPED), "full disk": (0, STATUS_ERROR)}.get(event.kind, (0, -signal.SIGKILL))
    if child.returncode not in ends_well:
        raise Deviation(f"it ended with status {child.returncode}: {campaign.tail(run_dir)}")
    event.allowed = 0 if child.returncode in (0, STATUS_STOPPED) else 2 * campaign.interval
    if event.kind in ("newest deleted", "bit flipped in newest") and len(saved) > 1:
        newest = run_dir / "checkpoints" / str(saved[-1])
        if event.kind == "newest deleted":
            shutil.rmtree(newest)
        else:
            flip_a_bit(newest, draw)
        event.allowed += campaign.interval
    event.newest = (saved_steps(run_dir) or [0])[-1]
    if resume.step is None and before > event.update:
        raise Deviation("lines of metrics.jsonl were lost before the run went on")
    return resume.step


def flip_a_bit(checkpoint: Path, draw: random.Random) -> None:
    """In the file with the arrays: the largest."""
    file = max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def disturbed_run(campaign: Campaign, number: int, kinds: list[str], seed: int) -> list[Event]:
    """One run with its events, one start each, and the start that finishes it."""
    draw, run_dir = random.Random(f"{seed}/{number}"), campaign.folder / f"run-{number}"
    shutil.rmtree(run_dir, ignore_errors=True)  # of an earlier campaign in the same folder
    shutil.copytree(campaign.undisturbed, run_dir, ignore=shutil.ignore_patterns(*OF_TRAINING))
    events = [Event(number, kind) for kind in kinds]
    end = Event(number, "to the end")
    waiting: list[Event] = []  # events whose consequence the next start that goes on will show
    try:
        for event in [*events, end]:
            if event is end:
                child, resume = campaign.start(run_dir), ResumePoint(run_dir)
                until(child, lambda: False, resume)
                resume.look()
                resumed = resume.step
                if child.poll():
                    raise Deviation(f"it ended with status {child.poll()}: {campaign.tail(run_dir)}")
            else:
                resumed = disturb(campaign, run_dir, event, draw)
            if resumed is not None:
                for earlier in waiting:
                    earlier.resumed = resumed
                    if earlier.redone is not None and earlier.redone > earlier.allowed:
                        earlier.wrong = f"{earlier.redone} updates were redone, {earlier.allowed} may be"
                waiting = []
            waiting.append(event)
        end.update = last_update(run_dir)
        end.newest = (saved_steps(run_dir) or [0])[-1]
        end.wrong = differs(campaign, run_dir)
    except Deviation as deviation:
        event.wrong = str(deviation)
        return [*events, end][: [*events, end].index(event) + 1]
    return [*events, end]


def differs(campaign: Campaign, run_dir: Path) -> str:
    """What in a finished run is not as in the undisturbed one; "" if nothing."""
    from expllm_jax.checkpoints import Checkpointer, params_fingerprint

    found, expected = losses_of(run_dir), losses_of(campaign.undisturbed)
    steps = [line["step"] for line in found]
    if steps != list(range(1, campaign.steps + 1)):
        return f"metrics.jsonl has updates {steps[:3]}…{steps[-3:]}, {len(steps)} lines for {campaign.steps} updates"
    for mine, other in zip(found, expected, strict=True):
        for key in COMPARED:
            if mine[key] != other[key]:
                return f"update {mine['step']}: {key} is {mine[key]!r}, undisturbed {other[key]!r}"
    prints = []
    for folder in (run_dir, campaign.undisturbed):
        with Checkpointer(folder, create=False) as checkpointer:
            prints.append(params_fingerprint(checkpointer.load_params(campaign.steps)))
    return "" if prints[0] == prints[1] else f"the parameters are {prints[0][:12]}, undisturbed {prints[1][:12]}"


def plan(kills: int, per_run: int, draw: random.Random) -> list[list[str]]:
    """The events of every run: `kills` kinds of SIGKILL in turn, and each of the others once for every 20 of them."""
    events = [KILLS[number % len(KILLS)] for number in range(kills)] + list(OTHERS) * max(1, kills // 20)
    draw.shuffle(events)
    return [events[start : start + per_run] for start in range(0, len(events), per_run)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="how many SIGKILLs; the other events come on top")
    parser.add_argument("--per-run", type=int, default=6, help="events of one run (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and their order")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: one per core)")
    parser.add_argument("--experiment", default="tiny", help="what `expllm train` is given (default: tiny)")
    parser.add_argument("--steps", type=int, default=60, help="updates of a run (default: 60)")
    parser.add_argument("--interval", type=int, default=5, help="updates between checkpoints (default: 5)")
    parser.add_argument("--folder", type=Path, help="where the runs go, and stay (default: removed afterwards)")
    parser.add_argument("--one-rank", action="store_true", help="leave out the run of two processes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return run_campaign(Campaign(folder, options.experiment, options.steps, options.interval), options)


def run_campaign(campaign: Campaign, options: argparse.Namespace) -> int:
    began, draw = time.monotonic(), random.Random(options.seed)
    kinds = [(campaign, run) for run in plan(options.kills, options.per_run, draw)]
    if not options.one_rank:
        two = dataclasses.replace(campaign, ranks=2)
        kinds += [(two, [draw.choice(KILLS) for _ in range(max(2, options.kills // 10))])]
    for alone in dict.fromkeys(disturbed for disturbed, _ in kinds):
        child = alone.start(alone.undisturbed)
        until(child, lambda: False, ResumePoint(alone.undisturbed))
        if child.poll() != 0:
            print(f"the undisturbed run ended with status {child.poll()}: {alone.tail(alone.undisturbed)}")
            return 1
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = pool.map(lambda job: disturbed_run(job[1][0], job[0], job[1][1], options.seed), enumerate(kinds))
        events = [event for run in runs for event in run]
    wrong = [event for event in events if event.wrong]
    seconds = time.monotonic() - began
    if options.json:
        told = [dataclasses.asdict(event) | {"redone": event.redone} for event in events]
        print(json.dumps({"events": told, "wrong": len(wrong), "runs": len(kinds), "seconds": round(seconds, 1)}))
    else:
        print(f"{'run':>3}  {'event':<22} {'update':>6} {'newest':>6} {'resumed':>7} {'redone':>6}")
        for event in events:
            shown = ["-" if value is None else str(value) for value in (event.resumed, event.redone)]
            line = f"{event.run:>3}  {event.kind:<22} {event.update:>6} {event.newest:>6} {shown[0]:>7} {shown[1]:>6}"
            print(f"{line}  {event.wrong}".rstrip())
        verdict = f"{len(wrong)} deviate" if wrong else "all as if undisturbed, bit for bit"
        print(f"{len(kinds)} runs, {len(events) - len(kinds)} events, {seconds:.0f} s: {verdict}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
