"""Experiments: what the shipped ones resolve to, how overrides are read, and what is said about wrong ones."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax import config, stages
from expllm_jax.config import (
    Experiment,
    experiment_from_json,
    experiment_names,
    load_any_experiment,
    load_experiment,
    override,
    to_json,
)
from expllm_jax.errors import ExpllmError

GOLDEN = Path(__file__).parent / "golden" / "experiments"
TINY = load_experiment("tiny")


def value(key: str, *assignments: str) -> object:
    """What `key` of the tiny experiment is after the assignments."""
    return config.flatten(override(TINY, assignments))[key]


def refusal(*assignments: str, experiment: Experiment = TINY) -> ExpllmError:
    with pytest.raises(ExpllmError) as caught:
        override(experiment, assignments)
    return caught.value


def test_every_shipped_experiment_has_a_golden_copy_and_no_other():
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == experiment_names()
    assert {"laptop", "small", "tiny"} <= set(experiment_names())


@pytest.mark.parametrize("name", experiment_names())
def test_a_shipped_experiment_resolves_to_its_golden_copy(name):
    found = config.render(load_any_experiment(name))
    assert found == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8"), (
        "if the change is meant, run tests/golden/make_experiments.py"
    )


@pytest.mark.parametrize("name", [name for name in experiment_names() if name != "img2au"])
def test_a_shipped_experiment_is_feasible_and_named_as_its_file(name, monkeypatch):
    experiment = load_experiment(name)
    assert experiment.name == name and experiment.about and "\n" not in experiment.about
    monkeypatch.setattr(stages, "check_weights", lambda experiment: None)  # of 7B, which nobody ships
    stages.check_feasible(experiment)


def test_weights_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExpllmError, match="weights.vision is weights/dinov2-large, which does not exist"):
        stages.check_feasible(load_experiment("expllm_7b_rafdb"))


@pytest.mark.parametrize("name", experiment_names())
def test_json_and_back(name):
    experiment = load_any_experiment(name, ["train.optimizer.betas=0.8,0.9"])
    assert experiment_from_json(json.loads(json.dumps(to_json(experiment))), type(experiment)) == experiment


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("train.batch=16", 16),
        ("train.steps=1_000", 1000),
        ("train.optimizer.lr=2e-3", 0.002),
        ("train.optimizer.lr=1", 1.0),
        ("cache_features=false", False),
        ("cache_features=Yes", True),
        ("cache_features=0", False),
        ("model.decoder.rope_scaling=linear:2", "linear:2"),
        ("about=a=b, c", "a=b, c"),
        ("train.optimizer.betas=0.8, 0.95", (0.8, 0.95)),
        ("train.optimizer.betas=(0.8,0.95)", (0.8, 0.95)),
        ("train.optimizer.betas=[0.8, 0.95]", (0.8, 0.95)),
        ("model.vision_layers=", ()),
        ("model.vision_layers=()", ()),
        ("model.vision_layers=[]", ()),
        ("model.vision_layers=2,-1", (2, -1)),
        ("data.train_regimes='mild', \"hard\"", ("mild", "hard")),
        (" train.batch = 8 ", 8),
        ("train.profile=10,12", (10, 12)),
        ("train.profile=", ()),
    ],
)
def test_overrides_have_the_type_of_their_field(assignment, expected):
    found = value(assignment.partition("=")[0].strip(), assignment)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "patterns",
    [(r".*/lora_[ab]",), (r".*/lora_[ab]", r"projector/.*"), (r"(projector|decoder)/.*",), (r"layers/\d{1,2}/.*", "a")],
)
def test_regular_expressions_survive_as_overrides(patterns):
    for text in (", ".join(patterns), f"({', '.join(patterns)})", json.dumps(patterns)):
        assert value("train.trainable", f"train.trainable={text}") == patterns


def test_what_config_show_prints_can_be_given_back():
    """Every line of the rendered experiment is an override that changes nothing (strings without their quotes)."""
    lines = []
    for line in config.render(TINY).splitlines():
        key, _, text = line.partition(" = ")
        unquoted = json.loads(text) if text.startswith('"') else text
        lines.append(f"{key}={unquoted}")
    assert override(TINY, lines) == TINY


@dataclasses.dataclass(frozen=True)
class Optional:
    count: int | None = 3
    ratio: float | None = None


def test_none_where_a_field_may_be_none():
    assert override(Optional(), ["count=None"]) == Optional(count=None)
    assert override(Optional(), ["count=5", "ratio=0.5"]) == Optional(5, 0.5)
    with pytest.raises(ExpllmError, match="not a whole number"):
        override(Optional(), ["count=many"])


def test_keys_that_depend_on_each_other_change_together():
    changed = override(TINY, ["records.image_tokens=64", "model.projector.pool=2"])
    assert changed.records.image_tokens == 64 and changed.model.projector.pool == 2
    assert override(TINY, ["train.steps=0", "train.epochs=2"]).train.epochs == 2
    assert value("train.batch", "train.batch=8", "train.batch=2") == 2  # the last one counts


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("train.btch", "train.batch"),
        ("train.optimizer.learning", "train.optimizer.eps"),
        ("traim.batch", "train.batch"),
        ("batch", "train.batch"),
        ("train.batch.x", "train.batch"),
        ("data.train_identites", "data.train_identities"),
    ],
)
def test_an_unknown_key_names_the_nearest(key, nearest):
    error = refusal(f"{key}=3")
    assert f"'{key}'" in error.problem
    assert f"did you mean '{nearest}'" in error.remedy or key == "train.optimizer.learning"


def test_a_key_like_no_other_and_no_key_at_all():
    assert "config show" in refusal("zzzz=1").remedy
    assert "no override" in refusal("train.batch").problem
    assert "there is no key ''" in refusal("=3").problem


def test_a_group_takes_no_value():
    error = refusal("train.optimizer=3")
    assert "'train.optimizer' is a group" in error.problem and "train.optimizer.lr" in error.remedy


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("train.batch=many", "a whole number"),
        ("train.batch=1.5", "a whole number"),
        ("train.batch=", "a whole number"),
        ("train.optimizer.lr=fast", "a finite number"),
        ("train.optimizer.lr=nan", "a finite number"),
        ("model.vision.mlp_ratio=inf", "a finite number"),
        ("cache_features=maybe", "true or false"),
        ("model.vision_layers=first", "a whole number"),
    ],
)
def test_a_value_of_another_type_says_what_the_key_takes(assignment, said):
    error = refusal(assignment)
    key, _, text = assignment.partition("=")
    assert key in error.problem and f"'{text}'" in error.problem and said in error.remedy


@pytest.mark.parametrize(
    ("assignment", "range_or_choice"),
    [
        ("train.batch=0", "1 or more"),
        ("train.optimizer.lr=-1", "above 0"),
        ("train.optimizer.betas=0.9", "two numbers"),
        ("train.steps=0", "exactly one"),
        ("tokenizer.pieces=100", "512 to 65536"),
        ("evaluation.batch=0", "1 to 4096"),
        ("evaluation.splits=", "at least one"),
        ("evaluation.splits=hard", "clean, mild"),
        ("evaluation.splits=mild,mild", "once"),
        ("tokenizer.kind=words", "sentencepiece, smollm2"),
        ("narrator.style=long", "full, brief"),
        ("normalisation=none", "clip, imagenet"),
        ("records.layout=tree", "branched, chained"),
        ("data.seed=-1", "0 or more"),
        ("data.test_identities=0", "1 or more"),
        ("data.expressions=Joy", "Happiness"),
        ("data.expressions=", "Happiness"),
        ("data.expressions=Fear,Fear", "once"),
        ("data.train_regimes=independent", "mild"),
        ("data.test_regimes=clean,mild,easy", "hard"),
        ("model.vision_lora.rank=4", "cache_features=false"),
        ("model.vision.width=192", "model.vision.width=384"),
        ("weights.decoder=smollm2", "model.decoder.vocab=49152"),
        ("model.projector.pool=3", "1, 2, 4 or 8"),
        ("train.profile=3", "the first and the last update"),
        ("train.profile=3,2", "the first and the last update"),
        ("train.keep_best=1", "set validate_every, too"),
        ("train.validate_every=2", "set both"),
        ("validation=records/a:validation", "set both"),
        ("validation=records/a*2", "FOLDER:SPLIT alone"),
        ("validation=records/a@0.5", "FOLDER:SPLIT alone"),
    ],
)
def test_an_impossible_value_names_the_key_and_says_what_is_allowed(assignment, range_or_choice):
    error = refusal(assignment)
    key = assignment.partition("=")[0]
    named = {
        "model.vision_lora.rank": "adapters",
        "weights.decoder": "weights",
        "model.projector.pool": "pooled",
    }.get(key, key)
    assert named in error.problem, error.problem
    assert range_or_choice in error.remedy, error.remedy


def test_the_number_of_image_tokens_has_to_be_the_projectors():
    error = refusal("records.image_tokens=256")
    assert error.problem.startswith("records.image_tokens is 256") and "give 16" in error.problem
    assert error.remedy == "set records.image_tokens=16"


def test_the_released_layout_needs_a_sentencepiece_tokenizer():
    with pytest.raises(ExpllmError, match='records.layout is "reference"'):
        override(load_experiment("small"), ["records.layout=reference"])


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        (["train.trainable=nothing/.*"], "'nothing/.*' matches no parameter"),
        (["train.trainable=*"], "not a regular expression"),
        (["template=nope"], "'nope' cannot be read"),
        (["model.vision_layers=12"], r"layers \(12,\)"),
        (["train.mesh.data=1000"], "does not fill"),
        (["model.vision.dtype=float99"], "float99"),
    ],
)
def test_what_cannot_succeed_is_refused_before_anything_is_written(assignments, problem, tmp_path):
    with pytest.raises(ExpllmError, match=problem):
        stages.open_folder(tmp_path / "run", override(TINY, assignments), lambda text: None)
    assert list(tmp_path.iterdir()) == []


@given(key=st.sampled_from(sorted(config.flatten(TINY))), text=st.text(max_size=12))
@settings(max_examples=300, deadline=None)
def test_no_text_gets_past_as_anything_but_a_value_or_one_error(key, text):
    try:
        changed = override(TINY, [f"{key}={text}"])
    except ExpllmError as error:
        assert error.problem
    else:
        assert experiment_from_json(json.loads(json.dumps(to_json(changed)))) == changed


def test_an_unknown_experiment_names_the_nearest():
    with pytest.raises(ExpllmError) as caught:
        load_experiment("laptp")
    assert "'laptp'" in caught.value.problem and "did you mean 'laptop'" in caught.value.remedy
    for name in ("", "no/such/file.py", "x" * 300):
        with pytest.raises(ExpllmError, match="there is no experiment"):
            load_experiment(name)


def test_an_experiment_of_ones_own(tmp_path):
    source = (config.CONFIG_FOLDER / "tiny.py").read_text(encoding="utf-8")
    (tmp_path / "mine.py").write_text(source.replace('name="tiny"', 'name="mine"'), encoding="utf-8")
    mine = load_experiment(str(tmp_path / "mine.py"), ["train.batch=2"])
    assert mine.name == "mine" and mine.train.batch == 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"def experiment(:\n", "SyntaxError"),
        (b"import no_such_module_anywhere\n", "no_such_module_anywhere"),
        (b"x = 1\n", "no attribute 'experiment'"),
        (b"def experiment(name): ...\n", "missing 1 required"),
        (b"def experiment(): return 3\n", "returned int"),
        (b"raise SystemExit(3)\n", "SystemExit"),
        (b"\x00\xff", "SyntaxError"),
        (b"from expllm_jax.config import Experiment\ndef experiment(): return Experiment(nam='x')\n", "'nam'"),
    ],
)
def test_a_broken_file_is_named_with_its_fault(source, said, tmp_path):
    path = tmp_path / "broken.py"
    path.write_bytes(source)
    with pytest.raises(ExpllmError) as caught:
        load_experiment(str(path))
    assert str(path) in caught.value.problem and said in caught.value.problem and caught.value.remedy


@pytest.mark.parametrize("damaged", ["[]", "null", "3", "{}", '{"name": "tiny", "model": []}', "{", "\xff"])
def test_a_damaged_description_of_a_run_is_one_error(damaged, tmp_path):
    (tmp_path / "experiment.json").write_bytes(damaged.encode("latin-1"))
    with pytest.raises(ExpllmError, match="experiment.json is damaged"):
        stages.reopen_folder(tmp_path, lambda text: None)
    with pytest.raises(ExpllmError, match="is damaged|another version"):
        stages.open_folder(tmp_path, TINY, lambda text: None)


@pytest.mark.parametrize("key, free", [("data", False), ("tokenizer.cross_words", False), ("train.profile", True)])
def test_a_run_that_lacks_a_key_of_today_was_begun_with_another_version(key, free, tmp_path):
    described = to_json(TINY)
    *groups, last = key.split(".")
    del functools.reduce(dict.__getitem__, groups, described)[last]
    file = tmp_path / "experiment.json"
    file.write_text(json.dumps(described))
    if free:  # it decides nothing that was learnt
        stages.open_folder(tmp_path, TINY, lambda text: None)
        assert json.loads(file.read_text()) == to_json(TINY)
        return
    with pytest.raises(ExpllmError, match=rf"experiment.json .* another version .* they lack {key}") as caught:
        stages.open_folder(tmp_path, TINY, lambda text: None)
    assert "None" not in caught.value.problem and "environment.json" in caught.value.remedy


def test_a_key_of_a_later_version_is_named(tmp_path):
    described = to_json(TINY)
    described["data"]["weather"] = "rain"
    (tmp_path / "experiment.json").write_text(json.dumps(described))
    with pytest.raises(ExpllmError, match=r"another version .* they have data.weather"):
        stages.open_folder(tmp_path, TINY, lambda text: None)
    with pytest.raises(ExpllmError, match=r"experiment.json: RenderedConfig has no key weather in this version"):
        stages.reopen_folder(tmp_path, lambda text: None)


def test_a_folder_that_a_killed_command_had_just_begun_is_taken_up(tmp_path):
    (tmp_path / "command.txt").write_text("expllm")
    (tmp_path / ".experiment.txt.partial").write_text("na")
    stages.open_folder(tmp_path, TINY, lambda text: None, command=["expllm", "train", "my tiny.py"])
    assert (tmp_path / "command.txt").read_text() == "expllm train 'my tiny.py'\n"
    assert stages.reopen_folder(tmp_path, lambda text: None).experiment == TINY
