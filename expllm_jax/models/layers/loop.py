"""Running a stack of equal layers: scanned or unrolled, with a named rematerialisation policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import lax

from expllm_jax.parallel import SAVED_ATTENTION

Carry = TypeVar("Carry")

# What the backward pass keeps instead of computing again. "none" keeps everything (no rematerialisation).
REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(SAVED_ATTENTION),
    ),
}


def run_layers(
    step: Callable[[Carry, Any], Carry], carry: Carry, layers: Any, *, depth: int, unroll: bool, remat: str
) -> Carry:
    """Folds `step(carry, layer)` over the leading axis, of size `depth`, of every leaf of `layers`.

    Scanning compiles one layer whatever the depth is; unrolling lets the compiler see which layer it is in.
    """
    if remat != "none":
        # Inside a scan the loop itself already keeps XLA from merging the recomputation with the first computation.
        step = jax.checkpoint(step, policy=REMAT_POLICIES[remat], prevent_cse=unroll)
    if not unroll:
        return lax.scan(lambda c, layer: (step(c, layer), None), carry, layers, length=depth)[0]
    for index in range(depth):
        carry = step(carry, jax.tree.map(lambda leaf, i=index: lax.index_in_dim(leaf, i, keepdims=False), layers))
    return carry
