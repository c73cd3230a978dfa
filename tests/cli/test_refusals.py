"""Everything a user can do wrong with the command: one error, status 2, and nothing else changed."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from expllm_jax import assessment, stages
from expllm_jax.config import load_experiment
from tests.cli.commands import Outcome, a_face, assert_refused, expllm, unchanged


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and then holds nearly nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def garbage(kind: str, path: Path, face: Path) -> str:
    """Puts a garbage picture at `path`; returns what the error has to say."""
    image = Image.open(face)
    if kind == "truncated JPEG":
        path.write_bytes(face.read_bytes()[:3000])
        return "truncated"
    if kind == "0 bytes":
        path.write_bytes(b"")
        return "empty"
    if kind == "1x1":
        image.resize((1, 1)).save(path, "PNG")
        return "too small (1×1"
    if kind == "20000x20000":
        path.write_bytes(png_header(20_000, 20_000))
        return "too large"
    if kind == "animated":
        frames = [image, image.rotate(90), image.rotate(180)]
        frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
        return "animated"
    if kind == "text":
        path.write_text("I am no picture, whatever my name says.\n" * 50)
        return "not a picture"
    if kind == "floating point":
        image.convert("F").save(path, "TIFF")
        return "unsupported"
    if kind == "a folder":
        path.mkdir()
        return ""
    return ""  # missing


GARBAGE = ("truncated JPEG", "0 bytes", "1x1", "20000x20000", "animated", "text", "floating point", "a folder",
           "missing")  # fmt: skip


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_garbage_picture_is_one_error(kind, run, tmp_path):
    path = tmp_path / "face.jpg"
    said = garbage(kind, path, a_face(run))
    with unchanged(run, tmp_path):
        assert_refused(expllm("predict", a_face(run), path, "--run", run), path, said)


def test_a_process_says_no_more_than_the_error(run, tmp_path, compiled):
    """Warnings of libraries, and what they print behind Python's back, would only show here."""
    path = tmp_path / "face.jpg"
    garbage("20000x20000", path, a_face(run))
    command = [sys.executable, "-m", "expllm_jax.cli", "predict", path, "--run", run]
    done = subprocess.run(command, env=compiled, capture_output=True, text=True, timeout=120)
    assert_refused(Outcome(done.returncode, done.stdout, done.stderr), path, "too large")


VERBS_ON_A_RUN = (
    ["eval"],
    ["predict", "face.jpg"],
    ["export"],
    ["weights", "export", "--to", "out"],
    ["data", "inspect"],
)


@pytest.mark.parametrize("verb", VERBS_ON_A_RUN, ids=lambda verb: verb[0])
def test_a_missing_run_is_one_error(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"mine")
    (tmp_path / "file").write_text("")
    with unchanged(tmp_path):
        for folder in (tmp_path / "nowhere", tmp_path / "photos", tmp_path / "file"):
            assert_refused(expllm(*verb, "--run", folder), folder)


def test_a_run_that_has_not_been_trained_yet_is_one_error(run, tmp_path):
    folder = tmp_path / "run"
    stages.open_folder(folder, load_experiment("tiny"), lambda text: None)
    shutil.copytree(run / "records", folder / "records")
    with unchanged(folder):
        assert_refused(expllm("eval", "--run", folder), folder)
        assert_refused(expllm("predict", a_face(run), "--run", folder), folder)
        assert_refused(expllm("export", "--run", folder), folder)


MAKERS = (["demo", "--experiment", "tiny"], ["train", "tiny"], ["data", "build", "tiny"])


