"""What a training run is asked to do, and which of it may change when the run goes on."""

from __future__ import annotations

import dataclasses

from expllm_jax.errors import ExpllmError
from expllm_jax.models import PAPER_TRAINABLE
from expllm_jax.parallel import MeshConfig
from expllm_jax.records import AugmentConfig, PackingConfig, RowSource, order_of
from expllm_jax.train.optimizer import OptimizerConfig

AUGMENT_ON = ("off", "host", "device", "auto")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run. Give `steps` or `epochs`."""

    steps: int = 0  # updates; 0: as many as `epochs` take
    epochs: int = 0  # passes over the records; 0: until `steps`
    batch: int = 32  # records per update, over all devices
    accumulate: int = 1  # parts that a batch is computed in, one after the other; divides batch
    row_length: int = 0  # tokens of a row without packing; 0: the longest row, rounded up to a multiple of 16
    packing: PackingConfig = PackingConfig()  # several records in a row
    augment: str = "off"  # "off"; "host", by its threads; "device", in the step; "auto", where it is faster
    augmentation: AugmentConfig = AugmentConfig()  # what is done to pictures if `augment` is not off
    seed: int = 0  # of the order of the records and of dropout; 0 to 2³² - 1
    trainable: tuple[str, ...] = PAPER_TRAINABLE  # regular expressions on parameter paths; what none matches is frozen
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    threads: int = 2  # that read, decode and augment ahead, of each process
    workers: int = 0  # processes that do so, each with its threads; 0: the trainer's own
    log_every: int = 1  # updates between lines of metrics.jsonl
    checkpoint_every: int = 100  # updates between checkpoints; the last one is always saved
    keep: int = 2  # newest checkpoints that stay
    validate_every: int = 0  # updates between measurements of the validation loss; 0: none

    def __post_init__(self) -> None:
        object.__setattr__(self, "trainable", tuple(self.trainable))
        for name, smallest in (
            ("steps", 0), ("epochs", 0), ("batch", 1), ("accumulate", 1), ("row_length", 0), ("seed", 0),
            ("log_every", 1), ("checkpoint_every", 1), ("keep", 1), ("validate_every", 0), ("threads", 0),
            ("workers", 0),
        ):  # fmt: skip
            if getattr(self, name) < smallest:
                raise ExpllmError(f"{name} is {getattr(self, name)}", f"use {smallest} or more")
        if (self.steps > 0) == (self.epochs > 0):
            raise ExpllmError(f"steps is {self.steps} and epochs is {self.epochs}", "set exactly one of them")
        if self.batch % self.accumulate:
            raise ExpllmError(f"a batch of {self.batch} does not divide into {self.accumulate} parts", "change either")
        if self.augment not in AUGMENT_ON:
            raise ExpllmError(f"augment is {self.augment!r}", f"use one of: {', '.join(AUGMENT_ON)}")
        if self.seed >= 2**32:
            raise ExpllmError(f"seed is {self.seed}", "use 0 to 4294967295")
        if not self.trainable:
            raise ExpllmError("trainable is empty, so nothing would train", 'name paths, for example "projector/.*"')

    def total_steps(self, source: RowSource) -> int:
        """Updates of the whole run over the records of `source`; an incomplete last batch is left out."""
        return self.steps or order_of(source).items_per_epoch * self.epochs // self.batch


# Fields that change what is written when and computed where, but not what is learnt: a run may go on with others.
# Another packing keeps the records of every update, but for its window, which is compared.
FREE_FIELDS = (
    "log_every", "checkpoint_every", "keep", "validate_every", "mesh", "packing", "threads", "workers", "augment"
)  # fmt: skip
