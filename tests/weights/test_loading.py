"""Filling parameters from tables: what is refused, what is rounded, onto four devices, and how much memory it takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from expllm_jax.errors import ExpllmError
from expllm_jax.models import abstract, attention_mask, merge
from expllm_jax.weights import (
    ArraysInMemory,
    ParamReader,
    decoder_hf_config,
    load_params,
    open_foreign,
    tower_hf_config,
)
from expllm_jax.weights.exported import read_safetensors
from expllm_jax.weights.exporting import export_safetensors
from expllm_jax.weights.hugging_face import llama_table
from expllm_jax.weights.loading import _needed_rows, _Step
from expllm_jax.weights.naming import TRANSPOSED, Source, Transform, scatter
from tests.models.sizes import DECODER, PLAIN, VISION, changed, random_params

ROOT = Path(__file__).parent.parent.parent
TABLE = llama_table(DECODER)
SHAPES = abstract(DECODER)[1]
PARAMS = random_params(DECODER)[1]
Q, OUT = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.o_proj.weight"


def tensors(**changes):
    """The decoder's tensors by their Hugging Face names, some replaced or (None) left out."""
    named = scatter(PARAMS, TABLE) | changes
    return {name: array for name, array in named.items() if array is not None}


def load(named, **options):
    return load_params(ArraysInMemory("file", named), TABLE, SHAPES, **options)


@pytest.mark.parametrize("on_device", [False, True])
def test_every_number_arrives(on_device):
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    loaded = load(tensors(), shardings=dict.fromkeys(SHAPES, first) if on_device else None)
    assert list(loaded.params) == list(SHAPES) and not loaded.misfits
    for path, value in PARAMS.items():
        assert isinstance(loaded.params[path], jax.Array if on_device else np.ndarray)
        np.testing.assert_array_equal(loaded.params[path], value, err_msg=path)


def test_everything_that_does_not_fit_is_told_at_once_and_nothing_is_read():
    class Unread(ArraysInMemory):
        def read(self, name, rows=None):
            raise AssertionError(f"{name} was read")

    norm = "model.layers.0.input_layernorm.weight"
    named = tensors(**{Q: None, "extra": np.zeros(2, np.float32), OUT: np.zeros((3, 48), np.float32)})
    named[norm] = named[norm].astype(np.float64)
    with pytest.raises(ExpllmError) as caught:
        load_params(Unread("the file", named), TABLE, SHAPES)
    for part in (
        "the file does not hold",
        f"1 missing: {Q}",
        "1 unexpected: extra",
        f"1 of another shape: {OUT} (3, 48) for blocks/attn/o/kernel (48, 48)",
        f"1 of a wrong dtype: {norm} float64 for blocks/norm1/scale float32",
    ):
        assert part in caught.value.problem


def test_swapped_names_are_told_by_their_shapes():
    """As far as shapes tell: k and q differ under grouped heads; q and o, both square here, cannot be told apart."""
    named, k = tensors(), "model.layers.1.self_attn.k_proj.weight"
    named[Q], named[k] = named[k], named[Q]
    with pytest.raises(ExpllmError, match=r"2 of another shape: .*k_proj.weight \(48, 48\)"):
        load(named)
    wide = changed(DECODER, head_dim=16)  # q is (96, 48), o is (48, 96)
    params = random_params(wide)[1]
    named = scatter(params, llama_table(wide))
    named[Q], named[OUT] = named[OUT], named[Q]
    with pytest.raises(ExpllmError, match="2 of another shape"):
        load_params(ArraysInMemory("file", named), llama_table(wide), abstract(wide)[1])


