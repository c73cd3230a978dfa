"""What is asked of the compiler, and what it answers: plain values that travel as JSON between two processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.fit.topology import Topology
from expllm_jax.models import PAPER_TRAINABLE, ExpLLMConfig
from expllm_jax.train import OptimizerConfig

TASKS = ("train", "decode")
PICTURE_INPUTS = ("pixels", "pictures", "features")  # names of a batch's arrays, see `train.step`
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class FitRequest:
    """One update, or the generation of one batch, on one topology.

    A *device* is what JAX calls one: a chip, but for TPU7x, whose chips are two. The devices of one `tensor` group
    compute the same rows, so that an update has `rows` x data x fsdp of them.
    """

    model: ExpLLMConfig
    topology: Topology
    mesh: tuple[int, int, int]  # sizes of data, fsdp and tensor
    task: str = "train"
    trainable: tuple[str, ...] = PAPER_TRAINABLE
    optimizer: OptimizerConfig = OptimizerConfig()
    rows: int = 1  # of an update, that a device computes at a time
    accumulate: int = 1  # parts of an update, each with so many rows
    row_length: int = 2048  # tokens of a row
    pictures: int = 6  # of a row, at most
    supervised: int = 480  # tokens of a row with a loss, at most
    picture_size: int = 224  # pixels a side
    picture_input: str = "pixels"  # float32 pictures; "pictures": augmented on the device; "features": of a cache
    normalisation: str = "clip"
    batch: int = 64  # prompts that are answered at once (task "decode")
    prompt_tokens: int = 384  # of the longest prompt, with its one picture
    new_tokens: int = 256  # room for an answer
    compiler_options: tuple[str, ...] = ()  # "key=value"

    def __post_init__(self) -> None:
        for name in ("mesh", "trainable", "compiler_options"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, allowed in (("task", TASKS), ("picture_input", PICTURE_INPUTS)):
            if getattr(self, name) not in allowed:
                raise ExpllmError(f"{name} is {getattr(self, name)!r}", f"use one of: {', '.join(allowed)}")
        for name in ("rows", "accumulate", "row_length", "pictures", "supervised", "batch", "prompt_tokens",
                     "new_tokens"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ExpllmError(f"{name} is {getattr(self, name)}", "use 1 or more")

    @property
    def shards(self) -> int:
        """Over how many groups of devices the batch is split."""
        return self.mesh[0] * self.mesh[1]

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FitRequest:
        """Raises KeyError or TypeError for a field that is missing or unknown, ExpllmError for a value that is none."""
        groups = {
            "model": ExpLLMConfig.from_json(values["model"]),
            "topology": Topology(**values["topology"]),
            "optimizer": OptimizerConfig(**values["optimizer"]),
        }
        return cls(**{**values, **groups})


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one kind of collective moves in a step."""

    kind: str  # "all-gather", "reduce-scatter", …
    network: str  # "ici", within a slice; "dcn", between slices
    bytes: float  # of one device, a step
    count: float  # times a step


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of one program. All bytes are of one device."""

    program: str  # "update"; "encode", "prefill" and "generate" of decoding
    fits: bool
    peak_bytes: int  # at the moment when most is in use; of a program that does not fit: what it would take
    limit_bytes: int  # that the compiler lets a program use
    categories: Mapping[str, int]  # by what it is for; adds up to peak_bytes
    compile_seconds: float  # tracing and compiling
    program_bytes: int = 0  # of the machine code
    traffic: tuple[Traffic, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "traffic", tuple(Traffic(**t) if isinstance(t, dict) else t for t in self.traffic))

    @property
    def headroom_bytes(self) -> int:
        """What is left; below 0: what is missing."""
        return self.limit_bytes - self.peak_bytes


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of one request."""

    request: FitRequest
    programs: tuple[Compiled, ...]

    @property
    def largest(self) -> Compiled:
        """The program that decides: the first that does not fit, else the one that takes most."""
        return next((one for one in self.programs if not one.fits), max(self.programs, key=lambda one: one.peak_bytes))

    @property
    def fits(self) -> bool:
        """Whether all programs do."""
        return all(one.fits for one in self.programs)

    @property
    def compile_seconds(self) -> float:
        """Of all programs together."""
        return sum(one.compile_seconds for one in self.programs)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` is the inverse."""
        return {"request": self.request.to_json(), "programs": [dataclasses.asdict(one) for one in self.programs]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Answer:
        """Raises KeyError or TypeError for a field that is missing or unknown."""
        return cls(FitRequest.from_json(values["request"]), tuple(Compiled(**one) for one in values["programs"]))
