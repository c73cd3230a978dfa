"""Kills training runs in every way one can think of and shows that none of it can be seen in the result.

::

    python launch/crash_campaign.py --kills 4             # what CI runs
    python launch/crash_campaign.py --kills 200 --seed 7  # overnight

One run of an experiment is left alone. Others begin from the same records and are killed at random moments (SIGKILL at
start-up, between updates and while a checkpoint is being written), told to stop (SIGTERM), given a disk that is full,
and robbed of their newest checkpoint, or of one bit of it. One run is of two processes, one of which is killed. After
each event the same command is given again. What is promised, and checked:

- a run goes on from the newest whole checkpoint, and from no older one;
- that one is at most one interval older than the last checkpoint that was begun, since the next is not begun before it
  is complete; so what a kill costs are the updates since the last one was begun and, only if it was still being
  written, one interval more;
- SIGTERM costs no update at all, and ends with its own status; a full disk ends with that of an error, and says so;
- in the end every run has the undisturbed one's losses and parameters, bit for bit, and each update's line once;
- a finished run that is started again is left as it is.

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
START_TIMEOUT = 30  # seconds that a rank waits for one that was killed while starting
COMPARED = ("loss", "grad_norm", "learning_rate")
AT_START, BETWEEN, WHILE_SAVING = KILLS = ("kill at start-up", "kill between updates", "kill while saving")
SIGTERM, FULL_DISK, DELETED, FLIPPED = OTHERS = ("SIGTERM", "full disk", "newest deleted", "bit flipped in newest")
# A tower small enough that a start costs only what every start does: imports, and reading compiled programs.
SMALL = (
    "weights.vision=random", "model.vision.width=32", "model.vision.heads=1", "model.vision.depth=1",
)  # fmt: skip
PATIENCE = 300.0  # seconds for one start; beyond them the run counts as stuck
LOOK_SECONDS = 0.005  # between two looks at a run; far below what an update or a save takes
STATUS_STOPPED, STATUS_ERROR = 143, 2


@dataclasses.dataclass(eq=False)
class Event:
    """One disturbance and what became of it."""

    run: int
    kind: str
    update: int = 0  # the last one that the metrics show
    newest: int = 0  # step of the newest whole checkpoint left
    saving: bool = False  # whether a checkpoint was left half written
    resumed: int | None = None  # where the next start went on; None: it was disturbed before that
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
    settings: tuple[str, ...]
    steps: int
    interval: int
    ranks: int = 1

    @property
    def undisturbed(self) -> Path:
        return self.folder / f"undisturbed-{self.ranks}"

    def start(self, run_dir: Path, largest_file: int | None = None) -> Ranks:
        """`expllm train` in as many processes as there are ranks; `largest_file` in bytes is what the disk has room
        for."""
        log = self.log(run_dir)
        log.unlink(missing_ok=True)
        if self.ranks == 1:
            return Ranks([self._process(run_dir, log, [], largest_file)])
        address = f"127.0.0.1:{free_port()}"
        return Ranks(
            [
                self._process(
                    run_dir,
                    log,
                    [
                        "--coordinator",
                        address,
                        "--processes",
                        str(self.ranks),
                        "--process-id",
                        str(rank),
                        "--start-timeout",
                        str(START_TIMEOUT),
                    ],  # fmt: skip
                    largest_file,
                )
                for rank in range(self.ranks)
            ]
        )

    def _process(self, run_dir: Path, log: Path, place: list[str], largest_file: int | None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "expllm_jax.cli", "train", self.experiment, "--out", str(run_dir), *place]
        own = (f"train.steps={self.steps}", f"train.checkpoint_every={self.interval}", "train.log_every=1")
        for setting in (*self.settings, *own):
            command += ["--set", setting]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }
        limit = None if largest_file is None else (largest_file, largest_file)
        with log.open("ab") as words:
            return subprocess.Popen(
                command,
                env=environment,
                stdout=words,
                stderr=words,
                start_new_session=True,
                preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
            )

    def log(self, run_dir: Path) -> Path:
        """What the latest start of a run says."""
        return self.folder / f"{run_dir.name}.log"

    def last_words(self, run_dir: Path) -> str:
        return " ".join(self.log(run_dir).read_text(errors="replace")[-600:].split())


class Ranks:
    """The processes of one start, each in a group of its own."""

    def __init__(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self._processes = processes

    def statuses(self) -> list[int | None]:
        """None for one that is running."""
        return [process.poll() for process in self._processes]

    def ended(self) -> bool:
        return None not in self.statuses()

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
    """The lines of metrics.jsonl; a last one that is half written is left out."""
    try:
        return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().split("\n")[:-1]]
    except FileNotFoundError:
        return []


def last_update(run_dir: Path) -> int:
    """The step of the last line of metrics.jsonl; 0 if there is none."""
    try:
        lines = (run_dir / "metrics.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    return json.loads(lines[-2])["step"] if len(lines) > 1 else 0


def saved_steps(run_dir: Path) -> list[int]:
    """The steps of complete checkpoints, the oldest first."""
    return sorted(int(name) for name in _checkpoint_folders(run_dir) if name.isdigit())


def is_saving(run_dir: Path) -> bool:
    return any("orbax-checkpoint-tmp" in name for name in _checkpoint_folders(run_dir))


def _checkpoint_folders(run_dir: Path) -> list[str]:
    folder = run_dir / "checkpoints"
    return os.listdir(folder) if folder.is_dir() else []


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
    """Waits for the moment; False if the processes ended before it. Raises Deviation if neither comes."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        resume.look()
        if happened():
            return True
        if child.ended():
            resume.look()
            return False
        time.sleep(LOOK_SECONDS)
    child.kill()
    raise Deviation(f"it did nothing for {PATIENCE:g} s")


