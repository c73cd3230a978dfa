"""Engine for clips that one spreadsheet codes: where each begins and peaks, its action units, its emotion.

Micro-expression data sets come so. The apex frame carries the label and the units. The onset frame, where asked for, is
the face just before: nobody labelled it, so it has neither; both name their clip in the provenance.

Spreadsheets (.xlsx) are read with openpyxl. Rows above the one that names the columns are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import FACS, Annotation, value_of_letter
from expllm_jax.faces.expressions import LABEL_WORDS, NOT_EXPRESSIONS
from expllm_jax.faces.units import OPENGRAPHAU_41
from expllm_jax.sources.dataset import Reading
from expllm_jax.sources.frame_labels import numbered_pictures
from expllm_jax.sources.listing import Listing, first_of

NO_APEX = "clips without an apex frame"
"""What such clips are counted under: coders write "/" where a movement has no peak."""

_MISSING = ("", "/", "-", "-1", "n/a", "na")


@dataclass(frozen=True)
class CodedClips:
    """A spreadsheet of clips, and a folder of numbered pictures for each."""

    file: str  # relative to the root
    columns: Mapping[str, str]  # "subject", "clip", "onset", "apex", "units", "emotion" -> what the header calls it
    pictures: str  # the folder of a clip, with {subject} (a number) and {clip}
    words: str  # whose emotion words these are: a key of LABEL_WORDS
    frames: tuple[str, ...] = ("apex",)  # which frames are wanted, of "onset" and "apex"

    @property
    def splits(self) -> tuple[str, ...]:
        """None: these sets are evaluated by leaving out one subject after another."""
        return ()

    @property
    def looks_for(self) -> str:
        """The files and folders, in words."""
        return f"{self.file} and pictures in {self.pictures}"

    def detect(self, root: Path) -> bool:
        """Whether the spreadsheet is there, and the folder that the pictures begin with."""
        first = self.pictures.partition("/")[0]
        return (root / self.file).is_file() and ("{" in first or (root / first).is_dir())

    def read(self, reading: Reading) -> Iterator[Annotation]:
        """The wanted frames, in the order of the rows.

        Clips with an emotion that is no expression ("others") keep their units and have no expression; those without an
        apex give none. Both are counted.

        Raises:
            ExpllmError: the spreadsheet cannot be read, or its columns are not there.
        """
        path = reading.root / self.file
        listing = Listing(reading.root)
        seen: dict[tuple[int, str], int] = {}
        folders: set[str] = set()
        for line, row in _rows(path, self.columns):
            try:
                clip = row["clip"]
                if not re.fullmatch(r"\d+", row["subject"]) or not clip or "/" in clip:
                    raise ExpllmError(
                        f"the subject is {row['subject']!r} and the clip {clip!r}.", "Are the columns in their places?"
                    )
                subject = int(row["subject"])  # 1 and "01" are one person, whatever the cell was typed as
                if (subject, clip) in seen:
                    raise ExpllmError(f"{clip} came in line {seen[subject, clip]}.", "Remove one of the two.")
                seen[subject, clip] = line
                folder = self.pictures.format(subject=subject, clip=clip)
                folders.add(folder)
                annotations = list(self._clip(row, folder, listing, reading, line))
            except ExpllmError as error:
                reading.problems(ExpllmError(f"{path}, line {line}: {error.problem}", error.remedy))
                continue
            yield from annotations
        self._uncoded(folders, listing, reading)

    def _clip(
        self, row: Mapping[str, str], folder: str, listing: Listing, reading: Reading, line: int
    ) -> Iterator[Annotation]:
        pictures = numbered_pictures(listing, folder, reading.problems)
        units = coded_units(row["units"])
        expression = self._expression(row["emotion"], reading)
        for kind in self.frames:
            if row[kind].lower() in _MISSING:
                reading.left_out[NO_APEX if kind == "apex" else "clips without an onset frame"] += 1
                continue
            if not re.fullmatch(r"\d+", row[kind]):
                raise ExpllmError(f"the {kind} frame is {row[kind]!r}.", "Are the columns in their places?")
            frame = int(row[kind])
            if frame not in pictures:
                raise ExpllmError(
                    f"the {kind} frame {frame} has no picture in {reading.root / folder}.", "Restore the picture."
                )
            yield Annotation(
                f"{folder}/{pictures[frame]}",
                expression if kind == "apex" else None,
                units=units if kind == "apex" else {},
                identity=str(int(row["subject"])),
                provenance={
                    **reading.provenance,
                    "label_file": self.file,
                    "line": str(line),
                    "clip": row["clip"],
                    "frame": kind,
                    "emotion": row["emotion"],
                    "action_units": row["units"],
                },
            )

    def _expression(self, emotion: str, reading: Reading) -> str | None:
        word = emotion.lower()
        if word in LABEL_WORDS[self.words]:
            return LABEL_WORDS[self.words][word]
        if word in NOT_EXPRESSIONS[self.words]:
            reading.left_out[f"labels {word!r}, no expression; the units are kept"] += 1
            return None
        words = [*LABEL_WORDS[self.words], *map(str, NOT_EXPRESSIONS[self.words])]
        raise ExpllmError(f"the emotion is {emotion!r}.", f"It is one of {', '.join(words)}.")

    def _uncoded(self, folders: set[str], listing: Listing, reading: Reading) -> None:
        beside = {folder.rpartition("/")[0] for folder in folders}
        there = {f"{parent}/{name}" for parent in beside for name in listing.folders(parent)}
        uncoded = sorted(there - folders)
        if uncoded:
            reading.problems(
                ExpllmError(
                    f"{reading.root / self.file} has no row for {first_of(uncoded)}.", "Add the row or move the clip."
                )
            )


def coded_units(text: str) -> dict[str, dict[str, float]]:
    """The action units of a coder's note such as "4+L10", "R12A+R14" or "AU1 + AU2".

    A letter behind a unit is its FACS intensity; without one a unit is present, which is 1.0. A unit of one side
    counts as the unit, and is kept with its side where OpenGraphAU's vocabulary has it. "?" behind a unit, or "or"
    between two, means that the coder was not sure: such units are unknown, and so is whatever is not noted.

    Returns:
        vocabulary -> code -> 0 to 1; empty for an empty note.
    Raises:
        ExpllmError: a part of the note is no unit, or one that FACS's table here does not have.
    """
    facs: dict[str, float] = {}
    sided: dict[str, float] = {}
    for part in re.split(r"[+,;]", text):
        part = part.strip()
        if not part or part in ("/", "0"):
            continue
        unsure = part.endswith("?") or re.search(r"\bor\b", part, re.IGNORECASE) is not None
        for note in re.split(r"\bor\b", part.rstrip("? "), flags=re.IGNORECASE):
            match = re.fullmatch(r"(?:AU)?\s*([LR]?)\s*(\d+)\s*([A-Ea-e]?)", note.strip(), re.IGNORECASE)
            code = f"AU{int(match.group(2))}" if match else ""
            if match is None or code not in FACS:
                raise ExpllmError(f"{note.strip()!r} in {text!r} is no action unit known here.", "Correct the note.")
            if unsure:
                continue
            value = value_of_letter(match.group(3).upper()) if match.group(3) else 1.0
            facs[code] = max(facs.get(code, 0.0), value)
            side = f"AU{match.group(1).upper()}{int(match.group(2))}"
            if match.group(1) and side in OPENGRAPHAU_41:
                sided[side] = value
    units = {"facs": facs, "opengraphau": sided}
    return {name: values for name, values in units.items() if values}


def _rows(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, text of every column) of all rows under the header, empty ones left out."""
    wanted = {_plain(called): name for name, called in columns.items()}
    places: dict[str, int] = {}
    for line, cells in enumerate(_sheet(path), start=1):
        if places:
            row = {name: cells[place] if place < len(cells) else "" for name, place in places.items()}
            if any(row.values()):
                yield line, row
            continue
        found = {wanted[_plain(cell)]: place for place, cell in enumerate(cells) if _plain(cell) in wanted}
        if len(found) == len(columns):
            places = found
    if not places:
        raise ExpllmError(
            f"{path} has no row with the columns {', '.join(columns.values())}.", "Get the coding table anew."
        )


def _sheet(path: Path) -> list[list[str]]:
    """The cells of the first sheet as text."""
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise ExpllmError(f"{path} cannot be read without the package openpyxl.", "pip install openpyxl") from error
    if not path.is_file():
        raise ExpllmError(f"There is no file {path}.", "Check the folder of the data set.")
    try:
        # Not read_only: that mode trusts the sheet's own note of its size, which other programs often leave wrong.
        book = load_workbook(path, data_only=True)
        return [[_text(cell) for cell in row] for row in book.worksheets[0].iter_rows(values_only=True)]
    except Exception as error:  # openpyxl raises whatever it trips over: BadZipFile, KeyError, ParseError, …
        raise ExpllmError(f"{path} is no spreadsheet that can be read ({error}).", "Get the file anew.") from error


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def _plain(header: str) -> str:
    """Headers are told apart by their letters alone: "ApexFrame", "Apex Frame" and "Apex frame " are one."""
    return re.sub(r"\W", "", header).lower()
