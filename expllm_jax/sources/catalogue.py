"""All datasets by name, and how to read one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from types import MappingProxyType

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.sources.captions import CAPTION_DATASETS
from expllm_jax.sources.dataset import Dataset, Layout, Problems, Reading, raise_first
from expllm_jax.sources.expression_sets import EXPRESSION_SETS
from expllm_jax.sources.face_task_sets import FACE_TASK_DATASETS
from expllm_jax.sources.frame_sets import FRAME_DATASETS
from expllm_jax.sources.interchange import INTERCHANGE_DATASETS, llava_conversations
from expllm_jax.sources.own_data import ANNOTATIONS, csv_table, image_folder
from expllm_jax.sources.tfds_sets import TFDS_DATASETS

_BY_ORDER: Mapping[str, Callable[[str], Dataset]] = {"imagefolder": image_folder, "csv": csv_table}
_MADE: Mapping[str, Callable[[str], Dataset]] = {**_BY_ORDER, "llava": llava_conversations}

DATASETS: Mapping[str, Dataset] = MappingProxyType(
    {
        dataset.name: dataset
        for dataset in (
            *EXPRESSION_SETS,
            *FRAME_DATASETS,
            *FACE_TASK_DATASETS,
            *CAPTION_DATASETS,
            *INTERCHANGE_DATASETS,
            *TFDS_DATASETS,
            *(make("") for make in _BY_ORDER.values()),
            ANNOTATIONS,
        )
    }  # fmt: skip
)
"""Name -> dataset."""


def find_dataset(name: str) -> Dataset:
    """The dataset of a name; "imagefolder:ORDER" and "csv:ORDER" read numbers in that label order instead of words, and
    "llava:ANSWERS" conversations with questions of their own.

    Raises:
        ExpllmError: there is none; the nearest one is named.
    """
    plain, colon, order = name.partition(":")
    if plain in DATASETS and not colon:
        return DATASETS[plain]
    if plain in _MADE:
        return _MADE[plain](order)
    if plain in DATASETS:
        raise ExpllmError(f"{plain} has a label order of its own.", f"Say just {plain!r}.")
    nearest = get_close_matches(plain.lower(), DATASETS, n=1, cutoff=0.4)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    raise ExpllmError(f"No dataset is called {name!r}.", f"{hint}There are {', '.join(DATASETS)}.")


def find_layout(dataset: Dataset, root: Path, name: str = "") -> Layout:
    """The layout of that name, or the one in which a dataset lies in a folder.

    Raises:
        ExpllmError: there is no such folder or layout, the folder has none of the dataset's layouts (says what each of
            them needs), or has several; or it is a file, and that layout does not lie in one.
    """
    if not root.exists():
        raise ExpllmError(f"{root} is no folder: there is nothing of that name.", f"Say where {dataset.title} lies.")
    layouts = (dataset.layout(name),) if name else dataset.layouts
    fitting = [layout for layout in layouts if layout.engine.detect(root)]
    if root.is_file() and not fitting:  # the formats of other programs lie in one file, which may be named itself
        raise ExpllmError(f"{root} is a file that {dataset.name} cannot be read from: {_sought(layouts)}.", _WHERE)
    if name:
        return layouts[0]
    hidden = {other for layout in fitting for other in layout.instead_of}
    fitting = [layout for layout in fitting if layout.name not in hidden]
    if len(fitting) > 1:
        names = " and ".join(layout.name for layout in fitting)
        raise ExpllmError(
            f"{root} holds {dataset.name} in several layouts: {names}.", "Name one of them as the layout (--layout)."
        )
    if not fitting:
        raise ExpllmError(f"{root} does not hold {dataset.name} in any layout: {_sought(layouts)}.", _WHERE)
    return fitting[0]


_WHERE = "Give the folder that holds it, unpacked and with its folders as they were."


def _sought(layouts: Sequence[Layout]) -> str:
    return "; ".join(f"{layout.name} needs {layout.engine.looks_for}" for layout in layouts)


def unchecked_notice(dataset: Dataset, layout: Layout) -> str:
    """One sentence for whoever uses a layout that was never seen on real files; empty for the others."""
    if layout.checked:
        return ""
    return (
        f"The layout {layout.name!r} of {dataset.name} is known from descriptions only and was never checked on the "
        "real files: compare the counts and look at pictures of every class before you trust it."
    )


def read_dataset(
    name: str,
    root: str | PathLike[str],
    *,
    split: str = "",
    layout: str = "",
    problems: Problems | None = None,
    left_out: Counter[str] | None = None,
) -> Iterator[Annotation]:
    """Streams the annotations of a dataset, in the same order every time; pictures are relative to ``root``.

    Args:
        name: a key of ``DATASETS``; see also ``find_dataset``.
        root: the folder it lies in.
        split: the only split wanted; "" is all of them.
        layout: the name of the layout it lies in; "" finds out.
        problems: is told of everything that is wrong and then left out; by default the first problem is raised.
        left_out: counts what the dataset itself labels as no expression.

    Raises:
        ExpllmError: the dataset, layout or split is unknown, or the layout cannot be told (at once); without
            ``problems``, anything wrong in the files (while reading).
    """
    root = Path(root)
    dataset = find_dataset(name)
    chosen = find_layout(dataset, root, layout)
    splits = chosen.engine.splits
    if split and splits and split not in splits:
        nearest = get_close_matches(split, splits, n=1)
        hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
        raise ExpllmError(
            f"{dataset.name} has no split {split!r} in the layout {chosen.name!r}.",
            f"{hint}It has {', '.join(splits)}.",
        )
    provenance = {"dataset": dataset.name, "layout": chosen.name}
    if not chosen.checked:
        provenance["layout_checked"] = "no"
    reading = Reading(root, split, problems or raise_first, Counter() if left_out is None else left_out, provenance)
    return _told_if_empty(chosen, reading)


def _told_if_empty(layout: Layout, reading: Reading) -> Iterator[Annotation]:
    told = 0

    def counting(problem: ExpllmError) -> None:
        nonlocal told
        told += 1
        reading.problems(problem)

    found = False
    for annotation in layout.engine.read(replace(reading, problems=counting)):
        found = True
        yield annotation
    if not found and not told:
        asked = f" of the split {reading.split!r}" if reading.split else ""
        reading.problems(ExpllmError(f"{reading.root} holds no annotation{asked}.", "Check the path and the split."))