class DisturbedRun:
    """One run, its events, and what it may go on from.

    Args:
      campaign: what all runs share.
      number: of this run.
      kinds: of its events, one a start.
      seed: of their moments.
      start_seconds: about how long a start takes until the first update.
    """

    def __init__(self, campaign: Campaign, number: int, kinds: list[str], seed: int, start_seconds: float) -> None:
        self._campaign, self._start_seconds = campaign, start_seconds
        self._draw, self._folder = random.Random(f"{seed}/{number}"), campaign.folder / f"run-{number}"
        self._events = [*(Event(number, kind) for kind in kinds), Event(number, "to the end")]
        self._flipped: set[int] = set()  # checkpoints of which a bit was flipped, and that no start has read yet
        self._waiting: list[Event] = []  # events whose consequence the next start that goes on will show

    def events(self) -> list[Event]:
        """Goes through the events, up to the first after which something is wrong."""
        copy_inputs(self._campaign.undisturbed, self._folder)
        for number, event in enumerate(self._events, 1):
            try:
                if number < len(self._events):
                    self._disturb(event)
                else:
                    self._finish(event)
            except Deviation as deviation:
                event.wrong = str(deviation)
            print(f"run {event.run}: {event.kind}, update {event.update} {event.wrong}", file=sys.stderr, flush=True)
            if any(seen.wrong for seen in self._events):
                return self._events[:number]
        return self._events

    def _disturb(self, event: Event) -> None:
        """Starts the run, lets the event happen and looks at what it left. Raises Deviation."""
        resume = ResumePoint(self._folder)
        before = last_update(self._folder)
        room = None
        if event.kind == FULL_DISK:  # for part of a checkpoint
            whole = largest_file(self._campaign.undisturbed / "checkpoints").stat().st_size
            room = int(whole * self._draw.uniform(0.1, 0.9))
        child = self._campaign.start(self._folder, largest_file=room)
        try:
            if event.kind != FULL_DISK and until(child, self._moment(event.kind, resume), resume):
                self._strike(event.kind, child)
            until(child, lambda: False, resume)
        finally:
            child.kill()  # and the workers that a killed trainer leaves behind
        self._went_on(resume, event)
        self._check_status(event.kind, child.statuses())
        event.update, event.saving = last_update(self._folder), is_saving(self._folder)
        if resume.step is not None:
            self._check_newest(event)
        elif event.update != before:
            raise Deviation("lines of metrics.jsonl were lost before the run went on")
        if event.kind in (DELETED, FLIPPED):
            self._rob(event.kind)
        event.newest = self._newest()
        self._waiting.append(event)

    def _moment(self, kind: str, resume: ResumePoint) -> Callable[[], bool]:
        """When the event is to happen."""
        if kind == AT_START:
            ends = time.monotonic() + self._draw.uniform(0, self._start_seconds)
            return lambda: time.monotonic() > ends
        after = self._newest() + self._draw.randint(1, 3 * self._campaign.interval)
        whole = 2 if kind in (DELETED, FLIPPED) else 0  # one to go back to
        return lambda: (
            resume.step is not None
            and last_update(self._folder) >= after
            and len(set(saved_steps(self._folder)) - self._flipped) >= whole
            and (kind != WHILE_SAVING or is_saving(self._folder))
        )

    def _strike(self, kind: str, child: Ranks) -> None:
        """A moment after the moment, so that it falls anywhere in an update, or in what is done for a checkpoint."""
        time.sleep(self._draw.uniform(0, 0.03))
        number = signal.SIGTERM if kind == SIGTERM else signal.SIGKILL
        child.send(number, self._draw.randrange(self._campaign.ranks))

    def _check_status(self, kind: str, statuses: list[int | None]) -> None:
        expected = {SIGTERM: STATUS_STOPPED, FULL_DISK: STATUS_ERROR}.get(kind, -signal.SIGKILL)
        words = self._campaign.last_words(self._folder)
        # The other ranks end in their own way, but not as if all was well.
        if expected not in statuses or 0 in statuses:
            raise Deviation(f"it ended with {statuses}, not {expected}: {words}")
        if kind == FULL_DISK and "expllm: error: " not in words:
            raise Deviation(f"it does not say what is wrong: {words}")

    def _check_newest(self, event: Event) -> None:
        """Whether the newest checkpoint is as new as is promised."""
        newest, interval = self._newest(), self._campaign.interval
        begun = (event.update - 1) // interval * interval  # it was begun before the update after it
        if event.kind == SIGTERM and newest != event.update:
            raise Deviation(f"it was told to stop, and saved update {newest}, not its last one, {event.update}")
        if newest < begun - interval:
            raise Deviation(f"at update {event.update} its newest whole checkpoint is {newest}")

    def _rob(self, kind: str) -> None:
        newest = self._newest()
        checkpoint = self._folder / "checkpoints" / str(newest)
        if kind == DELETED:
            shutil.rmtree(checkpoint)
        else:
            flip_a_bit(checkpoint, self._draw)
            self._flipped.add(newest)

    def _newest(self) -> int:
        """The step of the newest whole checkpoint; 0 if there is none."""
        return max(set(saved_steps(self._folder)) - self._flipped, default=0)

    def _went_on(self, resume: ResumePoint, event: Event) -> None:
        """Compares where a start went on, if it came so far, with where it had to."""
        if resume.step is None:
            return
        for earlier in self._waiting:
            earlier.resumed = resume.step
            # A flipped bit that changes no value is none of the checksums' business: then it is whole after all.
            if resume.step != earlier.newest and resume.step not in self._flipped:
                earlier.wrong = f"the next start went on from {resume.step}, not from {earlier.newest}"
        if not self._waiting and resume.step != 0:
            raise Deviation(f"a run without checkpoints began after update {resume.step}")
        self._waiting, self._flipped = [], set()

    def _finish(self, event: Event) -> None:
        resume = ResumePoint(self._folder)
        child = self._campaign.start(self._folder)
        try:
            until(child, lambda: False, resume)
        finally:
            child.kill()
        self._went_on(resume, event)
        if any(child.statuses()):
            raise Deviation(f"it ended with {child.statuses()}: {self._campaign.last_words(self._folder)}")
        event.update, event.newest = last_update(self._folder), self._newest()
        if difference := differs(self._campaign, self._folder):
            raise Deviation(difference)


