"""The command from nothing to a report with the `tiny` experiment, and everything a user can do wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image
from safetensors import safe_open

from expllm_jax import assessment, cli, stages
from expllm_jax.assets import asset_path, is_cached
from expllm_jax.checkpoints import Checkpointer, params_fingerprint
from expllm_jax.config import load_experiment
from expllm_jax.train import read_metrics


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one command did."""

    status: int
    out: str
    err: str


def expllm(*arguments: object) -> Outcome:
    """Runs the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            status = int(stop.code or 0)
    return Outcome(status, out.getvalue(), err.getvalue())


def assert_refused(outcome: Outcome, *named: object) -> None:
    """One error on stderr that names the things, status 2, nothing else."""
    lines = outcome.err.splitlines()
    assert outcome.status == 2, outcome
    assert len(lines) == 2 and lines[0].startswith("expllm: error: ") and lines[1].startswith("  to mend it: "), outcome
    assert outcome.out == ""
    for name in named:
        assert str(name) in outcome.err, outcome


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder with its time and size."""
    found = {str(path.relative_to(folder)): path.lstat() for path in sorted(folder.rglob("*"))}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


@contextlib.contextmanager
def unchanged(*folders: Path) -> Iterator[None]:
    before = [contents(folder) for folder in folders]
    yield
    assert [contents(folder) for folder in folders] == before


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Compiled programs are shared by all commands here; gives the environment for those that run as processes."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    settings = {"jax_compilation_cache_dir": folder, "jax_persistent_cache_min_compile_time_secs": 0.3}
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield {**os.environ, **{name.upper(): str(value) for name, value in settings.items()}}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("cli") / "demo"
    return folder, expllm("demo", "--experiment", "tiny", "--out", folder)


@pytest.fixture(scope="module")
def run(first) -> Path:
    folder, outcome = first
    assert outcome.status == 0, outcome.err
    return folder


# ---- the main job


def test_the_demo_leaves_all_it_promises_and_says_where(first):
    folder, outcome = first
    assert outcome.status == 0, outcome.err
    for what in ("report.html", "metrics.json", "checkpoints", "export"):
        assert (folder / what).exists() and str(folder / what) in outcome.out
    assert "next:" in outcome.out and f"expllm predict YOUR_PICTURE.jpg --run {folder}" in outcome.out
    assert (
        "rendering 35/35" in outcome.err and "training 40/40  loss" in outcome.err and "answering 14/14" in outcome.err
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    for key in (
        "accuracy_clean", "accuracy_mild", "macro_f1", "unparsable", "unit_f1", "unit_f1_label_only", "added_gap",
        "dropped_gap",
    ):  # fmt: skip
        assert {key, f"{key}_low", f"{key}_high"} <= set(metrics)
    assert metrics["n_clean"] == metrics["n_mild"] == 7 and metrics["identities_mild"] == 1
    report = (folder / "report.html").read_text()
    assert f"--run {folder}" in report and "block 1 of 12" in report and "<img" in report and 'src="http' not in report
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, 41))
    assert (folder / "command.txt").read_text() == f"expllm demo --experiment tiny --out {folder}\n"


def test_a_second_demo_reuses_everything(run):
    done = [run / name for name in ("faces", "records", "features", "frozen", "checkpoints", "tensorboard")]
    kept = [run / name for name in ("metrics.jsonl", "answers.jsonl", "experiment.json")]
    times = [path.stat().st_mtime_ns for path in kept]
    with unchanged(*done):
        outcome = expllm("demo", "--experiment", "tiny", "--out", run, "--json")
    assert outcome.status == 0 and [path.stat().st_mtime_ns for path in kept] == times
    assert outcome.err.count("is there already") == 3 and "finished already" in outcome.err
    assert not any(line.split()[0] in ("rendering", "features", "answering") for line in outcome.err.splitlines())
    told = json.loads(outcome.out)
    assert told["folder"] == str(run) and told["metrics"] == json.loads((run / "metrics.json").read_text())


def test_eval_tells_programs_the_metrics(run):
    outcome = expllm("eval", "--run", run, "--json")
    assert outcome.status == 0 and "answering 14/14" in outcome.err
    assert json.loads(outcome.out) == json.loads((run / "metrics.json").read_text())
    assert Image.open(run / "plots" / "confusion_mild.png").size > (100, 100)


