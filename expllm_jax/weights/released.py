"""The released ExpLLM checkpoint: one Hugging Face folder that holds tower, projector, decoder and adapters.

The release is a full model saved by the Hugging Face Trainer from a subclass of `LlamaForCausalLM`. What is known of
its names, and from where:

* verified: the decoder's are those of `LlamaForCausalLM`; the tower is Meta's DINOv2 ViT-L/14 without registers, with
  fused `attn.qkv`; the projector is two linear layers with an exact GELU between (so `0` and `2` of a Sequential); rank
  8 adapters sit on the q and v slices of the tower's fused qkv and on the decoder's `q_proj` and `v_proj`;
* inferred: the attribute names of tower and projector inside the model (`vision_tower`, `mm_projector`, as the options
  of its training script call them), whether the tower is wrapped once more, and what the adapters are called.

The constants below list, for every tensor, the names it may have. A file must use exactly one of the alternatives for
each; all names that none matches are listed in the error, so that whoever holds a checkpoint with other names adds them
here and nowhere else. Adapters are stored as A (rank, inputs) and B (outputs, rank), with `alpha / rank` not folded in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.models import ExpLLMConfig, LoRAConfig, ProjectorConfig
from expllm_jax.weights.decoder_configs import decoder_config_from_hf
from expllm_jax.weights.dinov2 import dinov2_meta_table, meta_tower_config
from expllm_jax.weights.foreign import ForeignWeights
from expllm_jax.weights.hugging_face import llama_table
from expllm_jax.weights.naming import TRANSPOSED, Source, TableValue, inside
from expllm_jax.weights.tensor_files import TensorFile

# Where the parts may lie; `{n}` is the layer. The first alternative is the one that errors name.
TOWER_PREFIXES = ("model.vision_tower.", "model.vision_tower.model.", "model.vision_tower.vision_tower.")
PROJECTOR_PREFIXES = ("model.mm_projector.",)
PROJECTOR_LAYERS = (("0.", "2."), ("linear1.", "linear2."), ("fc1.", "fc2."), ("layers.0.", "layers.1."))

# Alternatives of each adapter, inside a tower's block and inside a decoder's layer; `{t}` is q or v, `{m}` is A or B
# (`{l}` the same letter, small).
TOWER_ADAPTERS = (
    "blocks.{n}.attn.lora_{t}.lora_{m}.weight",
    "blocks.{n}.attn.qkv.lora_{t}.lora_{m}.weight",
    "blocks.{n}.attn.{t}_lora.lora_{m}.weight",
    "blocks.{n}.attn.lora_{t}.lora_{m}",
    "blocks.{n}.attn.qkv.lora_{m}_{t}",
    "blocks.{n}.attn.lora_{l}_{t}.weight",
)
DECODER_ADAPTERS = (
    "model.layers.{n}.self_attn.{t}_proj.lora_{m}.weight",
    "model.layers.{n}.self_attn.{t}_proj.lora_{m}",
    "model.layers.{n}.self_attn.{t}_proj.lora_{m}.default.weight",
    "model.layers.{n}.self_attn.lora_{t}.lora_{m}.weight",
    "model.layers.{n}.self_attn.{t}_lora.lora_{m}.weight",
    "model.layers.{n}.self_attn.lora_{l}_{t}.weight",
)
# Known and of no use: the mask token of pre-training, and buffers that follow from the configuration.
IGNORED = (r".*\.mask_token", r".*rotary_emb\.inv_freq", r".*\.position_ids")

_ADAPTED = ("q", "v")  # [R] both towers
_ALPHA, _DROPOUT = 16.0, 0.05  # [R] defaults of the training script, which its launchers leave alone


def is_released(files: TensorFile) -> bool:
    """Whether the names are those of a whole ExpLLM: a decoder with a projector inside."""
    return any(name.startswith(PROJECTOR_PREFIXES) for name in files.tensors)


def open_released(files: TensorFile, settings: Mapping[str, Any], paths: tuple[Path, ...]) -> ForeignWeights:
    """The released model, by the names of this module.

    Args:
      files: its tensors.
      settings: its parsed config.json; what it says of the decoder counts, whatever it calls its class.
      paths: the files, for a digest.

    Raises:
      ExpllmError: a tensor that says how large a part is, is missing, or one is there under two names. What else is
        missing or unexpected, `ForeignWeights.examine` tells.
    """
    config = _config(files, settings)
    finder = _Finder(files)
    _add_tower(finder, config)
    _add_decoder(finder, config)
    for index in range(config.projector.depth):
        # a single layer, as in LocLLM, needs no index
        stems = ("",) if config.projector.depth == 1 else tuple(pair[index] for pair in PROJECTOR_LAYERS)
        names = [prefix + stem for prefix in PROJECTOR_PREFIXES for stem in stems]
        layer = f"projector/layers/{index}"
        finder.add([f"{name}weight" for name in names], Source(f"{layer}/kernel", transform=TRANSPOSED))
        finder.add([f"{name}bias" for name in names], Source(f"{layer}/bias"))
    ignored = tuple(name for name in files.tensors if any(re.fullmatch(pattern, name) for pattern in IGNORED))
    return ForeignWeights("model", "released ExpLLM", config, files, finder.table, paths, ignored)


class _Finder:
    """Builds the table out of alternatives."""

    def __init__(self, files: TensorFile):
        self._files = files
        self.table: dict[str, TableValue] = {}

    def add(self, alternatives: list[str], value: TableValue) -> None:
        """Under the alternative that the file has, or under the first, which it is then told to lack."""
        self.table[self.name(alternatives) or alternatives[0]] = value

    def name(self, alternatives: list[str]) -> str:
        """The alternative that the file has; "" if none. Raises ExpllmError if it has several."""
        found = [name for name in alternatives if name in self._files.tensors]
        if len(found) > 1:
            raise ExpllmError(
                f"{self._files.origin} holds one tensor under several names: {', '.join(found)}",
                "remove all but one, or correct the alternatives in expllm_jax/weights/released.py",
            )
        return found[0] if found else ""

    def shape(self, alternatives: list[str], what: str) -> tuple[int, ...]:
        """The shape of the alternative that the file has."""
        name = self.name(alternatives)
        if not name:
            raise ExpllmError(
                f"{self._files.origin} does not say {what}: it holds none of {', '.join(alternatives)}",
                "if the tensor has another name, add it in expllm_jax/weights/released.py",
            )
        return self._files.tensors[name].shape


def _tower(name: str) -> list[str]:
    return [prefix + name for prefix in TOWER_PREFIXES]


def _adapter(patterns: tuple[str, ...], layer: int, target: str, matrix: str) -> list[str]:
    names = [pattern.format(n=layer, t=target, m=matrix, l=matrix.lower()) for pattern in patterns]
    return [name for each in names for name in (_tower(each) if patterns is TOWER_ADAPTERS else [each])]


def _add_tower(finder: _Finder, config: ExpLLMConfig) -> None:
    for name, value in dinov2_meta_table(config.vision).items():
        finder.add(_tower(name), inside("vision", value))
    _add_adapters(finder, TOWER_ADAPTERS, "vision", config.vision.depth, config.vision_lora)


def _add_decoder(finder: _Finder, config: ExpLLMConfig) -> None:
    for name, value in llama_table(config.decoder).items():
        finder.add([name], inside("decoder", value))
    _add_adapters(finder, DECODER_ADAPTERS, "decoder", config.decoder.depth, config.decoder_lora)


def _add_adapters(finder: _Finder, patterns: tuple[str, ...], part: str, depth: int, lora: LoRAConfig) -> None:
    for n in range(depth if lora.rank else 0):
        for target in lora.targets:
            for matrix, leaf in (("A", "lora_a"), ("B", "lora_b")):
                place = Source(f"{part}/blocks/attn/{target}/{leaf}", n, TRANSPOSED)
                finder.add(_adapter(patterns, n, target, matrix), place)


def _config(files: TensorFile, settings: Mapping[str, Any]) -> ExpLLMConfig:
    """The paper's model in the sizes that config.json (decoder) and the tensors (everything else) have."""
    decoder = decoder_config_from_hf({**settings, "model_type": "llama"})
    finder = _Finder(files)
    meta_names = [name.removeprefix(p) for name in files.tensors for p in TOWER_PREFIXES if name.startswith(p)]
    vision = meta_tower_config(
        lambda name: finder.shape(_tower(name), "the tower's size"), meta_names, origin=files.origin
    )
    first = [PROJECTOR_PREFIXES[0] + name for name, _ in PROJECTOR_LAYERS]
    lora = {
        part: _lora(finder, _adapter(patterns, 0, _ADAPTED[0], "A"))
        for part, patterns in (("vision_lora", TOWER_ADAPTERS), ("decoder_lora", DECODER_ADAPTERS))
    }
    return ExpLLMConfig(
        vision=vision,
        decoder=decoder,
        projector=ProjectorConfig(depth=2 if finder.name([f"{name}weight" for name in first]) else 1),
        image_token=decoder.vocab,  # <im_patch>, added behind a vocabulary whose embedding is not resized
        **lora,
    )


def _lora(finder: _Finder, alternatives: list[str]) -> LoRAConfig:
    """The adapters of a part; rank 0 where they were folded in before it was saved."""
    if not finder.name(alternatives):
        return LoRAConfig()
    rank = finder.shape(alternatives, "the rank")[0]
    return LoRAConfig(rank=rank, alpha=_ALPHA, dropout=_DROPOUT, targets=_ADAPTED)