def largest_file(folder: Path) -> Path:
    """Of a checkpoint, the one with the arrays."""
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(checkpoint: Path, draw: random.Random) -> None:
    """Of its arrays."""
    file = largest_file(checkpoint)
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def copy_inputs(finished: Path, run_dir: Path) -> None:
    """Makes `run_dir` a run that has its records, and has not trained."""
    shutil.rmtree(run_dir, ignore_errors=True)  # of an earlier campaign in the same folder
    shutil.copytree(finished, run_dir, ignore=shutil.ignore_patterns(*OF_TRAINING))


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


def undisturbed_run(campaign: Campaign) -> float:
    """Trains the run that the others are compared with, twice: the second time nothing is left to do.

    Returns the seconds that the second start took, which are those before a first update. Raises Deviation.
    """
    told = []
    for _ in range(2):
        began, child = time.monotonic(), campaign.start(campaign.undisturbed)
        try:
            until(child, lambda: False, ResumePoint(campaign.undisturbed))
        finally:
            child.kill()
        if any(child.statuses()):
            words = campaign.last_words(campaign.undisturbed)
            raise Deviation(f"the undisturbed run ended with {child.statuses()}: {words}")
        told.append(((campaign.undisturbed / "metrics.jsonl").read_bytes(), saved_steps(campaign.undisturbed)))
    if told[0] != told[1]:
        raise Deviation("the undisturbed run was not left alone when it was started again")
    return time.monotonic() - began


