"""The same global batches for any number of hosts, threads and workers, from wherever reading goes on."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.records import BatchConfig, PackingConfig, batches
from tests.records.fakes import FakeSource
from tests.records.killed_reader import UPDATES, digest, global_batches

ROOT = Path(__file__).parents[2]


def read(iterators, updates):
    return [digest([next(iterator) for iterator in iterators]) for _ in range(updates)]


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_hosts_share_the_very_arrays_of_one(hosts):
    assert read(global_batches(hosts), 30) == read(global_batches(1), 30)


def test_fifty_lives_that_end_at_random_see_what_one_sees(tmp_path: Path):
    seed = random.randrange(2**32)
    command = [sys.executable, "-m", "tests.records.killed_reader", tmp_path, "50", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (seed, done.stderr[-2000:])
    killed = int(done.stdout)
    expected = read(global_batches(1), UPDATES)
    lines = [line.split() for line in (tmp_path / "seen.txt").read_text().splitlines()]
    numbers = [int(number) for number, _ in lines]
    assert killed == 50 or max(numbers) == UPDATES - 1, seed
    assert sorted(set(numbers)) == list(range(max(numbers) + 1)), seed
    assert len(numbers) > len(set(numbers)), seed  # some batches were read by two lives
    assert all(expected[int(number)] == found for number, found in lines), seed


@settings(deadline=None, max_examples=25)
@given(
    records=st.integers(3, 60),
    batch=st.sampled_from([1, 2, 4, 8, 24]),
    hosts=st.sampled_from([1, 2, 4, 8]),
    later=st.sampled_from([1, 2, 4, 8]),
    threads=st.integers(0, 3),
    packed=st.booleans(),
    stop=st.integers(0, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_reading_goes_on_with_any_number_of_hosts(records, batch, hosts, later, threads, packed, stop, seed):
    source = FakeSource(records, seed=1)
    packing = PackingConfig(on=packed, longest=512, picture_cost=1.0, attention_length=1e5)
    if not packed:
        hosts, later = (count if batch % count == 0 else 1 for count in (hosts, later))

    def iterators(count, threads):
        return [
            batches(
                source,
                BatchConfig(batch=batch, seed=seed, updates=12, packing=packing, rows_multiple=8 if packed else 1,
                            process_index=index, process_count=count, threads=threads),
                source.features,
            )
            for index in range(count)
        ]  # fmt: skip

    whole = read(iterators(1, 0), 12)
    before = iterators(hosts, threads)
    assert read(before, stop) == whole[:stop]
    state = json.loads(json.dumps(before[-1].get_state()))
    after = iterators(later, 2)
    for iterator in after:
        iterator.set_state(state)
    assert read(after, 12 - stop) == whole[stop:]
    assert all(next(iterator, None) is None for iterator in after)


@pytest.mark.slow
def test_worker_processes_change_nothing():
    """Two workers, then one, then none, each going on where the one before was."""
    source = FakeSource(40)

    def iterator(workers):
        return batches(source, BatchConfig(batch=4, seed=2, workers=workers), source.features)

    whole = [digest([batch]) for batch in itertools.islice(iterator(0), 14)]
    found, state = [], None
    for workers, count in ((2, 6), (1, 4), (0, 4)):
        reading = iterator(workers)
        if state is not None:
            reading.set_state(state)
        found += [digest([next(reading)]) for _ in range(count)]
        state = json.loads(json.dumps(reading.get_state()))
        reading.close()
    assert found == whole


def test_a_position_of_other_records_is_refused(tmp_path: Path):
    source = FakeSource(40)
    state = batches(source, BatchConfig(batch=4, seed=2), source.features).get_state()
    for other in (
        batches(source, BatchConfig(batch=4, seed=3), source.features),
        batches(source, BatchConfig(batch=5, seed=2), source.features),
        batches(FakeSource(39), BatchConfig(batch=4, seed=2), FakeSource(39).features),
    ):
        with pytest.raises(ExpllmError, match="other records"):
            other.set_state(state)
