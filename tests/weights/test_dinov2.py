"""The DINOv2 tower out of an ONNX export: the file format, the names, and the numbers of ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.assets import asset_path, is_cached
from expllm_jax.errors import ExpllmError
from expllm_jax.models import abstract, merge, vit_s14
from expllm_jax.weights import dinov2_from_onnx
from expllm_jax.weights.dinov2 import dinov2_table
from expllm_jax.weights.naming import scatter
from expllm_jax.weights.onnx_file import read_onnx
from tests.golden.make_dinov2_s import pictures
from tests.models.sizes import VISION, random_params
from tests.weights import protobuf

GOLDEN = Path(__file__).parent.parent / "golden" / "dinov2_s.npz"


def exported(params, drop=(), change=None):
    """An ONNX file as PyTorch's exporter writes one: matrices of linear layers transposed and without their names."""
    named = scatter(params, dinov2_table(VISION))
    nodes, tensors = [], []
    position = named.pop("embeddings.position_embeddings")
    named["decoder.final_conv.bias"] = np.zeros(1, np.float32)  # behind the backbone: not wanted
    for index, (name, array) in enumerate(named.items()):
        if name in drop:
            continue
        array = np.ascontiguousarray((change or {}).get(name, array))
        stem = name.removesuffix(".weight")
        if "encoder" in name and name.endswith(".weight") and "norm" not in name:
            constant = f"onnx::MatMul_{index}"
            tensors.append(protobuf.tensor(constant, np.ascontiguousarray(array.T), packed=index % 2 == 0))
            place = stem.replace("layer.", "layer#").replace(".", "/").replace("layer#", "layer.")
            nodes.append(protobuf.node("MatMul", f"/backbone/{place}/MatMul", "x", constant))
        else:
            prefix = "" if name.startswith("decoder.") else "backbone."
            tensors.append(protobuf.tensor(prefix + name, array))
    tensors += [
        protobuf.tensor("onnx::Concat_1", np.ascontiguousarray(position[:, :1])),
        protobuf.tensor("onnx::Reshape_2", np.ascontiguousarray(position[:, 1:])),
    ]
    nodes += [
        protobuf.node("Concat", "/backbone/embeddings/Concat_9", "onnx::Concat_1", "resized"),
        protobuf.node("Reshape", "/backbone/embeddings/Reshape_1", "onnx::Reshape_2", "shape"),
        protobuf.node("Concat", "/backbone/embeddings/Concat_1", "backbone.embeddings.cls_token", "patches"),
    ]
    return protobuf.model(nodes, tensors)


def test_every_weight_arrives_where_it_belongs(tmp_path):
    _, params = random_params(VISION)
    (tmp_path / "a.onnx").write_bytes(exported(params))
    read = dinov2_from_onnx(tmp_path / "a.onnx", VISION)
    assert set(read) == set(params)
    for path, value in params.items():
        np.testing.assert_array_equal(read[path], value, err_msg=path)


def test_the_patch_kernel_is_the_convolution():
    """Against a convolution written out: kernel (D, colour, row, column) as PyTorch has it."""
    _, params = random_params(VISION)
    kernel = scatter(params, dinov2_table(VISION))["embeddings.patch_embeddings.projection.weight"]
    patch = np.random.default_rng(0).normal(size=(4, 4, 3))
    expected = np.einsum("dcij,ijc->d", kernel, patch)
    np.testing.assert_allclose(patch.ravel() @ params["patch_embed/kernel"], expected, atol=1e-5)


def test_every_misfit_is_named_at_once(tmp_path):
    _, params = random_params(VISION)
    key = "encoder.layer.2.attention.attention.key.weight"
    data = exported(params, drop=[key, "layernorm.bias"], change={"layernorm.weight": np.zeros(7, np.float32)})
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(ExpllmError) as caught:
        dinov2_from_onnx(tmp_path / "a.onnx", VISION)
    assert f"2 missing: {key}, layernorm.bias" in caught.value.problem
    assert "1 of another shape: layernorm.weight (7,) for norm/scale (32,)" in caught.value.problem


def test_another_size_is_refused(tmp_path):
    _, params = random_params(VISION)
    (tmp_path / "a.onnx").write_bytes(exported(params))
    with pytest.raises(ExpllmError, match="missing: encoder.layer.10"):
        dinov2_from_onnx(tmp_path / "a.onnx", vit_s14())


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, -1])
def test_damaged_files_are_refused(tmp_path, cut):
    data = exported(random_params(VISION)[1])
    (tmp_path / "a.onnx").write_bytes(data[:cut])
    with pytest.raises(ExpllmError, match="a.onnx"):
        dinov2_from_onnx(tmp_path / "a.onnx", VISION)


@given(st.binary(max_size=200))
def test_noise_is_refused_and_never_crashes(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("noise") / "noise.onnx"
    path.write_bytes(noise)
    with pytest.raises(ExpllmError, match="noise.onnx"):
        dinov2_from_onnx(path, VISION)


@given(st.lists(st.integers(1, 300), max_size=3), st.booleans())
def test_tensors_of_any_shape_are_read(tmp_path_factory, shape, packed):
    shape = shape if np.prod(shape, initial=1) < 1e5 else shape[:1]
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    path = tmp_path_factory.mktemp("tensor") / "a.onnx"
    path.write_bytes(protobuf.model([protobuf.node("Add", "n", "a", "b")], [protobuf.tensor("t", array, packed)]))
    graph = read_onnx(path)
    np.testing.assert_array_equal(graph.tensors["t"], array)
    assert [(each.kind, each.name, each.inputs) for each in graph.nodes] == [("Add", "n", ("a", "b"))]


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ExpllmError, match="cannot be read"):
        dinov2_from_onnx(tmp_path / "none.onnx")


@pytest.mark.slow
@pytest.mark.skipif(not is_cached("dinov2-s"), reason="the asset dinov2-s is not in the cache")
def test_the_real_tower_gives_the_numbers_of_onnx_runtime():
    """tests/golden/make_dinov2_s.py made them. The export resizes by size, as Hugging Face does."""
    config = vit_s14(resize="size")
    params = dinov2_from_onnx(asset_path("dinov2-s"))
    graphdef, shapes = abstract(config)
    assert {path: leaf.shape for path, leaf in shapes.items()} == {path: leaf.shape for path, leaf in params.items()}
    tokens = np.asarray(jax.jit(lambda params, x: merge(graphdef, params)(x))(params, pictures()))
    golden = np.load(GOLDEN)
    np.testing.assert_allclose(tokens[:, ::8], golden["every_eighth"], atol=1e-4)
    np.testing.assert_allclose(tokens.mean(1), golden["mean"], atol=2e-5)
