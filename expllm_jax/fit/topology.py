"""TPU slices by name: "v5e:2x4" says how the chips stand, "v5e-8" how many there are.

A number counts what Google's accelerator types count. v5e (`v5litepod-8`) and v6e: chips. v4, v5p and tpu7x:
TensorCores, of which a chip has two, so that v5p-8 is four chips in 2x2x1. Which shape belongs to a number is that of
Google's tables (cloud.google.com/tpu/docs, "TPU configurations"); what is printed is always the shape.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re

from expllm_jax.errors import ExpllmError
from expllm_jax.parallel import ACCELERATORS, Accelerator

Shape = tuple[int, ...]

_SQUARES: tuple[Shape, ...] = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES: tuple[Shape, ...] = (
    (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 12), (8, 8, 16),
    (8, 16, 16), (12, 16, 16), (16, 16, 16), (16, 16, 24),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Generation:
    """How slices of one kind of TPU are named and built."""

    shapes: tuple[Shape, ...]  # one for every number of chips
    cores_named: int  # TensorCores of a chip, where the number in a name counts them; 1 where it counts chips
    devices: int = 1  # of a chip, as JAX sees it
    most_chips: int = 256  # of a slice

    def allows(self, shape: Shape) -> bool:
        """Whether chips can stand so: a shape of the table, or a larger torus whose sides are multiples of 4."""
        if shape in self.shapes:
            return True
        blocks = len(shape) == len(self.shapes[0]) == 3 and all(side and side % 4 == 0 for side in shape)
        return blocks and list(shape) == sorted(shape) and math.prod(shape) <= self.most_chips


_GENERATIONS = {
    "v4": _Generation(_CUBES, cores_named=2, most_chips=4096),
    "v5e": _Generation(_SQUARES, cores_named=1),
    "v5p": _Generation(_CUBES, cores_named=2, most_chips=8960),
    "v6e": _Generation(_SQUARES, cores_named=1),
    "tpu7x": _Generation(_CUBES, cores_named=2, devices=2, most_chips=9216),
}
_OTHER_NAMES = {"v5litepod": "v5e", "v5lite": "v5e", "v7x": "tpu7x", "v7": "tpu7x", "v6": "v6e", "trillium": "v6e"}


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or several equal slices."""

    generation: str  # name of the accelerator: "v5e"
    shape: Shape  # chips along each axis of the torus
    slices: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))

    @property
    def name(self) -> str:
        """What the compiler calls one slice: "v5e:2x4"."""
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """Of all slices together."""
        return math.prod(self.shape) * self.slices

    @property
    def devices_per_slice(self) -> int:
        """As JAX counts them: those of TPU7x are half a chip."""
        return math.prod(self.shape) * _GENERATIONS[self.generation].devices

    @property
    def devices_per_host(self) -> int:
        """Hosts have four chips, or fewer where the slice has no more."""
        return min(4 * _GENERATIONS[self.generation].devices, self.devices_per_slice)

    @property
    def devices(self) -> int:
        """Of all slices together."""
        return self.devices_per_slice * self.slices

    @property
    def accelerator(self) -> Accelerator:
        """What one device can do."""
        return ACCELERATORS[self.generation]

    def __str__(self) -> str:
        halves = f", {self.devices} devices" if self.devices != self.chips else ""
        times = f"{self.slices} x " if self.slices > 1 else ""
        return f"{times}{self.name} ({self.chips} chip{'s' * (self.chips > 1)}{halves})"


def parse_topology(text: str, slices: int = 1) -> Topology:
    """The topology that `text` names: "v5e:2x4", "v5e-8" or "v5litepod-8"; "2xv5e-256" are two slices.

    Raises ExpllmError with the nearest names that exist; nothing is asked of the compiler.
    """
    if slices < 1:
        raise ExpllmError(f"{slices} slices", "use 1 or more")
    name = text.strip().lower()
    if several := re.fullmatch(r"(\d+)\s*[x×]\s*([a-z].*)", name):
        if slices != 1:
            raise ExpllmError(f"the topology '{text}' names a number of slices, and {slices} are asked for as well",
                              "give one of the two")  # fmt: skip
        slices, name = int(several[1]), several[2]
        if slices < 1:
            raise ExpllmError(f"the topology '{text}' has no slice", "use 1 or more")
    found = re.fullmatch(r"([a-z0-9]+?)[:-](\d+(?:x\d+)*)", name)
    generation = _OTHER_NAMES.get(found[1], found[1]) if found else ""
    if not found or generation not in _GENERATIONS:
        raise ExpllmError(f"there is no topology '{text}'", f"did you mean {_nearest_names(name)}?")
    shape = tuple(map(int, found[2].split("x")))
    kind = _GENERATIONS[generation]
    if len(shape) == 1:
        return Topology(generation, _shape_of_size(text, generation, shape[0]), slices)
    if not kind.allows(shape):
        nearest = _nearest_shapes(kind, math.prod(shape))
        raise ExpllmError(
            f"there is no topology '{text}'",
            f"did you mean {_or(f'{generation}:' + 'x'.join(map(str, one)) for one in nearest)}?",
        )
    return Topology(generation, shape, slices)


def _shape_of_size(text: str, generation: str, size: int) -> Shape:
    kind = _GENERATIONS[generation]
    for shape in kind.shapes:
        if math.prod(shape) * kind.cores_named == size:
            return shape
    nearest = _nearest_shapes(kind, max(1, size // kind.cores_named))
    sizes = (f"{generation}-{math.prod(shape) * kind.cores_named}" for shape in nearest)
    counted = "the number counts TensorCores, two a chip" if kind.cores_named == 2 else "the number counts chips"
    raise ExpllmError(f"there is no topology '{text}' ({counted})", f"did you mean {_or(sizes)}?")


def _nearest_shapes(kind: _Generation, chips: int) -> list[Shape]:
    by_distance = sorted(kind.shapes, key=lambda shape: abs(math.log(max(chips, 1) / math.prod(shape))))
    return sorted(by_distance[:3], key=math.prod)


def _nearest_names(name: str) -> str:
    generation = re.match(r"[a-z0-9]*", name)[0]
    close = difflib.get_close_matches(generation, _GENERATIONS, 2, cutoff=0.3) or list(_GENERATIONS)
    return _or(f"{one}:{'x'.join(map(str, _GENERATIONS[one].shapes[2]))}" for one in close)


def _or(names: object) -> str:
    *rest, last = names
    return f"{', '.join(rest)} or {last}" if rest else last


def larger(topology: Topology) -> Topology | None:
    """The next larger slice of the same kind, twice as many chips or a little more; None if there is none."""
    chips = math.prod(topology.shape)
    for shape in _GENERATIONS[topology.generation].shapes:
        if math.prod(shape) >= 2 * chips and math.prod(shape) % chips == 0:
            return dataclasses.replace(topology, shape=shape)
    return None
