"""The programs of a run, ready to be compiled: the train step of `train`, and the generation of `infer`.

Nothing is computed and no memory is taken: every argument is a shape with the sharding that it has in a real run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from expllm_jax.fit.memory import device_bytes
from expllm_jax.fit.request import FitRequest
from expllm_jax.infer.generate import Prompts, prefill
from expllm_jax.infer.token_loop import advance
from expllm_jax.models import AbstractParams, LoRAConfig, abstract, merge, select
from expllm_jax.parallel import MeshConfig, batch_sharding, make_mesh, shard_params
from expllm_jax.records.augment_draws import Column
from expllm_jax.train import TrainState, build_optimizer, make_train_step, state_shardings

_UPDATES = 1000  # of the schedule; it is arithmetic on one number and changes nothing here


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A program in the compiler's language, and what its arguments are for."""

    name: str
    lowered: jax.stages.Lowered
    categories: dict[str, int]  # bytes of one device: the arguments, and what lies beside them
    beside: int = 0  # of these, those of arrays that are kept in memory meanwhile, but are no arguments


def mesh_of(request: FitRequest, devices: Sequence[Any]) -> Mesh:
    """The mesh of the run, over the devices of its topology."""
    return make_mesh(MeshConfig(*request.mesh), devices)


def programs(request: FitRequest, mesh: Mesh) -> Iterator[tuple[str, Callable[..., Any]]]:
    """(name, function that lowers it) of every program of the request, in the order in which they run.

    The function takes what `jax.stages.Compiled.output_shardings` says of the program before it, and returns Lowered.
    """
    if request.task == "train":
        yield "update", lambda _: _update(request, mesh)
        return
    decoding = _Decoding(request, mesh)
    yield "encode", lambda _: decoding.encode()
    yield "prefill", decoding.prefill
    yield "generate", decoding.generate


def _update(request: FitRequest, mesh: Mesh) -> Lowered:
    graphdef, params = abstract(request.model)
    trainable, frozen = select(params, request.trainable)
    optimizer = build_optimizer(request.optimizer, _UPDATES)
    # As `create_state` makes it: what trains is float32.
    master = {path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for path, leaf in trainable.items()}
    shapes = jax.eval_shape(lambda p: TrainState(jnp.zeros((), jnp.int32), p, optimizer.init(p), {}), master)
    shardings = state_shardings(shapes, optimizer, mesh)
    with jax.set_mesh(mesh):
        state = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )
        frozen = shard_params(frozen, mesh)
        batch = _batch(request, mesh)
        step = make_train_step(
            graphdef,
            optimizer,
            supervised=request.supervised,
            accumulate=request.accumulate,
            normalisation=request.normalisation,
        )
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
        lowered = jitted.lower(state, frozen, batch, jax.ShapeDtypeStruct((), jnp.uint32))
    categories = {
        "frozen weights": device_bytes(frozen),
        "trained weights": device_bytes(state.params),
        "optimiser": device_bytes(state.opt_state),
        "batch": 2 * device_bytes(batch),  # the next one is sent to the devices meanwhile
    }
    return Lowered("update", lowered, categories, beside=device_bytes(batch))


def _batch(request: FitRequest, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """What `records.batches` yields for an update, laid out as `train.validation.device_batch` does."""
    rows, sharding = request.rows * request.accumulate * request.shards, batch_sharding(mesh)

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)

    tokens = array(jnp.int32, request.row_length)
    batch = {"tokens": tokens, "positions": tokens, "segments": tokens}
    batch["loss_weights"] = array(jnp.float32, request.row_length)
    size, pictures = request.picture_size, request.pictures
    if request.picture_input == "features":
        down, across = request.model.vision.grid(size, size)
        return batch | {"features": array(jnp.float16, pictures, down * across, request.model.vision_width)}
    if request.picture_input == "pixels":
        return batch | {"pixels": array(jnp.float32, pictures, size, size, 3)}
    drawn = array(jnp.float32, pictures, len(Column))
    return batch | {"pictures": array(jnp.uint8, pictures, size, size, 3), "draws": drawn}


class _Decoding:
    """The three programs of `infer.Predictor`: the tower, the prompts, and the loop over new tokens."""

    def __init__(self, request: FitRequest, mesh: Mesh) -> None:
        self._request, self._mesh = request, mesh
        plain = dataclasses.replace(request.model, vision_lora=LoRAConfig(), decoder_lora=LoRAConfig())
        self._graphdef, shapes = abstract(plain)  # adapters are folded in before the first answer
        self._params: AbstractParams = shard_params(shapes, mesh)
        self._turn_and_row: Any = None

    def encode(self) -> Lowered:
        pixels = self._rows(jnp.float32, self._request.picture_size, self._request.picture_size, 3)
        with jax.set_mesh(self._mesh):
            tower = jax.jit(lambda params, pixels: merge(self._graphdef, params).encode(pixels))
            lowered = tower.lower(self._params, pixels)
        return self._lowered("encode", lowered, {"batch": pixels}, uses="vision/")

    def prefill(self, before: Any) -> Lowered:
        request = self._request
        tokens = self._rows(jnp.int32, request.prompt_tokens)
        down, across = request.model.vision.grid(request.picture_size, request.picture_size)
        features = self._rows(jnp.float32, 1, down * across, request.model.vision_width)
        prompts = Prompts(tokens, tokens, tokens)
        with jax.set_mesh(self._mesh):
            lowered = prefill.lower(
                self._graphdef, self._params, prompts, features, request.new_tokens, 0, by_slot=False
            )
        self._turn_and_row = lowered.out_info
        return self._lowered("prefill", lowered, {"batch": (prompts, features)}, uses=("projector/", "decoder/"))

    def generate(self, before: Any) -> Lowered:
        turn, row = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            self._turn_and_row,
            before,
        )
        number = jax.ShapeDtypeStruct((), jnp.int32)
        with jax.set_mesh(self._mesh):
            lowered = advance.lower(
                self._graphdef, self._params, None, (), row, turn, until=number, idle=number, eos=2, pad=0
            )
        others = {"keys and values": turn.cache, "batch": (turn._replace(cache=None), row)}
        return self._lowered("generate", lowered, others, uses="decoder/")

    def _rows(self, dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self._request.batch, *shape), dtype, sharding=batch_sharding(self._mesh))

    def _lowered(
        self, name: str, lowered: jax.stages.Lowered, others: dict[str, Any], uses: str | tuple[str, ...]
    ) -> Lowered:
        """`uses`: how the paths of the parameters begin that the program reads; `jax.jit` drops the others."""
        weights = device_bytes(self._params)
        read = device_bytes({path: leaf for path, leaf in self._params.items() if path.startswith(uses)})
        categories = {"weights": weights} | {key: device_bytes(tree) for key, tree in others.items()}
        return Lowered(name, lowered, categories, beside=weights - read)
