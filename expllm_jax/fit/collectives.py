"""What devices exchange in a step, read out of the optimised program of the TPU compiler.

Bytes are those that one device *receives*, by family, n devices in a group:

- all-gather: (n - 1) / n of the result, which is n - 1 times the operand;
- reduce-scatter: (n - 1) / n of the operand;
- all-reduce: 2 (n - 1) / n of the operand, as a reduce-scatter followed by an all-gather moves it;
- all-to-all: (n - 1) / n of the operand;
- collective-permute: the operand.

A group that spans slices is taken to do what is least for the network between them: first inside each slice, then, with
what each device is left with, between slices. It gives two entries, one per network.

The TPU compiler writes one transfer down in several ways, each of which is counted once: `-start` and `-done` pairs; an
asynchronous collective that stands in a fusion with "AsyncCollectiveStart", in those that run meanwhile, and in the one
with "AsyncCollectiveDone"; a reduce-scatter as a fusion "all-reduce-scatter"; a sum between slices as `send` to the
host and `recv` from it; gathers and scatters that are taken apart into a loop of products and permutes. What is not
understood raises an error, because a sum that leaves something out looks like a good one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from expllm_jax.errors import ExpllmError

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """One operation of the program, over one network."""

    kind: str  # one of KINDS
    bytes_per_device: float  # received by one device each time
    count: float  # times a step
    network: str  # "ici", within a slice; "dcn", between slices
    result_bytes: float  # of one device's result, each time
    origin: str  # the operation of the model that it is part of, as the compiler knows it

    @property
    def total_bytes(self) -> float:
        """Received by one device in a step."""
        return self.bytes_per_device * self.count


def collectives(hlo_text: str, devices_per_slice: int, *, unknown_trips: int | None = None) -> list[Collective]:
    """All exchanges of a program.

    Args:
      hlo_text: `compiled.as_text()` of the TPU compiler.
      devices_per_slice: the first so many devices of the mesh are the first slice, and so on.
      unknown_trips: how often a loop is taken to run whose end depends on data, such as that over generated tokens.

    Raises:
      ExpllmError: an operation, a group of devices or a loop is written in a way that is not known here.
    """
    program = _Program(hlo_text)
    return [
        part
        for instruction, times in _reached(program, program.entry, 1.0, unknown_trips)
        for part in _moved(program, instruction, times, devices_per_slice)
    ]


_BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32,
    "s64": 64, "u64": 64, "f8e4m3fn": 8, "f8e5m2": 8, "f8e4m3b11fnuz": 8, "f8e4m3": 8, "f16": 16, "bf16": 16,
    "f32": 32, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_CALLED_LISTS = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
# Other lines within a computation are attributes that hold several, such as a kernel's notes.
_INSTRUCTION = re.compile(r"^  (ROOT )?%[\w.\-]+ = ")
# Attributes of what the hosts add up between slices.
_SUM_BETWEEN_SLICES = (
    '_xla_host_transfer_handler_name="xla_megascale_runtime"', '_xla_megascale_transfer_type="ALL_REDUCE"'
)  # fmt: skip
_REMEDY = "this build of libtpu writes it differently: report it with the program's text"


class _Instruction(NamedTuple):
    computation: str
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        lists = [
            name.strip().lstrip("%") for found in _CALLED_LISTS.findall(self.attributes) for name in found.split(",")
        ]
        return _CALLED.findall(self.attributes) + [name for name in lists if name]

    def attribute(self, name: str) -> str:
        """Whatever follows `name=`; "" if there is none."""
        found = re.search(rf"\b{name}=", self.attributes)
        return self.attributes[found.end() :] if found else ""


class _Program:
    """The computations of a program, by name, and what each holds."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, _Instruction]] = {}
        self.entry = ""
        self.devices = math.prod(
            int(found) for found in re.findall(r"(?:num_partitions|replica_count)=(\d+)", text[: text.find("\n")])
        )
        current: dict[str, _Instruction] | None = None
        for line in text.splitlines():
            if found := _COMPUTATION.match(line):
                name = found[2]
                current = self.computations[name] = {}
                self.entry = name if found[1] else self.entry
            elif current is not None and _INSTRUCTION.match(line):
                instruction = _parse(name, line)
                current[instruction.name] = instruction
        if not self.entry:
            raise ExpllmError("the program has no entry computation", "give the text of a compiled program")
        # Channels of the transfers that are started in one fusion and end in another.
        self.started = {
            _channel(self.computations[name][operand])
            for name, body in self.computations.items()
            for instruction in body.values()
            if _is_start(instruction)
            for operand in instruction.operands
            if _family(self.computations[name][operand])
        }
        self._exchanging: dict[str, bool] = {}

    def exchanges(self, computation: str) -> bool:
        """Whether it, or one that it calls, holds a collective."""
        if computation not in self._exchanging:
            self._exchanging[computation] = any(
                _family(instruction) or any(self.exchanges(name) for name in instruction.called())
                for instruction in self.computations[computation].values()
            )
        return self._exchanging[computation]

    def root(self, computation: str) -> _Instruction:
        return next(instruction for instruction in self.computations[computation].values() if instruction.root)

    def operand(self, instruction: _Instruction, number: int = 0) -> _Instruction:
        return self.computations[instruction.computation][instruction.operands[number]]

    def source(self, instruction: _Instruction) -> _Instruction:
        """Where a value comes from, behind copies."""
        while True:
            if instruction.opcode in ("copy", "bitcast", "copy-start", "copy-done", "convert", "reshape"):
                instruction = self.operand(instruction)
            elif instruction.opcode == "get-tuple-element" and self.operand(instruction).opcode == "tuple":
                instruction = self.operand(self.operand(instruction), int(instruction.attribute("index").split(",")[0]))
            else:
                return instruction