@pytest.mark.parametrize(
    ("dtype", "wanted", "fits"),
    [
        (np.float32, "bfloat16", True),
        (np.float16, "float32", True),
        (ml_dtypes.bfloat16, "float32", True),
        (ml_dtypes.float8_e4m3fn, "float32", True),
        (np.float16, "bfloat16", True),
        (np.float64, "float32", False),
        (np.float32, "float16", False),
        (np.int8, "float32", False),
        (np.bool_, "float32", False),
        (np.float32, "int32", False),
        (np.int32, "int32", True),
    ],
)
def test_conversions(dtype, wanted, fits):
    value = np.array([[1, 0, 3]]).astype(dtype)
    shapes = {"leaf": jax.ShapeDtypeStruct((1, 3), np.dtype(wanted))}
    files = ArraysInMemory("file", {"there": value})
    if fits:
        read = load_params(files, {"there": Source("leaf")}, shapes).params["leaf"]
        assert read.dtype == np.dtype(wanted)
        np.testing.assert_array_equal(read.astype(np.float64), value.astype(np.float64))
    else:
        with pytest.raises(ExpllmError, match="1 of a wrong dtype: there"):
            load_params(files, {"there": Source("leaf")}, shapes)


def test_rounding_to_bfloat16_is_to_the_nearest_even():
    value = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-12], np.float32)
    shapes = {"leaf": jax.ShapeDtypeStruct((3,), ml_dtypes.bfloat16)}
    read = load_params(ArraysInMemory("file", {"a": value}), {"a": Source("leaf")}, shapes).params["leaf"]
    np.testing.assert_array_equal(read.astype(np.float32), [1, 1 + 2**-6, 1 + 2**-7])


def test_partial_loading_takes_whole_leaves_and_lists_the_rest():
    loaded = load(tensors(**{Q: None, "extra": np.zeros(2, np.float32)}), partial=True)
    assert set(loaded.params) == set(SHAPES) - {"blocks/attn/q/kernel"}
    assert loaded.misfits.missing == (Q,) and loaded.misfits.unexpected == ("extra",)
    np.testing.assert_array_equal(loaded.params["blocks/attn/k/kernel"], PARAMS["blocks/attn/k/kernel"])


def test_a_table_that_feeds_a_leaf_in_part_is_refused():
    table = {name: source for name, source in TABLE.items() if name != Q}
    with pytest.raises(ExpllmError, match=r"1 missing: anything for blocks/attn/q/kernel\[1\]"):
        load_params(ArraysInMemory("file", tensors(**{Q: None})), table, SHAPES)


def test_a_fused_tensor_feeds_several_leaves():
    fused = np.arange(24, dtype=np.float32).reshape(6, 4)
    parts = tuple(Source(name, transform=TRANSPOSED) for name in "qkv")
    shapes = {name: jax.ShapeDtypeStruct((4, 2), np.float32) for name in "qkv"}
    params = load_params(ArraysInMemory("file", {"qkv": fused}), {"qkv": parts}, shapes).params
    np.testing.assert_array_equal(np.concatenate([params[name] for name in "qkv"], 1), fused.T)
    longer = np.concatenate([fused, fused])
    with pytest.raises(ExpllmError, match=r"qkv \(12, 4\) for q \(4, 2\)"):
        load_params(ArraysInMemory("file", {"qkv": longer}), {"qkv": parts}, shapes)


def test_single_layers_are_read_as_they_are_loaded():
    reader = ParamReader(ArraysInMemory("file", tensors()), TABLE, SHAPES)
    np.testing.assert_array_equal(reader.read("blocks/mlp/up/kernel", 2), PARAMS["blocks/mlp/up/kernel"][2])
    np.testing.assert_array_equal(reader.read("blocks/mlp/up/kernel"), PARAMS["blocks/mlp/up/kernel"])
    np.testing.assert_array_equal(reader.read("norm/scale"), PARAMS["norm/scale"])


