"""Low-rank adapters as PEFT stores them: a folder with `adapter_config.json` and `adapter_model.safetensors`.

An adapter is of one part of the model, as PEFT wraps one `transformers` model at a time: of `vision` (Dinov2Model) or
of `decoder` (LlamaForCausalLM). PEFT's lora_A (rank, inputs) and lora_B (outputs, rank) are our lora_a and lora_b
transposed; what a layer gains is scaled by lora_alpha / r there as here.
Source: huggingface/peft, `LoraConfig` and the names that `save_pretrained` of release 0.21.2 writes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.models import ExpLLMConfig, LoRAConfig, abstract
from expllm_jax.models.lora import LORA_TARGETS
from expllm_jax.weights.decoder_configs import decoder_hf_config
from expllm_jax.weights.hugging_face import llama_table
from expllm_jax.weights.loading import load_params
from expllm_jax.weights.naming import TRANSPOSED, Source, Table
from expllm_jax.weights.safetensors_files import SafetensorsFiles, open_safetensors
from expllm_jax.weights.tower_configs import tower_hf_config
from expllm_jax.weights.towers import tower_table
from expllm_jax.weights.writing import host_reader, new_folder, pending_tensors, write_safetensors

Part = Literal["vision", "decoder"]
PARTS: tuple[Part, ...] = ("vision", "decoder")

_CONFIG, _TENSORS, _PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."

# `transformers` 5 calls these modules otherwise than the published files do, and converts base weights in both
# directions. PEFT does not convert adapters, so theirs carry the names of the release they were trained with.
_RENAMED = {
    ".attention.attention.query": ".attention.q_proj",
    ".attention.attention.key": ".attention.k_proj",
    ".attention.attention.value": ".attention.v_proj",
    ".attention.output.dense": ".attention.o_proj",
}

# Keys of adapter_config.json that describe where an adapter is from, or only how its training began.
_WITHOUT_EFFECT = frozenset(
    "auto_mapping base_model_name_or_path ensure_weight_tying eva_config inference_mode loftq_config megatron_core "
    "peft_version qalora_group_size revision runtime_config task_type".split()
)
_READ = frozenset(
    "bias exclude_modules init_lora_weights lora_alpha lora_dropout peft_type r target_modules use_rslora".split()
)
# Starts that leave the base weights alone; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change them before training.
_HARMLESS_STARTS = (True, False, "gaussian", "eva", "orthogonal")


def export_adapter(
    params: Mapping[str, jax.Array | np.ndarray],
    config: ExpLLMConfig,
    part: Part,
    folder: str | Path,
    *,
    base: str | None = None,
) -> Path:
    """Writes the adapters of one part so that `peft.PeftModel.from_pretrained(base_model, folder)` opens them.

    The names are those of `transformers` 5; release 4 calls a tower's modules otherwise (see `import_adapter`, which
    knows both).

    Args:
      params: parameters of `ExpLLM(config)`; only the adapters of the part are read.
      config: its configuration.
      part: "vision" or "decoder".
      folder: must not exist yet; appears complete or not at all.
      base: what is written as the path of the base model; None: `./vision` or `./decoder`, as in an exported model,
        which opens from inside its folder.

    Raises:
      ExpllmError: the folder exists, the configuration has no adapters there, or the parameters lack any.
    """
    folder, lora = Path(folder), _lora(config, part)
    if not lora.rank:
        raise ExpllmError(f"the {part} has no adapters", f"export a model whose {part}_lora has a rank")
    modules = _modules(_table(config, part))
    table = _adapter_table(modules, lora, part)
    leaves = abstract(config)[1]
    adapted = {path for path in leaves if path.startswith(f"{part}/") and path.endswith(("/lora_a", "/lora_b"))}
    if elsewhere := sorted(adapted - {source.path for source in table.values()}):
        raise ExpllmError(
            f"{', '.join(elsewhere)} adapt a part of a module that transformers stores as one, which PEFT cannot",
            'export them merged (adapters="merged")',
        )
    if missing := sorted({source.path for source in table.values()} - set(params)):
        raise ExpllmError(f"the parameters lack {', '.join(missing)}", "export what was trained")
    targets = {name.rsplit(".", 1)[-1] for name, source in modules.items() if lora.on(_target(source))}
    architecture = tower_hf_config(config.vision) if part == "vision" else decoder_hf_config(config.decoder)
    kind = architecture["model_type"]
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if part == "decoder" else None,  # None: PEFT has no task that is a vision tower
        "auto_mapping": {
            "base_model_class": architecture["architectures"][0],
            "parent_library": f"transformers.models.{kind}.modeling_{kind}",
        },
        "base_model_name_or_path": base or f"./{part}",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(targets),
        "bias": "none",
        "inference_mode": True,
    }
    with new_folder(folder) as unfinished:
        write_safetensors(unfinished / _TENSORS, pending_tensors(table, leaves, host_reader(params)))
        (unfinished / _CONFIG).write_text(json.dumps(described, indent=2) + "\n")
    return folder


def import_adapter(folder: str | Path, config: ExpLLMConfig, part: Part) -> tuple[LoRAConfig, dict[str, np.ndarray]]:
    """Reads an adapter that PEFT, or `export_adapter`, wrote.

    Rank-stabilised adapters (use_rslora, alpha / sqrt(r)) get the alpha that means the same here. An adapter of a tower
    may carry the module names of `transformers` 4 or 5.

    Args:
      folder: holds adapter_config.json and adapter_model.safetensors.
      config: the model that it is for; what it says of adapters is not used.
      part: "vision" or "decoder".

    Returns:
      (configuration, float32 leaves by paths such as `decoder/blocks/attn/q/lora_a`): put the first in the model's
      configuration as `{part}_lora`, and the second among its parameters.

    Raises:
      ExpllmError: a file is missing, damaged or a pickle; the adapter does what is not computed here (every such key is
        named); or any of its weights is missing, unexpected or mis-shaped (all are listed).
    """
    lora, files, table = open_adapter(folder, config, part)
    adapted = dataclasses.replace(config, **{f"{part}_lora": lora})
    wanted = {source.path for source in table.values()}
    shapes = {path: leaf for path, leaf in abstract(adapted)[1].items() if path in wanted}
    return lora, load_params(files, table, shapes).params


def open_adapter(
    folder: str | Path, config: ExpLLMConfig, part: Part
) -> tuple[LoRAConfig, SafetensorsFiles, dict[str, Source]]:
    """An adapter opened but not read: (configuration, its file, name in it -> where it goes in ExpLLM).

    Arguments and errors are those of `import_adapter`, but for the weights themselves.
    """
    folder = Path(folder)
    settings, files = _read_config(folder), _open_tensors(folder)
    modules = _modules(_table(config, part))
    older = {_older(name): source for name, source in modules.items()}
    if any(f".{name}." in key for key in files.tensors for name in set(older) - set(modules)):
        modules = older
    lora = _lora_config(settings, modules, folder / _CONFIG)
    return lora, files, _adapter_table(modules, lora, part)


def _lora(config: ExpLLMConfig, part: Part) -> LoRAConfig:
    if part not in PARTS:
        raise ExpllmError(f"the model has no part {part!r} with adapters", f"choose from {', '.join(PARTS)}")
    return config.vision_lora if part == "vision" else config.decoder_lora


def _table(config: ExpLLMConfig, part: Part) -> Table:
    _lora(config, part)
    return tower_table(config.vision) if part == "vision" else llama_table(config.decoder)


def _modules(table: Table) -> dict[str, Source]:
    """Module name in `transformers` 5 -> where its weight goes, of every module that has one and is one of ours."""
    modules = {}
    for name, source in table.items():
        if name.endswith(".weight") and isinstance(source, Source):
            module = name.removesuffix(".weight")
            for older, newer in _RENAMED.items():
                module = module.replace(older, newer)
            modules[module] = source
    return modules


def _older(module: str) -> str:
    """The name of a tower's module in `transformers` 4."""
    for older, newer in _RENAMED.items():
        module = module.removesuffix(newer) + older if module.endswith(newer) else module
    return module


