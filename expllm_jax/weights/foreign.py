"""Weights of another tool, opened but not yet read: which part of the model they are, and where each tensor goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from jax.sharding import Sharding

from expllm_jax.errors import ExpllmError
from expllm_jax.models import AbstractParams, DecoderConfig, ExpLLMConfig, ViTConfig, abstract
from expllm_jax.weights.loading import Loaded, Misfits, ParamReader, Progress, examine, load_params
from expllm_jax.weights.naming import Table, sources_of
from expllm_jax.weights.tensor_files import TensorFile

PARTS = ("vision", "decoder", "model")
PARAM_DTYPES = ("float32", "bfloat16")
Config = ViTConfig | DecoderConfig | ExpLLMConfig


@dataclasses.dataclass(frozen=True)
class ForeignWeights:
    """One part of a model (or all of it) in somebody's files."""

    part: str  # of PARTS
    format: str  # for people, such as "GGUF"
    config: Config  # of that part, as the files describe it
    files: TensorFile
    table: Table  # foreign name -> paths inside the part ("blocks/...", not "decoder/blocks/...")
    paths: tuple[Path, ...]  # the files that decide the content, for a digest
    ignored: tuple[str, ...] = ()  # foreign names that are known and not wanted

    def shapes(self) -> AbstractParams:
        """Our path -> shape and dtype, by the configuration."""
        return abstract(self.config)[1]

    def with_dtype(self, dtype: str) -> ForeignWeights:
        """The same, to be stored as `dtype` ("auto": bfloat16 where all floats of the files are, else float32)."""
        if dtype == "auto":
            floats = {info.dtype for name, info in self.files.tensors.items() if name in self.table}
            dtype = "bfloat16" if floats == {np.dtype(ml_dtypes.bfloat16)} else "float32"
        if dtype not in PARAM_DTYPES:
            raise ExpllmError(
                f"parameters cannot be stored as {dtype!r}", f"use one of: auto, {', '.join(PARAM_DTYPES)}"
            )
        if isinstance(self.config, ExpLLMConfig):
            parts = {
                name: dataclasses.replace(getattr(self.config, name), param_dtype=dtype)
                for name in ("vision", "decoder")
            }
            return dataclasses.replace(self, config=dataclasses.replace(self.config, **parts))
        return dataclasses.replace(self, config=dataclasses.replace(self.config, param_dtype=dtype))

    def part_of(self, part: str) -> ForeignWeights:
        """These weights if they are of that part, or that part of a whole model.

        Raises ExpllmError if they are of another.
        """
        if part == self.part:
            return self
        if not isinstance(self.config, ExpLLMConfig):
            raise ExpllmError(
                f"{self.files.origin} holds a {self.part} part ({self.format}), not the {part} part",
                "give the weights of the right part",
            )
        table, others = {}, list(self.ignored)
        for name, value in self.table.items():
            sources = sources_of(value)
            mine = tuple(
                dataclasses.replace(source, path=source.path.removeprefix(f"{part}/"))
                for source in sources
                if source.path.startswith(f"{part}/") and not source.path.endswith(("/lora_a", "/lora_b"))
            )
            if len(mine) == len(sources):
                table[name] = mine
            elif not mine:
                others.append(name)
            else:
                raise ExpllmError(f"{name} of {self.files.origin} belongs to two parts", "import the whole model")
        config = getattr(self.config, part)
        return dataclasses.replace(self, part=part, config=config, table=table, ignored=tuple(others))

    def examine(self) -> Misfits:
        """What is wrong with names, shapes and dtypes; reads no numbers."""
        return examine(self.files, self.table, self.shapes(), self.ignored)[0]

    def load(
        self,
        shapes: AbstractParams | None = None,
        *,
        shardings: Mapping[str, Sharding] | None = None,
        partial: bool = False,
        progress: Progress | None = None,
    ) -> Loaded:
        """The parameters by the paths of the part; see `load_params`. `shapes` default to those of `config`."""
        return load_params(
            self.files,
            self.table,
            self.shapes() if shapes is None else shapes,
            shardings=shardings,
            ignored=self.ignored,
            partial=partial,
            progress=progress,
        )

    def reader(self) -> ParamReader:
        """Single layers of single parameters; only for weights that `examine` finds nothing wrong with."""
        return ParamReader(self.files, self.table, self.shapes())
