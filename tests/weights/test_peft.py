"""Adapters in PEFT's format: names, layout, what is refused, and that PEFT computes the same with them, both ways."""

from __future__ import annotations

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from expllm_jax.errors import ExpllmError
from expllm_jax.models import LoRAConfig, abstract, merge, merge_lora
from expllm_jax.weights import export_adapter, export_safetensors, import_adapter, read_safetensors
from tests.models.sizes import DECODER, LORA, VISION, WHOLE, changed, random_params

CONFIG = changed(
    WHOLE,
    vision_layers=(),
    vision_lora=LoRAConfig(rank=3, alpha=6.0, dropout=0.1, targets=("q", "o", "fc1")),
    decoder_lora=LoRAConfig(rank=2, alpha=8.0, dropout=0.5, targets=("q", "v", "down")),
)
PLAIN = changed(CONFIG, vision_lora=LoRAConfig(), decoder_lora=LoRAConfig())
PARAMS = random_params(CONFIG)[1]
PIXELS = np.random.default_rng(0).normal(size=(2, 20, 20, 3)).astype(np.float32)
TOKENS = np.random.default_rng(0).integers(0, 50, (2, 9))
OLD_NAMES = {".q_proj.": ".attention.query.", ".o_proj.": ".output.dense."}  # of a tower in transformers 4


def adapters_of(part):
    return {path: leaf for path, leaf in PARAMS.items() if path.startswith(part) and "/lora_" in path}


def rewritten(folder, *, tensors=None, without=(), **settings):
    """The adapter in `folder` with other keys in its configuration, or other tensors."""
    path = folder / "adapter_config.json"
    described = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in described.items() if key not in without}))
    if tensors is not None:
        save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def decoder(tmp_path):
    return export_adapter(PARAMS, CONFIG, "decoder", tmp_path / "decoder_adapter")


@pytest.fixture
def vision(tmp_path):
    return export_adapter(PARAMS, CONFIG, "vision", tmp_path / "vision_adapter")


def assert_imports(folder, part, lora):
    found, read = import_adapter(folder, PLAIN, part)
    assert found == lora
    expected = adapters_of(part)
    assert set(read) == set(expected)
    for path, value in expected.items():
        assert read[path].dtype == np.float32
        np.testing.assert_array_equal(read[path], value, err_msg=path)


@pytest.mark.parametrize("part", ["vision", "decoder"])
def test_round_trip(tmp_path, part):
    folder = export_adapter(PARAMS, CONFIG, part, tmp_path / "adapter")
    assert_imports(folder, part, getattr(CONFIG, f"{part}_lora"))


def test_names_and_layout_are_peft_s(decoder, vision):
    tensors = load_file(decoder / "adapter_model.safetensors")
    layer = "base_model.model.model.layers.1"
    a, b = (tensors[f"{layer}.self_attn.q_proj.lora_{ab}.weight"] for ab in "AB")
    np.testing.assert_array_equal(a, PARAMS["decoder/blocks/attn/q/lora_a"][1].T)
    np.testing.assert_array_equal(b, PARAMS["decoder/blocks/attn/q/lora_b"][1].T)
    assert a.shape == (2, DECODER.width) and b.shape == (48, 2)
    assert f"{layer}.mlp.down_proj.lora_A.weight" in tensors
    assert len(tensors) == DECODER.depth * 3 * 2
    assert set(load_file(vision / "adapter_model.safetensors")) == {
        f"base_model.model.encoder.layer.{n}.{module}.lora_{ab}.weight"
        for n in range(VISION.depth)
        for module in ("attention.q_proj", "attention.o_proj", "mlp.fc1")
        for ab in "AB"
    }


