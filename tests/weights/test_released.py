"""The released checkpoint's names, on a small model of the same make: fused qkv, adapters, projector, decoder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from expllm_jax.errors import ExpllmError
from expllm_jax.models import ExpLLMConfig, LoRAConfig, ViTConfig, abstract, expllm_7b
from expllm_jax.weights import decoder_hf_config, open_foreign
from expllm_jax.weights.released import _add_decoder, _add_tower, _Finder
from tests.models.sizes import DECODER, random_params

LORA = LoRAConfig(rank=2, alpha=16.0, dropout=0.05, targets=("q", "v"))
CONFIG = ExpLLMConfig(
    vision=ViTConfig(width=128, depth=2, heads=2, patch=4, native_grid=3, resize="scale_0.1"),
    decoder=DECODER,
    vision_lora=LORA,
    decoder_lora=LORA,
    image_token=50,
)
PARAMS = random_params(CONFIG)[1]
ADAPTER = "model.layers.1.self_attn.v_proj.lora_B.weight"


def released():
    """The tensors as the release would hold them, written out by the specification and not by the table."""
    p = {path: np.asarray(value) for path, value in PARAMS.items()}
    tower, t = "model.vision_tower.", "vision/blocks/"
    named = {
        f"{tower}cls_token": p["vision/cls_token"][None],
        f"{tower}pos_embed": p["vision/position_embedding"][None],
        f"{tower}mask_token": np.zeros((1, 128), np.float32),
        f"{tower}patch_embed.proj.weight": p["vision/patch_embed/kernel"].reshape(4, 4, 3, 128).transpose(3, 2, 0, 1),
        f"{tower}patch_embed.proj.bias": p["vision/patch_embed/bias"],
        f"{tower}norm.weight": p["vision/norm/scale"],
        f"{tower}norm.bias": p["vision/norm/bias"],
        "model.mm_projector.0.weight": p["projector/layers/0/kernel"].T,
        "model.mm_projector.0.bias": p["projector/layers/0/bias"],
        "model.mm_projector.2.weight": p["projector/layers/1/kernel"].T,
        "model.mm_projector.2.bias": p["projector/layers/1/bias"],
        "model.embed_tokens.weight": p["decoder/embedding"],
        "model.norm.weight": p["decoder/norm/scale"],
        "lm_head.weight": p["decoder/lm_head/kernel"].T,
    }
    for n in range(2):
        block = f"{tower}blocks.{n}."
        named |= {
            f"{block}attn.qkv.weight": np.concatenate([p[f"{t}attn/{x}/kernel"][n].T for x in "qkv"]),
            f"{block}attn.qkv.bias": np.concatenate([p[f"{t}attn/{x}/bias"][n] for x in "qkv"]),
            f"{block}attn.proj.weight": p[f"{t}attn/o/kernel"][n].T,
            f"{block}attn.proj.bias": p[f"{t}attn/o/bias"][n],
            f"{block}ls1.gamma": p[f"{t}scale1"][n],
            f"{block}ls2.gamma": p[f"{t}scale2"][n],
        }
        for i in (1, 2):
            named[f"{block}norm{i}.weight"] = p[f"{t}norm{i}/scale"][n]
            named[f"{block}norm{i}.bias"] = p[f"{t}norm{i}/bias"][n]
            named[f"{block}mlp.fc{i}.weight"] = p[f"{t}mlp/fc{i}/kernel"][n].T
            named[f"{block}mlp.fc{i}.bias"] = p[f"{t}mlp/fc{i}/bias"][n]
        for x in "qv":
            named[f"{block}attn.lora_{x}.lora_A.weight"] = p[f"{t}attn/{x}/lora_a"][n].T
            named[f"{block}attn.lora_{x}.lora_B.weight"] = p[f"{t}attn/{x}/lora_b"][n].T
    for n in range(3):
        layer, d = f"model.layers.{n}.", "decoder/blocks/"
        named |= {f"{layer}self_attn.{x}_proj.weight": p[f"{d}attn/{x}/kernel"][n].T for x in "qkvo"}
        named |= {f"{layer}mlp.{x}_proj.weight": p[f"{d}mlp/{x}/kernel"][n].T for x in ("gate", "up", "down")}
        named[f"{layer}input_layernorm.weight"] = p[f"{d}norm1/scale"][n]
        named[f"{layer}post_attention_layernorm.weight"] = p[f"{d}norm2/scale"][n]
        for x in "qv":
            named[f"{layer}self_attn.{x}_proj.lora_A.weight"] = p[f"{d}attn/{x}/lora_a"][n].T
            named[f"{layer}self_attn.{x}_proj.lora_B.weight"] = p[f"{d}attn/{x}/lora_b"][n].T
    return {name: np.ascontiguousarray(array) for name, array in named.items()}


def folder(tmp_path, named):
    save_file(named, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(decoder_hf_config(DECODER) | {"model_type": "anything"}))
    return tmp_path


def test_every_weight_arrives_where_it_belongs(tmp_path):
    weights = open_foreign(folder(tmp_path, released()))
    assert (weights.part, weights.config) == ("model", CONFIG)
    read = weights.load().params
    assert set(read) == set(PARAMS)
    for path, value in PARAMS.items():
        np.testing.assert_array_equal(read[path], value, err_msg=path)


def test_a_part_of_it_can_be_taken(tmp_path):
    weights = open_foreign(folder(tmp_path, released()))
    tower = weights.part_of("vision")
    assert tower.config == CONFIG.vision and not tower.examine()
    np.testing.assert_array_equal(tower.load().params["blocks/attn/k/kernel"], PARAMS["vision/blocks/attn/k/kernel"])
    assert not weights.part_of("decoder").examine()


def test_other_alternatives_are_found(tmp_path):
    named = {
        name.replace("model.vision_tower.", "model.vision_tower.model.").replace(
            "lora_A.weight", "lora_A.default.weight"
        ) if name.startswith("model.vision_tower") and "lora" not in name else name: array
        for name, array in released().items()
    }  # fmt: skip
    named = {name.replace("mm_projector.0", "mm_projector.linear1"): array for name, array in named.items()}
    named = {name.replace("mm_projector.2", "mm_projector.linear2"): array for name, array in named.items()}
    read = open_foreign(folder(tmp_path, named)).load().params
    np.testing.assert_array_equal(read["vision/blocks/attn/q/kernel"], PARAMS["vision/blocks/attn/q/kernel"])
    np.testing.assert_array_equal(read["projector/layers/1/kernel"], PARAMS["projector/layers/1/kernel"])


def test_unknown_names_are_all_listed(tmp_path):
    named = released()
    named["model.layers.1.self_attn.v_proj.adapter_up"] = named.pop(ADAPTER)
    named["model.vision_tower.blocks.0.attn.strange"] = np.zeros(3, np.float32)
    with pytest.raises(ExpllmError) as caught:
        open_foreign(folder(tmp_path, named)).load()
    assert f"1 missing: {ADAPTER}" in caught.value.problem
    assert "2 unexpected: model.layers.1.self_attn.v_proj.adapter_up, model.vision_tower.blocks.0.attn.strange" in (
        caught.value.problem
    )


def test_one_tensor_under_two_names_is_refused(tmp_path):
    named = released()
    named[ADAPTER.removesuffix(".weight")] = named[ADAPTER].copy()
    with pytest.raises(ExpllmError, match="under several names"):
        open_foreign(folder(tmp_path, named))


def test_the_tables_cover_the_papers_model():
    """786,432 + 4,194,304 adapter parameters, and every leaf of tower and decoder."""

    class Nothing:
        origin, tensors = "nothing", {}

    config, finder = expllm_7b(), _Finder(Nothing())
    _add_tower(finder, config)
    _add_decoder(finder, config)
    sources = [s for value in finder.table.values() for s in (value if isinstance(value, tuple) else (value,))]
    paths = {path for path in abstract(config)[1] if not path.startswith("projector/")}
    assert {source.path for source in sources} == paths
    assert len(finder.table) == 438 - 4 * 24 + 4 * 24 + 291 + 4 * 32
