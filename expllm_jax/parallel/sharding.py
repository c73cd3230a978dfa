"""The one table from parameter paths and activation names to mesh axes.

Two steps: a rule names the *logical* axes of an array, and `LOGICAL_AXES` says which mesh axes each of them is split
over. A logical name with a trailing "?" may stay whole where its size does not divide by the mesh (three key/value
heads over four devices); without it, that is an error, because memory that was meant to be shared out would silently
be replicated.

A mesh has automatic axes, where the compiler lays out whatever `constrain` leaves open, or explicit ones, where the
layout is part of every array's type and nothing moves that nobody asked to. The same model runs on both. The functions
from `is_explicit` on are what explicit axes need said; over automatic ones they do what their plain namesakes do.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from expllm_jax.errors import ExpllmError

Result = TypeVar("Result")

LOGICAL_AXES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),  # the model width, of parameters only: activations split their batch over fsdp
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "whole": (),  # layers, time, head width, LoRA rank, and everything small
}

# First match (in full) wins. Paths are those of `models.params.split`; every decoder and tower leaf has a leading
# layer axis.
PARAM_RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    # adapters: A (layers, inputs, rank) and B (layers, rank, outputs) are small; only the wide side is split
    (r".*blocks/.*/lora_a", ("whole", "embed?", "whole")),
    (r".*blocks/.*/lora_b", ("whole", "whole", "heads?")),
    # transformer blocks of both towers
    (r".*blocks/attn/(q|k|v)/kernel", ("whole", "embed", "heads?")),
    (r".*blocks/attn/(q|k|v)/(bias|kernel_scale)", ("whole", "heads?")),
    (r".*blocks/attn/o/kernel", ("whole", "heads?", "embed")),
    (r".*blocks/mlp/(fc1|gate|up)/kernel", ("whole", "embed", "mlp")),
    (r".*blocks/mlp/(fc1|gate|up)/(bias|kernel_scale)", ("whole", "mlp")),
    (r".*blocks/mlp/(fc2|down)/kernel", ("whole", "mlp", "embed")),
    (r".*blocks/(attn/o|mlp/(fc2|down))/(bias|kernel_scale)", ("whole", "whole")),
    (r".*blocks/(norm1|norm2)/(scale|bias)", ("whole", "whole")),
    (r".*blocks/(scale1|scale2)", ("whole", "whole")),
    # decoder ends
    (r"(.*/)?embedding", ("vocab?", "embed")),
    (r"(.*/)?lm_head/kernel", ("embed", "vocab?")),
    # tower ends
    (r"(.*/)?patch_embed/kernel", ("whole", "embed")),
    (r"(.*/)?(position_embedding|cls_token|register_tokens)", ("whole", "whole")),
    (r"(.*/)?(patch_embed/bias|(pre_)?norm/(scale|bias))", ("whole",)),
    # projector: the first layer splits its output, the last its input, as in an MLP
    (r"(.*/)?layers/0/kernel", ("embed", "mlp")),
    (r"(.*/)?layers/\d+/kernel", ("mlp", "embed")),
    (r"(.*/)?layers/\d+/bias", ("whole",)),
    # head of the unit regressor: small, the same on every device
    (r"(keys|values)/kernel", ("whole", "whole")),
    (r"(keys|values)/bias", ("whole",)),
    (r"positions|queries|mixing|unit_bias[12]", ("whole", "whole")),
    (r"unit_kernel[12]", ("whole", "whole", "whole")),
)

ACTIVATION_RULES: dict[str, tuple[str, ...]] = {
    "tokens_BT": ("batch", "whole"),
    "pixels_BHWC": ("batch", "whole", "whole", "whole"),
    "patches_BYyXxC": ("batch", "whole", "whole", "whole", "whole", "whole"),  # X patches across, of x columns each
    "features_BND": ("batch", "whole", "whole"),
    "features_BMND": ("batch", "whole", "whole", "whole"),
    "residual_BTD": ("batch", "whole", "whole"),
    "heads_BTHh": ("batch", "whole", "heads?", "whole"),
    "kv_heads_BSKh": ("batch", "whole", "kv_heads?", "whole"),
    "mlp_BTF": ("batch", "whole", "mlp"),
    "logits_BTV": ("batch", "whole", "vocab?"),
    "scores_NPC": ("batch?", "vocab?", "whole"),  # rows and tokens in one axis; P is how often the vocabulary is split
    "mean_PNE": ("vocab?", "batch?", "whole"),
}


def logical_axes(path: str) -> tuple[str, ...]:
    """The logical axes of the parameter at `path`; raises ExpllmError if no rule knows it."""
    for pattern, axes in PARAM_RULES:
        if re.fullmatch(pattern, path):
            return axes
    raise ExpllmError(
        f"no sharding rule for the parameter {path!r}", "add a rule to PARAM_RULES in parallel/sharding.py"
    )


def partition_spec(path: str, shape: tuple[int, ...], mesh: Mesh | None = None) -> PartitionSpec:
    """How the parameter at `path` is split over the mesh.

    Args:
      path: "/"-joined parameter path.
      shape: its shape.
      mesh: if given, sizes are checked against it: an axis whose rule says "?" stays whole where it does not divide.

    Raises:
      ExpllmError: no rule, a rule of another rank, or a size that does not divide and may not stay whole.
    """
    return _spec(f"parameter {path!r}", logical_axes(path), shape, None if mesh is None else dict(mesh.shape))


def _spec(what: str, axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mapping[str, int] | None) -> PartitionSpec:
    if len(axes) != len(shape):
        raise ExpllmError(
            f"the sharding rule {axes} of {what} has {len(axes)} axes, its shape {tuple(shape)} has {len(shape)}",
            "correct the rule in parallel/sharding.py",
        )
    entries: list[tuple[str, ...] | str | None] = []
    for name, size in zip(axes, shape, strict=True):
        mesh_axes = LOGICAL_AXES[name.removesuffix("?")]
        devices = _devices(mesh_axes, mesh or {})
        if size % devices and not name.endswith("?"):
            raise ExpllmError(
                f"{what}: axis {name!r} of size {size} does not divide over {devices} devices ({', '.join(mesh_axes)})",
                "choose mesh sizes that divide it",
            )
        whole = not mesh_axes or size % devices
        entries.append(None if whole else mesh_axes[0] if len(mesh_axes) == 1 else mesh_axes)
    return PartitionSpec(*entries)


def _devices(mesh_axes: tuple[str, ...], mesh: Mapping[str, int]) -> int:
    """Over how many devices these axes split; 1 where there is no mesh."""
    return math.prod(mesh[axis] for axis in mesh_axes) if mesh else 1


def param_shardings(params: Mapping[str, jax.Array | jax.ShapeDtypeStruct], mesh: Mesh) -> dict[str, NamedSharding]:
    """The sharding of every parameter, for `jax.jit(..., in_shardings=)`, restoring, or `jax.device_put`."""
    return {path: NamedSharding(mesh, partition_spec(path, leaf.shape, mesh)) for path, leaf in params.items()}


def shard_params(params: Mapping[str, jax.Array], mesh: Mesh) -> dict[str, jax.Array]:
    """The parameters laid out over the mesh by the table. Abstract parameters get their sharding attached instead."""
    shardings = param_shardings(params, mesh)
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[path])
        if isinstance(leaf, jax.ShapeDtypeStruct)
        else _placed(leaf, shardings[path])
        for path, leaf in params.items()
    }


def _placed(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable or not getattr(leaf, "is_fully_addressable", True):
        return jax.device_put(leaf, sharding)
    # Every process holds the whole and places its own part. `device_put` would first send it around to compare.
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: whole[index])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of every array of a batch: the first axis over data and fsdp, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(LOGICAL_AXES["batch"]))


def shards(logical_axis: str, size: int) -> int:
    """Over how many devices of the entered mesh such an axis is split; 1 where it does not divide."""
    mesh = jax.sharding.get_abstract_mesh()
    devices = _devices(LOGICAL_AXES[logical_axis], mesh.shape)
    return devices if size % devices == 0 else 1


def constrain(x: jax.Array, name: str) -> jax.Array:
    """Pins the layout of an activation, by its name in ACTIVATION_RULES, to the mesh that `jax.set_mesh` entered.

    On a single device there is nothing to pin, and no mesh is needed. With several devices and no mesh it raises: the
    constraint would otherwise be skipped without a word, and the program would run unsharded.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        if jax.device_count() > 1:
            raise ExpllmError(
                f"{jax.device_count()} devices and no mesh, so {name!r} cannot be laid out",
                "run inside `with jax.set_mesh(make_mesh(MeshConfig())):`",
            )
        return x
    spec = activation_spec(name, x.shape)
    return jax.sharding.reshard(x, spec) if is_explicit() else jax.lax.with_sharding_constraint(x, spec)