def plan(kills: int, per_run: int, draw: random.Random) -> list[list[str]]:
    """The events of every run: `kills` kinds of SIGKILL in turn, and each of the others once for every 20 of them."""
    events = [KILLS[number % len(KILLS)] for number in range(kills)] + list(OTHERS) * max(1, kills // 20)
    draw.shuffle(events)
    return [events[start : start + per_run] for start in range(0, len(events), per_run)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="how many SIGKILLs; the other events come on top")
    parser.add_argument("--per-run", type=int, default=8, help="events of one run (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and their order")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: one per core)")
    parser.add_argument("--experiment", default="", help="for `expllm train` (default: tiny, with a smaller tower)")
    parser.add_argument("--interval", type=int, default=5, help="updates between checkpoints (default: 5)")
    parser.add_argument("--folder", type=Path, help="where the runs go, and stay (default: removed afterwards)")
    parser.add_argument("--one-rank", action="store_true", help="leave out the run of two processes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    # An event comes up to three intervals after the newest checkpoint, or at the next; the run may not end before.
    steps = (options.per_run + 1) * 4 * options.interval
    settings = () if options.experiment else SMALL
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(folder, options.experiment or "tiny", settings, steps, options.interval)
        try:
            return run_campaign(campaign, options)
        except Deviation as deviation:
            print(deviation)
            return 1


def run_campaign(campaign: Campaign, options: argparse.Namespace) -> int:
    began, draw = time.monotonic(), random.Random(options.seed)
    jobs = [(campaign, kinds) for kinds in plan(options.kills, options.per_run, draw)]
    start_seconds = {campaign: undisturbed_run(campaign)}
    if not options.one_rank:
        two = dataclasses.replace(campaign, ranks=2)
        copy_inputs(campaign.undisturbed, two.undisturbed)
        start_seconds[two] = undisturbed_run(two)
        jobs.append((two, [draw.choice(KILLS) for _ in range(max(2, options.kills // 10))]))
    runs = [
        DisturbedRun(shared, number, kinds, options.seed, start_seconds[shared])
        for number, (shared, kinds) in enumerate(jobs)
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        events = [event for found in pool.map(DisturbedRun.events, runs) for event in found]
    wrong = [event for event in events if event.wrong]
    saving = sum(event.saving for event in events)
    seconds = time.monotonic() - began
    if options.json:
        told = [dataclasses.asdict(event) | {"redone": event.redone} for event in events]
        print(json.dumps({"events": told, "wrong": len(wrong), "runs": len(runs), "seconds": round(seconds, 1)}))
    else:
        print(f"{'run':>3}  {'event':<22} {'update':>6} {'newest':>6} {'saving':>6} {'resumed':>7} {'redone':>6}")
        for event in events:
            shown = ["-" if value is None else str(value) for value in (event.resumed, event.redone)]
            saved = "yes" if event.saving else ""
            line = f"{event.run:>3}  {event.kind:<22} {event.update:>6} {event.newest:>6} {saved:>6} {shown[0]:>7}"
            print(f"{line} {shown[1]:>6}  {event.wrong}".rstrip())
        verdict = f"{len(wrong)} deviate" if wrong else "all as if undisturbed, bit for bit"
        print(f"{len(runs)} runs, {len(events) - len(runs)} events, {saving} of them with a checkpoint half written, "
              f"{seconds:.0f} s: {verdict}")  # fmt: skip
    if not saving:
        print("no event left a checkpoint half written: it has to be tried again with another --seed", file=sys.stderr)
    return 1 if wrong or not saving else 0


if __name__ == "__main__":
    sys.exit(main())