def test_configuration_is_peft_s(decoder, vision):
    described = json.loads((decoder / "adapter_config.json").read_text())
    assert described == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "auto_mapping": {
            "base_model_class": "LlamaForCausalLM",
            "parent_library": "transformers.models.llama.modeling_llama",
        },
        "base_model_name_or_path": "./decoder",
        "r": 2,
        "lora_alpha": 8.0,
        "lora_dropout": 0.5,
        "target_modules": ["down_proj", "q_proj", "v_proj"],
        "bias": "none",
        "inference_mode": True,
    }
    described = json.loads((vision / "adapter_config.json").read_text())
    assert described["task_type"] is None
    assert described["target_modules"] == ["fc1", "o_proj", "q_proj"]
    assert described["auto_mapping"]["base_model_class"] == "Dinov2Model"


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": r"model\.layers\.\d+\.(self_attn\.[qv]_proj|mlp\.down_proj)"},
        {"target_modules": r".*_proj", "exclude_modules": r".*(k|o|gate|up)_proj"},
        {"target_modules": ["q_proj", "self_attn.v_proj", "down_proj", "up_proj"], "exclude_modules": ["mlp.up_proj"]},
        {"target_modules": [f"model.layers.{n}.{m}" for n in range(3)
                            for m in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")]},
        {"lora_alpha": 8 / math.sqrt(2), "use_rslora": True},
        {"init_lora_weights": "gaussian", "peft_version": "0.21.2", "megatron_core": "megatron.core",
         "layers_to_transform": None, "rank_pattern": {}, "use_dora": False, "loftq_config": {}},
    ],
)  # fmt: skip
def test_other_ways_to_say_the_same_are_understood(decoder, settings):
    rewritten(decoder, **settings)
    lora, read = import_adapter(decoder, PLAIN, "decoder")
    assert changed(lora, alpha=8.0) == CONFIG.decoder_lora and lora.alpha == pytest.approx(8.0, rel=1e-12)
    assert set(read) == set(adapters_of("decoder"))


def test_names_of_the_release_before_are_understood(vision):
    tensors = {}
    for name, value in load_file(vision / "adapter_model.safetensors").items():
        for new, old in OLD_NAMES.items():
            name = name.replace(new, old)
        tensors[name] = value
    assert "base_model.model.encoder.layer.0.attention.attention.query.lora_A.weight" in tensors
    rewritten(vision, tensors=tensors, target_modules=["query", "attention.output.dense", "fc1"])
    assert_imports(vision, "vision", CONFIG.vision_lora)


def test_a_narrow_adapter_becomes_float32(decoder):
    tensors = load_file(decoder / "adapter_model.safetensors")
    rewritten(decoder, tensors={name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()})
    read = import_adapter(decoder, PLAIN, "decoder")[1]
    for path, value in adapters_of("decoder").items():
        assert read[path].dtype == np.float32
        np.testing.assert_array_equal(read[path], value.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize(
    "settings",
    [
        {"peft_type": "LOHA"},
        {"bias": "lora_only"},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {"q_proj": 4}},
        {"modules_to_save": ["lm_head"]},
        {"layers_to_transform": 0},
        {"layers_to_transform": [0, 1]},
        {"fan_in_fan_out": True},
        {"lora_bias": True},
        {"trainable_token_indices": [1]},
        {"init_lora_weights": "pissa"},
        {"a_key_of_next_year": 1},
    ],
    ids=str,
)
def test_what_is_not_computed_here_is_refused_by_its_key(decoder, settings):
    ((key, value),) = settings.items()
    rewritten(decoder, **settings)
    with pytest.raises(ExpllmError) as caught:
        import_adapter(decoder, PLAIN, "decoder")
    assert f"{key} is {json.dumps(value)}" in caught.value.problem
    assert str(decoder / "adapter_config.json") in caught.value.problem


def test_all_refused_keys_are_named_at_once(decoder):
    rewritten(decoder, use_dora=True, bias="all", without=("lora_alpha",))
    with pytest.raises(ExpllmError, match='bias is "all"; use_dora is true; it lacks lora_alpha'):
        import_adapter(decoder, PLAIN, "decoder")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"target_modules": ["query"]}, "no module of this model"),
        ({"target_modules": None}, "no module of this model"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "model.embed_tokens"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"target_modules": r"model\.layers\.[01]\..*q_proj"}, "not model.layers.2.self_attn.q_proj"),
        ({"target_modules": "("}, "not a regular expression"),
        ({"r": 0}, "r = 0"),
        ({"r": "many"}, "damaged"),
        ({"lora_alpha": 0}, "alpha is 0"),
    ],
)
def test_impossible_targets_and_numbers_are_refused(decoder, settings, told):
    rewritten(decoder, **settings)
    with pytest.raises(ExpllmError, match=told.replace("(", r"\(")):
        import_adapter(decoder, PLAIN, "decoder")


