"""Training on records of one's own: built from annotations, mixed, packed, augmented, damaged."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from expllm_jax.parallel import PRESETS
from expllm_jax.train import read_metrics
from tests.cli.commands import assert_refused, expllm


@pytest.fixture(scope="module")
def records(run, tmp_path_factory):
    """Two sets of the same faces: labels alone, and texts with labels."""
    folder = tmp_path_factory.mktemp("mixture")
    for name, tasks in (("labels", "label"), ("texts", "cot,label")):
        outcome = expllm(
            "data", "build", "tiny", "--annotations", run / "faces" / "annotations.jsonl", "--pictures", run / "faces",
            "--out", folder / name, "--set", f"records.tasks={tasks}", "--set", f"tokenizer.kind={run}/tokenizer.model",
        )  # fmt: skip
        assert outcome.status == 0, outcome.err
    return folder


def train(records, out, *more, texts="texts"):
    return expllm(
        "train", "tiny", "--out", out, "--set", f"mixture={records}/labels:train*3,{records}/{texts}",
        "--set", "cache_features=false", "--set", "train.steps=4", "--set", "train.batch=6", *more,
    )  # fmt: skip


def test_the_plan_says_what_training_will_do(records):
    outcome = expllm(
        "data", "plan", f"{records}/labels*3", f"{records}/texts", "--experiment", "tiny",
        "--set", "train.batch=6", "--updates", 4, "--save", "--json",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    plan = json.loads(outcome.out)
    assert plan["records_per_update"] == 6 and plan["rows"] * plan["pictures"] >= 6
    assert 0 < plan["token_fill"] <= 1 and plan["table"][0]["cost"] > 0
    with np.load(plan["saved"], allow_pickle=False) as saved:
        assert saved["record"].shape == (4, plan["rows"], plan["pictures"])
        assert ((saved["record"] >= 0).sum((1, 2)) == 6).all()
    shown = expllm("data", "plan", f"{records}/labels*3", f"{records}/texts", "--set", "train.batch=6")
    assert "<- chosen" in shown.out and "updates of exactly 6 records" in shown.out and "next:" in shown.out
    assert_refused(expllm("data", "plan", f"{records}/labels*x"), "labels*x", "no number")
    assert_refused(expllm("data", "plan", f"{records}/nothing"), "nothing")
    assert_refused(expllm("data", "plan", f"{records}/labels", "--set", "train.batch=500"), "500", "21 records")


def test_a_mixture_is_trained_on_packed_and_augmented(records, tmp_path):
    out = tmp_path / "run"
    outcome = train(records, out, "--set", "train.packing.on=true", "--set", "train.augment=auto")
    assert outcome.status == 0, outcome.err
    assert "84 an epoch" in outcome.err and "expllm predict" in outcome.out
    assert not (out / "faces").exists() and not (out / "records").exists()
    losses = [line["loss"] for line in read_metrics(out)]
    assert len(losses) == 4 and np.isfinite(losses).all()
    assert_refused(expllm("eval", "--run", out), "no test faces")
    # What only says how it is computed may change when a run goes on.
    packed = ("--set", "train.packing.on=true")
    again = train(records, out, *packed, "--set", "train.packing.longest=512", "--set", "train.threads=1")
    assert again.status == 0, again.err
    assert "finished already" in again.err and "train.threads = 1" in (out / "experiment.txt").read_text()
    assert_refused(train(records, out, *packed, "--set", "train.seed=3"), "train.seed")
    plain = train(records, out)
    assert plain.status == 2 and "packing.window was 16, is 1" in plain.err


def test_a_split_is_validated_on_and_the_best_checkpoint_stays(records, tmp_path):
    out = tmp_path / "run"
    asked = (
        "--set", "cache_features=true", "--set", f"validation={records}/texts:mild", "--set", "train.steps=6",
        "--set", "train.validate_every=2", "--set", "train.keep_best=1", "--set", "train.keep=1",
        "--set", "train.optimizer.lr=1.0", "--set", "train.optimizer.schedule=constant",
    )  # fmt: skip
    outcome = train(records, out, *asked, "--accelerator", "cpu")
    assert outcome.status == 0, outcome.err
    measured = {line["step"]: line["validation_loss"] for line in read_metrics(out) if "validation_loss" in line}
    assert list(measured) == [2, 4, 6]
    best = min(measured, key=measured.get)
    assert best != 6  # it was taught too fast to become better
    assert {int(entry.name) for entry in (out / "checkpoints").iterdir()} == {best, 6}
    assert len(np.load(out / "features" / "validation.npy")) == 7
    # What is measured while it trains may change when it goes on; what it learns may not.
    again = train(records, out, *asked, "--set", "validation=", "--set", "train.validate_every=0",
                  "--set", "train.keep_best=0")  # fmt: skip
    assert again.status == 0 and "finished already" in again.err, again.err
    missing = train(records, tmp_path / "other", *asked, "--set", f"validation={records}/texts:evening")
    assert missing.status == 2 and "evening" in missing.err


def test_the_kinds_of_devices_are_listed_and_others_refused(tmp_path):
    told = json.loads(expllm("config", "accelerators", "--json").out)
    assert list(told) == list(PRESETS) and told["cpu"]["dtype"] == "float32" and told["v5e"]["rows_per_device"] > 0
    shown = expllm("config", "accelerators").out
    assert all(f"\n{name} " in f"\n{shown}" for name in PRESETS) and "this computer" in shown
    changed = json.loads(expllm("config", "show", "tiny", "--accelerator", "v5e", "--json").out)
    assert changed["train"]["rows_per_device"] == told["v5e"]["rows_per_device"]
    assert_refused(expllm("train", "tiny", "--out", tmp_path / "a", "--accelerator", "abacus"), "abacus", "v5e")


def test_damaged_records_end_training_or_are_left_out_and_listed(records, tmp_path):
    broken = records / "broken"
    shutil.copytree(records / "texts", broken)
    (shard,) = broken.glob("*train.array_record*")
    content = bytearray(shard.read_bytes())
    written = np.flatnonzero(np.frombuffer(content, np.uint8))
    content[written[len(written) // 2]] ^= 16
    shard.write_bytes(content)
    out, steps = tmp_path / "run", ("--set", "train.steps=14")  # an epoch, so that every record is met
    outcome = train(records, out, *steps, texts="broken")
    assert outcome.status == 2 and "is damaged" in outcome.err and "--on-error skip" in outcome.err
    outcome = train(records, out, *steps, "--on-error", "skip", "--json", texts="broken")
    assert outcome.status == 0, outcome.err
    told, lines = json.loads(outcome.out), (out / "skipped.jsonl").read_text().splitlines()
    assert told["skipped"] == len(lines) > 0 and "skipped.jsonl" in outcome.err
    assert all(json.loads(line)["id"].startswith("pictures/train/") for line in lines)
    shard.write_bytes(content[: len(content) // 2])
    assert_refused(train(records, tmp_path / "other", texts="broken"), shard.name, "bytes")


def test_records_that_do_not_belong_together_are_refused(run, records, tmp_path):
    other = expllm(
        "data", "build", "tiny", "--annotations", run / "faces" / "annotations.jsonl", "--pictures", run / "faces",
        "--out", tmp_path / "other", "--set", "records.tasks=label",
    )  # fmt: skip
    assert other.status == 0, other.err
    mixture = f"mixture={records}/texts,{tmp_path}/other"
    assert_refused(expllm("train", "tiny", "--out", tmp_path / "a", "--set", mixture), "another tokenizer")
    assert_refused(expllm("train", "tiny", "--out", tmp_path / "b", "--set", f"mixture={tmp_path}"), tmp_path)
    for text, named in (("x*y", "no number"), ("x*2@1", "repeat and a weight")):
        assert_refused(expllm("train", "tiny", "--out", tmp_path / "c", "--set", f"mixture={text}"), named)
    augmented = ("--set", "train.augment=host")
    assert_refused(expllm("train", "tiny", "--out", tmp_path / "d", *augmented), "cache_features")
    assert_refused(expllm("train", "tiny", "--out", tmp_path / "d", "--set", "on_error=hide"), "on_error")
