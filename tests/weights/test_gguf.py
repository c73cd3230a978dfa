"""Decoders and tokenizers out of GGUF files written here, and out of the real SmolLM2."""

from __future__ import annotations

import gguf
import jax
import numpy as np
import pytest
from tokenizers import Tokenizer

from expllm_jax.assets import asset_path, is_cached
from expllm_jax.errors import ExpllmError
from expllm_jax.models import abstract, attention_mask, merge, smollm2_135m
from expllm_jax.weights import decoder_from_gguf, tokenizer_json_from_gguf
from tests.models.sizes import DECODER, changed, random_params

# byte-level BPE: the 256 bytes as printable characters, two merges, two special tokens in front
PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
BYTES = [chr(b) if b in PRINTABLE else chr(256 + sum(c not in PRINTABLE for c in range(b))) for b in range(256)]
MERGES = [("a", "n"), ("an", "n")]
TOKENS = ["<|endoftext|>", "<image>", *BYTES, "an", "ann"]
CONFIG = changed(DECODER, vocab=len(TOKENS), rope_scaling="", tied=False)


def permuted(weight, heads):
    """llama.cpp's convert_hf_to_gguf.py, `LlamaModel.permute`."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def write(
    path,
    params,
    config,
    *,
    architecture="llama",
    pre="smollm",
    drop=(),
    raw=None,
    scaling=None,
    original=None,
    window=None,
    turned=None,
    extra=None,
    numbers=None,
):
    """A file as llama.cpp's converter writes it.

    `raw`: tensor name -> (bytes, type) to store in its place; `extra`: tensors to add; `numbers`: keys to add;
    `turned`: the dimensions of a head that are said to turn.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.depth)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim if turned is None else turned)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_context_length(config.max_length)
    if scaling:
        writer.add_rope_scaling_type(scaling[0])
        writer.add_rope_scaling_factor(scaling[1])
    if original:
        writer.add_rope_scaling_orig_ctx_len(original)
    for key, number in (numbers or {}).items():
        writer.add_float32(key, number)
    if window:
        writer.add_sliding_window(window)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges([" ".join(merge) for merge in MERGES])
    names = {
        "embedding": "token_embd.weight",
        "norm/scale": "output_norm.weight",
        "lm_head/kernel": "output.weight",
        "norm1/scale": "attn_norm.weight",
        "attn/q/kernel": "attn_q.weight",
        "attn/k/kernel": "attn_k.weight",
        "attn/v/kernel": "attn_v.weight",
        "attn/q/bias": "attn_q.bias",
        "attn/k/bias": "attn_k.bias",
        "attn/v/bias": "attn_v.bias",
        "attn/o/kernel": "attn_output.weight",
        "norm2/scale": "ffn_norm.weight",
        "mlp/gate/kernel": "ffn_gate.weight",
        "mlp/up/kernel": "ffn_up.weight",
        "mlp/down/kernel": "ffn_down.weight",
    }
    for ours, value in params.items():
        stem = ours.removeprefix("blocks/")
        for layer in range(config.depth) if ours.startswith("blocks/") else [None]:
            name = names[stem] if layer is None else f"blk.{layer}.{names[stem]}"
            array = value if layer is None else value[layer]
            array = np.ascontiguousarray(array.T if stem.endswith("kernel") else array)
            if architecture == "llama" and names[stem] in ("attn_q.weight", "attn_k.weight"):
                array = permuted(array, config.heads if "attn_q" in name else config.kv_heads)
            if name in (raw or {}):
                data, kind = raw[name]
                writer.add_tensor(name, data, raw_dtype=kind)
            elif name not in drop:
                writer.add_tensor(name, array)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("tied", [False, True])
def test_configuration_and_weights_come_back(tmp_path, tied):
    config = changed(CONFIG, tied=tied)
    _, params = random_params(config)
    found, read = decoder_from_gguf(write(tmp_path / "a.gguf", params, config))
    assert found == config
    assert set(read) == set(params)
    for path, value in params.items():
        np.testing.assert_array_equal(read[path], value, err_msg=path)