@pytest.mark.parametrize(("transform", "spec"), [(Transform(np.asarray, rows_axis=0), 0), (TRANSPOSED, 1)])
def test_a_process_reads_only_the_rows_that_its_devices_hold(transform, spec):
    """As on the second of two hosts: its devices hold the upper half of an axis."""

    class UpperHalf:
        def addressable_devices_indices_map(self, shape):
            whole, half = slice(None), slice(shape[spec] // 2, shape[spec])
            return {0: tuple(half if axis == spec else whole for axis in range(2))}

    asked = []

    class Watched(ArraysInMemory):
        def read(self, name, rows=None):
            asked.append(rows)
            return super().read(name, rows)

    foreign = np.arange(48.0).reshape(8, 6)
    step = _Step("a", (Source("leaf", transform=transform),), (True,))
    ours = transform.ours(foreign)
    read, first = _needed_rows(Watched("file", {"a": foreign}), step, lambda source: (ours.shape, UpperHalf()))
    assert asked == [slice(4, 8)] and first == 4
    np.testing.assert_array_equal(read, foreign[4:])


def test_an_export_comes_back_bit_for_bit(tmp_path):
    config = changed(PLAIN, decoder=changed(DECODER, param_dtype="bfloat16"))
    params = {path: value.astype(abstract(config)[1][path].dtype) for path, value in random_params(config)[1].items()}
    found, read = read_safetensors(export_safetensors(params, config, tmp_path / "model", image_size=None))
    assert found == config
    assert {path: value.tobytes() for path, value in read.items()} == {p: v.tobytes() for p, v in params.items()}


def hf_folder(folder, named, config=DECODER):
    folder.mkdir()
    save_file(named, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(decoder_hf_config(config)))
    return folder


def test_a_folder_of_hugging_face_is_opened(tmp_path):
    named = tensors(**{"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)})
    weights = open_foreign(hf_folder(tmp_path / "model", named))
    assert weights.part == "decoder" and weights.config == DECODER and not weights.examine()
    np.testing.assert_array_equal(weights.load().params["blocks/attn/q/kernel"], PARAMS["blocks/attn/q/kernel"])


def test_a_tied_head_that_is_stored_again_must_be_the_embedding(tmp_path):
    tied = changed(DECODER, tied=True)
    named = tensors(**{"lm_head.weight": scatter(PARAMS, TABLE)["model.embed_tokens.weight"]})
    assert not open_foreign(hf_folder(tmp_path / "same", named, tied)).examine()
    with pytest.raises(ExpllmError, match="lm_head.weight is another tensor"):
        open_foreign(hf_folder(tmp_path / "other", tensors(), tied))


@pytest.mark.parity
def test_sharded_folders_of_transformers_compute_the_same(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**decoder_hf_config(DECODER))).eval()
    theirs.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    weights = open_foreign(tmp_path / "model")
    assert weights.config == DECODER
    tokens = np.random.default_rng(0).integers(0, 50, (2, 9))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()
    model = merge(abstract(DECODER)[0], weights.load().params)
    mask = attention_mask(np.ones_like(tokens))
    h, _ = model(model.embed(tokens), np.broadcast_to(np.arange(9), (2, 9)), mask)
    np.testing.assert_allclose(model.logits(h), expected, atol=5e-5)


@pytest.mark.parity
@pytest.mark.parametrize("registers", [0, 2])
def test_towers_of_transformers_are_opened(tmp_path, registers):
    transformers = pytest.importorskip("transformers")
    config = changed(VISION, registers=registers, resize="antialias" if registers else "size")
    settings = tower_hf_config(config)
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    theirs = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings))
    theirs.save_pretrained(tmp_path / "model")
    weights = open_foreign(tmp_path / "model")
    assert weights.config == config and not weights.examine()


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"model_type": "gpt2"}', '{"model_type": "llama", "vocab_size": "x"}']
)
def test_a_config_that_says_too_little_is_refused(tmp_path, content):
    folder = hf_folder(tmp_path / "model", tensors())
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(ExpllmError, match="config.json"):
        open_foreign(folder)


def fresh_process(*command):
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_parameters_are_read_straight_into_their_shards():
    """In a process of its own, because the number of devices is fixed when JAX starts."""
    report = fresh_process("-m", "tests.weights.four_devices_load")
    assert report == {
        "devices": 4,
        "equal": True,
        "as_asked": True,
        "held": {"(1, 2, 2)": 0.25, "(1, 4, 1)": 0.25, "(2, 1, 2)": 0.5},
        "refused": True,
    }


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.disk_usage(tempfile.gettempdir()).free < 4 << 30, reason="needs 4 GiB of disk for the shards"
)
@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_loading_takes_the_memory_of_the_parameters_and_one_tensor(dtype):
    report = fresh_process("launch/bench/weights_import.py", "--gigabytes", "1.1", "--dtype", dtype)
    assert report["bytes_loaded"] > 1e9
    assert report["peak_rss"] - report["bytes_loaded"] <= report["largest_tensor"] + (1 << 30), report
