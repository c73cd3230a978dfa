"""What a run does when something is not as usual: losses that are no numbers, a notice to stop, a profile, options."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from expllm_jax.checkpoints import Checkpointer, Preempted, params_fingerprint
from expllm_jax.errors import ExpllmError
from expllm_jax.train import read_metrics, train
from expllm_jax.train.compiling import CACHE_VARIABLE, compiled, parsed_options, use_compile_cache
from expllm_jax.train.flops import Work
from expllm_jax.train.throughput import Throughput, Whole
from tests.train.tiny import TinySource, tiny_config, tiny_model
from tests.train.tiny_run import tiny_train_config

STEPS = 12


def run_on(source, run_dir, **changes):
    """A run in two parts an update. All here are of one program a policy, which is compiled once."""
    graphdef, params = tiny_model(tiny_config(rank=2))
    config = tiny_train_config(**{"steps": STEPS, "log_every": 1, "rows_per_device": 3, **changes})
    return train(config, graphdef, params, source, run_dir, features=source.features, stream=io.StringIO())


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A run to which nothing happens: the fingerprint of what it learns, and the learning rate of every update."""
    folder = tmp_path_factory.mktemp("sound")
    result = run_on(TinySource(10), folder)
    assert json.loads((folder / "run.json").read_text())["parts"] == 2
    return params_fingerprint(result.state.params), [line["learning_rate"] for line in read_metrics(folder)]


def test_without_anything_to_leave_out_the_policy_changes_no_bit(sound, tmp_path: Path) -> None:
    result = run_on(TinySource(10), tmp_path, non_finite="skip")
    assert params_fingerprint(result.state.params) == sound[0]
    assert result.left_out == 0 and not (tmp_path / "non_finite.jsonl").exists()


def test_updates_without_a_number_are_left_out_and_listed(sound, tmp_path: Path) -> None:
    source = TinySource(10)
    source.features[4] = np.nan
    result = run_on(source, tmp_path, non_finite="skip")
    listed = [json.loads(line) for line in (tmp_path / "non_finite.jsonl").read_text().splitlines()]
    assert result.left_out == len(listed) > 0 and int(result.state.step) == STEPS
    assert all("record-4" in line["records"] and len(line["records"]) == 4 for line in listed)
    assert all(np.isfinite(leaf).all() for leaf in result.state.params.values())
    lines = {line["step"]: line for line in read_metrics(tmp_path)}
    assert [step for step, line in lines.items() if line["skipped"]] == [line["update"] for line in listed]
    assert all(("loss" in line) == (line["skipped"] == 0) for line in lines.values())
    made = [step - 1 - sum(line["update"] < step for line in listed) for step in lines]  # before each update
    assert [line["learning_rate"] for line in lines.values()] == pytest.approx([sound[1][count] for count in made])


def test_a_run_that_only_leaves_out_ends(tmp_path: Path) -> None:
    source = TinySource(10)
    source.features[:] = np.nan
    with pytest.raises(ExpllmError, match="updates 1 to 10 were all left out"):
        run_on(source, tmp_path, non_finite="skip")


def test_a_notice_to_stop_is_followed_after_the_update_and_the_run_goes_on_as_if_there_had_been_none(
    sound, tmp_path: Path
) -> None:
    class Notified(TinySource):
        def row(self, index, mirrored=False):
            self.read = getattr(self, "read", 0) + 1
            if self.read == 14:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().row(index, mirrored)

    with pytest.raises(Preempted, match="SIGTERM.*same command") as stopped:
        run_on(Notified(10), tmp_path, threads=0, profile=(2, 3))
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step == stopped.value.step < 7
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(1, stopped.value.step + 1))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))  # of the updates that were to be recorded
    result = run_on(TinySource(10), tmp_path)
    assert params_fingerprint(result.state.params) == sound[0]


def test_the_compiler_gets_its_options(tmp_path: Path) -> None:
    double = jax.jit(lambda x: 2 * x)
    program, seconds = compiled(double, (np.float32(2),), ("xla_cpu_enable_fast_min_max=true",))
    assert float(program(np.float32(2))) == 4.0 and seconds > 0
    with pytest.raises(ExpllmError, match="No such compile option: 'xla_nonsense'"):
        compiled(double, (np.float32(2),), ("xla_nonsense=1",))
    with pytest.raises(ExpllmError, match="xla_nonsense"):
        run_on(TinySource(10), tmp_path, compiler_options=("xla_nonsense=1",))


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a fresh process: no cache of compiled programs has been chosen."""
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
    compilation_cache.reset_cache()


@pytest.mark.parametrize("chosen, there_is_one", [("here", True), ("off", False), ("", False)])
def test_a_second_start_finds_what_the_first_has_compiled(
    no_cache, chosen: str, there_is_one: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, chosen and (chosen if chosen == "off" else str(tmp_path / chosen)))
    events: list[str] = []
    listener = lambda event, **details: events.append(event)  # noqa: E731
    jax.monitoring.register_event_listener(listener)
    try:
        for _ in range(2):  # on a CPU, there is one only where the variable names it
            use_compile_cache(tmp_path / "elsewhere")
            program, _ = compiled(jax.jit(lambda x: 3 * x + 1), (np.float32(2),), ())
            assert float(program(np.float32(2))) == 7.0
    finally:
        jax.monitoring.unregister_event_listener(listener)
    assert events.count("/jax/compilation_cache/cache_hits") == there_is_one
    assert [path.name for path in tmp_path.iterdir()] == ["here"] * there_is_one


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