def test_eval_tells_people_the_metrics(run, monkeypatch):
    evaluate = assessment.evaluate_run
    monkeypatch.setattr(assessment, "evaluate_run", lambda folder, *, overwrite: evaluate(folder))  # asks nobody again
    text = expllm("eval", "--run", run).out
    assert "accuracy_mild" in text and "unparsable" in text and str(run / "report.html") in text
    assert [line.split()[0] for line in text.splitlines() if line.endswith("  1")] == [
        "Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger"
    ]  # fmt: skip


def test_answers_of_an_earlier_checkpoint_are_not_taken_for_the_latest(run):
    answers = run / "answers.jsonl"
    asked = answers.read_text()
    answers.write_text(asked.replace('"step": 40', '"step": 36'))
    said: list[str] = []
    folder = stages.reopen_folder(run, said.append)
    assessment.evaluate_run(folder)
    assert answers.read_text() == asked and "asking about 14 faces" in said[0]
    assessment.evaluate_run(folder)
    assert "is there already" in said[1]


def a_face(run: Path) -> Path:
    return min((run / "faces" / "pictures" / "mild").iterdir())


@pytest.fixture(scope="module")
def pictures(run, tmp_path_factory) -> list[Path]:
    """A face in the ways that cameras and scanners store pictures, and a photograph if there is one."""
    folder, face = tmp_path_factory.mktemp("pictures"), a_face(run)
    image = Image.open(face)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(folder / "16-bit.png")
    image.save(folder / "one frame.gif")
    photographs = [asset_path("orl-faces") / "s2" / "3.pgm"] if is_cached("orl-faces") else []
    return [face, *sorted(folder.iterdir()), *photographs]


@pytest.fixture(scope="module")
def predicted(run, pictures) -> list[dict]:
    with unchanged(run):
        outcome = expllm("predict", *pictures, "--run", run, "--json")
    assert outcome.status == 0 and outcome.err == ""
    return json.loads(outcome.out)


def test_predict_answers_about_every_kind_of_picture(pictures, predicted):
    assert [answer["picture"] for answer in predicted] == [str(picture) for picture in pictures]
    assert all(set(answer) == {"picture", "label", "label_text", "cot", "units", "unparsable"} for answer in predicted)


def test_predict_answers_about_a_photograph(predicted):
    if not is_cached("orl-faces"):
        pytest.skip("the ORL photographs are not in the cache")
    assert predicted[-1]["picture"].endswith("3.pgm") and predicted[-1]["cot"]


def test_predict_tells_people_the_same(run, pictures, predicted):
    text = expllm("predict", *pictures, "--run", run).out
    for answer in predicted:
        assert f"{answer['picture']}: {answer['label_text']}\n\n{answer['cot']}\n" in text


OPEN_WITH_ORBAX = """
import json, sys
from orbax.checkpoint import v1 as ocp
params, described = ocp.load(sys.argv[1]), ocp.metadata(sys.argv[1]).custom_metadata
assert not [name for name in sys.modules if name.split(".")[0] == "expllm_jax"]
print(json.dumps([{path: list(leaf.shape) for path, leaf in params.items()}, described["step"], described["model"]]))
"""


def test_an_export_opens_with_orbax_alone_and_answers_as_the_run_does(run, pictures, predicted, tmp_path):
    exported = tmp_path / "exported"
    with unchanged(run):
        outcome = expllm("export", "--run", run, "--to", exported)
    assert outcome.status == 0 and str(exported) in outcome.out
    command = [sys.executable, "-c", OPEN_WITH_ORBAX, exported]
    opened = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert opened.returncode == 0, opened.stderr
    shapes, step, model = json.loads(opened.stdout.splitlines()[-1])
    assert step == 40 and model["decoder"]["width"] == 64
    assert shapes["vision/cls_token"] == [1, 384] and shapes["projector/layers/0/kernel"] == [6144, 64]
    assert json.loads(expllm("predict", *pictures, "--run", exported, "--json").out) == predicted
    with unchanged(exported):
        assert_refused(expllm("export", "--run", run, "--to", exported), exported)


