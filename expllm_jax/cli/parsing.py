"""What the groups of verbs share: how a verb is declared, kinds of arguments, and where text goes."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DEFAULT_RUN = "runs/demo"


@dataclass(frozen=True)
class Outcome:
    """What a verb returns whose success has a status of its own."""

    told: Any  # what `--json` prints
    status: int


def one_line(text: str) -> str:
    """The text as one line without control characters: names of files may hold anything, also what moves a cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(text: str) -> None:
    """What is being done, beside the result: on stderr."""
    print(text, file=sys.stderr, flush=True)


def show(options: argparse.Namespace, text: str) -> None:
    """Text for people, unless the caller asked for JSON or another process shows it."""
    if not (options.json or options.quiet):
        print(text)


def add_verb(
    verbs: Any, name: str, do: Callable[[argparse.Namespace], Any], what: str, example: str
) -> argparse.ArgumentParser:
    """Adds one verb. `do` gets the parsed options and returns what `--json` prints, or an `Outcome`."""
    verb = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=f"example: {example}")
    verb.add_argument("--json", action="store_true", help="print one JSON value instead of text")
    verb.set_defaults(do=do, quiet=False)  # quiet: another process of the run shows what comes out
    return verb


def add_group(verbs: Any, name: str, what: str) -> Any:
    """Adds `expllm NAME VERB`; returns what `add_verb` adds those verbs to."""
    group = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    return group.add_subparsers(metavar="VERB", required=True)


def natural(text: str) -> int:
    """An argument that is a whole number of 0 or more."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 0 or more")
    return int(text)


def one_or_more(text: str) -> int:
    """An argument that is a whole number of 1 or more."""
    number = natural(text)
    if not number:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return number


def positive(text: str) -> float:
    """An argument that is a finite number greater than 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number greater than 0")
    return value


def image_size(text: str) -> int | str:
    """An argument that is a number of pixels, "run" or "stored"."""
    if text in ("run", "stored"):
        return text
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number of pixels nor 'run' nor 'stored'")
    return int(text)


def experiment_argument(verb: argparse.ArgumentParser) -> None:
    """EXPERIMENT, and the folder that its run goes to."""
    verb.add_argument("experiment", help="a name from `expllm config list`, or a .py file")
    placed_arguments(verb, None)


def placed_arguments(verb: argparse.ArgumentParser, default: str | None) -> None:
    """--out, required unless there is a default, and --set."""
    verb.add_argument(
        "--out",
        default=default,
        required=default is None,
        help="the run's folder" + (f" (default: {default})" if default else ""),
    )
    override_argument(verb)


def accelerator_argument(verb: argparse.ArgumentParser) -> None:
    """--accelerator NAME."""
    verb.add_argument(
        "--accelerator",
        default="",
        metavar="NAME",
        help="begin from what suits a kind of device, see `expllm config accelerators`; --set changes it again",
    )


def override_argument(verb: argparse.ArgumentParser) -> None:
    """--set KEY=VALUE."""
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the experiment; may be repeated",
    )


def process_arguments(verb: argparse.ArgumentParser) -> None:
    """--coordinator, --processes, --process-id and --start-timeout, for a command that several processes run."""
    several = verb.add_argument_group(
        "several processes",
        "The same command runs in every process, on a run folder that all of them see. Slurm (srun), GKE and TPU VMs "
        "say themselves which processes there are; elsewhere give the first three, or EXPLLM_COORDINATOR, "
        "EXPLLM_PROCESSES and EXPLLM_PROCESS_ID in the environment.",
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0; a port that is free there")
    several.add_argument("--processes", type=natural, metavar="N", help="how many there are")
    several.add_argument("--process-id", type=natural, metavar="K", help="which one this is, from 0")
    several.add_argument(
        "--start-timeout", type=positive, default=300.0, metavar="SECONDS",
        help="how long they wait for each other at the start (default: 300)",
    )  # fmt: skip


def run_argument(verb: argparse.ArgumentParser) -> None:
    """--run FOLDER."""
    verb.add_argument("--run", default=DEFAULT_RUN, help=f"the run's folder (default: {DEFAULT_RUN})")
