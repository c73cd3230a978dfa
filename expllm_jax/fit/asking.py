"""From an experiment's model and training configuration to what is asked of the compiler."""

from __future__ import annotations

import dataclasses
import math

from expllm_jax.fit.checks import resolve_mesh
from expllm_jax.fit.request import FitRequest
from expllm_jax.fit.topology import Topology
from expllm_jax.models import ExpLLMConfig
from expllm_jax.parallel import MeshConfig
from expllm_jax.train import TrainConfig, check_rows

ROW_LENGTH = 2048  # tokens, where the experiment leaves it open
RECORD_TOKENS = 77  # of a record beside its picture: prompt and answer of a face task, as the packer finds them
SUPERVISED_TOKENS = 80  # of a record, at most in the mean of a row


@dataclasses.dataclass(frozen=True)
class RowShape:
    """What a row holds; 0: what the experiment says, or else what a row of that length usually holds."""

    length: int = 0  # tokens
    pictures: int = 0  # slots
    supervised: int = 0  # tokens with a loss, at most


def train_request(
    model: ExpLLMConfig,
    train: TrainConfig,
    topology: Topology,
    *,
    mesh: MeshConfig | None = None,
    rows: int = 0,
    row: RowShape | None = None,
    picture_size: int = 224,
    normalisation: str = "clip",
    features: bool = False,
) -> FitRequest:
    """One update of a run.

    Args:
      model, train: of the experiment.
      topology: where it is to run.
      mesh: instead of the experiment's; of that one, `data` is spread over the slices where it is 1.
      rows: that a device computes at a time; 0: as many as the experiment's batch takes.
      row: what a row holds.
      picture_size, normalisation: of the pictures.
      features: the tower's features are read from a cache.

    Raises:
      ExpllmError: the mesh does not fit the topology, or the rows of the experiment do not divide over it.
    """
    row = row or RowShape()
    shape = _mesh(train.mesh, mesh, topology)
    shards = shape[0] * shape[1]
    packed = train.packing.on
    length = row.length or (train.packing.row_length if packed else train.row_length)
    length = length or min(ROW_LENGTH, train.packing.longest if packed else model.decoder.max_length)
    image_tokens = model.image_tokens(picture_size, picture_size)
    pictures = row.pictures or (train.packing.pictures if packed else 1)
    pictures = pictures or max(1, length // (image_tokens + RECORD_TOKENS))
    on_device = train.augment in ("device", "auto")  # "auto" is the device on everything but CPUs
    return FitRequest(
        model=model,
        topology=topology,
        mesh=shape,
        trainable=train.trainable,
        optimizer=train.optimizer,
        rows=rows or train.rows_per_device or _rows_of_batch(train, pictures, shards),
        accumulate=train.accumulate,
        row_length=length,
        pictures=pictures,
        supervised=row.supervised or min(length, SUPERVISED_TOKENS * pictures),
        picture_size=picture_size,
        picture_input="features" if features else "pictures" if on_device else "pixels",
        normalisation=normalisation,
        compiler_options=train.compiler_options,
    )


def decode_request(
    model: ExpLLMConfig,
    topology: Topology,
    *,
    mesh: MeshConfig | None = None,
    batch: int = 64,
    prompt_tokens: int = 0,
    new_tokens: int = 256,
    picture_size: int = 224,
) -> FitRequest:
    """Answers to a batch of prompts with one picture each, weights in bfloat16.

    Args:
      model: of the experiment; its adapters are folded in.
      topology: where it is to run.
      mesh: None: every layer over all devices of a slice (`tensor`), slices beside each other.
      batch: prompts at once.
      prompt_tokens: of the longest prompt; 0: the picture and 128 more.
      new_tokens: room for an answer.
      picture_size: pixels a side.
    """
    bfloat16 = {"dtype": "bfloat16", "param_dtype": "bfloat16"}
    model = dataclasses.replace(
        model,
        vision=dataclasses.replace(model.vision, remat="none", **bfloat16),
        decoder=dataclasses.replace(model.decoder, remat="none", **bfloat16),
        projector=dataclasses.replace(model.projector, dtype="bfloat16"),
    )
    image_tokens = model.image_tokens(picture_size, picture_size)
    return FitRequest(
        model=model,
        topology=topology,
        mesh=_mesh(MeshConfig(topology.slices, 1, -1), mesh, topology),
        task="decode",
        batch=batch,
        prompt_tokens=prompt_tokens or image_tokens + 128,
        new_tokens=new_tokens,
        picture_size=picture_size,
    )


def _mesh(usual: MeshConfig, asked: MeshConfig | None, topology: Topology) -> tuple[int, int, int]:
    mesh = asked or usual
    if asked is None and mesh.data == 1 and topology.slices > 1:
        mesh = dataclasses.replace(mesh, data=topology.slices)
    return resolve_mesh(mesh, topology)


def _rows_of_batch(train: TrainConfig, pictures: int, shards: int) -> int:
    """What a device computes at a time of an update of the experiment."""
    parts = shards * train.accumulate
    if train.packing.on and train.packing.rows:
        check_rows(train, shards)
        return train.packing.rows // parts
    return max(1, math.ceil(math.ceil(train.batch / pictures) / parts))