def _target(source: Source) -> str:
    """Which of our LoRA targets a weight is; "" if none."""
    target, leaf = ("", *source.path.split("/"))[-2:]
    return target if leaf == "kernel" and source.layer is not None and target in LORA_TARGETS else ""


def _adapter_table(modules: Mapping[str, Source], lora: LoRAConfig, part: Part) -> dict[str, Source]:
    """Name in the adapter's file -> where it goes."""
    table = {}
    for name, source in modules.items():
        if lora.on(_target(source)):
            stem = f"{part}/{source.path.removesuffix('/kernel')}"
            table[f"{_PREFIX}{name}.lora_A.weight"] = Source(f"{stem}/lora_a", source.layer, TRANSPOSED)
            table[f"{_PREFIX}{name}.lora_B.weight"] = Source(f"{stem}/lora_b", source.layer, TRANSPOSED)
    return table


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise ExpllmError(
            f"{path} cannot be read as an adapter's configuration: {error}", "give a folder that PEFT wrote"
        ) from error
    return settings


def _open_tensors(folder: Path) -> SafetensorsFiles:
    path = folder / _TENSORS
    if not path.exists() and (folder / _PICKLED).exists():
        raise ExpllmError(
            f"{folder / _PICKLED} is a pickle, which can run any code when it is opened, and is not read",
            f"open it with PEFT where you trust it, and save it again: save_pretrained writes {_TENSORS}",
        )
    return open_safetensors(path)


