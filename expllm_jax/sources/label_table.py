"""The label table: text with a row for every picture, in one file or in one for each split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from posixpath import join

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.sources.claims import Claims
from expllm_jax.sources.columns import Columns, LeftOut, Row
from expllm_jax.sources.dataset import Reading
from expllm_jax.sources.listing import Listing, inside
from expllm_jax.sources.side_files import FurtherColumns, MoreColumns
from expllm_jax.sources.table import Table


@dataclass(frozen=True, kw_only=True)
class LabelTable(Columns):
    """A table of labels, as a declaration; `Columns` has the readers of its cells.

    ``picture`` makes the path of the picture from a row, relative to the base, as a format string over column names
    (and "split") or as a function. Paths that lead out of the folder are refused.

    All files are read even where one split is asked for: a picture that another split names is not one that nobody
    labelled, and one that two splits name is a leak. Files of splits that are not asked for may be absent.
    """

    files: Mapping[str, str]  # label file, relative to the base -> its split; "" where `split` says
    table: Table
    picture: str | Callable[[Row], str]
    split: Callable[[Row], str] | None = None  # of a row, where one file holds several splits
    split_names: tuple[str, ...] = ()  # those that `split` gives
    picture_folder: str | None = None  # every picture in it has a row; None: in the folders that rows name
    beside: tuple[MoreColumns, ...] = ()  # files with further columns
    bases: tuple[str, ...] = ("",)  # folders that the dataset's folder may be; the first with a label file is it

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it knows of; empty where a column names them."""
        return self.split_names if self.split else tuple(dict.fromkeys(self.files.values()))

    @property
    def looks_for(self) -> str:
        """The files that it needs, in words."""
        files = " and ".join([*self.files, *([f"{self.picture_folder}/"] if self.picture_folder else [])])
        inner = [base for base in self.bases if base]
        return f"{files} (here or in {' or '.join(inner)}/)" if inner else files

    def detect(self, root: Path) -> bool:
        """Whether a label file is there, and the folder of pictures, if it has a name."""
        base = self._base(root)
        return base is not None and (root / base / (self.picture_folder or "")).is_dir()

    def _base(self, root: Path) -> str | None:
        return next((base for base in self.bases if any((root / base / file).is_file() for file in self.files)), None)

    def read(self, reading: Reading) -> Iterator[Annotation]:
        """Streams the annotations in the order of the files and their rows."""
        base = self._base(reading.root)
        if base is None:
            base = self.bases[0]  # the missing files are reported from there
        listing = Listing(reading.root)
        claims = Claims(listing)
        more = FurtherColumns(self.beside, reading, base, listing)
        complete = True
        wanted = {file: split for file, split in self.files.items() if self.split or reading.wants(split)}
        # The others come first: a picture in two splits is then told of in the one that is asked for.
        for file in (file for file in self.files if file not in wanted):
            complete &= self._note(reading, claims, base, file)
        for file, split in wanted.items():
            yield from self._read_file(reading, claims, more, base, file, split)
        if complete:
            folder = None if self.picture_folder is None else join(base, self.picture_folder)
            unclaimed = claims.unclaimed(folder)
            if unclaimed is not None:
                reading.problems(unclaimed)

    def _note(self, reading: Reading, claims: Claims, base: str, file: str) -> bool:
        """Remembers the pictures of a file that nobody asked for; False if it is not there or cannot be read."""
        if not (reading.root / base / file).is_file():
            return False
        unread: list[ExpllmError] = []
        for line, row in self.table.rows(reading.root / base / file, unread.append):
            try:
                claims.note(self._picture(row, base, self.files[file]), join(base, file), line)
            except LeftOut:
                continue
            except ExpllmError as error:
                unread.append(error)
        return not unread

    def _read_file(
        self, reading: Reading, claims: Claims, more: FurtherColumns, base: str, file: str, split: str
    ) -> Iterator[Annotation]:
        path, name = reading.root / base / file, join(base, file)
        for line, row in self.table.rows(path, reading.problems):
            wanted = True
            try:
                row_split = self.split(row) if self.split else split
                wanted = reading.wants(row_split)
                picture = self._picture(row, base, row_split)
                if not wanted:
                    claims.note(picture, name, line)
                    continue
                expression = self._claimed_label(claims, row, picture, name, line)
                yield self.annotation(
                    more(row) if self.beside else row,
                    picture=picture,
                    split=row_split,
                    expression=expression,
                    provenance={**reading.provenance, "label_file": name, "line": str(line)},
                )
            except LeftOut as why:
                if wanted:
                    reading.left_out[str(why)] += 1
            except ExpllmError as error:
                reading.problems(ExpllmError(f"{path}, line {line}: {error.problem}", error.remedy))

    def _claimed_label(self, claims: Claims, row: Row, picture: str, file: str, line: int) -> str | None:
        """The label of a row that speaks of a picture, whether it can be read, is left out on purpose, or not."""
        # The label comes first: of columns that changed places, that is what tells.
        try:
            expression = self.label(row)
        except LeftOut:
            claims.claim(picture, file, line)
            raise
        except ExpllmError:
            claims.note(picture, file, line)
            raise
        claims.claim(picture, file, line)
        return expression

    def _picture(self, row: Row, base: str, split: str) -> str:
        if isinstance(self.picture, str):
            path = self.picture.format_map({**row, "split": split})
        else:
            path = self.picture(row)
        path = inside(path)
        return join(base, path) if base else path
