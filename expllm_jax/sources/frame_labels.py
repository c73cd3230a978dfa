"""Engine for videos that are labelled frame by frame with action units.

A clip is a folder of pictures, one a frame, and labels for its frames: a file for every unit (`UnitFiles`, DISFA) or
one table with a column for every unit (`UnitTables`, BP4D). `FrameLabels` brings the two together.

Pictures are matched by number, not by name, for the zeros in front of it differ between copies. Number and frame may be
counted from different starts: labels from 1 and extracted pictures from 0 is what ffmpeg and DISFA make of each other,
and a shift of one frame trains just as well, on wrong labels. So the shift is declared, and where two are possible the
numbers of a whole clip must fit one of them and not the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import FACS, Annotation, value_of_grade
from expllm_jax.sources.columns import Row, whole_number
from expllm_jax.sources.dataset import Problems, Reading
from expllm_jax.sources.listing import Listing, first_of, is_picture
from expllm_jax.sources.table import Header, Table


@dataclass(frozen=True)
class Clip:
    """One video: the labels' name for it, and the parts of that name ("subject", "task")."""

    name: str
    parts: Mapping[str, str]


@dataclass(frozen=True)
class LabelledFrame:
    """What is known of one frame, and the line that says so (of the first file, where several do)."""

    units: dict[str, float]  # FACS code -> 0 to 1; unknown ones are left out
    file: str  # relative to the root
    line: int  # from 1


class Labels(Protocol):
    """Where the labels of all clips stand."""

    @property
    def looks_for(self) -> str:
        """The files, in words."""

    def clips(self, listing: Listing, problems: Problems) -> Iterator[Clip]:
        """All clips that have labels, in order."""

    def frames(self, clip: Clip, listing: Listing, reading: Reading) -> dict[int, LabelledFrame]:
        """The labelled frames of a clip by their number."""


@dataclass(frozen=True)
class UnitFiles:
    """A folder a clip, and in it a file for every unit with lines ``frame,intensity``, 0 to 5."""

    folder: str  # the folders of the clips lie in it
    units: tuple[int, ...]  # FACS numbers
    file_name: str  # with {clip} and {unit}

    @property
    def looks_for(self) -> str:
        """The files, in words."""
        return f"{self.folder}/CLIP/{self.file_name.format(clip='CLIP', unit='N')}"

    def clips(self, listing: Listing, problems: Problems) -> Iterator[Clip]:
        """See `Labels`."""
        for name in listing.folders(self.folder):
            yield Clip(name, {"subject": name})

    def frames(self, clip: Clip, listing: Listing, reading: Reading) -> dict[int, LabelledFrame]:
        """See `Labels`. A frame that a file does not have is a problem, and the unit unknown there."""
        frames: dict[int, LabelledFrame] = {}
        read: dict[str, set[int]] = {}
        for unit in self.units:
            file = f"{self.folder}/{clip.name}/{self.file_name.format(clip=clip.name, unit=unit)}"
            if not listing.has(file):
                reading.problems(
                    ExpllmError(f"There is no file {listing.root / file}.", f"Without it AU{unit} is unknown there.")
                )
                continue
            grades = _grades(listing.root / file, reading.problems)
            for frame, (line, grade) in grades.items():
                frames.setdefault(frame, LabelledFrame({}, file, line)).units[f"AU{unit}"] = value_of_grade(grade)
            read[file] = set(grades)
        for file, there in read.items():
            missing = sorted(set(frames) - there)
            if missing:
                reading.problems(
                    ExpllmError(
                        f"{listing.root / file} says nothing of the frames {first_of(list(map(str, missing)))}, which "
                        "other units of the clip have.",
                        "Check that the file is complete; the unit is unknown there.",
                    )
                )
        return frames


