"""Parameters outside the modules: flat dictionaries with "/"-joined paths.

A module is a definition. It is split once at start-up; everything that is optimised, sharded, saved or exchanged is a
plain `Params` dictionary, and `merge` puts the two together again inside a jitted function.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

import jax
from flax import nnx

from expllm_jax.errors import ExpllmError

Params = dict[str, jax.Array]
AbstractParams = dict[str, jax.ShapeDtypeStruct]


class Buildable(Protocol):
    """A configuration that can make its module: ViTConfig, DecoderConfig, ExpLLMConfig."""

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """The module with freshly drawn parameters."""
        ...


@dataclasses.dataclass(frozen=True)
class ModelDef:
    """A module without its parameters: hashable, so it can be closed over or passed as a static argument."""

    graphdef: nnx.GraphDef  # what Flax needs to build the module again
    paths: tuple[str, ...]  # the parameters it takes, sorted


def split(model: nnx.Module) -> tuple[ModelDef, Params]:
    """Separates a module into its static definition and its parameters, sorted by path."""
    graphdef, state = nnx.split(model)
    params = {"/".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}
    params = {path: params[path] for path in sorted(params)}
    return ModelDef(graphdef, tuple(params)), params


def merge(graphdef: ModelDef, params: Mapping[str, jax.Array]) -> nnx.Module:
    """The module again; raises ExpllmError naming every parameter that is missing or does not belong to it."""
    missing, unexpected = sorted(set(graphdef.paths) - set(params)), sorted(set(params) - set(graphdef.paths))
    if missing or unexpected:
        raise ExpllmError(
            f"parameters do not fit the model: missing {missing or 'none'}, unexpected {unexpected or 'none'}",
            "use the parameters of a model of the same configuration (merging LoRA removes the adapters)",
        )
    tree: dict = {}
    for path in graphdef.paths:
        *parents, leaf = path.split("/")
        functools.reduce(lambda node, name: node.setdefault(name, {}), parents, tree)[leaf] = params[path]
    return nnx.merge(graphdef.graphdef, tree)


def abstract(config: Buildable) -> tuple[ModelDef, AbstractParams]:
    """The definition, and shape and dtype of every parameter; nothing is allocated, whatever the size."""
    found: list[ModelDef] = []

    def build() -> Params:
        graphdef, params = split(config.build(nnx.Rngs(0)))
        found.append(graphdef)
        return params

    shapes = jax.eval_shape(build)
    return found[0], {path: shapes[path] for path in found[0].paths}


def init(
    config: Buildable,
    seed: int = 0,
    *,
    without: Collection[str] = (),
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> tuple[ModelDef, Params]:
    """The definition and fresh parameters, which are a function of the configuration and `seed` alone.

    Those at the paths `without`, for which the caller has pre-trained values, are neither drawn nor returned; the
    others are the same as ever. With `shardings` of (at least) all others, every device draws its own share, so that a
    model larger than a device is made where it will lie; the values are the same.
    """
    graphdef, _ = abstract(config)
    wanted = [path for path in graphdef.paths if path not in without]

    def draw(key: jax.Array) -> Params:
        params = split(config.build(nnx.Rngs(key)))[1]
        return {path: params[path] for path in wanted}

    placed = {} if shardings is None else {"out_shardings": {path: shardings[path] for path in wanted}}
    params = jax.jit(draw, **placed)(jax.random.key(seed))
    return graphdef, {path: params[path] for path in wanted}


def select(params: Mapping[str, jax.Array], patterns: Iterable[str]) -> tuple[Params, Params]:
    """Splits by path: (those that one of the regular expressions matches in full, the rest), e.g. what trains and
    what not.

    Raises:
      ExpllmError: a pattern is not a regular expression, matches no path at all (a typing error that would otherwise
        silently freeze what was meant to train), or matches an int8 kernel, which has no gradient.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        try:
            matched = {path for path in params if re.fullmatch(pattern, path)}
        except re.error as error:
            raise ExpllmError(f"{pattern!r} is not a regular expression: {error}", "see Python's re module") from error
        if not matched:
            raise ExpllmError(
                f"the pattern {pattern!r} matches no parameter", f"paths look like {', '.join(sorted(params)[:3])} ..."
            )
        if whole := sorted(path for path in matched if params[path].dtype == "int8"):
            raise ExpllmError(
                f"the pattern {pattern!r} matches {whole[0]}, which is int8 and frozen",
                "train adapters beside it, such as decoder/.*/lora_[ab], or use the base 'full'",
            )
        chosen |= matched
    return (
        {path: leaf for path, leaf in params.items() if path in chosen},
        {path: leaf for path, leaf in params.items() if path not in chosen},
    )


def count(params: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> int:
    """How many numbers the parameters hold; works on abstract ones, too."""
    return sum(math.prod(leaf.shape) for leaf in params.values())