def reshaped(x: jax.Array, shape: tuple[int, ...], name: str) -> jax.Array:
    """`x.reshape(shape)`, laid out as the activation of that name; no size may be -1."""
    if is_explicit():
        return jnp.reshape(x, shape, out_sharding=activation_spec(name, shape))
    return constrain(x.reshape(shape), name)


def activation_spec(name: str, shape: tuple[int, ...]) -> PartitionSpec:
    """How the activation of that name and shape lies on the mesh that `jax.set_mesh` entered.

    Raises ExpllmError as `partition_spec` does.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return _spec(f"activation {name!r}", ACTIVATION_RULES[name], shape, mesh.shape)


def gather_stored(weight: jax.Array, path: str) -> jax.Array:
    """A weight of one layer as it is used: whole but for its split over `tensor`, since fsdp shares out only storage.

    Said here and not left to the compiler, which would take products apart into rings of small exchanges that move 9/8
    of every weight, and again for the backward pass what rematerialisation has just brought. The gradient goes the way
    back: it is summed over, and shared out to, the devices that store the weight.

    Args:
      weight: in the dtype that it is used in, so that no more is moved than is needed.
      path: as in PARAM_RULES; of a stack of layers, the axes behind the first are this weight's.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size == 1 or mesh.empty or mesh.explicit_axes:
        return weight
    axes = logical_axes(path)[-weight.ndim :]
    stored = _spec(f"parameter {path!r}", axes, weight.shape, mesh.shape)
    used = tuple(None if entry == "fsdp" else entry for entry in stored)
    return _gathered(weight, stored, PartitionSpec(*used))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(weight: jax.Array, stored: PartitionSpec, used: PartitionSpec) -> jax.Array:
    return jax.lax.with_sharding_constraint(weight, used)


