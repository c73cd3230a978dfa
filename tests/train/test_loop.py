"""The loop learns, survives being killed, stops on nonsense, and leaves no seams in what it writes."""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from expllm_jax.checkpoints import Checkpointer, load_frozen, params_fingerprint
from expllm_jax.errors import ExpllmError
from expllm_jax.models import merge
from expllm_jax.train import OptimizerConfig, TrainConfig, read_metrics, train
from expllm_jax.train.same_run import FORMAT, check_same_run
from tests.train.tiny import TinySource, tiny_config, tiny_model
from tests.train.tiny_run import STEPS, run, tiny_train_config

ROOT = Path(__file__).parents[2]
# What no two runs have in common; `padding` is that of the updates since the line before, be it of this process or not.
TIMING = {"seconds", "data_wait", "records_per_second", "tokens_per_second", "supervised_per_second", "update_seconds",
          "padding"}  # fmt: skip


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """An uninterrupted run: its folder, result and progress lines."""
    folder, stream = tmp_path_factory.mktemp("whole") / "run", io.StringIO()
    return folder, run(folder, stream), stream.getvalue()


def test_a_run_that_is_killed_again_and_again_ends_the_same_bit_for_bit(
    whole_run, tmp_path: Path, compilation_cache_dir: str
) -> None:
    folder, result, _ = whole_run
    expected = [str(result.loss), params_fingerprint(result.state.params)]
    metrics = tmp_path / "metrics.jsonl"
    environment = {
        **os.environ, "JAX_COMPILATION_CACHE_DIR": compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.train.tiny_run", tmp_path]
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    killed_at = []
    for share in (0.3, 0.8):
        victim = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        threshold = chance.uniform(share - 0.2, share) * STEPS / 5  # lines of metrics
        try:
            while victim.poll() is None and not (
                metrics.exists() and len(metrics.read_bytes().splitlines()) > threshold
            ):
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.15))
            victim.send_signal(signal.SIGKILL)
            output, errors = victim.communicate(timeout=60)
        finally:
            victim.kill()
        assert victim.returncode == -signal.SIGKILL, (seed, output, errors.decode()[-2000:])
        killed_at.append(read_metrics(tmp_path)[-1]["step"])
    last = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert last.returncode == 0, (seed, last.stderr[-2000:])
    assert last.stdout.split() == expected, (seed, killed_at)
    lines = [
        [{k: v for k, v in line.items() if k not in TIMING} for line in read_metrics(at)] for at in (tmp_path, folder)
    ]
    assert lines[0] == lines[1], (seed, killed_at)  # no gap, no duplicate, no other value


def test_progress_and_metrics_tell_the_run(whole_run) -> None:
    folder, result, progress = whole_run
    assert result.steps == STEPS and int(result.state.step) == STEPS
    lines = read_metrics(folder)
    assert [line["step"] for line in lines] == list(range(5, STEPS + 1, 5))
    assert set(lines[0]) == {"step", "loss", "grad_norm", "learning_rate"} | TIMING
    source, told = TinySource(10), lines[-1]
    mean = np.mean([len(row) for row in source.rows])  # 150 updates of 4 take every record 60 times
    assert 0 < told["padding"] < 1 and told["tokens_per_second"] * told["update_seconds"] == pytest.approx(
        4 * mean, 0.2
    )
    assert lines[-1]["loss"] == result.loss < lines[0]["loss"]
    assert f"training {STEPS}/{STEPS}  loss {result.loss:.4f}" in progress and "records/s" in progress
    assert progress.count("\n") < 12 and "\r" not in progress  # no terminal: now and then a line
    facts = json.loads((folder / "run.json").read_text())
    assert facts["rows"] == 4 and facts["parts"] == 1 and facts["temporary_bytes"] > 0 and facts["compile_seconds"] > 0
    assert facts["summary"]["updates"] == STEPS and 0 <= facts["summary"]["wait_share"] <= 1
    assert f"(median of {STEPS})" in progress and "compiling took" in progress
    assert scalars(folder / "tensorboard", "loss") == [(line["step"], pytest.approx(line["loss"])) for line in lines]


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    """(step, value) of the points in TensorBoard's files: records of length, CRC, event, CRC."""
    points = []
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            points += [(event.step, value.simple_value) for value in event.summary.value if value.tag == tag]
            content = content[16 + length :]
    return points


def test_a_finished_run_is_returned_as_it_is(whole_run) -> None:
    folder, result, _ = whole_run
    written = (folder / "metrics.jsonl").stat().st_mtime_ns
    again = run(folder, io.StringIO())
    assert again.loss is None and again.steps == STEPS
    assert params_fingerprint(again.state.params) == params_fingerprint(result.state.params)
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == written


