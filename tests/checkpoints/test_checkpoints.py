"""Checkpoints survive a round trip exactly, open with Orbax alone, and report damage in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.checkpoints import (
    Checkpointer,
    export_inference,
    load_frozen,
    load_inference,
    params_fingerprint,
    save_frozen,
)
from expllm_jax.errors import ExpllmError
from tests.checkpoints.small_run import assert_same, make_data, make_params, make_state, save_run


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "run"
    save_run(folder, keep=2)
    return folder


@pytest.fixture
def run_dir(saved: Path, tmp_path: Path) -> Path:
    """A run with checkpoints of steps 2 and 3 (step 1 was dropped), the data advanced by one element a step."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def test_state_data_and_meta_come_back_exactly(run_dir: Path) -> None:
    expected = make_data()
    for _ in range(3):
        next(expected)
    data = make_data()
    with Checkpointer(run_dir, create=False) as checkpointer:
        assert checkpointer.latest_step == 3
        state = checkpointer.restore(make_state(0, seed=9), data)
        assert checkpointer.load_meta() == {"step": 3, "nested": [1, {"none": None}], "text": "a"}
        assert_same(checkpointer.load_params(), make_params(3))
        assert_same(checkpointer.load_params(2), make_params(2))
        checkpointer.verify()
        with pytest.raises(ExpllmError, match="no checkpoint of step 1.*it has: 2, 3"):
            checkpointer.load_meta(1)
    assert_same(state, make_state(3, seed=3))
    assert [next(data) for _ in range(5)] == [next(expected) for _ in range(5)]


def test_a_donated_buffer_does_not_reach_the_save(tmp_path: Path) -> None:
    # 8 MB, so that the write is still going on while the buffer is reused.
    advance = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros((2, 1024, 1024))
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        for _ in range(3):
            x = advance(x)
        checkpointer.save_async(3, {"params": {"x": x}}, make_data(), {})
        for _ in range(20):
            x = advance(x)
    with Checkpointer(tmp_path, create=False) as checkpointer:
        np.testing.assert_array_equal(checkpointer.load_params()["x"], np.full((2, 1024, 1024), 3.0))


def test_unfinished_saves_are_ignored_and_swept(run_dir: Path) -> None:
    unfinished = run_dir / "checkpoints" / "4.orbax-checkpoint-tmp-77" / "state"
    unfinished.mkdir(parents=True)
    with Checkpointer(run_dir) as checkpointer:
        assert checkpointer.latest_step == 3
        checkpointer.save_async(4, make_state(4), make_data(), {})
    assert sorted(os.listdir(run_dir / "checkpoints")) == ["3", "4"]


def test_damage_is_one_error_with_a_way_back(run_dir: Path) -> None:
    for file in (run_dir / "checkpoints" / "3" / "state" / "d").iterdir():
        file.write_bytes(b"garbage")
    with Checkpointer(run_dir, create=False) as checkpointer:
        with pytest.raises(ExpllmError, match="checkpoints/3 cannot be read.*go back to step 2"):
            checkpointer.restore(make_state(0), make_data())
        with pytest.raises(ExpllmError, match="checkpoints/3 cannot be read"):
            checkpointer.verify()
        checkpointer.verify(2)


def test_the_best_stay_beside_the_newest(tmp_path: Path) -> None:
    losses = {1: 3.0, 2: 0.5, 3: 1.0, 4: float("nan"), 6: 5.0}  # 5 has none
    save_run(tmp_path, (1, 2, 3, 4, 5, 6, 7), losses, keep=1, keep_best=2)
    with Checkpointer(tmp_path, keep=1, keep_best=1) as checkpointer:
        assert checkpointer.steps == [2, 3, 7]
        checkpointer.save_async(8, make_state(8), make_data(), {})
        checkpointer.wait()
        assert checkpointer.steps == [2, 8]  # which was best was read back from the disk


def test_a_checkpoint_takes_the_room_of_what_trains(tmp_path: Path) -> None:
    kernel = jax.random.bits(jax.random.key(0), (1 << 18,)).view(jnp.float32)  # 1 MiB that cannot be compressed
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save_async(1, {"params": {"lora": kernel}}, make_data(), {"run": {"frozen": "ab"}})
    written = sum(file.stat().st_size for file in (tmp_path / "checkpoints" / "1").rglob("*") if file.is_file())
    assert kernel.nbytes <= written < kernel.nbytes + 16_384


def test_another_folder_of_checkpoints_than_the_runs(tmp_path: Path) -> None:
    save_run(tmp_path / "run", checkpoint_dir=str(tmp_path / "bucket"))
    assert not (tmp_path / "run").exists() and sorted(os.listdir(tmp_path / "bucket")) == ["2", "3"]
    with Checkpointer(tmp_path / "run", checkpoint_dir=str(tmp_path / "bucket"), create=False) as checkpointer:
        assert checkpointer.restore_newest(make_state(0), make_data())[2] == 3


