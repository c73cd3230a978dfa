"""Damaged checkpoints are noticed, told and moved aside; the newest whole one is what a run goes on from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.checkpoints import Checkpointer
from expllm_jax.errors import ExpllmError
from tests.checkpoints.small_run import State, assert_same, make_data, make_params, make_state, save_run

FLIPS_PER_FILE = 4


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "run"
    save_run(folder, losses={2: 0.5, 3: 0.25}, keep=2)
    return folder


@pytest.fixture
def run_dir(saved: Path, tmp_path: Path) -> Path:
    """A copy of one run, to damage."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def arrays_file(step: Path) -> Path:
    return max((step / "state").rglob("d/*"), key=lambda file: file.stat().st_size)


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # Orbax, when a part is damaged
def test_no_flipped_bit_in_any_file_is_ever_read_as_something_else(tmp_path: Path) -> None:
    save_run(tmp_path, (3,), losses={3: 0.25})
    rng, noticed = np.random.default_rng(0), []
    for file in sorted(path for path in (tmp_path / "checkpoints" / "3").rglob("*") if path.is_file()):
        whole = file.read_bytes()
        for bit in rng.choice(8 * len(whole), min(FLIPS_PER_FILE, 8 * len(whole)), replace=False):
            flip(file, int(bit))
            data = make_data()
            with Checkpointer(tmp_path, keep_best=1, say=noticed.append) as checkpointer:
                try:
                    state, meta, step = checkpointer.restore_newest(make_state(0), data)
                except ExpllmError as error:
                    noticed.append(str(error))
                else:
                    assert_same(state, make_state(3, seed=3))
                    assert meta == {"step": 3, "nested": [1, {"none": None}], "text": "a"} and step == 3
                    assert data.get_state() == {"next_index": 1}
            file.write_bytes(whole)
    # TensorStore reads some of them without complaint: only the saved checksums tell.
    assert any("the values of" in message for message in noticed)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a flipped bit": lambda step: flip(arrays_file(step), 8 * (arrays_file(step).stat().st_size // 2)),
    "a truncated file": lambda step: os.truncate(arrays_file(step), arrays_file(step).stat().st_size // 2),
    "no arrays": lambda step: shutil.rmtree(step / "state"),
    "half deleted": lambda step: (
        [file.unlink() for file in step.iterdir() if file.is_file()] and shutil.rmtree(step / "meta")
    ),
    "empty": lambda step: [shutil.rmtree(step), step.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_serves(run_dir: Path, damage: str) -> None:
    DAMAGES[damage](run_dir / "checkpoints" / "3")
    told: list[str] = []
    data = make_data()
    with Checkpointer(run_dir, keep_best=1, say=told.append) as checkpointer:
        state, meta, step = checkpointer.restore_newest(make_state(0), data)
        assert (step, meta["step"]) == (2, 2)
        assert_same(state, make_state(2, seed=2))
        assert data.get_state() == {"next_index": 2}
        checkpointer.save_async(3, make_state(3, seed=7), data, {"again": True})
        checkpointer.wait()
        assert checkpointer.latest_step == 3
    assert (run_dir / "checkpoints" / "damaged" / "3").is_dir()
    assert len(told) == 1 and "step 3 is damaged" in told[0]
    with Checkpointer(run_dir) as checkpointer:
        assert checkpointer.restore_newest(make_state(0), make_data())[1:] == ({"again": True}, 3)


def test_what_is_restored_may_stand_beside_damaged_metrics(run_dir: Path) -> None:
    (run_dir / "checkpoints" / "3" / "metrics" / "metrics").write_text("{")
    told: list[str] = []
    with Checkpointer(run_dir, keep=1, keep_best=1, say=told.append) as checkpointer:
        assert checkpointer.restore_newest(make_state(0), make_data())[2] == 3
        checkpointer.save_async(4, make_state(4), make_data(), {})
        checkpointer.wait()
        assert checkpointer.steps == [2, 4]
    assert len(told) == 1 and "no longer counts among the best" in told[0]


def test_a_second_damaged_one_of_the_same_step_gets_a_number(run_dir: Path) -> None:
    (run_dir / "checkpoints" / "damaged" / "3").mkdir(parents=True)
    flip(arrays_file(run_dir / "checkpoints" / "3"), 8)
    with Checkpointer(run_dir, say=lambda line: None) as checkpointer:
        assert checkpointer.restore_newest(make_state(0), make_data())[2] == 2
    assert sorted(os.listdir(run_dir / "checkpoints" / "damaged")) == ["3", "3-2"]


def test_if_none_is_whole_all_stay_where_they_are(run_dir: Path) -> None:
    for step in ("2", "3"):
        shutil.rmtree(run_dir / "checkpoints" / step / "state" / "d")
    with Checkpointer(run_dir) as checkpointer, pytest.raises(ExpllmError, match="no whole checkpoint.*3: .*2: "):
        checkpointer.restore_newest(make_state(0), make_data())
    assert sorted(os.listdir(run_dir / "checkpoints")) == ["2", "3"]


def test_a_deleted_newest_checkpoint_is_no_damage(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints" / "3")
    with Checkpointer(run_dir) as checkpointer:
        assert checkpointer.restore_newest(make_state(0), make_data())[2] == 2


def test_another_model_is_named_path_by_path_and_nothing_is_moved(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints" / "3" / "state" / "d")  # arrays cannot be read, and need not be
    params = make_params()
    params["decoder/embedding"] = jnp.zeros((6, 4), jnp.bfloat16)
    params["new/kernel"] = params.pop("projector/bias")
    like = State(jnp.int32(0), params, make_state(0).opt_state)
    with Checkpointer(run_dir) as checkpointer, pytest.raises(ExpllmError) as caught:
        checkpointer.restore_newest(like, make_data())
    problem = caught.value.problem
    assert "it lacks params/new/kernel" in problem and "it holds besides params/projector/bias" in problem
    assert "params/decoder/embedding ((5, 4) bfloat16, not (6, 4) bfloat16)" in problem
    assert not (run_dir / "checkpoints" / "damaged").exists()
    with Checkpointer(run_dir) as checkpointer, pytest.raises(ExpllmError, match=r"step \(\(\) int32, not \(\) float"):
        checkpointer.restore(State(jnp.float32(0), make_params(), like.opt_state), make_data())
