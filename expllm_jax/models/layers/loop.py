"""Running a stack of equal layers: scanned or unrolled, with a named rematerialisation policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from expllm_jax.errors import ExpllmError
from expllm_jax.parallel import SAVED_ATTENTION

Carry = TypeVar("Carry")

# Under this name "offload" keeps what enters a layer.
_RESIDUAL = "residual"

# What the backward pass keeps instead of computing again. "none" keeps everything (no rematerialisation); "full" keeps
# what enters a layer; "offload" keeps just that as well, but in the host's memory, from where it is fetched in time.
REMAT_POLICIES: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(SAVED_ATTENTION),
    ),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_RESIDUAL],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def unroll_count(unroll: int) -> int:
    """A configuration's `unroll` as a number: True and False, as files of earlier versions have them, are 0 and 1.

    Raises ExpllmError for a number that is none.
    """
    if isinstance(unroll, bool):
        return 0 if unroll else 1
    if not isinstance(unroll, int) or unroll < 0:
        raise ExpllmError(f"unroll is {unroll!r}", "give the layers of one step of the loop (1, 2, ...), or 0 for all")
    return unroll


def run_layers(
    step: Callable[[Carry, Any], Carry], carry: Carry, layers: Any, *, depth: int, unroll: int, remat: str
) -> Carry:
    """Folds `step(carry, layer)` over the leading axis, of size `depth`, of every leaf of `layers`.

    Args:
      step: one layer; pure.
      carry: what enters the first layer, a pytree.
      layers: a pytree of stacked parameters.
      depth: how many layers.
      unroll: layers that one step of the loop computes. 1 compiles one layer whatever the depth is; 0 (or `depth`, or
        more) leaves no loop at all, so that the compiler sees which layer it is in, for a program as long as the stack
        is deep.
      remat: a key of REMAT_POLICIES.
    """
    looped = 0 < unroll < max(depth, 2)
    if remat != "none":
        layer = _with_named_input(step) if remat == "offload" else step
        # Inside a scan the loop itself already keeps XLA from merging the recomputation with the first computation.
        step = jax.checkpoint(layer, policy=REMAT_POLICIES[remat], prevent_cse=not looped)
    if looped:
        return lax.scan(lambda c, layer: (step(c, layer), None), carry, layers, length=depth, unroll=unroll)[0]
    for index in range(depth):
        carry = step(carry, jax.tree.map(lambda leaf, i=index: lax.index_in_dim(leaf, i, keepdims=False), layers))
    return carry


def _with_named_input(step: Callable[[Carry, Any], Carry]) -> Callable[[Carry, Any], Carry]:
    """The layer, whose input a rematerialisation policy can speak of: what enters from outside it would always keep."""
    return lambda carry, layer: step(jax.tree.map(lambda x: checkpoint_name(x, _RESIDUAL), carry), layer)
