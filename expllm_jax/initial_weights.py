"""The parameters that training begins from: drawn by the seed, read from files, or both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from expllm_jax.assets import asset_path
from expllm_jax.config import DECODER_WEIGHTS, TOKENIZERS, TOWER_WEIGHTS, Experiment
from expllm_jax.errors import ExpllmError
from expllm_jax.models import AbstractParams, ExpLLMConfig, ModelDef, Params, abstract, init, to_int8
from expllm_jax.parallel import param_shardings
from expllm_jax.weight_sources import open_weights
from expllm_jax.weights import TensorFile, load_params
from expllm_jax.weights.naming import Source, sources_of
from expllm_jax.weights.peft import PARTS as ADAPTED
from expllm_jax.weights.peft import Part, open_adapter


def check_weights(experiment: Experiment) -> None:
    """Raises ExpllmError if a file that the experiment begins from is not there, or an adapter is not the model's."""
    for key, value in (
        *((f"weights.{part}", getattr(experiment.weights, part)) for part in ("vision", "decoder", "model")),
        ("tokenizer.kind", experiment.tokenizer.kind),
    ):
        if value and value not in (*TOWER_WEIGHTS, *DECODER_WEIGHTS, *TOKENIZERS) and not Path(value).exists():
            raise ExpllmError(f"{key} is {value}, which does not exist", "check the path")
    for part in ADAPTED:
        if getattr(experiment.weights, f"{part}_adapter"):
            _opened_adapter(part, experiment, experiment.model)


def initial_params(experiment: Experiment, model: ExpLLMConfig, mesh: Mesh) -> tuple[ModelDef, Params]:
    """Fresh parameters by the seed, with the tower's (and perhaps the decoder's) pre-trained weights in their place.

    All lie on the mesh by the table of `parallel`. Pre-trained ones are read tensor by tensor straight to the devices
    that hold them, so that no device and no host ever holds the whole model.
    """
    shapes = abstract(model)[1]
    shardings = param_shardings(shapes, mesh)
    full = model.decoder.param_dtype
    if experiment.weights.model:
        given = _pretrained("model", experiment.weights.model, full, shapes, shardings)
    else:
        given = {}
        for part in ("vision", "decoder"):
            if (source := getattr(experiment.weights, part)) != "random":
                given |= _pretrained(part, source, full, shapes, shardings)
    for part in ADAPTED:
        if getattr(experiment.weights, f"{part}_adapter"):
            files, table = _opened_adapter(part, experiment, model)
            wanted = {source.path: shapes[source.path] for source in table.values()}
            given |= load_params(files, table, wanted, shardings=shardings).params
    graphdef, fresh = init(model, experiment.train.seed, without=given.keys(), shardings=shardings)
    return graphdef, {path: fresh[path] if path in fresh else given[path] for path in graphdef.paths}


def _pretrained(
    part: str, source: str, full: str, shapes: AbstractParams, shardings: Mapping[str, jax.sharding.Sharding]
) -> Params:
    """The parameters of a part out of an asset or a path, by their paths in the whole model.

    Adapters are among them only if the source is a whole model that has any. Kernels that are to be int8 are loaded as
    `full`, their dtype before, and rounded where they lie.
    """
    where = asset_path(source) if source in (*TOWER_WEIGHTS, *DECODER_WEIGHTS) else Path(source)
    weights, prefix = open_weights(where).part_of(part), "" if part == "model" else f"{part}/"
    brought = {place.path for value in weights.table.values() for place in sources_of(value)}
    int8 = {path for path in shapes if f"{path}_scale" in shapes}
    adapters = tuple(leaf for leaf in ("/lora_a", "/lora_b") if not any(path.endswith(leaf) for path in brought))
    wanted = {
        path.removeprefix(prefix): path
        for path in shapes
        if path.startswith(prefix) and not path.endswith(("/kernel_scale", *adapters))
    }
    loaded = weights.load(
        {
            path: jax.ShapeDtypeStruct(shapes[whole].shape, jnp.dtype(full)) if whole in int8 else shapes[whole]
            for path, whole in wanted.items()
        },
        shardings={path: shardings[whole] for path, whole in wanted.items()},
    )
    params = {wanted[path]: leaf for path, leaf in loaded.params.items()}
    for path in int8 & params.keys():
        params[path], scale = to_int8(params[path])
        params[f"{path}_scale"] = jax.device_put(scale, shardings[f"{path}_scale"])
    return params


def _opened_adapter(part: Part, experiment: Experiment, model: ExpLLMConfig) -> tuple[TensorFile, Mapping[str, Source]]:
    """The tensors of an adapter that PEFT trained, and where in the whole model each goes.

    Raises ExpllmError unless it is an adapter that the model's configuration describes.
    """
    folder, ours = getattr(experiment.weights, f"{part}_adapter"), getattr(model, f"{part}_lora")
    theirs, files, table = open_adapter(folder, model, part)
    if (theirs.rank, theirs.alpha, set(theirs.targets)) != (ours.rank, ours.alpha, set(ours.targets)):
        key = f"model.{part}_lora"
        raise ExpllmError(
            f"the adapter {folder} has rank {theirs.rank}, alpha {theirs.alpha:g} on {', '.join(theirs.targets)}; "
            f"{key} has rank {ours.rank}, alpha {ours.alpha:g} on {', '.join(ours.targets)}",
            f"set {key}.rank={theirs.rank} {key}.alpha={theirs.alpha:g} {key}.targets={','.join(theirs.targets)}",
        )
    return files, table
