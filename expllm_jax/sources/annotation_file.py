"""Annotations that are annotations already: `annotations.jsonl`, as the rendered faces and the engine write it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.faces.annotation import parsed_json
from expllm_jax.sources.claims import Claims
from expllm_jax.sources.dataset import Reading
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
        """Streams the annotations line by line; what a line says of its provenance is kept."""
        path = reading.root / self.file
        claims = Claims(Listing(reading.root))
        found = False
        try:
            with path.open(encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, start=1):
                    if not line.strip():
                        continue
                    found = True
                    try:
                        annotation = _parsed(line)
                        if not reading.wants(annotation.split):
                            claims.note(annotation.picture, self.file, number)
                            continue
                        claims.claim(inside(annotation.picture), self.file, number)
                    except ExpllmError as error:
                        reading.problems(ExpllmError(f"{path}, line {number}: {error.problem}", error.remedy))
                        continue
                    yield replace(
                        annotation, provenance={**reading.provenance, "label_file": self.file, **annotation.provenance}
                    )
        except FileNotFoundError:
            reading.problems(ExpllmError(f"There is no {path}.", "Check the path."))
            return
        except OSError as error:
            reading.problems(ExpllmError(f"Cannot read {path}: {error.strerror}.", "Check the path and its rights."))
            return
        except UnicodeDecodeError:
            reading.problems(ExpllmError(f"{path} is not UTF-8 text.", "Save it as UTF-8."))
            return
        if not found:
            reading.problems(ExpllmError(f"{path} holds no annotations.", "Restore the file."))
        unclaimed = claims.unclaimed(None)
        if unclaimed is not None:
            reading.problems(unclaimed)


def _parsed(line: str) -> Annotation:
    try:
        value = parsed_json(line)
    except json.JSONDecodeError as error:
        raise ExpllmError(f"not JSON ({error.msg} at column {error.colno}).", "Mend or remove the line.") from error
    if not isinstance(value, dict):
        raise ExpllmError("not a JSON object.", "Every line holds one annotation.")
    return Annotation.from_json(value)
