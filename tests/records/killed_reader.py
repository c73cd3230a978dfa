"""Reads batches as a changing number of hosts, is killed again and again, and prints what it saw.

`python -m tests.records.killed_reader FOLDER KILLS SEED`: every life reads on from the position that the last one
saved, as 1, 2, 4 or 8 hosts, and ends by SIGKILL. One line "UPDATE DIGEST" is written for every global batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from expllm_jax.records import BatchConfig, MixedRows, PackingConfig, batches, plan_of
from tests.records.fakes import FakeSource

UPDATES = 240


def mixture() -> tuple[MixedRows, np.ndarray]:
    sets = [FakeSource(200, number=1), FakeSource(60, number=2, shortest=80, longest=120)]
    return MixedRows(sets, [3, 1]), np.concatenate([source.features for source in sets])


def global_batches(hosts: int, threads: int = 1):
    """The iterators of all hosts."""
    rows, features = mixture()
    packing = PackingConfig(on=True, longest=512, picture_cost=1.0, attention_length=1e5)
    config = BatchConfig(
        batch=24, seed=9, updates=UPDATES, packing=packing, rows_multiple=8, process_count=hosts, threads=threads
    )
    plan = plan_of(rows, config)
    return [batches(rows, replace(config, process_index=index), features, plan=plan) for index in range(hosts)]


def digest(parts: list[dict[str, np.ndarray]]) -> str:
    """SHA-256 of the global batch."""
    sha256 = hashlib.sha256()
    for name in sorted(parts[0]):
        whole = np.concatenate([part[name] for part in parts])
        sha256.update(f"{name} {whole.dtype} {whole.shape}".encode() + whole.tobytes())
    return sha256.hexdigest()


def live(folder: Path, chance: random.Random) -> None:
    """One life: at most a few batches, saving the position now and then."""
    iterators = global_batches(chance.choice([1, 2, 4, 8]), chance.choice([0, 1, 2]))
    position = folder / "position.json"
    if position.exists():
        state = json.loads(position.read_text())
        for iterator in iterators:
            iterator.set_state(state)
    last = chance.randrange(1, 14)
    with (folder / "seen.txt").open("a") as seen:
        for count in range(last + 1):
            number = iterators[0].get_state()["next"]
            if number == UPDATES:
                return
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            print(number, digest([next(iterator) for iterator in iterators]), file=seen, flush=True)
            if chance.random() < 0.6:
                states = [iterator.get_state() for iterator in iterators]
                assert all(state == states[0] for state in states)
                position.with_suffix(".new").write_text(json.dumps(states[-1]))
                os.replace(position.with_suffix(".new"), position)


def main(folder: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    global_batches(1)  # loads the compiled code, which every life would otherwise do again for a third of a second
    killed = 0
    while killed < kills:
        child = os.fork()
        if child == 0:
            live(folder, random.Random(chance.random()))
            os._exit(0)
        chance.random()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            killed += 1
        elif status:
            sys.exit(f"a life ended with status {status}")
        else:
            break
    print(killed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