def test_a_run_folder_holds_all_parameters(whole_run) -> None:
    folder, result, _ = whole_run
    graphdef, params = tiny_model(tiny_config(rank=2))
    with Checkpointer(folder, create=False) as checkpointer:
        assert checkpointer.latest_step == STEPS
        trained = checkpointer.load_params()
    frozen = load_frozen(folder)
    assert merge(graphdef, {**frozen, **trained})
    assert params_fingerprint(trained) == params_fingerprint(result.state.params)
    assert params_fingerprint(frozen) == params_fingerprint({path: params[path] for path in frozen})


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"seed": 4}, "config.seed was 3, is 4"),
        ({"optimizer": OptimizerConfig(lr=0.5)}, "config.optimizer.lr was 0.01, is 0.5"),
    ],
)
def test_going_on_with_other_settings_is_refused(whole_run, changes, told) -> None:
    with pytest.raises(ExpllmError, match=told):
        run(whole_run[0], io.StringIO(), **changes)


def test_checkpoints_of_another_version_are_told_from_those_of_other_settings(tmp_path: Path) -> None:
    now = {"config": {"seed": 3, "optimizer": {"lr": 1.0, "eps": 0.1}}, "identity": {"records": "a"}}
    check_same_run(tmp_path, {"format": FORMAT, "run": now}, now)
    for before, told in (
        ({"seed": 3, "optimizer": {"lr": 1.0}}, "another version .* they lack config.optimizer.eps$"),
        ({"seed": 3, "old": 1, "optimizer": {"lr": 1.0}}, "they lack config.optimizer.eps, and they have config.old$"),
        ({"seed": 4, "optimizer": {"lr": 1.0, "eps": 0.1}}, "other settings: config.seed was 4, is 3$"),
    ):
        with pytest.raises(ExpllmError) as caught:
            check_same_run(tmp_path, {"format": FORMAT, "run": {**now, "config": before}}, now)
        assert re.search(told, caught.value.problem)
    with pytest.raises(ExpllmError, match=f"format {FORMAT + 1}"):
        check_same_run(tmp_path, {"format": FORMAT + 1, "run": now}, now)


def test_it_learns_the_pictures_by_heart_and_validates(tmp_path: Path) -> None:
    source = TinySource(6)
    graphdef, params = tiny_model()
    config = TrainConfig(
        epochs=120, batch=6, trainable=(r"projector/.*", r"decoder/.*"), log_every=50, checkpoint_every=1000,
        validate_every=60, optimizer=OptimizerConfig(lr=5e-3),
    )  # fmt: skip
    validation = (source, source.features)
    result = train(config, graphdef, params, source, tmp_path, features=source.features, validation=validation,
                   stream=io.StringIO())  # fmt: skip
    assert result.steps == 120 and result.loss < 0.05
    measured = [line for line in read_metrics(tmp_path) if "validation_loss" in line]
    assert [line["step"] for line in measured] == [60, 120]
    assert measured[-1]["validation_loss"] < 0.05 and measured[-1]["validation_accuracy"] == 1.0


def test_a_loss_that_is_not_finite_names_the_update_and_its_records_and_is_not_saved(tmp_path: Path) -> None:
    source = TinySource(10)
    source.features[4] = np.nan
    graphdef, params = tiny_model(tiny_config(rank=2))
    config = tiny_train_config(checkpoint_every=1)
    with pytest.raises(ExpllmError) as caught:
        train(config, graphdef, params, source, tmp_path, features=source.features, stream=io.StringIO())
    problem = caught.value.problem
    step = int(problem.split(":")[0].removeprefix("update "))
    assert "loss is nan" in problem and "record-4" in problem and problem.count("record-") == 4
    with Checkpointer(tmp_path) as checkpointer:
        assert (checkpointer.latest_step or 0) < step


def test_a_record_whose_picture_does_not_fill_its_places_is_named(tmp_path: Path) -> None:
    source = TinySource(4)
    source.rows[2].tokens[2] = 3  # one placeholder fewer
    graphdef, params = tiny_model(tiny_config(rank=2))
    with pytest.raises(ExpllmError, match=r"record-2 has \d+ image tokens .* fill \d+"):
        train(tiny_train_config(batch=4), graphdef, params, source, tmp_path, features=source.features,
              stream=io.StringIO())  # fmt: skip


def test_metrics_of_a_killed_process_are_cut_back(tmp_path: Path) -> None:
    from expllm_jax.train import MetricsLog

    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": step / 2})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # killed in the middle of a line
    log = MetricsLog(tmp_path, 2)
    log.write(3, {"loss": 9.0})
    log.close()
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 9.0}]
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"loss": 1}) + "\n")
    with pytest.raises(ExpllmError, match="metrics.jsonl line 1"):
        MetricsLog(tmp_path, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"epochs": 2},
        {"batch": 0},
        {"accumulate": 3},
        {"seed": -1},
        {"trainable": ()},
        {"log_every": 0},
        {"rows_per_device": 2, "accumulate": 2},
        {"compiler_options": ("xla_flag",)},
        {"profile": (3,)},
        {"profile": (3, 2)},
        {"keep_best": 1},
        {"stuck_after": -1.0},
        {"non_finite": "ignore"},
    ],  # fmt: skip
)
def test_impossible_settings_name_the_field(wrong) -> None:
    with pytest.raises(ExpllmError, match=next(iter(wrong)) if wrong != {"accumulate": 3} else "divide"):
        tiny_train_config(**wrong)


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExpllmError, match="run folder"):
        run(tmp_path / "file" / "run", io.StringIO())
