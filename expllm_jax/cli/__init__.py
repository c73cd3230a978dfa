"""`expllm VERB`: parses, calls one function, prints. Status 0 done, 1 failed, 2 bad input, 143 told to
stop and saved, 75 stuck.

Each module here declares a group of verbs. What a verb needs is imported when it runs, so that `expllm --help` answers
at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from expllm_jax import __version__
from expllm_jax.cli import ask, compare, config, data, doctor, engine, evaluation, faithful, fit, runs, score, weights
from expllm_jax.cli.parsing import Outcome, one_line
from expllm_jax.errors import ExpllmError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(typed)
    options.typed = ["expllm", *typed]
    try:
        outcome = options.do(options)
    except ExpllmError as error:
        return _failed(options, error.problem, error.remedy, error.exit_status)
    except KeyboardInterrupt:
        print("\nexpllm: stopped; give the same command again: what is finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a file that may not be read: no verb can foresee them all
        where = f"{error.filename}: " if error.filename else ""
        return _failed(options, f"{where}{error.strerror or error}", "", ExpllmError.exit_status)
    if not isinstance(outcome, Outcome):
        outcome = Outcome(outcome, 0)
    if options.json and not options.quiet:
        print(json.dumps(outcome.told, ensure_ascii=False))
    return outcome.status


def _failed(options: argparse.Namespace, problem: str, remedy: str, status: int) -> int:
    """Says what is wrong on stderr; with `--json` also as the one value that programs read."""
    print(f"expllm: error: {one_line(problem)}", file=sys.stderr)
    if remedy:
        print(f"  to mend it: {one_line(remedy)}", file=sys.stderr)
    if options.json:
        print(json.dumps({"error": one_line(problem), "remedy": one_line(remedy), "status": status}))
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="expllm", description="Facial expression recognition that explains itself.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for group in (runs, evaluation, compare, faithful, ask, score, fit, data, engine, weights, config, doctor):
        group.add(verbs)
    return parser
