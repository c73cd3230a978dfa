"""The folder tree: a folder for every split, in it one for every class, in it the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from posixpath import basename, join, splitext

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.sources.columns import Columns, LeftOut, Row
from expllm_jax.sources.dataset import Reading
from expllm_jax.sources.listing import Listing, first_of, is_picture
from expllm_jax.sources.side_files import FurtherColumns, MoreColumns


def _nothing(name: str) -> Row:
    return {}


@dataclass(frozen=True, kw_only=True)
class FolderTree(Columns):
    """Folders of pictures, as a declaration; `Columns` has the readers of its rows.

    A row has the columns "split", "class" (name of the class folder), "name" (file name) and "stem" (file name without
    its suffix), and those that ``parts`` reads from the stem. Class folders may hold folders of their own.

    Folders of splits that are not there are splits that this copy does not have; asking for one by name is an error.
    """

    folders: Mapping[str, str]  # folder of pictures or of class folders, relative to the base -> its split
    class_folders: bool = True  # False: the pictures lie in `folders` themselves
    parts: Callable[[str], Row] = _nothing  # columns from the stem of a file name; raises ExpllmError
    all_folders: bool = False  # it is this layout only where every folder is there
    unique_names: bool = False  # a file name occurs once in a split: the dataset numbers its pictures
    beside: tuple[MoreColumns, ...] = ()  # files with further columns
    bases: tuple[str, ...] = ("",)  # folders that the dataset's folder may be; the first that fits is it

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it knows of."""
        return tuple(dict.fromkeys(self.folders.values()))

    @property
    def looks_for(self) -> str:
        """The folders that it needs, in words."""
        below = "class folders" if self.class_folders else "pictures"
        folders = (" and " if self.all_folders else " or ").join(
            f"{folder}/" if folder else "the folder itself" for folder in self.folders
        )
        inner = [f"{base}/" for base in self.bases if base]
        return f"{below} in {folders}" + (f" (here or in {' or '.join(inner)})" if inner else "")

    def detect(self, root: Path) -> bool:
        """Whether a folder is there with what belongs into it."""
        return self._base(Listing(root)) is not None

    def _base(self, listing: Listing) -> str | None:
        for base in self.bases:
            fits = (self._fits(listing, join(base, folder) if folder else base) for folder in self.folders)
            if all(fits) if self.all_folders else any(fits):
                return base
        return None

    def _fits(self, listing: Listing, folder: str) -> bool:
        if not self.class_folders:
            return any(is_picture(name) for name in listing.files(folder))
        return any(self._is_class(name) for name in listing.folders(folder))

    def _is_class(self, name: str) -> bool:
        try:
            self.label({"class": name})
        except LeftOut:
            return True
        except ExpllmError:
            return False
        return True

    def read(self, reading: Reading) -> Iterator[Annotation]:
        """Streams the annotations split by split, class by class, names in order."""
        listing = Listing(reading.root)
        base = self._base(listing)
        found = False
        if base is not None:
            more = FurtherColumns(self.beside, reading, base, listing)
            for folder, split in self.folders.items():
                where = join(base, folder) if folder else base
                if reading.wants(split) and (listing.files(where) or listing.folders(where)):
                    found = True
                    yield from self._read_split(reading, listing, more, where, split)
            unused = more.unused()
            if unused:
                reading.problems(
                    ExpllmError(
                        f"{len(unused):,} file(s) below {reading.root} belong to no picture: {first_of(unused)}.",
                        "Restore the pictures, or move the files away.",
                    )
                )
        if not found:
            asked = f" for the split {reading.split!r}" if reading.split else ""
            reading.problems(ExpllmError(f"{reading.root} has nothing{asked}: no {self.looks_for}.", "Check the path."))

    def _read_split(
        self, reading: Reading, listing: Listing, more: FurtherColumns, folder: str, split: str
    ) -> Iterator[Annotation]:
        named: dict[str, str] = {}
        if not self.class_folders:
            yield from self._read_pictures(reading, listing, more, folder, {"split": split}, named)
            return
        # At the top of a dataset there may be a readme, but no picture.
        strays = [name for name in sorted(listing.files(folder)) if folder or is_picture(name)]
        if strays:
            reading.problems(
                ExpllmError(
                    f"{len(strays):,} file(s) in {reading.root / folder} lie in no class folder: {first_of(strays)}.",
                    "Move them away.",
                )
            )
        for name in listing.folders(folder):
            where = join(folder, name)
            row = {"split": split, "class": name}
            try:
                expression = self.label(row)
            except LeftOut as why:
                reading.left_out[str(why)] += len(list(listing.pictures(where)))
                continue
            except ExpllmError as error:
                reading.problems(ExpllmError(f"{reading.root / where}: {error.problem}", error.remedy))
                continue
            yield from self._read_pictures(reading, listing, more, where, row, named, expression)

    def _read_pictures(
        self,
        reading: Reading,
        listing: Listing,
        more: FurtherColumns,
        folder: str,
        row: Row,
        named: dict[str, str],
        expression: str | None = None,
    ) -> Iterator[Annotation]:
        """The pictures of a folder and those below it.

        ``named`` has the names that the split has used so far; ``expression`` is that of the class folder, if there is
        one.
        """
        others = [path.removeprefix(f"{folder}/") for path in listing.walk(folder) if not is_picture(path)]
        if others:
            reading.problems(
                ExpllmError(
                    f"{len(others):,} file(s) in {reading.root / folder} are no pictures: {first_of(others)}.",
                    "Move them away.",
                )
            )
        for picture in listing.pictures(folder):
            name = basename(picture)
            stem = splitext(name)[0]
            try:
                if self.unique_names and named.setdefault(name, picture) != picture:
                    raise ExpllmError(f"the same name as {named[name]}.", "Keep one of the two.")
                full = more({**row, "name": name, "stem": stem, **self.parts(stem)})
                yield self.annotation(
                    full,
                    picture=picture,
                    split=row["split"],
                    expression=expression if self.class_folders else self.label(full),
                    provenance={**reading.provenance, "label_file": folder},
                )
            except LeftOut as why:
                reading.left_out[str(why)] += 1
            except ExpllmError as error:
                reading.problems(ExpllmError(f"{reading.root / picture}: {error.problem}", error.remedy))
