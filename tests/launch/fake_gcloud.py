"""Stands in for `gcloud` on PATH: notes every call, answers from files, runs here what is sent to workers.

In the folder $FAKE: `calls.jsonl` (each call's arguments), `states` (one word a look at the queue; the last one stays),
`workers/NODE-NUMBER` (the home of each worker), `broken` (the name of a worker on which every command fails).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

FAKE = Path(os.environ["FAKE"])
# Installing takes minutes and a network: the worker gets a program that notes its arguments and waits instead.
PROGRAM = """#!/usr/bin/env bash
trap 'exit 143' TERM
printf '%s\\n' "$@" >> "$HOME/arguments"
echo "training"
while [ ! -e "$HOME/finish" ]; do sleep 0.05; done
exit "$(cat "$HOME/finish")"
"""


def workers(node: str, which: str) -> list[Path]:
    """The homes of a node's workers: all of them, or one."""
    found = sorted((FAKE / "workers").glob(f"{node}-w*"))
    return found if which == "all" else [found[int(which)]]


def on_worker(home: Path, command: str) -> int:
    """Runs the command as that worker would; its exit status."""
    if (FAKE / "broken").exists() and (FAKE / "broken").read_text() == home.name:
        print(f"{home.name}: no space left on device", file=sys.stderr)
        return 1
    if command.endswith("on_tpu_worker.sh install"):
        program = home / Path(command.split()[1]).parents[1] / ".venv/bin/expllm"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(PROGRAM)
        program.chmod(0o755)
        return 0
    return subprocess.run(["bash", "-c", command], cwd=home, env=os.environ | {"HOME": str(home)}).returncode


def main(arguments: list[str]) -> int:
    with (FAKE / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    options = dict(argument.split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument)
    match arguments[2:5]:
        case ["queued-resources", "describe", _]:
            first, *rest = (FAKE / "states").read_text().split()
            (FAKE / "states").write_text(" ".join(rest or [first]))
            if first == "ABSENT":
                print("ERROR: (gcloud) NOT_FOUND: the resource was not found", file=sys.stderr)
                return 1
            print(first)
        case ["queued-resources", "create" | "delete", _]:
            pass
        case ["tpu-vm", "ssh", node]:
            return max(on_worker(home, options["--command"]) for home in workers(node, options["--worker"]))
        case ["tpu-vm", "scp", archive]:
            for home in workers(arguments[5].rstrip(":"), options["--worker"]):
                shutil.copy(archive, home)
        case _:
            raise SystemExit(f"fake gcloud does not know {arguments}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
