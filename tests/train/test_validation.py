"""The validation loss is the mean over records, however they stand in rows and over devices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def measured(compilation_cache_dir):
    child = subprocess.run(
        [sys.executable, "-m", "tests.train.validation_on_four"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout.splitlines()[-1])


def test_plain_and_packed_rows_on_four_devices_give_the_mean_over_records(measured) -> None:
    expected = measured.pop("by hand")
    assert len(measured) == 2
    for name, loss in measured.items():
        assert loss == pytest.approx(expected, rel=1e-5), name


def test_packed_rows_of_a_split_that_fills_no_whole_number_of_updates_hold_every_record_once() -> None:
    import numpy as np

    from expllm_jax.records import BatchConfig, PackingConfig, batches
    from tests.train.tiny import TinySource

    source = TinySource(11)
    packing = PackingConfig(on=True, row_length=128, window=1, picture_cost=5.0, attention_length=1e4)
    config = BatchConfig(batch=4, shuffle=False, epochs=1, partial="pad", packing=packing, threads=0)
    found = np.concatenate([np.ravel(batch["record"]) for batch in batches(source, config, source.features)])
    assert sorted(found[found >= 0].tolist()) == list(range(11))