@pytest.mark.parametrize("verb", MAKERS, ids=lambda verb: verb[0])
def test_an_output_folder_that_cannot_be_written_is_one_error(verb, tmp_path):
    (tmp_path / "file").write_text("I was here first")
    with unchanged(tmp_path):
        for folder in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
            assert_refused(expllm(*verb, "--out", folder), "cannot be written", folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_folder_of_somebody_else_is_one_error(mode, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=mode)
    for folder in (locked, locked / "run"):
        assert_refused(expllm("train", "tiny", "--out", folder), "cannot be written", folder)


def test_exports_that_cannot_be_written_are_one_error(run, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"mine")
    annotations = run / "faces" / "annotations.jsonl"
    below = tmp_path / "file" / "out"
    with unchanged(run, tmp_path):
        assert_refused(expllm("export", "--run", run, "--to", below), below)
        assert_refused(expllm("weights", "export", "--run", run, "--to", below), below)
        assert_refused(expllm("engine", "narrate", annotations, "--out", below), below)
        for folder in (tmp_path / "photos", run):
            assert_refused(expllm("export", "--run", run, "--to", folder, "--overwrite"), folder)
            assert_refused(expllm("weights", "export", "--run", run, "--to", folder), folder)


def test_an_unforeseen_error_of_the_system_is_one_error(run, monkeypatch):
    def full(*arguments: object, **settings: object) -> None:
        raise OSError(28, "No space left on device", "metrics.json")

    monkeypatch.setattr(assessment, "evaluate_run", full)
    outcome = expllm("eval", "--run", run)
    assert outcome == Outcome(2, "", "expllm: error: metrics.json: No space left on device\n")


@pytest.mark.parametrize("verb", MAKERS, ids=lambda verb: verb[0])
def test_a_folder_that_is_not_ours_is_left_alone(verb, tmp_path):
    (tmp_path / "thesis.tex").write_text("five years of work")
    with unchanged(tmp_path):
        assert_refused(expllm(*verb, "--out", tmp_path), tmp_path, "not empty")


@pytest.mark.parametrize("verb", MAKERS, ids=lambda verb: verb[0])
def test_a_folder_of_another_experiment_is_left_alone_and_the_difference_named(verb, run):
    with unchanged(run):
        assert_refused(expllm(*verb, "--out", run, "--set", "train.steps=7"), run, "train.steps is 40 there, 7 here")


def test_a_damaged_run_is_one_error(tmp_path):
    (tmp_path / "experiment.json").write_text('{"name": "ti')
    with unchanged(tmp_path):
        assert_refused(expllm("train", "tiny", "--out", tmp_path), "experiment.json")
        assert_refused(expllm("eval", "--run", tmp_path), "experiment.json")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["tinny"], ("'tinny'", "did you mean 'tiny'")),
        (["no/such/file.py"], ("no/such/file.py", "laptop")),
        (["tiny", "--set", "train.btch=3"], ("train.btch", "did you mean 'train.batch'")),
        (["tiny", "--set", "train.batch"], ("'train.batch'", "key=value")),
        (["tiny", "--set", "="], ("''",)),
        (["tiny", "--set", "train=3"], ("'train'", "train.steps")),
        (["tiny", "--set", "train.batch=lots"], ("train.batch=lots", "a whole number")),
        (["tiny", "--set", "train.batch=0"], ("train.batch=0", "1 or more")),
        (["tiny", "--set", "train.optimizer.lr=nan"], ("train.optimizer.lr", "a finite number")),
        (["tiny", "--set", "evaluation.splits=hard"], ("hard", "clean, mild")),
        (["tiny", "--set", "records.image_tokens=64"], ("records.image_tokens", "16")),
        (["tiny", "--set", "train.trainable=proj"], ("'proj'", "decoder/")),
        (["tiny", "--set", "template=nope"], ("nope", "face_v1")),
        (["tiny", "--set", "model.vision_layers=12"], ("12", "0 to 11")),
        (["tiny", "--set", "model.vision.width=100"], ("model.vision.width", "100")),
        (["tiny", "--set", "train.mesh.tensor=64"], ("tensor=64", "use data=1 fsdp=")),
    ],
)
def test_a_typing_error_in_the_experiment_is_one_error_and_makes_no_folder(words, named, tmp_path):
    assert_refused(expllm("train", *words, "--out", tmp_path / "run"), *named)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [[], ["dmeo"], ["train"], ["train", "tiny"], ["data"], ["predict"], ["eval", "--rum", "x"],
              ["data", "inspect", "--index", "-1"], ["engine", "narrate", "a", "--out", "b", "--seed", "-1"],
              ["weights", "export"], ["weights", "export", "--to", "out", "--image-size", "0"],
              ["weights", "export", "--to", "out", "--shard-gb", "0"],
              ["weights", "export", "--to", "out", "--adapters", "both"]],
    ids=" ".join,
)  # fmt: skip
def test_a_command_that_is_none_shows_how_it_is_used(words):
    outcome = expllm(*words)
    assert outcome.status == 2 and outcome.out == ""
    assert outcome.err.startswith("usage: expllm") and outcome.err.count("error:") == 1
