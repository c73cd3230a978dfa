"""The README's table: the most rows that the paper's model takes on TPU slices of all kinds and sizes.

Every answer of the compiler is kept in a JSON file as soon as it is known, so that a table which was interrupted goes
on where it was. Delete that file to make the table anew, with another libtpu or after changes to the model.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.files import write_whole
from expllm_jax.fit.asking import RowShape, train_request
from expllm_jax.fit.compiling import TpuCompiler
from expllm_jax.fit.report import rows_per_chip
from expllm_jax.fit.request import GIB, Answer, FitRequest
from expllm_jax.fit.search import Found, most_rows
from expllm_jax.fit.topology import Topology, parse_topology
from expllm_jax.models import PAPER_TRAINABLE, ExpLLMConfig, LoRAConfig, expllm_7b
from expllm_jax.parallel import MeshConfig
from expllm_jax.train import TrainConfig

TOPOLOGIES = ("v5e-4", "v5e-8", "v5e-16", "v5e-64", "v5e-256", "2xv5e-256", "v5p-8", "v5p-64", "v5p-512", "v6e-8",
              "v6e-256", "tpu7x-128")  # fmt: skip
"""Columns of the table, in its order."""
_FIRST = ("v5e-8", "v5e-4", "v5e-16", "v5e-256", "2xv5e-256", "v5p-8", "v6e-8")  # what is compiled before the rest
MODES = ("LoRA", "full")
ROW = RowShape(length=2048, pictures=6, supervised=480)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of the table."""

    topology: Topology
    name: str  # as in TOPOLOGIES
    mode: str


def cells() -> list[Cell]:
    """All cells, the most wanted first."""
    names = [*_FIRST, *(name for name in TOPOLOGIES if name not in _FIRST)]
    return [Cell(parse_topology(name), name, mode) for name in names for mode in MODES]


def paper_model(mode: str) -> tuple[ExpLLMConfig, tuple[str, ...]]:
    """(the paper's model computing in bfloat16, what trains): LoRA beside a bfloat16 base; "full" trains projector and
    decoder, float32 master weights with float32 moments, beside a frozen tower."""
    stored = {"LoRA": "bfloat16", "full": "float32"}[mode]
    shared: dict[str, Any] = {"dtype": "bfloat16", "remat": "full"}
    model = expllm_7b(chained=True)
    model = dataclasses.replace(
        model,
        vision=dataclasses.replace(model.vision, param_dtype="bfloat16", **shared),
        decoder=dataclasses.replace(model.decoder, param_dtype=stored, **shared),
        projector=dataclasses.replace(model.projector, dtype="bfloat16"),
    )
    if mode == "LoRA":
        return model, PAPER_TRAINABLE
    none = LoRAConfig()
    return dataclasses.replace(model, vision_lora=none, decoder_lora=none), (r"decoder/.*", r"projector/.*")


def cell_request(cell: Cell, rows: int = 1) -> FitRequest:
    """What the compiler is asked: everything shared out over all chips of a slice (`fsdp`), slices as replicas."""
    model, trainable = paper_model(cell.mode)
    train = TrainConfig(steps=1, trainable=trainable, mesh=MeshConfig(cell.topology.slices, -1, 1))
    return train_request(model, train, cell.topology, rows=rows, row=ROW)


class Answers:
    """The compiler's answers in a file, each written as soon as it is known."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []

    def get(self, request: FitRequest) -> Answer | None:
        """The answer to this very request; raises ExpllmError if the compiler failed at it (not for lack of memory)."""
        wanted = _as_stored(request.to_json())
        for value in self._values:
            if value["request"] == wanted:
                if "failed" in value:
                    raise ExpllmError(value["failed"])
                return Answer.from_json(value)
        return None

    def add(self, value: Mapping[str, Any]) -> None:
        """Keeps an answer, or {"request": …, "failed": why}."""
        self._values.append(_as_stored(value))
        write_whole(self._path, json.dumps(self._values, indent=1) + "\n")


def _as_stored(value: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(value))


def fill_table(
    compiler: TpuCompiler, answers: Answers, say: Callable[[str], None]
) -> Iterator[tuple[Cell, Found | str]]:
    """(cell, what was found, or why nothing was) of every cell."""

    def ask(request: FitRequest) -> Answer:
        answer = answers.get(request)
        if answer is None:
            say(f"  {request.rows} rows a device")
            try:
                answer = compiler.compile(request)
            except ExpllmError as error:
                answers.add({"request": request.to_json(), "failed": str(error)})
                raise
            answers.add(answer.to_json())
        return answer

    for cell in cells():
        say(f"{cell.mode} on {cell.topology}")
        request = cell_request(cell)
        try:
            yield cell, most_rows(lambda rows, request=request: ask(dataclasses.replace(request, rows=rows)))
        except ExpllmError as error:
            say(f"  {error}")
            yield cell, str(error)


def render_table(found: Mapping[tuple[str, str], Found | str]) -> str:
    """Markdown: a line for every topology, of those cells that are known.

    Args:
      found: (name, mode) -> what `fill_table` gave.
    """
    lines = [
        "| slice | chips | HBM a device | LoRA: rows a chip (records) | peak | compiled in "
        "| full: rows a chip (records) | peak | compiled in |",
        "| --- " * 9 + "|",
    ]
    for name in TOPOLOGIES:
        topology = parse_topology(name)
        memory = topology.accelerator.memory / GIB
        shape = topology.name if topology.slices == 1 else f"{topology.slices} x {topology.name}"
        columns = [f"{name} ({shape})", str(topology.chips), f"{memory:.2f} GiB"]
        for mode in MODES:
            columns += _columns(found.get((name, mode)))
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def _columns(found: Found | str | None) -> list[str]:
    if found is None:
        return ["", "", ""]
    if isinstance(found, str):
        return ["the compiler failed", "", ""]
    answer = found.best
    peak = f"{answer.largest.peak_bytes / GIB:.2f}"
    if not found.rows:
        return ["none", f"{peak} for one", ""]
    each = rows_per_chip(answer.request, found.rows)
    records = math.floor(each * answer.request.pictures)
    return [f"{each:g} ({records})", peak, f"{answer.compile_seconds:.0f} s"]