@dataclass(frozen=True)
class UnitTables:
    """A CSV file a clip: the header names units by number, the first column holds the frame, cells are 0, 1 or 9.

    9 is unknown, so the unit is left out. Labels of units that our FACS table does not have (BP4D's 35 to 37) are left
    out as well, and counted. Present (1) becomes 1.0: how strong it is the table does not say.
    """

    folder: str
    clip_name: str  # regular expression for the name of a table without ".csv"; its named groups are the clip's parts

    @property
    def looks_for(self) -> str:
        """The files, in words."""
        return f"{self.folder}/CLIP.csv"

    def clips(self, listing: Listing, problems: Problems) -> Iterator[Clip]:
        """See `Labels`."""
        for name in sorted(listing.files(self.folder)):
            stem, _, suffix = name.rpartition(".")
            match = re.fullmatch(self.clip_name, stem)
            if match and suffix.lower() == "csv":
                yield Clip(stem, match.groupdict())
            else:
                problems(
                    ExpllmError(
                        f"{listing.root / self.folder / name} is not named as a clip's table is.", "Move it elsewhere."
                    )
                )

    def frames(self, clip: Clip, listing: Listing, reading: Reading) -> dict[int, LabelledFrame]:
        """See `Labels`."""
        file = f"{self.folder}/{clip.name}.csv"
        path = listing.root / file
        frames: dict[int, LabelledFrame] = {}
        for line, row in Table((), Header.YES).rows(path, reading.problems):
            (frame_column, *columns) = row
            if not frames:
                odd = [column for column in columns if not re.fullmatch(r"\d+", column)]
                if odd:
                    reading.problems(
                        ExpllmError(f"{path}: the header names {odd[0]!r}, which is no number of a unit.", "Mend it.")
                    )
                    return {}
            try:
                frame = _not_negative(row, frame_column)
                if frame in frames:
                    raise ExpllmError(f"the frame {frame} came in line {frames[frame].line}.", "Remove one of the two.")
                units = {f"AU{int(column)}": _occurrence(row, column) for column in columns}
            except ExpllmError as error:
                reading.problems(ExpllmError(f"{path}, line {line}: {error.problem}", error.remedy))
                continue
            known = {code: value for code, value in units.items() if value is not None}
            reading.left_out.update(
                f"labels of {code}, which is no FACS unit here" for code in known if code not in FACS
            )
            facs = {code: value for code, value in known.items() if code in FACS}
            frames[frame] = LabelledFrame(facs, file, line)
        return frames


