"""Files that other programs' annotations come in and go out by: the released ExpLLM JSON, LLaVA's conversations,
Facial-R1's lines and FERBench's questions.

Each format has a module that reads and writes it. What one of them cannot say is documented there, and refused on the
way out unless the caller allows the loss. `INTERCHANGE_DATASETS` are the formats as data sets: their root is the file
itself, or a folder that holds one such file and the pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.sources.dataset import Dataset, Layout, Reading
from expllm_jax.sources.interchange.facial_r1 import read_facial_r1, write_facial_r1
from expllm_jax.sources.interchange.ferbench import read_ferbench, write_ferbench
from expllm_jax.sources.interchange.llava import QUESTIONS, read_llava, write_llava
from expllm_jax.sources.interchange.released import read_released, write_released

__all__ = [
    "INTERCHANGE_DATASETS",
    "QUESTIONS",
    "ObjectFile",
    "llava_conversations",
    "read_facial_r1",
    "read_ferbench",
    "read_llava",
    "read_released",
    "write_facial_r1",
    "write_ferbench",
    "write_llava",
    "write_released",
]


@dataclass(frozen=True)
class ObjectFile:
    """The engine of a format that keeps everything in one file.

    The root is a folder with one such file and the pictures it names, which must all be there; or the file itself, and
    then nothing is said about pictures. The split is whatever the reading asks for: these files do not say theirs.
    """

    read_file: Callable[..., Iterator[Annotation]]  # of the format: (path, pictures=, split=, problems=)
    suffixes: tuple[str, ...] = (".json", ".jsonl")

    @property
    def splits(self) -> tuple[str, ...]:
        """None: the files do not say which split they are."""
        return ()

    @property
    def looks_for(self) -> str:
        """In words, what the root must be or hold."""
        return f"one file that ends in {' or '.join(self.suffixes)}, beside the pictures or on its own"

    def detect(self, root: Path) -> bool:
        """Whether the root is such a file, or a folder with just one."""
        return len(self._files(root)) == 1

    def read(self, reading: Reading) -> Iterator[Annotation]:
        """The annotations of the file, in its order.

        Raises:
            ExpllmError: there is no such file or more than one; and as the reader of the format.
        """
        files = self._files(reading.root)
        if len(files) != 1:
            raise ExpllmError(
                f"{reading.root} holds {len(files)} files that end in {' or '.join(self.suffixes)}.",
                "Name the file itself.",
            )
        pictures = None if reading.root == files[0] else reading.root
        for annotation in self.read_file(files[0], pictures=pictures, split=reading.split, problems=reading.problems):
            yield replace(annotation, provenance={**annotation.provenance, **reading.provenance})

    def _files(self, root: Path) -> list[Path]:
        if root.is_file():
            return [root] if root.suffix in self.suffixes else []
        return sorted(path for path in root.glob("*") if path.suffix in self.suffixes and path.is_file())


def _format(name: str, title: str, licence: str, read_file: Callable[..., Iterator[Annotation]], notes: str) -> Dataset:
    layout = Layout("file", ObjectFile(read_file), checked=name in ("expllm", "ferbench"), notes=notes)
    return Dataset(name, title, licence, (layout,))


def llava_conversations(answers: str = "") -> Dataset:
    """LLaVA-style files: with the questions that are written here or, where the answers are named ("caption", or
    several apart by commas, in their order), with any questions.

    Raises:
        ExpllmError: while reading, `answers` names what no answer is.
    """
    named = tuple(answers.split(",")) if answers else ()
    return _format(
        "llava",
        "LLaVA-style conversations",
        _OF_THE_PICTURES,
        partial(read_llava, answers=named),
        "with the questions written here; with others as llava:caption or llava:cot,expression",
    )


_OF_THE_PICTURES = "The terms are those of the data set that the pictures come from."

INTERCHANGE_DATASETS: tuple[Dataset, ...] = (
    _format("expllm", "released ExpLLM annotations", _OF_THE_PICTURES, read_released, "a list, one object a picture"),
    llava_conversations(),
    _format("facial-r1", "Facial-R1 / FEA-20K annotations", _OF_THE_PICTURES, read_facial_r1, "one object a line"),
    _format("ferbench", "FERBench questions", _OF_THE_PICTURES, read_ferbench, "as zfkarl/UniFER gives them"),
)
"""The formats as data sets."""