def _parse(computation: str, line: str) -> _Instruction:
    text = line.strip()
    root = text.startswith("ROOT ")
    name, _, rest = text.removeprefix("ROOT ").partition(" = ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    type_, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[opening:closing]))
    if rest[:opening] in ("constant", "parameter"):
        operands = (rest[opening + 1 : closing],)
    return _Instruction(computation, name.lstrip("%"), type_, rest[:opening], operands, rest[closing + 1 :], root)


def _closing(text: str, opening: int) -> int:
    depth = 0
    for found in re.finditer(r"[()]", text[opening:]):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return opening + found.start()
    raise ExpllmError(f"the program's text {text[:120]!r} has an open bracket", _REMEDY)


def _family(instruction: _Instruction) -> str:
    """Which of KINDS an instruction is, or begins; "" if none."""
    opcode = instruction.opcode.removesuffix("-start")
    if opcode in KINDS:
        return opcode
    if all(attribute in instruction.attributes for attribute in _SUM_BETWEEN_SLICES):
        return "all-reduce" if opcode == "send" else ""  # what is received belongs to what is sent
    if opcode in ("collective-broadcast", "ragged-all-to-all", "send", "recv"):
        raise ExpllmError(f"the program's {opcode} {instruction.name} is not understood", _REMEDY)
    return ""


def _is_start(instruction: _Instruction) -> bool:
    return instruction.opcode == "custom-call" and 'custom_call_target="AsyncCollectiveStart"' in instruction.attributes


def _channel(instruction: _Instruction) -> str:
    """What the parts of one transfer have in common. Transfers through the hosts have numbers of their own, which are
    those of other collectives as well."""
    found = re.search(r"\bchannel_id=(\d+)", instruction.attributes)
    alone = found is None or instruction.opcode == "send"
    return f"{instruction.computation}/{instruction.name}" if alone else found[1]


def _reached(
    program: _Program, computation: str, times: float, unknown_trips: int | None
) -> Iterator[tuple[_Instruction, float]]:
    """(collective, how often it runs) of a computation that runs so often, each transfer once."""
    body = program.computations[computation]
    starting = {operand for instruction in body.values() if _is_start(instruction) for operand in instruction.operands}
    for instruction in body.values():
        if _family(instruction):
            if instruction.name in starting or _channel(instruction) not in program.started:
                yield instruction, times
            continue
        if instruction.opcode.startswith("async-") and instruction.opcode != "async-start":
            continue
        called = [name for name in instruction.called() if program.exchanges(name)]
        if not called:
            continue
        if instruction.opcode == "conditional":
            # One of them runs, and data decide which: the one that exchanges most stands for it, so that no bound is
            # too low.
            branches = [list(_reached(program, name, times, unknown_trips)) for name in called]
            yield from max(branches, key=lambda branch: sum(_bytes(one.type) * often for one, often in branch))
            continue
        inside = times * _trips(program, instruction, unknown_trips) if instruction.opcode == "while" else times
        for name in called:
            yield from _reached(program, name, inside, unknown_trips)


def _trips(program: _Program, loop: _Instruction, unknown_trips: int | None) -> float:
    """How often the body of a loop runs."""
    if found := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
        return float(found[1])
    counted = _counted(program, loop)
    if counted is not None:
        return counted
    if unknown_trips is None:
        raise ExpllmError(
            f"how often the loop {loop.name} runs is not known", "say it with unknown_trips, or report it"
        )
    return float(unknown_trips)


def _counted(program: _Program, loop: _Instruction) -> float | None:
    """Trips of `for (i = first; i < end; i += step)` with constants; None for another loop."""
    condition, body = (re.match(r"%?([\w.\-]+)", loop.attribute(name)) for name in ("condition", "body"))
    assert condition is not None and body is not None
    test = program.root(condition[1])
    if test.opcode != "compare" or "direction=LT" not in test.attributes:
        return None
    counter, end = (program.source(program.operand(test, number)) for number in (0, 1))
    if counter.opcode != "get-tuple-element" or end.opcode != "constant":
        return None
    index = int(counter.attribute("index").split(",")[0])
    start, after = program.source(program.operand(loop)), program.source(program.root(body[1]))
    if start.opcode != "tuple" or after.opcode != "tuple":
        return None
    first, grown = program.source(program.operand(start, index)), program.source(program.operand(after, index))
    if first.opcode != "constant" or grown.opcode != "add":
        return None
    terms = [program.source(program.operand(grown, number)) for number in (0, 1)]
    steps = [int(term.operands[0]) for term in terms if term.opcode == "constant"]
    kept = [term for term in terms if term.opcode == "get-tuple-element" and f"index={index}" in term.attributes]
    if len(steps) != 1 or len(kept) != 1 or steps[0] < 1:
        return None
    return float(max(0, -(-(int(end.operands[0]) - int(first.operands[0])) // steps[0])))


def _bytes(type_: str) -> float:
    """Of all arrays of a type."""
    total = 0.0
    for name, sizes in re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", type_):
        if name not in _BITS:
            raise ExpllmError(f"the size of the program's type {name} is not known", _REMEDY)
        total += _BITS[name] / 8 * math.prod(int(size) for size in sizes.split(",") if size)
    return total


def _moved(program: _Program, instruction: _Instruction, times: float, per_slice: int) -> list[Collective]:
    body = program.computations[instruction.computation]
    kind = _family(instruction)
    found = re.search(r'op_name="([^"]*)"', instruction.attributes)
    origin = found[1] if found else instruction.name
    if instruction.opcode == "send":  # by the hosts, between devices of the same place in all slices
        sent, far = _bytes(body[instruction.operands[0]].type), _slices_joined(instruction)
        return [Collective(kind, 2 * sent * (far - 1) / far, times, "dcn", sent, origin)]
    operand = sum(_bytes(body[name].type) for name in instruction.operands)
    if kind == "collective-permute":
        pairs = re.findall(r"\{(\d+),(\d+)\}", instruction.attribute("source_target_pairs").partition("}}")[0] + "}")
        if not pairs:
            raise ExpllmError(f"the partners of {instruction.name} are not understood", _REMEDY)
        far = any(int(source) // per_slice != int(target) // per_slice for source, target in pairs)
        return [Collective(kind, operand, times, "dcn" if far else "ici", operand, origin)]
    if kind == "all-reduce" and "all-reduce-scatter" in instruction.computation:
        kind = "reduce-scatter"
    groups = _groups(instruction, program.devices)
    n = groups.shape[1]
    slices = groups // per_slice
    near = int((slices[0] == slices[0, 0]).sum())  # devices of a group in each slice
    if any((row == first).sum() != near for row in slices for first in set(row.tolist())):
        raise ExpllmError(f"the groups of {instruction.name} lie unevenly over slices", _REMEDY)
    result = {"all-gather": operand * n, "reduce-scatter": operand / n}.get(kind, operand)
    far = n // near
    # What a device receives from those of its own slice, and from the others; see the module's text.
    received = {
        "all-gather": (operand * far * (near - 1), operand * (far - 1)),
        "reduce-scatter": (operand * (near - 1) / near, operand / near * (far - 1) / far),
        "all-reduce": (2 * operand * (near - 1) / near, 2 * operand / near * (far - 1) / far),
        "all-to-all": (operand * (near - 1) / n, operand * (n - near) / n),
    }[kind]
    return [
        Collective(kind, moved, times, network, result, origin)
        for moved, network in zip(received, ("ici", "dcn"), strict=True)
        if moved
    ]


def _slices_joined(instruction: _Instruction) -> int:
    """How many slices add up: 2 for the target "{1,2}x{0:3}", 4 for "{1:4}x{0:3}"; devices stand behind the x."""
    found = re.match(r'"\{(\d+(?::\d+)?(?:,\d+(?::\d+)?)*)\}x', instruction.attribute("_xla_megascale_target"))
    if not found:
        raise ExpllmError(f"the slices that {instruction.name} joins are not understood", _REMEDY)
    spans = [list(map(int, span.split(":"))) for span in found[1].split(",")]
    return sum(span[-1] - span[0] + 1 for span in spans)


_EXPLICIT = re.compile(r"\{(\{[\d,]*\}(?:,\{[\d,]*\})*)?\}")
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"mesh\[([^\]]*)\](?:, device_ids=\(([^{}]*)\))? \{([^}]*)\}")
_MESH_IOTA = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")


def _groups(instruction: _Instruction, devices: int) -> np.ndarray:
    """Devices of every group, [groups, n]."""
    text = instruction.attribute("replica_groups")
    if found := _EXPLICIT.match(text):
        if not found[1]:
            return np.arange(devices)[None]
        groups = [_numbers(group) for group in re.findall(r"\{([\d,]*)\}", found[1])]
        if len({len(group) for group in groups}) == 1:
            return np.array(groups)
    elif found := _IOTA.match(text):
        ids = np.arange(math.prod(_numbers(found[2]))).reshape(_numbers(found[2]))
        return (ids.transpose(_numbers(found[3])) if found[3] else ids).reshape(_numbers(found[1]))
    elif (found := _MESH.match(text)) and (grouped := _mesh_groups(*found.groups())) is not None:
        return grouped
    raise ExpllmError(f"the groups of {instruction.name} are not understood: {text[:80]}", _REMEDY)


def _mesh_groups(mesh: str, order: str | None, wanted: str) -> np.ndarray | None:
    """Groups of devices that differ in the wanted axes of a mesh alone; None if it is written in another way.

    Args:
      mesh: its axes, such as "'axis_0'=4,'axis_1'=2".
      order: which devices stand in it, row by row, such as "[2,4]T(1,0)" or "0,4,1,5"; None: 0, 1, 2, ...
      wanted: names of axes, such as "'axis_0'".
    """
    axes: Mapping[str, int] = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    names = re.findall(r"'([^']+)'", wanted)
    if ",".join(f"'{name}'={size}" for name, size in axes.items()) != mesh or not set(names) <= set(axes):
        return None
    if ",".join(f"'{name}'" for name in names) != wanted:
        return None
    ids = np.arange(math.prod(axes.values()))
    if order is not None:
        if found := _MESH_IOTA.fullmatch(order):
            ids = ids.reshape(_numbers(found[1]))
            ids = ids.transpose(_numbers(found[2])) if found[2] else ids
        elif re.fullmatch(r"\d+(,\d+)*", order) and sorted(_numbers(order)) == ids.tolist():
            ids = np.array(_numbers(order))
        else:
            return None
    kept = [position for position, name in enumerate(axes) if name not in names]
    joined = [list(axes).index(name) for name in names]
    ids = ids.reshape(tuple(axes.values())).transpose(*kept, *joined)
    return ids.reshape(-1, math.prod(axes[name] for name in names))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
