"""Data sets for the stage before expressions: boxes, landmarks, attributes, head poses, ages.

CelebA, FairFace, UTKFace, 300W-LP and AFLW2000-3D, as the released code mixes them. None has expressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.faces.attributes import CELEBA_40
from expllm_jax.sources.columns import Attribute, Choice, Row, number
from expllm_jax.sources.dataset import Dataset, Layout, Problems, Reading
from expllm_jax.sources.folder_tree import FolderTree
from expllm_jax.sources.label_table import LabelTable
from expllm_jax.sources.listing import Listing
from expllm_jax.sources.pose_files import PoseFiles
from expllm_jax.sources.side_files import JoinedTable
from expllm_jax.sources.table import BLANKS, Header, Table

BOX = ("x_1", "y_1", "width", "height")
POINTS = tuple(
    f"{name}_{axis}" for name in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in ("x", "y")
)
_SPLITS = {"0": "train", "1": "val", "2": "test"}


@dataclass(frozen=True)
class CelebaList(Table):
    """One of CelebA's lists: how many pictures there are, the names of the columns, and then a line a picture.

    The names must be those that the columns are read as; only the first, the picture's, may be left out.
    """

    def rows(self, path: Path, problems: Problems) -> Iterator[tuple[int, dict[str, str]]]:
        """See `Table.rows`."""
        try:
            with path.open(encoding="utf-8-sig") as text:
                header = [text.readline(), text.readline()][1].split()
        except (OSError, UnicodeDecodeError):
            header = list(self.columns)  # the table itself says what is wrong
        if header[-len(self.columns) + 1 :] != list(self.columns[1:]) or len(header) > len(self.columns):
            problems(ExpllmError(f"{path}, line 2: the columns are not {' '.join(self.columns[1:])}.", "Restore it."))
            return
        yield from super().rows(path, problems)


@dataclass(frozen=True)
class IfThere:
    """Further columns from a file that not every copy has: empty where it is missing."""

    table: JoinedTable

    def open(self, reading: Reading, base: str, listing: Listing, used: set[str]) -> Callable[[Row], Row]:
        """See `MoreColumns`."""
        if listing.has(f"{base}/{self.table.file}" if base else self.table.file):
            return self.table.open(reading, base, listing, used)
        empty = {column: "" for column in self.table.table.columns}
        return lambda row: empty


def _name(row: Row) -> str:
    return row["image_id"]


def _box(row: Row) -> tuple[float, ...]:
    box = tuple(number(row, column) for column in BOX)
    return box if any(box) else ()  # four zeros: nobody drew one


def _five_points(row: Row) -> tuple[tuple[float, float], ...]:
    numbers = [number(row, column) for column in POINTS]
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _flag(column: str) -> Callable[[Row], float]:
    def read(row: Row) -> float:
        if row[column] not in ("1", "-1"):
            raise ExpllmError(f"column {column!r} holds {row[column]!r}.", "It is 1 (yes) or -1 (no).")
        return float(row[column] == "1")

    return read


def _celeba(
    *, pictures: str, wild: bool, folders: tuple[str, str, str] = ("", "", ""), csv: bool = False
) -> LabelTable:
    """CelebA's lists, where `folders` are those of the annotations, the partition and the pictures."""
    annotations, partition, images = (f"{folder}/" if folder else "" for folder in folders)
    suffix = "csv" if csv else "txt"

    def joined(name: str, columns: tuple[str, ...], *, plain: bool = False) -> JoinedTable:
        columns = ("image_id", *columns)
        if csv:
            table = Table(columns, Header.YES)
        else:
            table = (
                Table(columns, delimiter=BLANKS) if plain else CelebaList(columns, delimiter=BLANKS, skipped_lines=2)
            )
        return JoinedTable(f"{annotations}{name}.{suffix}", table, key=_name, of=_name)

    columns = ("image_id", "partition")
    return LabelTable(
        files={f"{partition}list_eval_partition.{suffix}": ""},
        table=Table(columns, Header.YES) if csv else Table(columns, delimiter=BLANKS),
        picture=f"{images}{pictures}/{{image_id}}",
        picture_folder=f"{images}{pictures}",
        split=Choice("partition", _SPLITS),
        split_names=("train", "val", "test"),
        beside=(
            joined("list_attr_celeba", CELEBA_40),
            *((joined("list_bbox_celeba", BOX),) if wild else ()),
            joined("list_landmarks_celeba" if wild else "list_landmarks_align_celeba", POINTS),
            IfThere(joined("identity_CelebA", ("identity",), plain=True)),
        ),
        identity=lambda row: row["identity"],
        face_box=_box if wild else None,
        landmarks=_five_points,
        attributes={name: _flag(name) for name in CELEBA_40},
    )


