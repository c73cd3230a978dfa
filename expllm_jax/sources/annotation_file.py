"""Annotations that are annotations already: `annotations.jsonl`, as the rendered faces and the engine write it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.sources.claims import Claims
from expllm_jax.sources.dataset import Reading
from expllm_jax.sources.interchange.json_objects import read_objects
from expllm_jax.sources.listing import Listing, inside


@dataclass(frozen=True)
class AnnotationFile:
    """A JSON Lines file of annotations; the pictures lie beside it or below."""

    file: str = "annotations.jsonl"
    splits: tuple[str, ...] = ()  # every line names its own

    @property
    def looks_for(self) -> str:
        """The file that it needs."""
        return self.file

    def detect(self, root: Path) -> bool:
        """Whether the file is there."""
        return (root / self.file).is_file()

    def read(self, reading: Reading) -> Iterator[Annotation]:
        """Streams the annotations line by line; what a line says of its provenance is kept.

        Raises:
            ExpllmError: the file cannot be read.
        """
        claims = Claims(Listing(reading.root))
        for entry in read_objects(reading.root / self.file, reading.problems):
            try:
                annotation = Annotation.from_json(entry.value)
                if not reading.wants(annotation.split):
                    claims.note(annotation.picture, self.file, entry.number)
                    continue
                claims.claim(inside(annotation.picture), self.file, entry.number)
            except ExpllmError as error:
                reading.problems(entry.error(error.problem, error.remedy))
                continue
            yield replace(
                annotation, provenance={**reading.provenance, "label_file": self.file, **annotation.provenance}
            )
        unclaimed = claims.unclaimed(None)
        if unclaimed is not None:
            reading.problems(unclaimed)
