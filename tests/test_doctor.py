"""The doctor reports what is there, names what is missing with its remedy, and never fails itself."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import jax
import pytest

from expllm_jax import assets, doctor

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_computer_that_has_everything():
    report = doctor.run()
    assert report.healthy and report.problems == ()
    assert {package.name: package.version for package in report.packages}["jax"] == jax.__version__
    assert [device.platform for device in report.devices] == [device.platform for device in jax.devices()]
    assert report.cores >= 1 and report.disk_free_bytes > 0 and report.memory_bytes > 1e8
    assert {asset.name: asset.state for asset in report.assets} == dict.fromkeys(assets.ASSETS, "absent")
    assert json.loads(json.dumps(report.to_json()))["healthy"] is True


def test_nothing_is_fetched_or_made(cache):
    doctor.run(verify=True)
    assert not cache.exists()


def test_the_text_names_everything():
    report = doctor.run()
    text = doctor.render(report)
    for name in (*doctor.TESTED, *doctor.EXTRAS, *assets.ASSETS, "cores", "memory", report.cache, "all is well"):
        assert name in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_missing_package_is_a_problem_with_a_remedy(monkeypatch):
    version = importlib.metadata.version

    def without_gguf(name):
        if name == "gguf":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", without_gguf)
    report = doctor.run()
    assert not report.healthy and "gguf" in report.problems[0] and "pip install" in report.problems[0]
    assert "missing" in doctor.render(report)


def test_another_version_is_a_note(monkeypatch):
    monkeypatch.setitem(doctor.TESTED, "optax", "0.0.1")
    report = doctor.run()
    assert report.healthy and any("optax" in note and "0.0.1" in note for note in report.notes)


def test_a_backend_that_does_not_start_is_a_problem(monkeypatch):
    def no_backend():
        raise RuntimeError("Unable to initialize backend 'tpu': it is in use\nmore lines")

    monkeypatch.setattr(jax, "devices", no_backend)
    report = doctor.run()
    assert report.devices == () and not report.healthy
    assert "it is in use;" in report.problems[0] and "JAX_PLATFORMS" in report.problems[0]


def test_a_damaged_asset_is_found_and_named():
    folder = assets.asset_folder("llama-tokenizer")
    folder.mkdir(parents=True)
    asset = assets.ASSETS["llama-tokenizer"]
    (folder / asset.returns).write_bytes(b"same size, other bytes")
    (folder / assets.STAMP).write_text(json.dumps({asset.returns: [22, asset.sha256]}))
    states = {asset.name: asset.state for asset in doctor.run().assets}
    assert states["llama-tokenizer"] == "ready"  # sizes say nothing about bytes
    report = doctor.run(verify=True)
    assert {asset.name: asset.state for asset in report.assets}["llama-tokenizer"] == "damaged"
    assert asset.returns in report.problems[0] and "delete" in report.problems[0]


def test_little_memory_and_disk_are_noted(monkeypatch):
    monkeypatch.setattr(doctor, "_memory", lambda: (int(2e9), int(1e9)))
    monkeypatch.setattr(doctor, "_disk_free", lambda path: int(1e9))
    notes = " ".join(doctor.run().notes)
    assert "2.0 GB of memory" in notes and "1.0 GB free" in notes and "EXPLLM_CACHE" in notes


def test_the_tested_versions_are_the_locked_ones():
    lines = (ROOT / "launch/lock/base.txt").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if "==" in line)
    assert {name: locked[name] for name in doctor.TESTED} == doctor.TESTED
