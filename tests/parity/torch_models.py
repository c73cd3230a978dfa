"""Our parameters in torch's modules: transformers' towers, and the benchmarks' peer with peft's adapters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import transformers

from expllm_jax.models import DecoderConfig, ExpLLMConfig, ViTConfig
from expllm_jax.weights import decoder_hf_config, tower_hf_config
from expllm_jax.weights.dinov2 import MASK_TOKEN, dinov2_table
from expllm_jax.weights.hugging_face import llama_table, projector_table
from expllm_jax.weights.naming import TRANSPOSED, Source, Table, scatter
from launch.bench.torch_expllm import TorchExpLLM

transformers.utils.logging.disable_progress_bar()

# Part -> prefix of its layers in the peer.
_LAYERS = {
    "vision": "vision.encoder.layer.{layer}.attention.",
    "decoder": "llm.model.layers.{layer}.self_attn.",
}
_PARTS = {"vision": "vision.", "decoder": "llm."}  # ours -> the peer's
_ADAPTERS = {"lora_a": "lora_A", "lora_b": "lora_B"}


def tensor(array: object) -> torch.Tensor:
    """A copy as a torch tensor of the same type."""
    return torch.from_numpy(np.array(array))


def pixels(pixels_BHWC: np.ndarray) -> torch.Tensor:
    """Pictures with their colours first."""
    return tensor(np.moveaxis(pixels_BHWC, -1, 1))


def tower(params: Mapping[str, np.ndarray], config: ViTConfig) -> transformers.Dinov2Model:
    """`Dinov2Model` with the parameters of our `ViT(config)`; adapters are left out."""
    tensors = {name: tensor(value) for name, value in scatter(params, dinov2_table(config)).items()}
    tensors[MASK_TOKEN] = torch.zeros(1, config.width)
    return _filled(transformers.Dinov2Model, transformers.Dinov2Config(**tower_hf_config(config)), tensors)


def decoder(params: Mapping[str, np.ndarray], config: DecoderConfig) -> transformers.LlamaForCausalLM:
    """`LlamaForCausalLM` with the parameters of our `Decoder(config)`; adapters are left out."""
    tensors = {name: tensor(value) for name, value in scatter(params, llama_table(config)).items()}
    return _filled(transformers.LlamaForCausalLM, transformers.LlamaConfig(**decoder_hf_config(config)), tensors)


def _filled(
    kind: type[transformers.PreTrainedModel],
    config: transformers.PretrainedConfig,
    tensors: dict[str, torch.Tensor],
) -> transformers.PreTrainedModel:
    """A model of `kind` in evaluation mode; transformers translates older names of its own itself."""
    model, misfits = kind.from_pretrained(
        None, config=config, state_dict=tensors, output_loading_info=True, attn_implementation="sdpa"
    )
    tied = {"lm_head.weight"} if getattr(config, "tie_word_embeddings", False) else set()
    assert not any(set(found) - tied for found in misfits.values()), misfits
    return model.eval()


def expllm(params: Mapping[str, np.ndarray], config: ExpLLMConfig) -> TorchExpLLM:
    """The peer with the parameters of our `ExpLLM(config)`, adapters and all."""
    assert config.vision_lora == config.decoder_lora and not config.vision_layers and config.projector.depth == 2
    lora = config.vision_lora
    model = TorchExpLLM(
        transformers.Dinov2Config(**tower_hf_config(config.vision)),
        transformers.LlamaConfig(**decoder_hf_config(config.decoder)),
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
    )
    frozen: dict[str, torch.Tensor] = {}
    for part, build in (("vision", tower), ("decoder", decoder)):
        ours = {path.removeprefix(f"{part}/"): leaf for path, leaf in params.items() if path.startswith(f"{part}/")}
        weights = build(ours, getattr(config, part)).state_dict()
        frozen |= {_PARTS[part] + name: value for name, value in weights.items()}
    wanted = model.state_dict()
    for name in list(frozen):  # peft moves the adapted layers' own weights one level down
        stem, _, last = name.rpartition(".")
        if name not in wanted:
            frozen[f"{stem}.base_layer.{last}"] = frozen.pop(name)
    trained = {name: tensor(value) for name, value in scatter(params, trained_table(config)).items()}
    model.load_state_dict(frozen | trained)
    return model


def trained_table(config: ExpLLMConfig) -> Table:
    """Name of everything that trains in the peer -> where it is here."""
    table = {
        name.replace("layers.0", "projector.0").replace("layers.1", "projector.2"): Source(
            f"projector/{source.path}", source.layer, source.transform
        )
        for name, source in projector_table(config.projector).items()
    }
    for part, layers in _LAYERS.items():
        for layer in range(getattr(config, part).depth):
            for target in config.vision_lora.targets:
                for ours, theirs in _ADAPTERS.items():
                    name = f"{layers.format(layer=layer)}{target}_proj.{theirs}.default.weight"
                    table[name] = Source(f"{part}/blocks/attn/{target}/{ours}", layer, TRANSPOSED)
    return table


def spliced(model: TorchExpLLM, pixels_BCHW: torch.Tensor, ids_BT: torch.Tensor, image_token: int) -> torch.Tensor:
    """Decoder input (B, T, E) of rows that hold their picture's placeholders, one run of them, anywhere."""
    table = model.llm.get_input_embeddings()
    rows = []
    for picture, ids in zip(model.project(pixels_BCHW), ids_BT, strict=True):
        places = torch.nonzero(ids == image_token)[:, 0]
        first, end = int(places[0]), int(places[-1]) + 1
        assert end - first == len(places) == len(picture)
        rows.append(torch.cat([table(ids[:first]), picture, table(ids[end:])]))
    return torch.stack(rows)
