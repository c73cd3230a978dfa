"""Pictures with captions, which align the projector before any face is seen.

Two engines: a folder of pictures with a text file beside each, and a file of ``{image, caption}`` objects. A table with
the columns "image" and "caption" is a label table like any other, and LLaVA's pre-training list is read by
`interchange.llava` with answers=("caption",). Shards of pictures in .tar files are not read: an annotation names a
picture by its path, so unpack them (`tar -xf`), which gives the folder that is read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from posixpath import join, splitext

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.sources.columns import Row
from expllm_jax.sources.dataset import Dataset, Layout, Reading
from expllm_jax.sources.interchange.json_objects import Entry, read_annotated
from expllm_jax.sources.interchange.llava import read_llava
from expllm_jax.sources.label_table import LabelTable
from expllm_jax.sources.listing import Listing, is_picture
from expllm_jax.sources.partners import with_partner
from expllm_jax.sources.table import Header, Table


@dataclass(frozen=True)
class TextsBeside:
    """Pictures in a folder and those below it, each with its caption in a file of the same name that ends in .txt."""

    @property
    def splits(self) -> tuple[str, ...]:
        """None: pairs are for training."""
        return ()

    @property
    def looks_for(self) -> str:
        """The files, in words."""
        return "pictures with .txt files of the same name beside them"

    def detect(self, root: Path) -> bool:
        """Whether the folder, or the first one in it, holds a picture with a text beside it."""
        listing = Listing(root)
        for folder in ("", *listing.folders("")[:1]):
            files = listing.files(folder)
            if any(is_picture(name) and f"{splitext(name)[0]}.txt" in files for name in files):
                return True
        return False

    def read(self, reading: Reading) -> Iterator[Annotation]:
        """The pictures by their path. A picture without text, a text without picture and an empty text are problems."""
        yield from self._folder("", Listing(reading.root), reading)

    def _folder(self, folder: str, listing: Listing, reading: Reading) -> Iterator[Annotation]:
        for picture, label_file in with_partner(listing, folder, ".txt", reading.problems):
            try:
                caption = _caption(reading.root / label_file)
            except ExpllmError as error:
                reading.problems(error)
                continue
            yield Annotation(
                picture,
                caption=caption,
                split=reading.split,
                provenance={**reading.provenance, "label_file": label_file},
            )
        for inner in listing.folders(folder):
            yield from self._folder(join(folder, inner), listing, reading)


@dataclass(frozen=True)
class CaptionFile:
    """One file of objects in the folder of the pictures: ``{image, caption}``, or conversations with one answer."""

    files: tuple[str, ...]  # names that it may have, relative to the root
    conversations: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        """None: pairs are for training."""
        return ()

    @property
    def looks_for(self) -> str:
        """The file, in words."""
        return " or ".join(self.files)

    def detect(self, root: Path) -> bool:
        """Whether just one of the files is there."""
        return len(self._present(root)) == 1

    def read(self, reading: Reading) -> Iterator[Annotation]:
        """The pairs of the file, in its order.

        Raises:
            ExpllmError: there is none of the files, or more than one.
        """
        present = self._present(reading.root)
        if len(present) != 1:
            raise ExpllmError(
                f"{reading.root} holds {len(present)} of the files {', '.join(self.files)}.", "It must hold one."
            )
        path = reading.root / present[0]
        if self.conversations:
            pairs = read_llava(
                path,
                pictures=reading.root,
                split=reading.split,
                answers=("caption",),
                problems=reading.problems,
            )
        else:
            pairs = read_annotated(
                path, partial(_pair, reading.split), pictures=reading.root, problems=reading.problems
            )
        for annotation in pairs:
            yield replace(annotation, provenance={**annotation.provenance, **reading.provenance})

    def _present(self, root: Path) -> list[str]:
        return [name for name in self.files if (root / name).is_file()]


def _pair(split: str, entry: Entry) -> Annotation:
    entry.check_keys(("id", "image", "caption"))
    caption = entry.text("caption").strip()
    if not caption:
        raise entry.error("the caption is empty.", "Write one, or remove the entry.")
    return Annotation(entry.picture("image"), caption=caption, split=split, provenance=entry.provenance())


def _caption(path: Path) -> str:
    try:
        caption = path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise ExpllmError(f"Cannot read {path} ({error.strerror}).", "Check its rights.") from error
    except UnicodeDecodeError as error:
        raise ExpllmError(f"{path} is not UTF-8 text.", "Save it as UTF-8.") from error
    if not caption:
        raise ExpllmError(f"{path} is empty.", "Write the caption, or remove both files.")
    return caption


def _not_empty(row: Row) -> str:
    if not row["caption"]:
        raise ExpllmError("the caption is empty.", "Write one, or remove the line.")
    return row["caption"]


CAPTIONS = Dataset(
    name="captions",
    title="pairs of picture and caption",
    licence="The terms are those of whoever made the pictures and the captions.",
    layouts=(
        Layout("objects", CaptionFile(("captions.jsonl", "captions.json")), checked=True),
        Layout(
            "llava-pretrain",
            CaptionFile(("blip_laion_cc_sbu_558k.json", "chat.json"), conversations=True),
            checked=False,
            notes="the pictures in the folders that the list names",
        ),
        Layout(
            "tsv",
            LabelTable(
                files={"captions.tsv": ""},
                table=Table(("image", "caption"), Header.YES, delimiter="\t"),
                picture="{image}",
                caption=_not_empty,
            ),
            checked=True,
            notes="captions.tsv with the columns image and caption; a caption that begins with a quotation mark is "
            "quoted as in CSV",
        ),
        Layout("folder", TextsBeside(), checked=True, notes="an unpacked WebDataset is one"),
    ),
)

CAPTION_DATASETS: tuple[Dataset, ...] = (CAPTIONS,)
"""What this module knows."""