def _gather(weight: jax.Array, stored: PartitionSpec, used: PartitionSpec) -> tuple[jax.Array, None]:
    return jax.lax.with_sharding_constraint(weight, used), None


def _scatter(stored: PartitionSpec, used: PartitionSpec, _: None, by_weight: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(by_weight, stored),)


_gathered.defvjp(_gather, _scatter)


def is_explicit() -> bool:
    """Whether the axes of the entered mesh are explicit."""
    return bool(jax.sharding.get_abstract_mesh().explicit_axes)


def explicit_layout(x: jax.Array) -> NamedSharding | None:
    """For `out_sharding=` of what is made to go with x: its layout, where that is part of its type."""
    return jax.typeof(x).sharding if is_explicit() else None


def gathered(weight: jax.Array) -> jax.Array:
    """A weight as it is used: whole but for its split over `tensor`, since fsdp shares out only its storage.

    Its gradient takes the way back: it is summed over, and shared out to, the devices that store the weight. For
    explicit axes, where the weight's type says how it is stored; over automatic ones it does nothing, and the layers'
    kernels go through `gather_stored`.
    """
    if not is_explicit():
        return weight
    kept = (entry if entry in LOGICAL_AXES["heads"] else None for entry in jax.typeof(weight).sharding.spec)
    return jax.sharding.reshard(weight, PartitionSpec(*kept))


def product(x: jax.Array, weight: jax.Array, like: jax.Array | None = None) -> jax.Array:
    """x (..., inputs) @ weight (inputs, outputs), the weight gathered for it.

    The result is laid out as `like`, or else as x and the outputs of the weight are: where inputs are split, the parts
    of their sum are added up.
    """
    if not is_explicit():
        return x @ weight
    weight = gathered(weight)
    spec = PartitionSpec(*jax.typeof(x).sharding.spec[:-1], jax.typeof(weight).sharding.spec[-1])
    return jnp.matmul(x, weight, out_sharding=spec if like is None else jax.typeof(like).sharding.spec)


def automatic(function: Callable[..., Result], out: Any) -> Callable[..., Result]:
    """The function with axes that are automatic inside it, and results laid out as `out` (PartitionSpecs) says.

    For gathers, sorting, and what is better left to the compiler. It takes arrays, or None, by position only.
    """
    return jax.sharding.auto_axes(function, out_sharding=out) if is_explicit() else function


def lookup(table_VD: jax.Array, ids_BT: jax.Array) -> jax.Array:
    """Rows of a table, (B, T, D), as a residual activation; an id outside of the table gives NaN."""

    def look_up(table_VD: jax.Array, ids_BT: jax.Array) -> jax.Array:
        return jnp.take(table_VD, ids_BT, axis=0, mode="fill", fill_value=jnp.nan)

    if not is_explicit():
        return look_up(table_VD, ids_BT)
    out = activation_spec("residual_BTD", (*ids_BT.shape, table_VD.shape[1]))
    return automatic(look_up, out)(gathered(table_VD), ids_BT)


def taken(x: jax.Array, where_BS: jax.Array) -> jax.Array:
    """From every row b of x (B, T, ...) the entries where_BS[b], (B, S, ...); NaN for one that is not there."""

    def take(x: jax.Array, where_BS: jax.Array) -> jax.Array:
        where = where_BS.reshape(*where_BS.shape, *[1] * (x.ndim - 2))
        return jnp.take_along_axis(x, where, 1, mode="fill")

    name = "tokens_BT" if x.ndim == 2 else "residual_BTD"
    return automatic(take, activation_spec(name, (*where_BS.shape, *x.shape[2:])))(x, where_BS)