def test_the_rotation_of_neighbours_becomes_the_rotation_of_halves(tmp_path):
    """What un-permuting is for: scores of interleaved rotation on the file's rows equal ours on the rows we read."""
    _, params = random_params(CONFIG)
    path = write(tmp_path / "a.gguf", params, CONFIG)
    stored = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    _, read = decoder_from_gguf(path)
    x = np.random.default_rng(0).normal(size=(5, CONFIG.width))
    h = CONFIG.head_dim
    angle = np.arange(5)[:, None] * CONFIG.rope_theta ** (-np.arange(h // 2) * 2 / h)

    def neighbours(y):
        turned = (y[:, 0::2] + 1j * y[:, 1::2]) * np.exp(1j * angle)
        return np.stack([turned.real, turned.imag], -1).reshape(y.shape)

    def halves(y):
        turned = (y[:, : h // 2] + 1j * y[:, h // 2 :]) * np.exp(1j * angle)
        return np.concatenate([turned.real, turned.imag], -1)

    theirs = [neighbours((x @ stored[f"blk.1.attn_{name}.weight"].T)[:, h : 2 * h]) for name in "qk"]
    ours = [halves((x @ read[f"blocks/attn/{name}/kernel"][1])[:, h : 2 * h]) for name in "qk"]
    np.testing.assert_allclose(ours[0] @ ours[1].T, theirs[0] @ theirs[1].T, rtol=1e-5)


# one row of the down projection is a block of the widest types
WIDE = changed(CONFIG, depth=1, mlp_width=256)
DOWN = "blk.0.ffn_down.weight"


def stored_as(path, kind, data):
    """What is read of a file whose down projection is `data` of type `kind`: (D, F), as it was stored."""
    _, read = decoder_from_gguf(write(path, random_params(WIDE)[1], WIDE, raw={DOWN: (data, kind)}))
    return read["blocks/mlp/down/kernel"][0].T


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("F32", 0.0),
        ("F16", 1e-3),
        ("BF16", 5e-3),
        ("Q8_0", 0.01),
        ("Q5_0", 0.1),
        ("Q5_1", 0.1),
        ("Q4_0", 0.15),
        ("Q4_1", 0.15),
        ("MXFP4", 0.25),
        ("TQ2_0", 0.9),
        ("TQ1_0", 0.9),
    ],
)
def test_types_that_can_be_written_come_back_as_well_as_they_can(tmp_path, name, error):
    kind = gguf.GGMLQuantizationType[name]
    kernel = np.random.default_rng(0).normal(size=(WIDE.width, WIDE.mlp_width)).astype(np.float32)
    found = stored_as(tmp_path / "a.gguf", kind, gguf.quants.quantize(kernel, kind))
    assert np.linalg.norm(found - kernel) <= error * np.linalg.norm(kernel)


@pytest.mark.parametrize(
    "name",
    "Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS NVFP4".split(),
)
def test_types_that_can_only_be_read_are_read_from_random_bytes(tmp_path, name):
    kind = gguf.GGMLQuantizationType[name]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = WIDE.mlp_width // gguf.GGML_QUANT_SIZES[kind][0]
    data = np.random.default_rng(0).integers(0, 256, (WIDE.width, blocks * size), np.uint8)
    data &= 0xBF  # no 16-bit scale that is infinite or no number
    expected = gguf.quants.dequantize(data, kind)
    assert np.isfinite(expected).all() and np.unique(expected).size > 8
    np.testing.assert_array_equal(stored_as(tmp_path / "a.gguf", kind, data), expected)


def test_types_that_cannot_be_read_are_named(tmp_path):
    data = np.zeros((WIDE.width, WIDE.mlp_width))
    with pytest.raises(ExpllmError, match=r"blk.0.ffn_down.weight \(F64\)"):
        stored_as(tmp_path / "a.gguf", gguf.GGMLQuantizationType.F64, data)
    path = write(tmp_path / "b.gguf", random_params(WIDE)[1], WIDE)
    content, name = bytearray(path.read_bytes()), DOWN.encode()
    # behind the name: the number of dimensions, two sizes of 8 bytes, and the type
    at = content.index(name) + len(name) + 4 + 16
    assert int.from_bytes(content[at : at + 4], "little") == gguf.GGMLQuantizationType.F32
    content[at : at + 4] = (999).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ExpllmError, match="blk.0.ffn_down.weight has the unknown type 999"):
        decoder_from_gguf(path)


@pytest.mark.parametrize("tied", [False, True])
def test_qwen2_has_biases_and_is_not_permuted(tmp_path, tied):
    config = changed(CONFIG, tied=tied, qkv_bias=True)
    _, params = random_params(config)
    found, read = decoder_from_gguf(write(tmp_path / "a.gguf", params, config, architecture="qwen2"))
    assert found == config
    for path, value in params.items():
        np.testing.assert_array_equal(read[path], value, err_msg=path)


def test_heads_that_turn_in_part_are_refused(tmp_path):
    with pytest.raises(ExpllmError, match="turns 4 of the 8 dimensions"):
        decoder_from_gguf(write(tmp_path / "a.gguf", random_params(CONFIG)[1], CONFIG, turned=4))


def test_a_sliding_window_limits_the_length(tmp_path):
    found, _ = decoder_from_gguf(write(tmp_path / "a.gguf", random_params(CONFIG)[1], CONFIG, window=32))
    assert found == changed(CONFIG, sliding_window=32, max_length=32)


def test_rope_scaling_is_read(tmp_path):
    _, params = random_params(CONFIG)
    linear = write(tmp_path / "a.gguf", params, CONFIG, scaling=(gguf.RopeScalingType.LINEAR, 4.0))
    assert decoder_from_gguf(linear)[0].rope_scaling == "linear:4.0"
    yarn = write(tmp_path / "b.gguf", params, CONFIG, scaling=(gguf.RopeScalingType.YARN, 4.0), original=32)
    assert decoder_from_gguf(yarn)[0].rope_scaling == "yarn:4,32"
    yarn = write(tmp_path / "c.gguf", params, CONFIG, scaling=(gguf.RopeScalingType.YARN, 4.0))
    with pytest.raises(ExpllmError, match="'yarn'"):
        decoder_from_gguf(yarn)
    older = write(tmp_path / "d.gguf", params, CONFIG, numbers={"llama.rope.scale_linear": 2.0})
    assert decoder_from_gguf(older)[0].rope_scaling == "linear:2.0"
    newer = write(tmp_path / "e.gguf", params, CONFIG, numbers={"llama.rope.scaling.attn_factor": 2.0})
    with pytest.raises(ExpllmError, match="key llama.rope.scaling.attn_factor"):
        decoder_from_gguf(newer)


def llama3_factors(theta, head_dim, factor, low=1.0, high=4.0, original=8192):
    """What every frequency is divided by, one after the other, as Meta's `apply_scaling` has it."""
    factors = []
    for frequency in theta ** (-np.arange(0, head_dim, 2) / head_dim):
        turns = original * frequency / (2 * np.pi)
        if turns > high:
            factors.append(1.0)
        elif turns < low:
            factors.append(factor)
        else:
            smooth = (turns - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return {"rope_freqs.weight": np.float32(factors)}


def test_rotary_factors_become_the_scaling_they_come_from(tmp_path):
    config = changed(CONFIG, head_dim=32, rope_theta=500000.0)
    _, params = random_params(config)

    def read(name, factors, **more):
        return decoder_from_gguf(write(tmp_path / name, params, config, extra=factors, **more))[0]

    factors = llama3_factors(500000.0, 32, 8.0)
    assert 1 < np.sort(np.unique(factors["rope_freqs.weight"]))[1] < 8  # the ramp is in it
    assert read("a.gguf", factors) == changed(config, rope_scaling="llama3:8,1,4,8192")
    other = llama3_factors(500000.0, 32, 32.0, original=4096)
    assert read("b.gguf", other, original=4096).rope_scaling == "llama3:32,1,4,4096"
    assert read("c.gguf", {"rope_freqs.weight": np.ones(16, np.float32)}).rope_scaling == ""
    for name, wrong in {
        "d.gguf": llama3_factors(500000.0, 32, 8.0, high=3.0),
        "e.gguf": llama3_factors(500000.0, 16, 8.0),
        "f.gguf": {"rope_freqs.weight": np.float32(500000.0 ** (-np.arange(16) / 16))},  # the frequencies themselves
    }.items():
        with pytest.raises(ExpllmError, match="rope_freqs.weight is not that of any"):
            read(name, wrong)
    with pytest.raises(ExpllmError, match="both rotary scaling 'linear'"):
        read("g.gguf", factors, scaling=(gguf.RopeScalingType.LINEAR, 2.0))


def test_dtype_is_followed(tmp_path):
    path = write(tmp_path / "a.gguf", random_params(CONFIG)[1], CONFIG)
    config, read = decoder_from_gguf(path, dtype="bfloat16")
    assert config.param_dtype == "bfloat16" and {str(v.dtype) for v in read.values()} == {"bfloat16"}


def test_missing_weights_are_named(tmp_path):
    _, params = random_params(CONFIG)
    path = write(tmp_path / "a.gguf", params, CONFIG, drop=["blk.2.ffn_up.weight", "blk.0.attn_k.weight"])
    with pytest.raises(ExpllmError, match=r"2 missing: blk.0.attn_k.weight, blk.2.ffn_up.weight"):
        decoder_from_gguf(path)


def test_other_files_are_refused(tmp_path):
    _, params = random_params(CONFIG)
    with pytest.raises(ExpllmError, match="'gemma3'"):
        decoder_from_gguf(write(tmp_path / "a.gguf", params, CONFIG, architecture="gemma3"))
    (tmp_path / "b.gguf").write_bytes(b"not a model at all, and longer than the header of one")
    with pytest.raises(ExpllmError, match="b.gguf"):
        decoder_from_gguf(tmp_path / "b.gguf")
    with pytest.raises(ExpllmError, match="none.gguf"):
        decoder_from_gguf(tmp_path / "none.gguf")


def test_tokenizer_keeps_ids_and_every_byte(tmp_path):
    path = write(tmp_path / "a.gguf", random_params(CONFIG)[1], CONFIG)
    out = tokenizer_json_from_gguf(path, tmp_path / "new" / "tokenizer.json")
    assert [p.name for p in out.parent.iterdir()] == ["tokenizer.json"]
    tokenizer = Tokenizer.from_file(str(out))
    assert [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())] == TOKENS
    text = "anna  bans 42\n\tnaïve 🙂\x00"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("anna<image>12").ids == [TOKENS.index(t) for t in ("ann", "a", "<image>", "1", "2")]


def test_other_tokenizers_are_refused(tmp_path):
    path = write(tmp_path / "a.gguf", random_params(CONFIG)[1], CONFIG, pre="llama-bpe")
    with pytest.raises(ExpllmError, match="'llama-bpe'"):
        tokenizer_json_from_gguf(path, tmp_path / "tokenizer.json")
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(not is_cached("smollm2"), reason="the asset smollm2 is not in the cache")
def test_the_real_smollm2_knows_the_capital_of_france(tmp_path):
    """Greedy tokens of llama.cpp on the same file: "The capital of France is Paris." Teacher-forced, in one forward."""
    config, params = decoder_from_gguf(asset_path("smollm2"))
    assert config == smollm2_135m()
    tokenizer = Tokenizer.from_file(str(tokenizer_json_from_gguf(asset_path("smollm2"), tmp_path / "tokenizer.json")))
    prompt = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    answer = "The capital of France is Paris.<|im_end|>"
    ids = np.array([tokenizer.encode(prompt + answer).ids])
    assert ids[0, 0] == 1 and ids[0, -1] == 2  # <|im_start|>, <|im_end|>
    graphdef = abstract(config)[0]

    @jax.jit
    def best(params):
        model = merge(graphdef, params)
        positions = np.arange(ids.shape[1])[None]
        h, _ = model(model.embed(ids), positions, attention_mask(np.ones_like(ids)))
        return model.logits(h).argmax(-1)

    length = len(tokenizer.encode(answer).ids)
    np.testing.assert_array_equal(np.asarray(best(params))[0, -length - 1 : -1], ids[0, -length:])
