"""`expllm weights import | verify | diff`, and experiments that begin from what they wrote."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from expllm_jax import cli, stages
from expllm_jax.checkpoints import load_inference
from expllm_jax.config import WeightsConfig, load_experiment
from expllm_jax.errors import ExpllmError
from expllm_jax.infer import PredictConfig, Predictor
from expllm_jax.initial_weights import initial_params
from expllm_jax.models import merged
from expllm_jax.parallel import MeshConfig, make_mesh
from expllm_jax.records import train_sentencepiece
from expllm_jax.weights import export_safetensors
from expllm_jax.weights_commands import diff_weights, import_weights, verify_weights
from tests.models.sizes import DECODER, LORA, PLAIN, VISION, WHOLE, changed, random_params

PARAMS = random_params(PLAIN)[1]
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def export(tmp_path):
    """A whole model as `expllm weights export` writes it; its decoder/ is a Hugging Face folder by itself."""
    return export_safetensors(PARAMS, PLAIN, tmp_path / "export", image_size=None)


def edited(export, change):
    """The export with its decoder's tensors changed."""
    path = export / "decoder" / "model.safetensors"
    named = load_file(path)
    change(named)
    save_file(named, path)
    return export


def run(capsys, *arguments):
    status = cli.main(["weights", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_an_import_holds_the_same_bits_and_says_so(export, tmp_path, capsys):
    status, out, _ = run(capsys, "import", export, "--to", tmp_path / "in", "--json")
    said = json.loads(out)
    assert status == 0 and said["part"] == "model" and said["dtypes"] == ["float32"]
    assert (
        said["parameters"] == sum(value.size for value in PARAMS.values()) and said["nbytes"] == 4 * said["parameters"]
    )
    params, meta = load_inference(tmp_path / "in")
    assert meta["sha256"] == said["sha256"] and meta["format"] == "expllm weights export"
    assert {p: np.asarray(v).tobytes() for p, v in params.items()} == {p: v.tobytes() for p, v in PARAMS.items()}
    status, out, _ = run(capsys, "diff", export, tmp_path / "in")
    assert status == 0 and f"identical: all {len(PARAMS)} parameters" in out
    status, out, _ = run(capsys, "verify", tmp_path / "in")
    assert status == 0 and "sound" in out and "decoder/blocks/attn" in out


def test_one_part_and_another_dtype_can_be_asked_for(export, tmp_path):
    done = import_weights(export, tmp_path / "in", part="decoder", dtype="bfloat16")
    assert done.part == "decoder" and done.dtypes == ("bfloat16",)
    diff = diff_weights(export / "decoder", tmp_path / "in")
    assert not diff.missing and not diff.extra and max(each.relative for each in diff.differences) < 2**-8
    with pytest.raises(ExpllmError, match="not the vision part"):
        import_weights(tmp_path / "in", tmp_path / "other", part="vision")


def test_verify_lists_all_that_is_wrong(export, capsys):
    def spoil(named):
        named[UP][:2, 0] = np.nan, np.inf
        named["strange"] = np.zeros(2, np.float32)
        del named["model.norm.weight"]

    status, out, err = run(capsys, "verify", edited(export, spoil))
    assert status == 2 and "SHA-256" in out
    assert f"decoder/{UP}: 1 NaN and 1 infinite" in err
    assert "1 missing: decoder/model.norm.weight" in err and "1 unexpected: decoder/strange" in err


def test_import_refuses_what_does_not_fit_and_leaves_nothing(export, tmp_path, capsys):
    edited(export, lambda named: named.pop("model.norm.weight"))
    status, _, err = run(capsys, "import", export, "--to", tmp_path / "in")
    assert status == 2 and "model.norm.weight" in err and not (tmp_path / "in").exists()
    status, _, err = run(capsys, "import", export, "--to", tmp_path / "in", "--partial")
    assert status == 0 and "left out: 1 missing: decoder/model.norm.weight" in err
    assert "decoder/norm/scale" not in load_inference(tmp_path / "in")[0]
    status, _, err = run(capsys, "import", export, "--to", tmp_path / "in")
    assert status == 2 and "exists already" in err


@pytest.mark.parametrize("verb", [("import", "--to", "x"), ("verify",), ("diff", "y")])
def test_what_is_not_there_is_refused(tmp_path, capsys, verb):
    status, out, err = run(capsys, verb[0], tmp_path / "none", *verb[1:])
    assert status == 2 and "none does not exist" in err and out == ""


def test_diff_sorts_by_distance_and_counts(export, tmp_path):
    import_weights(export, tmp_path / "in")

    def change(named):
        named[UP][3, 4] += 0.5
        named["model.norm.weight"][:2] += 2

    diff = diff_weights(edited(export, change), tmp_path / "in")
    found = [(each.path, each.differing) for each in diff.differences]
    assert found == [("decoder/norm/scale", 2), ("decoder/blocks/mlp/up/kernel", 1)]
    assert diff.differences[1].largest == pytest.approx(0.5, abs=1e-6) and diff.equal == len(PARAMS) - 2
    part = diff_weights(tmp_path / "in", export / "decoder")
    assert "vision/cls_token" in part.missing and not part.extra


def test_verify_tells_groups_and_a_digest_of_the_content(export):
    first = verify_weights(export)
    assert not first.problems and sum(group.parameters for group in first.groups if group.name != "not wanted") == sum(
        value.size for value in PARAMS.values()
    )
    edited(export, lambda named: named["model.norm.weight"].__iadd__(1))
    assert verify_weights(export).sha256 != first.sha256


def test_an_experiment_takes_the_path_of_weights(export, tmp_path):
    """Shapes are checked when the experiment is made, and the parameters are those of the file."""
    import_weights(export / "decoder", tmp_path / "decoder")
    import_weights(export, tmp_path / "vision", part="vision")
    tiny = load_experiment("tiny")
    weights = WeightsConfig(vision=str(tmp_path / "vision"), decoder=str(tmp_path / "decoder"))
    with pytest.raises(ExpllmError, match="model.vision.width is 384, but the weights '.*vision' have 32"):
        dataclasses.replace(tiny, weights=weights)
    # a picture of 224 pixels has 56 x 56 patches of this small tower
    model = changed(PLAIN, decoder=DECODER)
    records = dataclasses.replace(tiny.records, image_tokens=model.image_tokens(224, 224))
    experiment = dataclasses.replace(tiny, weights=weights, model=model, records=records, cache_features=False)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    params = initial_params(experiment, model, mesh)[1]
    for path, value in PARAMS.items():
        if not path.startswith("projector/"):
            np.testing.assert_array_equal(params[path], value, err_msg=path)
    gone = dataclasses.replace(experiment, weights=WeightsConfig(vision=str(tmp_path / "gone")))
    with pytest.raises(ExpllmError, match="gone, which does not exist"):
        stages.check_feasible(gone)


@pytest.mark.parametrize("adapters", ["merged", "peft"])
def test_an_experiment_takes_a_whole_model(tmp_path, adapters):
    """Projector included; adapters where it has any, and fresh ones where it has none."""
    params = random_params(WHOLE)[1]
    folder = export_safetensors(params, WHOLE, tmp_path / "whole", adapters=adapters, image_size=None)
    tiny = load_experiment("tiny")
    records = dataclasses.replace(tiny.records, image_tokens=WHOLE.image_tokens(224, 224))
    experiment = dataclasses.replace(
        tiny, weights=WeightsConfig(model=str(folder)), model=WHOLE, records=records, cache_features=False
    )
    read = initial_params(experiment, WHOLE, make_mesh(MeshConfig(), jax.devices()[:1]))[1]
    expected = params if adapters == "peft" else merged(WHOLE, params)[1]
    for path, value in expected.items():
        np.testing.assert_allclose(read[path], value, rtol=1e-6, err_msg=path)
    started = {path for path in read if path.endswith("/lora_b") and not np.asarray(read[path]).any()}
    assert bool(started) == (adapters == "merged")
    with pytest.raises(ExpllmError, match="one of them is given as well"):
        WeightsConfig(model=str(folder), decoder="smollm2")


def test_an_experiment_goes_on_from_peft_adapters(tmp_path):
    params = random_params(WHOLE)[1]
    folder = export_safetensors(params, WHOLE, tmp_path / "whole", adapters="peft", image_size=None)
    tiny = load_experiment("tiny")
    records = dataclasses.replace(tiny.records, image_tokens=WHOLE.image_tokens(224, 224))
    weights = WeightsConfig(
        vision=str(folder / "vision"), decoder=str(folder / "decoder"), decoder_adapter=str(folder / "decoder_adapter")
    )
    experiment = dataclasses.replace(tiny, weights=weights, model=WHOLE, records=records, cache_features=False)
    read = initial_params(experiment, WHOLE, make_mesh(MeshConfig(), jax.devices()[:1]))[1]
    for path, value in params.items():
        if path.startswith("decoder/"):
            np.testing.assert_array_equal(read[path], value, err_msg=path)
    assert not np.asarray(read["vision/blocks/attn/q/lora_b"]).any()
    other = changed(WHOLE, decoder_lora=changed(LORA, rank=4))
    with pytest.raises(ExpllmError, match="has rank 2, alpha 8 on q, v; model.decoder_lora has rank 4"):
        stages.check_feasible(dataclasses.replace(experiment, model=other))
    gone = dataclasses.replace(experiment, weights=dataclasses.replace(weights, decoder_adapter="/nowhere/at/all"))
    with pytest.raises(ExpllmError, match="adapter_config.json cannot be read"):
        stages.check_feasible(gone)


@pytest.mark.parametrize("layout", ["branched", "reference"])
def test_an_imported_whole_model_answers(tmp_path, capsys, layout):
    texts = [f"{face} shows {face} because the brows of {face} are raised." for face in ("Anger", "Fear", "Sadness")]
    tokenizer = train_sentencepiece(texts * 40, tmp_path / "tokenizer.model", 600)
    decoder = changed(DECODER, vocab=tokenizer.vocab_size, max_length=512)
    config = changed(PLAIN, vision=changed(VISION, patch=56, native_grid=4), decoder=decoder)
    folder = export_safetensors(random_params(config)[1], config, tmp_path / "whole")
    arguments = ("import", folder, "--to", tmp_path / "in", "--tokenizer", tokenizer.path, "--layout", layout)
    status, out, error = run(capsys, *arguments)
    assert status == 0 and "expllm predict" in out, error
    Image.new("RGB", (50, 60), (200, 150, 120)).save(tmp_path / "face.png")
    limits = PredictConfig(batch=1, label_tokens=3, cot_tokens=3, retries=0)
    predictor = Predictor.open(tmp_path / "in", limits)
    assert predictor.files.config.image_token == predictor.files.encoder.tokenizer.image
    (answer,) = predictor.answer([tmp_path / "face.png"])
    assert answer.label_failure == "cut off before its end" and answer.label_text
    status, _, error = run(capsys, "import", folder / "decoder", "--to", tmp_path / "no", "--tokenizer", tokenizer.path)
    assert status == 2 and "cannot answer by itself" in error and not (tmp_path / "no").exists()


def test_a_name_that_is_no_asset_and_no_path_is_refused():
    with pytest.raises(ExpllmError, match="weights.decoder is 'smollm3'"):
        WeightsConfig(decoder="smollm3")
