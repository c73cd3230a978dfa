"""What a run does when something is not as usual: losses that are no numbers, a notice to stop, a profile, options."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from expllm_jax.checkpoints import Checkpointer, Preempted, params_fingerprint
from expllm_jax.errors import ExpllmError
from expllm_jax.train import read_metrics, train
from expllm_jax.train.compiling import parsed_options
from expllm_jax.train.flops import Work
from expllm_jax.train.throughput import Throughput, Whole
from tests.train.tiny import TinySource, tiny_config, tiny_model
from tests.train.tiny_run import run, tiny_train_config


def run_on(source, run_dir, **changes):
    graphdef, params = tiny_model(tiny_config(rank=2))
    return train(
        tiny_train_config(**{"steps": 12, "log_every": 1, **changes}), graphdef, params, source, run_dir,
        features=source.features, stream=io.StringIO(),
    )  # fmt: skip


def test_updates_without_a_number_are_left_out_and_listed_and_others_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    sound = [run(tmp_path / policy, io.StringIO(), steps=12, non_finite=policy) for policy in ("raise", "skip")]
    assert params_fingerprint(sound[0].state.params) == params_fingerprint(sound[1].state.params)
    assert sound[1].left_out == 0 and not (tmp_path / "skip" / "non_finite.jsonl").exists()

    source = TinySource(10)
    source.features[4] = np.nan
    result = run_on(source, tmp_path / "nan", non_finite="skip")
    listed = [json.loads(line) for line in (tmp_path / "nan" / "non_finite.jsonl").read_text().splitlines()]
    assert result.left_out == len(listed) > 0 and int(result.state.step) == 12
    assert all("record-4" in line["records"] and len(line["records"]) == 4 for line in listed)
    assert all(np.isfinite(leaf).all() for leaf in result.state.params.values())
    lines = {line["step"]: line for line in read_metrics(tmp_path / "nan")}
    assert [step for step, line in lines.items() if line["skipped"]] == [line["update"] for line in listed]
    assert all(("loss" in line) == (line["skipped"] == 0) for line in lines.values())


def test_a_run_that_only_leaves_out_ends(tmp_path: Path) -> None:
    source = TinySource(10)
    source.features[:] = np.nan
    with pytest.raises(ExpllmError, match="updates 1 to 10 were all left out"):
        run_on(source, tmp_path, non_finite="skip")


def test_a_notice_to_stop_is_followed_after_the_update_and_the_run_goes_on_as_if_there_had_been_none(
    tmp_path: Path,
) -> None:
    whole = run_on(TinySource(10), tmp_path / "whole", rows_per_device=3)

    class Notified(TinySource):
        def row(self, index, mirrored=False):
            self.read = getattr(self, "read", 0) + 1
            if self.read == 14:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().row(index, mirrored)

    with pytest.raises(Preempted, match="SIGTERM.*same command") as stopped:
        run_on(Notified(10), tmp_path / "stopped", rows_per_device=3, threads=0)
    with Checkpointer(tmp_path / "stopped") as checkpointer:
        assert checkpointer.latest_step == stopped.value.step < 7
    assert [line["step"] for line in read_metrics(tmp_path / "stopped")] == list(range(1, stopped.value.step + 1))
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["parts"] == 2
    result = run_on(TinySource(10), tmp_path / "stopped", rows_per_device=3)
    assert params_fingerprint(result.state.params) == params_fingerprint(whole.state.params)


def test_some_updates_are_profiled_and_the_compiler_gets_its_options(tmp_path: Path) -> None:
    run_on(TinySource(10), tmp_path, steps=4, profile=(2, 3), compiler_options=("xla_cpu_enable_fast_min_max=true",))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    with pytest.raises(ExpllmError, match="No such compile option: 'xla_nonsense'"):
        run_on(TinySource(10), tmp_path / "other", compiler_options=("xla_nonsense=1",))


def test_options_are_what_xla_reads() -> None:
    assert parsed_options(("a=true", "b=12", "c=x=y")) == {"a": True, "b": "12", "c": "x=y"}


def test_throughput_counts_all_processes_and_leaves_out_rests() -> None:
    now = [0.0]
    whole = Whole(records=8, row_tokens=400, shares=2, flops_of=lambda work: 10 * work.tokens, peak_flops=3000.0)
    throughput = Throughput(whole, clock=lambda: now[0])
    for seconds in (2.0, 2.0):
        now[0] += seconds
        throughput.finished(Work(2.0, 100.0, 0.0, 4.0, 30.0), waited=0.5)
    now[0] += 60.0
    throughput.rest()
    assert throughput.line() == pytest.approx(
        {"records_per_second": 4.0, "tokens_per_second": 100.0, "supervised_per_second": 30.0, "update_seconds": 2.0,
         "padding": 0.5, "mfu": 1 / 3}
    )  # fmt: skip
    now[0] += 4.0
    throughput.finished(Work(2.0, 100.0, 0.0, 4.0, 30.0), waited=1.0)
    assert throughput.line()["tokens_per_second"] == 50.0
    assert throughput.summary() == pytest.approx(
        {"updates": 3, "median_seconds": 2.0, "wait_share": 0.25, "mfu": 1 / 3}
    )