_OFFICIAL = ("Anno", "Eval", "Img")

CELEBA = Dataset(
    name="celeba",
    title="CelebA (202,599 pictures of celebrities)",
    licence="Non-commercial research: mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    layouts=(
        Layout(
            "aligned",
            _celeba(pictures="img_align_celeba", wild=False, folders=_OFFICIAL),
            checked=False,
            instead_of=("wild",),
        ),
        Layout(
            "wild",
            _celeba(pictures="img_celeba", wild=True, folders=_OFFICIAL),
            checked=False,
            notes="pictures as found, which alone have face boxes",
        ),
        Layout(
            "flat-aligned",
            _celeba(pictures="img_align_celeba", wild=False),
            checked=False,
            notes="all lists in one folder, as torchvision wants them",
            instead_of=("flat-wild",),
        ),
        Layout("flat-wild", _celeba(pictures="img_celeba", wild=True), checked=False),
        Layout(
            "csv",
            _celeba(pictures="img_align_celeba/img_align_celeba", wild=False, csv=True),
            checked=False,
            notes="Kaggle's copy",
        ),
    ),
    splits=("train", "val", "test"),
)

FAIRFACE = Dataset(
    name="fairface",
    title="FairFace (108,501 faces, balanced over seven races)",
    licence="CC BY 4.0: github.com/joojs/fairface",
    layouts=(
        Layout(
            "csv",
            LabelTable(
                files={"fairface_label_train.csv": "train", "fairface_label_val.csv": "val"},
                table=Table(("file", "age", "gender", "race", "service_test"), Header.YES),
                picture="{file}",
                attributes={
                    "age_group": Attribute("age", "fairface age group"),
                    "gender": Attribute("gender", "fairface gender"),
                    "race": Attribute("race", "fairface race"),
                },
            ),
            checked=False,
        ),
    ),
    splits=("train", "val"),
)


def _utkface_name(stem: str) -> Mapping[str, str]:
    match = re.fullmatch(r"(\d+)_(\d)_(\d)_(\d+)(\.jpg\.chip)?", stem)
    if match is None or int(match.group(1)) > 116:
        raise ExpllmError("the name is not [age]_[gender]_[race]_[date].", "Leave it out, or complete its name.")
    return dict(zip(("age", "gender", "race"), match.groups(), strict=False))


def _utkface(*folders: str) -> FolderTree:
    return FolderTree(
        folders=dict.fromkeys(folders, ""),
        class_folders=False,
        parts=_utkface_name,
        unique_names=True,
        attributes={
            "age": lambda row: float(row["age"]),
            "gender": Attribute("gender", "utkface gender"),
            "race": Attribute("race", "utkface race"),
        },
    )


UTKFACE = Dataset(
    name="utkface",
    title="UTKFace (23,708 faces from 0 to 116 years)",
    licence="Non-commercial research: susanqq.github.io/UTKFace",
    layouts=(
        Layout("cropped", _utkface("UTKFace"), checked=False, notes="aligned and cropped: names end in .jpg.chip.jpg"),
        Layout("wild", _utkface("part1", "part2", "part3"), checked=False),
        Layout("flat", _utkface(""), checked=False),
    ),
)


def _source_picture(stem: str) -> str:
    """The picture that a profile was made of: AFW_1_2_10 is the tenth turn of AFW_1_2, and so is its mirror image."""
    return re.sub(r"_\d+$", "", stem)


_POSE_300W = ("AFW", "HELEN", "IBUG", "LFPW")

LP300W = Dataset(
    name="300w-lp",
    title="300W-LP (61,225 faces turned in large poses, and their mirror images)",
    licence="Research: www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm",
    layouts=(
        Layout(
            "folders",
            PoseFiles((*_POSE_300W, *(f"{name}_Flip" for name in _POSE_300W)), "pt2d", identity=_source_picture),
            checked=False,
            notes="the identity is the picture that a face was turned from, so that its turns stay in one split",
        ),
    ),
)

AFLW2000 = Dataset(
    name="aflw2000",
    title="AFLW2000-3D (2,000 faces)",
    licence="Research: www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm",
    layouts=(Layout("folder", PoseFiles(("",), "pt3d_68"), checked=False),),
)

FACE_TASK_DATASETS: tuple[Dataset, ...] = (CELEBA, FAIRFACE, UTKFACE, LP300W, AFLW2000)
"""What this module knows."""