def test_every_misfit_among_the_weights_is_listed(decoder):
    tensors = load_file(decoder / "adapter_model.safetensors")
    layer = "base_model.model.model.layers.0"
    del tensors[f"{layer}.self_attn.q_proj.lora_A.weight"]
    tensors[f"{layer}.mlp.down_proj.lora_B.weight"] = np.zeros((3, 2), np.float32)
    tensors[f"{layer}.self_attn.k_proj.lora_A.weight"] = np.zeros((2, 48), np.float32)
    rewritten(decoder, tensors=tensors)
    with pytest.raises(ExpllmError) as caught:
        import_adapter(decoder, PLAIN, "decoder")
    for told in (
        f"missing: {layer}.self_attn.q_proj.lora_A.weight",
        f"unexpected: {layer}.self_attn.k_proj.lora_A.weight",
        f"{layer}.mlp.down_proj.lora_B.weight (3, 2)",
    ):
        assert told in caught.value.problem
    rewritten(decoder, r=4)
    with pytest.raises(ExpllmError, match="of another shape"):
        import_adapter(decoder, PLAIN, "decoder")


def test_a_pickle_is_not_opened(decoder):
    (decoder / "adapter_model.safetensors").rename(decoder / "adapter_model.bin")
    with pytest.raises(ExpllmError, match="is a pickle"):
        import_adapter(decoder, PLAIN, "decoder")


def test_damaged_folders_are_refused(decoder, tmp_path):
    (decoder / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(ExpllmError, match=r"adapter_model\.safetensors is not a sound safetensors file"):
        import_adapter(decoder, PLAIN, "decoder")
    for content in ("[]", "{", b"\xff"):
        (decoder / "adapter_config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ExpllmError, match=r"adapter_config\.json cannot be read"):
            import_adapter(decoder, PLAIN, "decoder")
    with pytest.raises(ExpllmError, match=r"adapter_config\.json cannot be read"):
        import_adapter(tmp_path / "nowhere", PLAIN, "decoder")


def test_exports_that_cannot_be_are_refused(decoder, tmp_path):
    with pytest.raises(ExpllmError, match="exists already"):
        export_adapter(PARAMS, CONFIG, "decoder", decoder)
    with pytest.raises(ExpllmError, match="has no adapters"):
        export_adapter(PARAMS, PLAIN, "decoder", tmp_path / "new")
    with pytest.raises(ExpllmError, match="no part 'projector'"):
        export_adapter(PARAMS, CONFIG, "projector", tmp_path / "new")
    lacking = {path: leaf for path, leaf in PARAMS.items() if path != "decoder/blocks/attn/q/lora_b"}
    with pytest.raises(ExpllmError, match="lack decoder/blocks/attn/q/lora_b"):
        export_adapter(lacking, CONFIG, "decoder", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["decoder_adapter"]


def largest_difference(ours, theirs):
    """Largest absolute difference, relative to the largest number there."""
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def our_logits(config, params):
    order = np.broadcast_to(np.arange(9), (2, 9))
    model = merge(abstract(config)[0], params)
    return model.logits(model(TOKENS, order, np.ones_like(TOKENS), None))


def our_features(config, params):
    return merge(abstract(config)[0], params).encode(PIXELS)


def their_logits(model):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS)).logits.numpy()


def their_features(model):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return model(torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy())).last_hidden_state[:, 1:].numpy()


def opened(folder, part):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    kind = transformers.AutoModel if part == "vision" else transformers.AutoModelForCausalLM
    return kind.from_pretrained(folder / part, dtype=torch.float32).eval()