def _lora_config(settings: Mapping[str, Any], modules: Mapping[str, Source], path: Path) -> LoRAConfig:
    """The adapter's configuration in our words; raises naming every key that asks for what is not computed here."""
    problems = [
        f"{key} is {json.dumps(value)}"
        for key, value in sorted(settings.items())
        if (key not in _WITHOUT_EFFECT | _READ and not _is_unset(value))
        or (key == "peft_type" and value != "LORA")
        or (key == "bias" and value != "none")
        or (key == "init_lora_weights" and value not in _HARMLESS_STARTS)
    ]
    if missing := sorted({"peft_type", "r", "lora_alpha", "target_modules"} - set(settings)):
        problems.append(f"it lacks {', '.join(missing)}")
    if problems:
        raise ExpllmError(
            f"{path} describes what is not computed here: {'; '.join(problems)}",
            "train plain LoRA on linear layers, or merge the adapter with PEFT and import the merged model",
        )
    try:
        rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
        dropout = float(settings.get("lora_dropout") or 0.0)
    except (TypeError, ValueError) as error:
        raise ExpllmError(f"{path} is damaged: {error}", "save the adapter again") from error
    if settings.get("use_rslora"):
        alpha *= math.sqrt(rank)  # alpha / sqrt(r) there is alpha * sqrt(r) / r
    if rank < 1:
        raise ExpllmError(f"{path} has r = {rank}", "an adapter has a rank of 1 or more")
    return LoRAConfig(rank=rank, alpha=alpha, dropout=dropout, targets=_targets(settings, modules, path))


def _is_unset(value: Any) -> bool:
    """Whether a key asks for nothing; the number 0 does ask: layers_to_transform = 0 is the first layer."""
    return value is None or value is False or value in ("", [], {})


def _targets(settings: Mapping[str, Any], modules: Mapping[str, Source], path: Path) -> tuple[str, ...]:
    """Our names of the layers that target_modules and exclude_modules select, the same in every block."""
    wanted, excluded = settings["target_modules"], settings.get("exclude_modules")
    chosen = [name for name in modules if _selects(wanted, name, path) and not _selects(excluded, name, path)]
    if not chosen:
        raise ExpllmError(
            f"{path}: target_modules {json.dumps(wanted)} is no module of this model",
            f"modules are called {', '.join(name for name, source in modules.items() if source.layer == 0)}",
        )
    if elsewhere := [name for name in chosen if not _target(modules[name])]:
        raise ExpllmError(
            f"{path} adapts {', '.join(elsewhere)}, which has no adapters here",
            f"adapt linear layers of the blocks only: {', '.join(LORA_TARGETS)}",
        )
    targets = {_target(modules[name]) for name in chosen}
    if left_out := [name for name, source in modules.items() if _target(source) in targets and name not in chosen]:
        raise ExpllmError(
            f"{path} adapts only some of the blocks: not {', '.join(left_out)}", "adapt the same layers in every block"
        )
    return tuple(target for target in LORA_TARGETS if target in targets)


def _selects(patterns: Any, module: str, path: Path) -> bool:
    """PEFT's rule: a string is a regular expression for the whole name, of a list any may be how the name ends."""
    if not patterns:
        return False
    if isinstance(patterns, str):
        try:
            return re.fullmatch(patterns, module) is not None
        except re.error as error:
            raise ExpllmError(
                f"{path}: {patterns!r} is not a regular expression: {error}", "see Python's re module"
            ) from error
    return any(module == pattern or module.endswith(f".{pattern}") for pattern in patterns)