def test_exported_weights_open_as_safetensors(run, tmp_path):
    folder = tmp_path / "weights"
    assert expllm("weights", "export", "--run", run, "--to", folder).status == 0
    shapes = {}
    for part in ("vision", "projector", "decoder"):
        with safe_open(folder / part / "model.safetensors", framework="numpy") as tensors:
            shapes[part] = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}
    assert shapes["vision"]["embeddings.cls_token"] == [1, 1, 384]
    assert shapes["vision"]["embeddings.position_embeddings"] == [1, 1 + 16 * 16, 384]  # fitted to the run's pictures
    vocabulary = json.loads((folder / "decoder" / "config.json").read_text())["vocab_size"]
    assert shapes["decoder"]["model.embed_tokens.weight"] == [vocabulary, 64]
    assert shapes["projector"]["layers.0.weight"] == [64, 6144]
    with unchanged(folder):
        assert_refused(expllm("weights", "export", "--run", run, "--to", folder), folder)


def test_exported_weights_may_keep_the_table_and_be_in_numbered_files(run, tmp_path):
    folder = tmp_path / "weights"
    options = ("--image-size", "stored", "--shard-gb", "0.04", "--json")
    found = json.loads(expllm("weights", "export", "--run", run, "--to", folder, *options).out)
    assert found == {"weights": str(folder)} | {part: str(folder / part) for part in ("vision", "projector", "decoder")}
    assert json.loads((folder / "vision" / "config.json").read_text())["image_size"] == 518
    assert len(list((folder / "vision").glob("model-0000?-of-00003.safetensors"))) == 3
    assert all(path.stat().st_size < 0.05e9 for path in folder.rglob("*.safetensors"))
    with unchanged(tmp_path):
        outcome = expllm("weights", "export", "--run", run, "--to", tmp_path / "new", "--adapters", "peft")
        assert_refused(outcome, "no adapters to write")
        outcome = expllm("weights", "export", "--run", run, "--to", tmp_path / "new", "--image-size", "225")
        assert_refused(outcome, "225 x 225")


def test_the_smaller_verbs(run, tmp_path):
    told = tmp_path / "told.jsonl"
    annotations = run / "faces" / "annotations.jsonl"
    assert expllm("engine", "narrate", annotations, "--out", told).status == 0
    assert len(told.read_text().splitlines()) == 35
    with unchanged(tmp_path):
        assert_refused(expllm("engine", "narrate", annotations, "--out", told), told)
    assert "learnt:" in expllm("data", "inspect", "--run", run, "--split", "mild", "--index", "6").out
    assert_refused(expllm("data", "inspect", "--run", run, "--index", "99"), "99", "0 to 20")
    assert_refused(expllm("data", "inspect", "--run", run, "--split", "cleen"), "cleen", "'clean'")
    assert json.loads(expllm("config", "show", "tiny", "--json").out)["name"] == "tiny"
    assert "tiny" in expllm("config", "list").out


def test_a_run_killed_at_a_random_step_ends_the_same_bit_for_bit(run, tmp_path, compiled):
    killed = tmp_path / "killed"
    stages.open_folder(killed, load_experiment("tiny"), lambda text: None)
    for done in ("faces", "records", "features"):
        shutil.copytree(run / done, killed / done)
    seed = random.randrange(2**32)
    threshold = random.Random(seed).randrange(1, 33)  # lines of metrics
    command = [sys.executable, "-m", "expllm_jax.cli", "train", "tiny", "--out", killed]
    metrics = killed / "metrics.jsonl"
    with subprocess.Popen(command, env=compiled, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as victim:
        try:
            while victim.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= threshold):
                time.sleep(0.002)
        finally:
            victim.kill()
        _, errors = victim.communicate(timeout=60)
    assert victim.returncode == -signal.SIGKILL, (seed, errors.decode()[-2000:])
    assert len(metrics.read_bytes().splitlines()) < 40, seed

    outcome = expllm("train", "tiny", "--out", killed)
    assert outcome.status == 0 and "there already" in outcome.err, (seed, outcome.err)
    ends = []
    for folder in (run, killed):
        with Checkpointer(folder, create=False) as checkpointer:
            assert checkpointer.latest_step == 40
            parameters = params_fingerprint(checkpointer.load_params())
        ends.append((parameters, [(line["step"], line["loss"]) for line in read_metrics(folder)]))
    assert ends[0] == ends[1], seed


# ---- what goes wrong


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
        (["tiny", "--set", "train.mesh.tensor=64"], ("tensor=64", "devices")),
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
