"""What a training run is asked to do, and which of it may change when the run goes on."""

from __future__ import annotations

import dataclasses

from expllm_jax.errors import ExpllmError
from expllm_jax.models import PAPER_TRAINABLE
from expllm_jax.parallel import MeshConfig
from expllm_jax.records import AugmentConfig, PackingConfig, RowSource, order_of
from expllm_jax.train.optimizer import OptimizerConfig

AUGMENT_ON = ("off", "host", "device", "auto")
NON_FINITE = ("raise", "skip")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run. Give `steps` or `epochs`."""

    steps: int = 0  # updates; 0: as many as `epochs` take
    epochs: int = 0  # passes over the records; 0: until `steps`
    batch: int = 32  # records per update, over all devices
    accumulate: int = 1  # parts that a batch is computed in, one after the other; divides batch
    # Most rows that a device computes at a time; 0: all. More are computed in parts, whose number is then chosen.
    rows_per_device: int = 0
    row_length: int = 0  # tokens of a row without packing; 0: the longest row, rounded up to a multiple of 16
    packing: PackingConfig = PackingConfig()  # several records in a row
    augment: str = "off"  # "off"; "host", by its threads; "device", in the step; "auto", where it is faster
    augmentation: AugmentConfig = AugmentConfig()  # what is done to pictures if `augment` is not off
    seed: int = 0  # of the order of the records and of dropout; 0 to 2³² - 1
    trainable: tuple[str, ...] = PAPER_TRAINABLE  # regular expressions on parameter paths; what none matches is frozen
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    compiler_options: tuple[str, ...] = ()  # "key=value", for the compiler of the update; an unknown key is an error
    threads: int = 2  # that read, decode and augment ahead, of each process
    workers: int = 0  # processes that do so, each with its threads; 0: the trainer's own
    log_every: int = 1  # updates between lines of metrics.jsonl
    checkpoint_every: int = 100  # updates between checkpoints; the last one is always saved
    keep: int = 2  # newest checkpoints that stay
    checkpoint_dir: str = ""  # where they go, such as gs://bucket/run; nothing: `checkpoints/` of the run folder
    validate_every: int = 0  # updates between measurements of the validation loss; 0: none
    keep_best: int = 0  # checkpoints with the lowest validation loss that stay, too
    non_finite: str = "raise"  # a loss that is no number: "raise" ends the run, "skip" leaves the update out
    # Seconds without a finished update after which a process ends itself, to be started again; the first update, which
    # compiles, has four times as many. 0: never.
    stuck_after: float = 900.0
    profile: tuple[int, ...] = ()  # first and last update that the profiler records; nothing: none

    def __post_init__(self) -> None:
        for name in ("trainable", "compiler_options", "profile"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, smallest in (
            ("steps", 0), ("epochs", 0), ("batch", 1), ("accumulate", 1), ("row_length", 0), ("seed", 0),
            ("log_every", 1), ("checkpoint_every", 1), ("keep", 1), ("validate_every", 0), ("threads", 0),
            ("workers", 0), ("rows_per_device", 0), ("keep_best", 0), ("stuck_after", 0),
        ):  # fmt: skip
            if getattr(self, name) < smallest:
                raise ExpllmError(f"{name} is {getattr(self, name)}", f"use {smallest} or more")
        if (self.steps > 0) == (self.epochs > 0):
            raise ExpllmError(f"steps is {self.steps} and epochs is {self.epochs}", "set exactly one of them")
        if self.batch % self.accumulate:
            raise ExpllmError(f"a batch of {self.batch} does not divide into {self.accumulate} parts", "change either")
        if self.rows_per_device and self.accumulate > 1:
            raise ExpllmError(
                f"rows_per_device is {self.rows_per_device}, which chooses the number of parts, and accumulate is "
                f"{self.accumulate}",
                "set one of them",
            )
        for name, allowed in (("augment", AUGMENT_ON), ("non_finite", NON_FINITE)):
            if getattr(self, name) not in allowed:
                raise ExpllmError(f"{name} is {getattr(self, name)!r}", f"use one of: {', '.join(allowed)}")
        for option in self.compiler_options:
            key, equals, value = option.partition("=")
            if not (key and equals and value):
                raise ExpllmError(f"compiler_options has {option!r}", "write each as key=value")
        if self.profile and not (len(self.profile) == 2 and 1 <= self.profile[0] <= self.profile[1]):
            raise ExpllmError(f"profile is {self.profile}", "give the first and the last update, for example (10, 12)")
        if self.keep_best and not self.validate_every:
            raise ExpllmError(f"keep_best is {self.keep_best}, but validate_every is 0", "set validate_every, too")
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
    "log_every", "checkpoint_every", "keep", "keep_best", "validate_every", "mesh", "rows_per_device",
    "compiler_options", "packing", "threads", "workers", "augment", "stuck_after", "profile",
)  # fmt: skip