def test_other_dtypes_are_cast_after_the_checksums_have_been_compared(run_dir: Path) -> None:
    half = lambda tree: jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, tree)  # noqa: E731
    with Checkpointer(run_dir) as checkpointer:
        state, _, _ = checkpointer.restore_newest(half(make_state(0)), make_data())
        assert_same(state, half(make_state(3, seed=3)))
        checkpointer.save_async(4, state, make_data(), {})
        checkpointer.wait()
        back, _, _ = checkpointer.restore_newest(make_state(0), make_data())
    as_saved = jax.tree.map(lambda x, like: x.astype(like.dtype), half(make_state(3, seed=3)), make_state(0))
    assert_same(back, as_saved)


@pytest.mark.parametrize("path", ["missing", "file"])
def test_a_missing_run_is_one_error_and_creates_nothing(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExpllmError, match=path):
        Checkpointer(tmp_path / path, create=False)
    assert os.listdir(tmp_path) == ["file"]
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ExpllmError, match="no finished checkpoint"):
        Checkpointer(tmp_path, create=False)


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExpllmError, match="cannot be kept"):
        Checkpointer(tmp_path / "file" / "run")


def test_frozen_is_written_once_and_never_replaced(tmp_path: Path) -> None:
    fingerprint = save_frozen(tmp_path, make_params())
    written = (tmp_path / "frozen" / "_CHECKPOINT_METADATA").stat().st_mtime_ns
    assert save_frozen(tmp_path, make_params()) == fingerprint == params_fingerprint(make_params())
    assert (tmp_path / "frozen" / "_CHECKPOINT_METADATA").stat().st_mtime_ns == written
    with pytest.raises(ExpllmError, match="other frozen parameters"):
        save_frozen(tmp_path, make_params(1))
    assert_same(load_frozen(tmp_path), make_params())
    with pytest.raises(ExpllmError, match="no parameters at"):
        load_frozen(tmp_path / "elsewhere")


def test_an_export_opens_with_orbax_alone(tmp_path: Path) -> None:
    meta = {"model": {"width": 4, "layers": [1, 2], "name": None}}
    export_inference(tmp_path / "export", make_params(), meta)
    params, found = load_inference(tmp_path / "export")
    assert_same(params, make_params())
    assert found == meta
    with pytest.raises(ExpllmError, match="exists already"):
        export_inference(tmp_path / "export", make_params(), meta)
    export_inference(tmp_path / "export", make_params(1), meta, overwrite=True)
    script = """
import json, sys
from orbax.checkpoint import v1 as ocp
params = ocp.load(sys.argv[1])
assert "expllm_jax" not in sys.modules
print(json.dumps({path: float(x.astype("float32").sum()) for path, x in params.items()}))
print(json.dumps(ocp.metadata(sys.argv[1]).custom_metadata["model"]))
"""
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "export"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    sums, model = map(json.loads, run.stdout.splitlines())
    assert model == meta["model"]
    assert sums == {path: float(x.astype("float32").sum()) for path, x in make_params(1).items()}


def test_an_export_never_replaces_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(ExpllmError, match="no checkpoint"):
        export_inference(tmp_path / "thesis", make_params(), {}, overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


def test_a_damaged_export_is_one_error(tmp_path: Path) -> None:
    export_inference(tmp_path / "export", make_params(), {})
    for file in (tmp_path / "export" / "state" / "d").iterdir():
        file.write_bytes(b"garbage")
    with pytest.raises(ExpllmError, match="not a readable checkpoint"):
        load_inference(tmp_path / "export")
    (tmp_path / "notes").mkdir()
    with pytest.raises(ExpllmError, match="not a readable checkpoint"):
        load_inference(tmp_path / "notes")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 23), st.integers(0, 31))
def test_the_fingerprint_notices_any_flipped_bit(element: int, bit: int) -> None:
    params = {path: np.array(leaf) for path, leaf in make_params().items()}
    before = params_fingerprint(params)
    params["decoder/blocks/kernel"].view(np.uint32).reshape(-1)[element] ^= np.uint32(1 << bit)
    assert params_fingerprint(params) != before


def test_the_fingerprint_depends_on_place_path_and_dtype() -> None:
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    variants = [{"a": x}, {"b": x}, {"a": x.T}, {"a": x[::-1]}, {"a": x.reshape(4)}, {"a": x.astype(jnp.bfloat16)}, {}]
    assert len({params_fingerprint(variant) for variant in variants}) == len(variants)
