"""The converter of torch's files, on files that torch wrote and on one that would run code."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.weights import open_foreign, open_safetensors
from expllm_jax.weights.torch_pickle import convert, main


def malicious(path, touched):
    """A file of torch whose loading touches another file; returns the pickle in it."""
    command = f"touch {touched}".encode()
    pickled = b"\x80\x02cos\nsystem\nX" + len(command).to_bytes(4, "little") + command + b"\x85R."
    with zipfile.ZipFile(path, "w") as archive:  # as torch.save lays it out
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return pickled


@pytest.mark.parametrize("name", ["a.pth", "pytorch_model.bin", "a.safetensors"])
def test_a_pickle_is_refused_with_the_converters_command_and_not_run(tmp_path, name):
    pickled = malicious(tmp_path / name, tmp_path / "touched")
    for content in ((tmp_path / name).read_bytes(), pickled):
        (tmp_path / name).write_bytes(content)
        for path in (tmp_path / name, tmp_path):
            with pytest.raises(ExpllmError) as caught:
                open_foreign(path)
            assert name in caught.value.problem and "pickle" in caught.value.problem
            assert f"python -m expllm_jax.weights.torch_pickle {tmp_path / name}" in caught.value.remedy
    assert not (tmp_path / "touched").exists()


@pytest.mark.parity
def test_tensors_of_torch_come_through(tmp_path):
    torch = pytest.importorskip("torch")
    shared = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    saved = {
        "blocks.0.weight": shared,
        "transposed": shared.T,
        "half": torch.full((2,), 1.5, dtype=torch.bfloat16),
        "optimizer": {"step": torch.tensor(3)},
    }
    for number, zipped in enumerate((True, False)):
        source, target = tmp_path / f"{number}.pth", tmp_path / f"{number}.safetensors"
        torch.save(saved, source, _use_new_zipfile_serialization=zipped)
        assert convert(source, target) == 4
        files = open_safetensors(target)
        assert set(files.tensors) == {"blocks.0.weight", "transposed", "half", "optimizer.step"}
        np.testing.assert_array_equal(files.read("transposed"), shared.numpy().T)
        np.testing.assert_array_equal(files.read("half").astype(np.float32), [1.5, 1.5])
        assert files.read("optimizer.step").shape == () and files.read("optimizer.step") == 3


@pytest.mark.parity
def test_code_in_a_file_is_not_run(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    touched = tmp_path / "touched"
    malicious(tmp_path / "bad.pth", touched)
    assert main([str(tmp_path / "bad.pth"), str(tmp_path / "out.safetensors")]) == 2
    assert "bad.pth" in capsys.readouterr().err and not touched.exists()
    assert sorted(os.listdir(tmp_path)) == ["bad.pth"]
    # the same file is really dangerous to whoever trusts it
    torch.load(tmp_path / "bad.pth", weights_only=False)
    assert touched.exists()


@pytest.mark.parity
def test_other_objects_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.zeros(2), "epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(ExpllmError, match="a int at 'epoch'"):
        convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    with pytest.raises(ExpllmError, match="no file"):
        convert(tmp_path / "none.pth", tmp_path / "a.safetensors")
