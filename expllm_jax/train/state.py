"""What changes while training, and is saved every interval: one frozen value."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from expllm_jax.models import Params
from expllm_jax.parallel import param_shardings
from expllm_jax.train.optimizer import Optimizer


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["step", "params", "opt_state", "stats"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree; holds no random key, because dropout is a function of (seed, step)."""

    step: jax.Array  # int32 scalar: updates made so far
    params: Params  # what trains, float32 master values
    opt_state: optax.OptState  # moments of the optimiser, laid out like params
    stats: dict[str, jax.Array]  # running statistics that are no parameters (none in ExpLLM)


def create_state(params: Params, optimizer: Optimizer, mesh: Mesh) -> TrainState:
    """The state before the first update, laid out over `mesh`.

    `params` become float32: in bfloat16, an update smaller than 1/256 of its value would be lost. They are copied,
    so that donating the state leaves the caller's own alone.
    """

    def build(params: Params) -> TrainState:
        master = {path: leaf.astype(jnp.float32) for path, leaf in params.items()}
        return TrainState(jnp.zeros((), jnp.int32), master, optimizer.init(master), {})

    return jax.jit(build, out_shardings=state_shardings(jax.eval_shape(build, params), optimizer, mesh))(params)


def state_shardings(state: TrainState, optimizer: Optimizer, mesh: Mesh) -> TrainState:
    """The sharding of every leaf of a (possibly abstract) state: moments lie where their parameters do."""
    whole = NamedSharding(mesh, PartitionSpec())
    params = param_shardings(state.params, mesh)
    return TrainState(
        step=whole,
        params=params,
        opt_state=optax.tree_utils.tree_map_params(
            optimizer.init, lambda _, sharding: sharding, state.opt_state, params, transform_non_params=lambda _: whole
        ),
        stats=jax.tree.map(lambda _: whole, state.stats),
    )
