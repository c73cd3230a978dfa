"""Img2AU from rendered faces to an annotations file, with a tiny tower: what each stage leaves, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from expllm_jax import unit_regression
from expllm_jax.cli import main
from expllm_jax.config import load_any_experiment, load_experiment
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import read_annotations, write_annotations
from expllm_jax.models import UnitRegressorConfig, ViTConfig
from expllm_jax.sources.rendered import RenderedConfig
from expllm_jax.train import UnitTrainConfig
from expllm_jax.unit_experiment import OUTPUTS, UnitExperiment
from tests.train.tiny import tiny_model

TOWER = ViTConfig(width=8, depth=1, heads=2, native_grid=16)
EXPERIMENT = UnitExperiment(
    "tiny-units",
    "a tiny regressor of units",
    data=RenderedConfig(3, 2, ("independent", "sided"), 2, ("independent",), ("Neutral",)),
    calibration_share=0.34,
    vision=TOWER,
    vision_layers=(0,),
    head=UnitRegressorConfig(units=len(OUTPUTS), width=8, heads=1, head_width=4, hidden=4),
    train=UnitTrainConfig(steps=4, batch=2, checkpoint_every=2),
)


@pytest.fixture(scope="module", autouse=True)
def tiny_tower():
    with pytest.MonkeyPatch.context() as patch:
        tower_def, tower = tiny_model(TOWER)
        patch.setattr(unit_regression, "_tower", lambda experiment: (tower_def, tower))
        patch.setattr(unit_regression, "init", tiny_model)  # which compiles nothing
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    opened = unit_regression.open_unit_run(tmp_path_factory.mktemp("runs") / "units", EXPERIMENT, lambda text: None)
    assert unit_regression.train_run(opened) is not None
    return opened


def test_people_who_calibrate_do_not_train_and_a_finished_run_is_left_alone(run):
    splits = unit_regression._splits(run)
    people = {name: {face.identity for face in each.annotations} for name, each in splits.items()}
    assert {name: len(each) for name, each in people.items()} == {"learning": 2, "calibration": 1, "independent": 2}
    assert not people["learning"] & people["calibration"] and not people["learning"] & people["independent"]
    before = (run.path / "metrics.jsonl").read_bytes()
    assert unit_regression.train_run(unit_regression.reopen_unit_run(run.path, lambda text: None)) is None
    assert (run.path / "metrics.jsonl").read_bytes() == before


def test_eval_scores_every_output(run, capsys):
    assert main(["eval", "--run", str(run.path)]) == 0
    shown = capsys.readouterr().out
    told = json.loads((run.path / "metrics.json").read_text())["splits"]["independent"]
    assert tuple((row["vocabulary"], row["code"]) for row in told["units"]) == OUTPUTS
    assert told["pictures"] == 2 and 0 <= told["mae_facs"] <= 1 and set(told["coverage"]) == {"0.5", "0.8", "0.95"}
    assert "lip corner puller" in shown and "left eye close" in shown and "mean" in shown


def test_units_of_pictures_become_annotations(run, tmp_path, capsys):
    source = run.faces / "annotations.jsonl"
    out = tmp_path / "units.jsonl"
    assert main(["engine", "units", str(source), "--run", str(run.path), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["faces"] == 8
    before, after = read_annotations(source), read_annotations(out)
    assert (tmp_path / after[0].picture).resolve() == (run.faces / before[0].picture).resolve()
    assert after[0].identity == before[0].identity and set(after[0].units) == {"arkit", "facs", "feafa"}
    assert after[0].units["facs"] != before[0].units["facs"] and "facs.AU12.sd" in after[0].attributes
    assert main(["engine", "units", str(source), "--run", str(run.path), "--out", str(out)]) == 2  # there already
    assert main(["engine", "units", str(source), "--run", str(tmp_path), "--out", str(tmp_path / "x.jsonl")]) == 2


def test_mirrored_pictures_have_their_units_on_the_other_side(run):
    faces = unit_regression._splits(run)["learning"]
    crooked = [face for face in faces.annotations if face.attributes["regime"] == "sided"] or faces.annotations
    plain = unit_regression.Pictures(run.faces, tuple(crooked))
    mirror = dataclasses.replace(plain, mirror=True)
    left, right = (OUTPUTS.index(("feafa", code)) for code in ("FEAFA12", "FEAFA13"))
    assert np.array_equal(plain.values()[:, left], mirror.values()[:, right])
    assert np.array_equal(plain.values()[:, :22], mirror.values()[:, :22])
    assert plain.picture(0) != mirror.picture(0) and plain.digest() != mirror.digest()


def test_a_mixture_leaves_unknown_units_out(run, tmp_path):
    rendered = read_annotations(run.faces / "annotations.jsonl")
    faces = [dataclasses.replace(face, units={"facs": {"AU12": 0.5}}) for face in rendered]
    write_annotations(run.faces / "few.jsonl", faces[:3])
    mixed = dataclasses.replace(EXPERIMENT, mixture=(f"{run.faces / 'few.jsonl'}@0.25",), mirror=True)
    opened = unit_regression.UnitRun(run.path, mixed, lambda text: None)
    parts = unit_regression._training_pictures(opened, unit_regression._splits(run)["learning"])
    assert [(name, len(pictures), share) for name, pictures, share in parts] == [
        ("learning", 4, 0.375),
        ("learning-mirrored", 4, 0.375),
        ("mixture-0", 3, 0.125),
        ("mixture-0-mirrored", 3, 0.125),
    ]
    values = parts[2][1].values()
    assert (~np.isnan(values)).sum() == 3 and (values[:, OUTPUTS.index(("facs", "AU12"))] == 0.5).all()
    with pytest.raises(ExpllmError, match="which is no file"):
        unit_regression.open_unit_run(
            tmp_path / "r", dataclasses.replace(EXPERIMENT, mixture=("a/b.jsonl@0.1",)), print
        )


def test_another_experiment_does_not_take_the_folder(run):
    with pytest.raises(ExpllmError, match="train.seed is 0 there, 1 here"):
        other = dataclasses.replace(EXPERIMENT, train=dataclasses.replace(EXPERIMENT.train, seed=1))
        unit_regression.open_unit_run(run.path, other, print)


def test_the_shipped_experiment_is_one_of_units():
    experiment = load_any_experiment("img2au", ["train.steps=5"])
    assert isinstance(experiment, UnitExperiment) and experiment.train.steps == 5
    with pytest.raises(ExpllmError, match="trains a regressor of action units"):
        load_experiment("img2au")
    with pytest.raises(ExpllmError, match="has no presets"):
        load_any_experiment("img2au", accelerator="cpu")
    with pytest.raises(ExpllmError, match="head.width is 100"):
        load_any_experiment("img2au", ["head.width=100"])
