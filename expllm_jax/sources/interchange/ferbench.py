"""FERBench's questions: ``{image_path, true_label, prompt, candidate_labels}``, a JSON list or one object a line.

``image_path`` begins with a "/": it is what follows the folder of all data sets ("/RAF-DB/aligned/test_0001…"). It is
read and written so. ``true_label`` is a word in lower case, noun or adjective. How a question is put is kept in the
provenance ("ferbench.prompt", and "ferbench.candidate_labels" with ", " between them), so that a file comes back as it
was; annotations from elsewhere get PROMPT and the candidates that the caller names.

Lost on the way in: nothing, except which of two words for an expression stood there ("angry" comes back as "anger",
unless it is among its candidates). Lost on the way out: all but the expression.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.faces.expressions import expression_word
from expllm_jax.sources.dataset import Problems, raise_first
from expllm_jax.sources.interchange.json_objects import Entry, read_annotated, write_json_lines, write_json_list
from expllm_jax.sources.interchange.losses import check_loss

PROMPT = "Which facial expression does this picture show? Choose one of: {candidates}."
"""The question for annotations that bring none."""

_KEYS = ("image_path", "true_label", "prompt", "candidate_labels")
_PROMPT, _CANDIDATES = "ferbench.prompt", "ferbench.candidate_labels"


def read_ferbench(
    path: str | os.PathLike[str],
    *,
    pictures: str | os.PathLike[str] | None = None,
    split: str = "",
    problems: Problems = raise_first,
) -> Iterator[Annotation]:
    """The annotations of a FERBench file, in its order; arguments and errors as `released.read_released`."""
    return read_annotated(path, partial(_annotation, split=split), pictures=pictures, problems=problems)


def write_ferbench(
    path: str | os.PathLike[str],
    annotations: Iterable[Annotation],
    *,
    candidates: Sequence[str],
    lossy: bool = False,
) -> int:
    """Writes a FERBench file, a list for a name in ".json" and lines for any other; returns how many questions it has.

    Args:
        path: the file.
        annotations: what is asked about; each needs an expression.
        candidates: the label words that may be answered, for annotations that bring none of their own.
        lossy: whether what else the annotations say may be left out.

    Raises:
        ExpllmError: an annotation has no expression or one that is not among the candidates, says more than the format
            holds (unless `lossy`), or the file cannot be written.
    """
    write = write_json_list if Path(path).suffix == ".json" else write_json_lines
    return write(path, (_value(annotation, candidates, lossy) for annotation in annotations))


def _annotation(entry: Entry, split: str) -> Annotation:
    entry.check_keys(_KEYS)
    picture, label = entry.picture("image_path", rooted=True), entry.text("true_label")
    provenance = {"dataset": "ferbench", **entry.provenance()}
    if "prompt" in entry.value:
        provenance[_PROMPT] = entry.text("prompt")
    candidates = entry.value.get("candidate_labels")
    if candidates is not None:
        if not (isinstance(candidates, list) and all(isinstance(word, str) and "," not in word for word in candidates)):
            raise entry.error("the key 'candidate_labels' is no list of words.", "Mend the entry.")
        if label not in candidates:
            raise entry.error(f"the label {label!r} is not among its candidates.", "Mend the entry.")
        provenance[_CANDIDATES] = ", ".join(candidates)
    return Annotation(picture, expression_word(label), split=split, provenance=provenance)


def _value(annotation: Annotation, candidates: Sequence[str], lossy: bool) -> dict[str, Any]:
    check_loss(annotation, ("expression",), lossy=lossy, into="FERBench")
    kept = annotation.provenance.get(_CANDIDATES)
    words = kept.split(", ") if kept else [word.lower() for word in candidates]
    labels = [word for word in words if expression_word(word) == annotation.expression]
    if not labels:
        raise ExpllmError(
            f"{annotation.picture}: {annotation.expression} is not among the candidates {', '.join(words)}.",
            "Name all labels of the data set as candidates.",
        )
    prompt = annotation.provenance.get(_PROMPT) or PROMPT.format(candidates=", ".join(words))
    return {
        "image_path": f"/{annotation.picture}",
        "true_label": labels[0],
        "prompt": prompt,
        "candidate_labels": words,
    }