@dataclass(frozen=True)
class FrameLabels:
    """Clips of pictures with labels for their frames."""

    labels: Labels
    pictures: str  # the folder of a clip's pictures, with {subject} and whatever other parts a clip has
    shifts: tuple[int, ...] = (0,)  # what may be added to a frame's number to get its picture's; see the module
    every_picture: bool = True  # whether a picture without labels is a mistake
    split_of: Mapping[str, str] = field(default_factory=dict)  # subject -> split; empty where the data set has none

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the subjects are in."""
        return tuple(sorted(set(self.split_of.values())))

    @property
    def looks_for(self) -> str:
        """The files and folders, in words."""
        return f"{self.labels.looks_for} and pictures in {self.pictures}"

    def detect(self, root: Path) -> bool:
        """Whether there are labels and the folder that the pictures begin with."""
        listing = Listing(root)
        first = self.pictures.partition("{")[0].strip("/")
        clips = next(self.labels.clips(listing, _ignore), None)
        return clips is not None and (not first or first in listing.folders(""))

    def read(self, reading: Reading) -> Iterator[Annotation]:
        """The labelled frames that have a picture, clip by clip and in the order of the frames.

        Of a clip, missing pictures (and, with `every_picture`, missing labels) are told in one problem. A subject whose
        split is not known is one as well, and left out.

        Raises:
            ExpllmError: there are no labels.
        """
        listing = Listing(reading.root)
        empty = True
        for clip in self.labels.clips(listing, reading.problems):
            empty = False
            subject = clip.parts["subject"]
            if self.split_of and subject not in self.split_of:
                reading.problems(
                    ExpllmError(f"{reading.root}: {subject} is no subject of this data set.", "Check its folder.")
                )
            elif reading.wants(self.split_of.get(subject, "")):
                yield from self._clip(clip, listing, reading)
        if empty:
            raise ExpllmError(f"{reading.root} holds no labels.", f"Looked for {self.labels.looks_for}.")

    def _clip(self, clip: Clip, listing: Listing, reading: Reading) -> Iterator[Annotation]:
        frames = self.labels.frames(clip, listing, reading)
        folder = self.pictures.format(**clip.parts)
        pictures = numbered_pictures(listing, folder, reading.problems)
        if not frames:
            return
        if not pictures:
            reading.problems(
                ExpllmError(f"There are no pictures of {clip.name} in {reading.root / folder}.", "Extract its frames.")
            )
            return
        shift = self._shift(clip, frames, pictures, reading)
        if shift is None:
            return
        missing = [frame for frame in sorted(frames) if frame + shift not in pictures]
        if missing:
            first = frames[missing[0]]
            reading.problems(
                ExpllmError(
                    f"{reading.root / first.file}, line {first.line}: frame {missing[0]} has no picture number "
                    f"{missing[0] + shift} in {reading.root / folder}; {len(missing)} of {len(frames)} have none.",
                    "Extract the frames again.",
                )
            )
        self._unlabelled(frames, pictures, shift, folder, reading)
        for frame in sorted(set(frames) - set(missing)):
            labelled = frames[frame]
            yield Annotation(
                f"{folder}/{pictures[frame + shift]}",
                units={"facs": labelled.units} if labelled.units else {},
                identity=clip.parts["subject"],
                split=self.split_of.get(clip.parts["subject"], ""),
                provenance={
                    **reading.provenance,
                    "label_file": labelled.file,
                    "line": str(labelled.line),
                    "clip": clip.name,
                    "frame": str(frame),
                },
            )

    def _shift(
        self, clip: Clip, frames: Mapping[int, LabelledFrame], pictures: Mapping[int, str], reading: Reading
    ) -> int | None:
        if len(self.shifts) == 1:
            return self.shifts[0]
        fitting = [shift for shift in self.shifts if {frame + shift for frame in frames} == set(pictures)]
        if len(fitting) == 1:
            return fitting[0]
        reading.problems(
            ExpllmError(
                f"{reading.root}: {clip.name} has labels for {len(frames)} frames, {min(frames)} to {max(frames)}, and "
                f"{len(pictures)} pictures, {min(pictures)} to {max(pictures)}, so it cannot be told which belong "
                "together.",
                "Extract the frames again, or name the layout that says how the pictures are counted.",
            )
        )
        return None

    def _unlabelled(
        self,
        frames: Mapping[int, LabelledFrame],
        pictures: Mapping[int, str],
        shift: int,
        folder: str,
        reading: Reading,
    ) -> None:
        unlabelled = [pictures[number] for number in sorted(pictures) if number - shift not in frames]
        if not unlabelled:
            return
        if self.every_picture:
            reading.problems(
                ExpllmError(
                    f"{reading.root / folder}: the pictures {first_of(unlabelled)} have no labels.",
                    "Check how they are counted, or remove them.",
                )
            )
        else:
            reading.left_out["pictures outside the labelled stretch of a clip"] += len(unlabelled)


def numbered_pictures(listing: Listing, folder: str, problems: Problems) -> dict[int, str]:
    """The pictures of a folder by the number that their names end in, "reg_img0007.jpg" as 7.

    `problems` is told of pictures without a number, and of two with the same, both of which are left out.
    """
    by_number: dict[int, list[str]] = {}
    for name in sorted(filter(is_picture, listing.files(folder))):
        match = re.search(r"(\d+)\.\w+$", name)
        if match:
            by_number.setdefault(int(match.group(1)), []).append(name)
        else:
            problems(ExpllmError(f"{listing.root / folder / name}: the name ends in no number.", "Rename it."))
    for names in by_number.values():
        if len(names) > 1:
            problems(
                ExpllmError(f"{listing.root / folder}: {first_of(names)} are the same frame.", "Keep the right one.")
            )
    return {number: names[0] for number, names in by_number.items() if len(names) == 1}


def _grades(path: Path, problems: Problems) -> dict[int, tuple[int, int]]:
    """frame -> (line, grade) of a file of ``frame,grade`` lines."""
    grades: dict[int, tuple[int, int]] = {}
    for line, row in Table(("frame", "intensity")).rows(path, problems):
        try:
            frame, grade = _not_negative(row, "frame"), _not_negative(row, "intensity")
            if grade > 5:
                raise ExpllmError(f"the intensity {grade} is not 0 to 5.", "Are the columns frame,intensity?")
            if frame in grades:
                raise ExpllmError(f"the frame {frame} came in line {grades[frame][0]}.", "Remove one of the two.")
        except ExpllmError as error:
            problems(ExpllmError(f"{path}, line {line}: {error.problem}", error.remedy))
            continue
        grades[frame] = line, grade
    return grades


def _occurrence(row: Row, column: str) -> float | None:
    value = _not_negative(row, column)
    if value not in (0, 1, 9):
        raise ExpllmError(f"AU{column} is {value}.", "It is 0 (absent), 1 (present) or 9 (unknown).")
    return None if value == 9 else float(value)


def _not_negative(row: Row, column: str) -> int:
    value = whole_number(row, column)
    if value < 0:
        raise ExpllmError(f"column {column!r} holds {value}.", "Mend the line.")
    return value


def _ignore(problem: ExpllmError) -> None:
    """Detection only looks: whoever reads is told."""
