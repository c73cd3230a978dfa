"""The command from nothing to a report with the `tiny` experiment."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expllm_jax import assessment, stages
from expllm_jax.assets import asset_path, is_cached
from expllm_jax.checkpoints import Checkpointer, params_fingerprint
from expllm_jax.config import load_experiment
from expllm_jax.faces import Annotation, write_annotations
from expllm_jax.train import read_metrics
from tests.cli.commands import a_face, assert_refused, expllm, unchanged

# ---- the main job


def test_help_answers_without_loading_what_verbs_need():
    heavy = "numpy jax PIL tensorflow_datasets grain".split()
    script = f"import sys, expllm_jax.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


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
    outcome = expllm("eval", "--run", run, "--json", "--again")
    assert outcome.status == 0 and "answering 14/14" in outcome.err
    assert json.loads(outcome.out) == json.loads((run / "metrics.json").read_text())
    assert Image.open(run / "plots" / "confusion_mild.png").size > (100, 100)


def test_eval_tells_people_the_metrics(run):
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
    evaluation = assessment.Evaluation(stages.reopen_folder(run, said.append))
    assessment.evaluate_run(evaluation)
    assert answers.read_text() == asked and "asking about 14 faces" in said[0]
    assessment.evaluate_run(evaluation)
    assert "is there already" in said[1]


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


def test_a_model_of_face_crops_is_told_where_the_face_is(run, predicted, tmp_path):
    """The same model, said to have learnt from crops without margin, about a picture that is all face."""
    crops = tmp_path / "crops"
    crops.mkdir()
    for entry in (run / "export").iterdir():
        (crops / entry.name).symlink_to(entry)
    described = json.loads((crops / "model.json").read_text())
    described["encoding"]["picture"] = "face"
    (crops / "model.json").unlink()
    (crops / "model.json").write_text(json.dumps(described))
    face, boxes = a_face(run), tmp_path / "boxes.jsonl"
    write_annotations(boxes, [Annotation(str(face), face_box=(0, 0, *Image.open(face).size))])
    assert_refused(expllm("predict", face, "--run", crops), face, "--annotations FILE", "--crop")
    for told in (["--crop"], ["--annotations", boxes]):
        outcome = expllm("predict", face, *told, "--run", crops, "--json")
        assert outcome.status == 0 and json.loads(outcome.out) == predicted[:1], outcome.err
    assert_refused(expllm("predict", face, "--annotations", boxes, "--run", run), face, "no effect")
    assert_refused(expllm("predict", face, "--annotations", run / "missing.jsonl", "--run", crops), "missing.jsonl")


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


# ---- runs that are stopped


def lines_of(folder: Path) -> int:
    """Whole lines of metrics that a run has written."""
    metrics = folder / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def struck(
    number: signal.Signals, run: Path, folder: Path, lines: int, environment: dict[str, str]
) -> tuple[int, str, str]:
    """A training process that begins from the records of `run` and gets the signal after so many lines of metrics.

    Returns its status, and what it said on stdout and stderr.
    """
    stages.open_folder(folder, load_experiment("tiny"), lambda text: None)
    for done in ("faces", "records", "features"):
        shutil.copytree(run / done, folder / done)
    command = [sys.executable, "-m", "expllm_jax.cli", "train", "tiny", "--out", folder, "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as victim:
        try:
            while victim.poll() is None and lines_of(folder) < lines:
                time.sleep(0.002)
            victim.send_signal(number)
            out, errors = victim.communicate(timeout=120)
        finally:
            victim.kill()
    return victim.returncode, out.decode(), errors.decode()


def end_of(run: Path) -> tuple[str, list[tuple[float, float]]]:
    """The final parameters' fingerprint and every update's loss."""
    with Checkpointer(run, create=False) as checkpointer:
        assert checkpointer.latest_step == 40
        parameters = params_fingerprint(checkpointer.load_params())
    return parameters, [(line["step"], line["loss"]) for line in read_metrics(run)]


def test_a_run_killed_at_a_random_step_ends_the_same_bit_for_bit(run, tmp_path, compiled):
    killed, seed = tmp_path / "killed", random.randrange(2**32)
    status, _, errors = struck(signal.SIGKILL, run, killed, random.Random(seed).randrange(1, 33), compiled)
    assert status == -signal.SIGKILL, (seed, errors[-2000:])
    assert lines_of(killed) < 40, seed

    outcome = expllm("train", "tiny", "--out", killed)
    assert outcome.status == 0 and "there already" in outcome.err, (seed, outcome.err)
    assert end_of(killed) == end_of(run), seed


def test_a_run_told_to_stop_saves_says_so_and_goes_on(run, tmp_path, compiled):
    stopped = tmp_path / "stopped"
    status, out, errors = struck(signal.SIGTERM, run, stopped, 8, compiled)
    assert status == 128 + signal.SIGTERM, errors[-2000:]
    told = json.loads(out)
    with Checkpointer(stopped, create=False) as checkpointer:
        assert told == {"run": str(stopped), "steps": checkpointer.latest_step, "stopped": "SIGTERM"}
    assert 8 <= told["steps"] < 40 and lines_of(stopped) == told["steps"]
    assert f"stopped after update {told['steps']} (SIGTERM)" in errors and "the same command goes on" in errors

    before = (stopped / "metrics.jsonl").read_bytes()
    assert expllm("train", "tiny", "--out", stopped).status == 0
    assert (stopped / "metrics.jsonl").read_bytes().startswith(before)  # no update was done again
    assert end_of(stopped) == end_of(run)
