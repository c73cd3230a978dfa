"""What a dataset is to its readers: its layouts, its terms, its published numbers, and one pass over it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation

Problems = Callable[[ExpllmError], None]
"""Is told of everything that is wrong, file and line in front. Returning means: leave that one out and go on."""

Counts = Mapping[str, Mapping[str, int]]
"""Split -> expression -> how many pictures."""


RECALLED = "Told from memory, not from the terms themselves: read those before you use it."
"""Ends the terms of a dataset that nobody here has looked up."""


def raise_first(problem: ExpllmError) -> None:
    """The strict way to hear of problems: the first one ends the reading."""
    raise problem


@dataclass(frozen=True)
class Reading:
    """One pass over a dataset: where it lies, what is asked for, and who hears of what was not taken.

    ``problems`` hears of mistakes. ``left_out`` counts what a dataset itself says is no expression (AffectNet's "no
    face", CASME's "others"): no mistake, but never out of sight either.
    """

    root: Path
    split: str = ""  # the only one wanted; "" is all of them
    problems: Problems = raise_first
    left_out: Counter[str] = field(default_factory=Counter)  # why -> how many
    provenance: Mapping[str, str] = field(default_factory=dict)  # what every annotation of this pass carries

    def wants(self, split: str) -> bool:
        """Whether annotations of that split are asked for."""
        return self.split in ("", split)


class Engine(Protocol):
    """Turns files of one shape into annotations. Instances are declarations: immutable, without open files."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it knows of; empty where the files themselves name them."""

    @property
    def looks_for(self) -> str:
        """The files and folders that it needs, in words for the person whose folder has none of them."""

    def detect(self, root: Path) -> bool:
        """Whether the folder has this shape, from the names in it alone."""

    def read(self, reading: Reading) -> Iterator[Annotation]:
        """Streams annotations in an order that depends on the files alone; pictures are relative to the root."""


@dataclass(frozen=True)
class Layout:
    """One shape in which a dataset lies on disks."""

    name: str
    engine: Engine
    checked: bool  # False: known from descriptions only, which is said whenever it is used
    notes: str = ""
    instead_of: tuple[str, ...] = ()  # layouts that are not meant where this one is there too, unless they are named
    counts: Counts | None = None  # where this copy has other numbers than the dataset as published


@dataclass(frozen=True)
class Dataset:
    """A dataset as people know it, whichever layout it lies in."""

    name: str
    title: str
    licence: str  # the terms that the user must have accepted, and where to ask
    layouts: tuple[Layout, ...]
    splits: tuple[str, ...] = ()
    counts: Counts = field(default_factory=dict)  # empty where nothing is known

    def published_counts(self, layout: str) -> Counts:
        """The numbers to compare a copy in that layout with; empty where nothing is known."""
        own = self.layout(layout).counts
        return self.counts if own is None else own

    def layout(self, name: str) -> Layout:
        """The layout of that name.

        Raises:
            ExpllmError: there is none.
        """
        for layout in self.layouts:
            if layout.name == name:
                return layout
        names = ", ".join(layout.name for layout in self.layouts)
        raise ExpllmError(f"{self.name} has no layout {name!r}.", f"Its layouts are {names}.")