@pytest.mark.parity
@pytest.mark.parametrize("part", ["vision", "decoder"])
def test_peft_computes_the_same_with_our_adapters(tmp_path, monkeypatch, part):
    peft = pytest.importorskip("peft")
    ours, theirs = (our_features, their_features) if part == "vision" else (our_logits, their_logits)
    folder = export_safetensors(PARAMS, CONFIG, tmp_path / "model", adapters="peft", image_size=20)
    base = opened(folder, part)
    bare = theirs(base)
    adapted = theirs(peft.PeftModel.from_pretrained(base, folder / f"{part}_adapter").eval())
    expected = ours(CONFIG, PARAMS)
    assert largest_difference(expected, adapted) < 1e-5 < 1e-2 < largest_difference(expected, bare)
    # what the adapter says of its base is meant from inside the exported folder
    monkeypatch.chdir(folder)
    named = Path(peft.PeftConfig.from_pretrained(f"{part}_adapter").base_model_name_or_path)
    assert largest_difference(theirs(opened(named.parent, named.name)), bare) == 0


def trained_by_peft(base, forward, folder, settings):
    """The logits or features after three updates, by PEFT and as PEFT saves them."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    torch.manual_seed(0)
    model = peft.get_peft_model(base, peft.LoraConfig(lora_dropout=0.1, **settings))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        forward(model).square().mean().backward()
        optimizer.step()
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parity
@pytest.mark.parametrize(
    ("settings", "targets", "alpha"),
    [
        ({"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}, ("q", "v"), 4),
        ({"r": 4, "lora_alpha": 4, "target_modules": r".*\.(k|gate)_proj", "use_rslora": True}, ("k", "gate"), 8),
        ({"r": 3, "lora_alpha": 6, "target_modules": "all-linear"}, ("q", "k", "v", "o", "gate", "up", "down"), 6),
    ],
)
def test_a_decoder_s_adapter_that_peft_trained(tmp_path, settings, targets, alpha):
    torch = pytest.importorskip("torch")
    plain = {path: leaf for path, leaf in PARAMS.items() if "/lora_" not in path}
    base = opened(export_safetensors(plain, PLAIN, tmp_path / "model", image_size=20), "decoder")
    settings = settings | {"task_type": "CAUSAL_LM"}
    model = trained_by_peft(base, lambda m: m(torch.from_numpy(TOKENS)).logits, tmp_path / "adapter", settings)
    expected = their_logits(model)
    lora, read = import_adapter(tmp_path / "adapter", PLAIN, "decoder")
    assert lora == LoRAConfig(rank=settings["r"], alpha=alpha, dropout=0.1, targets=targets)
    config, params = changed(PLAIN, decoder_lora=lora), plain | read
    assert largest_difference(our_logits(config, params), expected) < 1e-5
    assert largest_difference(our_logits(PLAIN, plain), expected) > 1e-2
    folded = merge_lora(params, lora, "decoder/")
    assert largest_difference(our_logits(PLAIN, folded), their_logits(model.merge_and_unload())) < 1e-5


@pytest.mark.parity
@pytest.mark.parametrize("registers", [0, 2])
def test_a_tower_s_adapter_that_peft_trained(tmp_path, registers):
    """Put beside an exported model, it is read with the model."""
    torch = pytest.importorskip("torch")
    config = changed(PLAIN, vision=changed(VISION, registers=registers))
    params = random_params(config)[1]
    folder = export_safetensors(params, config, tmp_path / "model", image_size=20)
    pixels = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy())
    settings = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj", "fc2"]}
    model = trained_by_peft(
        opened(folder, "vision"), lambda m: m(pixels).last_hidden_state, folder / "vision_adapter", settings
    )
    with torch.no_grad():
        expected = model(pixels).last_hidden_state[:, 1 + registers :].numpy()
    adapted, read = read_safetensors(folder)
    assert adapted == changed(config, vision_lora=changed(LORA, alpha=4.0, dropout=0.1, targets=("q", "v", "fc2")))
    assert largest_difference(our_features(adapted, read), expected) < 1e-5
    assert largest_difference(our_features(config, params), expected) > 1e-2
