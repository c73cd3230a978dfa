"""Datasets of a few tiny pictures in the exact layouts of the real ones, for tests to read and to damage."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@functools.cache
def picture_bytes(suffix: str) -> bytes:
    """A grey picture of 4 by 4 pixels, as a file of that kind."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (128, 128, 128)).save(file, {".png": "PNG", ".jpg": "JPEG"}[suffix])
    return file.getvalue()


def put_picture(path: Path) -> Path:
    """Writes a tiny picture, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_bytes(path.suffix))
    return path


def put_pictures(root: Path, names: Sequence[str]) -> Path:
    """Writes tiny pictures below a root, and returns it."""
    for name in names:
        put_picture(root / name)
    return root


@dataclass(frozen=True)
class TableTree:
    """A dataset that a label table describes, and what a test needs to know to damage it."""

    dataset: str
    layout: str
    file: str  # the label file, one of several perhaps
    split: str  # of the first row
    header: Sequence[str]  # empty: none
    rows: Sequence[Sequence[str]]
    pictures: Sequence[str]  # of the rows, in their order
    picture_column: int
    label_column: int
    bad_label: str
    others: Mapping[str, str]  # further files: name -> text
    other_pictures: Sequence[str] = ()
    delimiter: str = ","
    label_in_path: bool = False  # the picture's path has the label in it

    def text(self, rows: Sequence[Sequence[str]] | None = None, *, end: str = "\n") -> str:
        """What the label file holds, with these rows or its own."""
        lines = [self.header] if self.header else []
        return "".join(self.delimiter.join(cells) + end for cells in [*lines, *(self.rows if rows is None else rows)])

    def line(self, row: int) -> int:
        """The line number of a row."""
        return row + 1 + bool(self.header)

    def build(self, root: Path) -> Path:
        """Writes the whole of it, free of mistakes."""
        put_pictures(root, [*self.pictures, *self.other_pictures])
        for name, text in {self.file: self.text(), **self.others}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
        return root


_VOTES = "neutral happiness surprise sadness anger disgust fear contempt unknown NF".split()
_AFFECTNET = "subDirectory_filePath face_x face_y face_width face_height facial_landmarks expression valence arousal"
POINTS_68 = ";".join(f"{index / 2};{index}" for index in range(68))


def _affectnet(name: str, label: str, valence: str = "0.25") -> list[str]:
    return [name, "1", "1", "2", "2", POINTS_68, label, valence, "-0.5"]


TABLES: Mapping[str, TableTree] = {
    "raf-db basic": TableTree(
        dataset="raf-db",
        layout="basic",
        file="basic/EmoLabel/list_patition_label.txt",
        split="train",
        header=(),
        rows=[["train_00001.jpg", "5"], ["train_00002.jpg", "4"], ["test_0001.jpg", "7"]],
        pictures=[f"basic/Image/aligned/{name}_aligned.jpg" for name in ("train_00001", "train_00002", "test_0001")],
        picture_column=0,
        label_column=1,
        bad_label="8",
        others={},
        delimiter=" ",
    ),
    "raf-db kaggle-csv": TableTree(
        dataset="raf-db",
        layout="kaggle-csv",
        file="train_labels.csv",
        split="train",
        header=("image", "label"),
        rows=[["train_00001_aligned.jpg", "5"], ["train_00002_aligned.jpg", "5"]],
        pictures=["DATASET/train/5/train_00001_aligned.jpg", "DATASET/train/5/train_00002_aligned.jpg"],
        picture_column=0,
        label_column=1,
        bad_label="0",
        others={"test_labels.csv": "image,label\ntest_0001_aligned.jpg,7\n"},
        other_pictures=["DATASET/test/7/test_0001_aligned.jpg"],
        label_in_path=True,
    ),
    "affectnet csv": TableTree(
        dataset="affectnet",
        layout="csv",
        file="training.csv",
        split="train",
        header=_AFFECTNET.split(),
        rows=[_affectnet("1/a.jpg", "0"), _affectnet("1/b.jpg", "7"), _affectnet("2/c.jpg", "1", "-2")],
        pictures=[f"Manually_Annotated_Images/{name}" for name in ("1/a.jpg", "1/b.jpg", "2/c.jpg")],
        picture_column=0,
        label_column=6,
        bad_label="11",
        # The real one has no header either.
        others={"validation.csv": ",".join(_affectnet("2/v.jpg", "6")) + "\n"},
        other_pictures=["Manually_Annotated_Images/2/v.jpg"],
    ),
    "ferplus votes": TableTree(
        dataset="ferplus",
        layout="votes",
        file="fer2013new.csv",
        split="train",
        header=["Usage", "Image name", *_VOTES],
        rows=[
            ["Training", "fer0000000.png", *"8 1 0 1 0 0 0 0 0 0".split()],
            ["Training", "fer0000001.png", *"0 0 6 0 0 0 4 0 0 0".split()],
            ["PrivateTest", "fer0000002.png", *"1 0 0 0 0 0 0 9 0 0".split()],
        ],
        pictures=["FER2013Train/fer0000000.png", "FER2013Train/fer0000001.png", "FER2013Test/fer0000002.png"],
        picture_column=1,
        label_column=2,
        bad_label="many",
        others={},
    ),
    "csv one-file": TableTree(
        dataset="csv",
        layout="one-file",
        file="labels.csv",
        split="train",
        header=("picture", "expression", "split"),
        rows=[["a/1.png", "angry", "train"], ["a/2.png", "Happiness", "train"], ["b/1.png", "sad", "test"]],
        pictures=["a/1.png", "a/2.png", "b/1.png"],
        picture_column=0,
        label_column=1,
        bad_label="hapy",
        others={},
    ),
    "csv file-a-split": TableTree(
        dataset="csv:fer2013",
        layout="file-a-split",
        file="train.csv",
        split="train",
        header=("picture", "expression"),
        rows=[["a/1.png", "0"], ["a/2.png", "3"]],
        pictures=["a/1.png", "a/2.png"],
        picture_column=0,
        label_column=1,
        bad_label="7",
        others={
            "val.csv": "picture,expression\na/3.png,6\n",
            "test.csv": "picture,expression\na/4.png,6\n",
        },
        other_pictures=["a/3.png", "a/4.png"],
    ),
}
"""Name -> a tree for each layout with a table; the label of row 0 and that of the others can be read."""


@dataclass(frozen=True)
class PictureTree:
    """A dataset whose folders say what the pictures show."""

    dataset: str
    layout: str
    labels: Mapping[str, tuple[str, str]]  # picture -> split and expression
    class_folder: str  # one of them; "" where folders name no classes
    unique_names: bool
    finish: Callable[[Path], None] = lambda root: None  # writes what is not a picture

    def build(self, root: Path) -> Path:
        """Writes the whole of it, free of mistakes."""
        put_pictures(root, list(self.labels))
        self.finish(root)
        return root


def put_affectnet_arrays(root: Path, name: str, label: str, valence: float = 0.25) -> None:
    """The four side files of a picture of AffectNet, in the kinds of arrays that the real ones hold."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    arrays = {
        "exp": np.array(label),
        "val": np.array(str(valence)),
        "aro": np.array(-0.5),
        "lnd": np.arange(136, dtype=np.float64),
    }
    for ending, array in arrays.items():
        np.save(root / f"annotations/{name}_{ending}.npy", array, allow_pickle=False)


def _affectnet_arrays(root: Path) -> None:
    for folder, name, label in (("train_set", "0", "1"), ("train_set", "12", "7"), ("val_set", "3", "6")):
        put_affectnet_arrays(root / folder, name, label)


FOLDERS: Mapping[str, PictureTree] = {
    "raf-db folders": PictureTree(
        dataset="raf-db",
        layout="folders",
        labels={
            "DATASET/train/1/train_00004_aligned.jpg": ("train", "Surprise"),
            "DATASET/train/7/train_00001_aligned.jpg": ("train", "Neutral"),
            "DATASET/test/4/test_0003_aligned.jpg": ("test", "Happiness"),
        },
        class_folder="DATASET/train/1",
        unique_names=True,
    ),
    "affectnet npy": PictureTree(
        dataset="affectnet",
        layout="npy",
        labels={
            "train_set/images/0.jpg": ("train", "Happiness"),
            "train_set/images/12.jpg": ("train", "Contempt"),
            "val_set/images/3.jpg": ("val", "Anger"),
        },
        class_folder="",
        unique_names=False,
        finish=_affectnet_arrays,
    ),
    "affectnet folders": PictureTree(
        dataset="affectnet",
        layout="folders",
        labels={
            "train/0/a.jpg": ("train", "Neutral"),
            "train/7/a.jpg": ("train", "Contempt"),
            "val/6/b.jpg": ("val", "Anger"),
        },
        class_folder="train/0",
        unique_names=False,
    ),
    "ferplus folders": PictureTree(
        dataset="ferplus",
        layout="folders",
        labels={
            "FERPlus/test/angry/fer0032225.png": ("test", "Anger"),
            "FERPlus/test/sad/fer0032226.png": ("test", "Sadness"),
        },
        class_folder="FERPlus/test/angry",
        unique_names=True,
    ),
    "fer2013 folders": PictureTree(
        dataset="fer2013",
        layout="folders",
        labels={
            "train/angry/0.png": ("train", "Anger"),
            "val/fear/1.png": ("val", "Fear"),
            "test/neutral/2.png": ("test", "Neutral"),
        },
        class_folder="train/angry",
        unique_names=True,
    ),
    "fer2013 kaggle-folders": PictureTree(
        dataset="fer2013",
        layout="kaggle-folders",
        labels={
            "train/angry/Training_10118481.jpg": ("train", "Anger"),
            "test/surprise/PublicTest_10089743.jpg": ("test", "Surprise"),
        },
        class_folder="train/angry",
        unique_names=True,
    ),
    "sfew aligned": PictureTree(
        dataset="sfew",
        layout="aligned",
        labels={
            "Train/Train_Aligned_Faces/Happy/a_0001.png": ("train", "Happiness"),
            "Val/Val_Aligned_Faces/Angry/b_0002.png": ("val", "Anger"),
        },
        class_folder="Train/Train_Aligned_Faces/Happy",
        unique_names=False,
    ),
    "imagefolder splits": PictureTree(
        dataset="imagefolder",
        layout="splits",
        labels={"train/happy/1.png": ("train", "Happiness"), "valid/Sadness/deep/er/1.png": ("val", "Sadness")},
        class_folder="train/happy",
        unique_names=False,
    ),
    "imagefolder one-split": PictureTree(
        dataset="imagefolder:raf-db",
        layout="one-split",
        labels={"1/1.png": ("", "Surprise"), "6/1.png": ("", "Anger")},
        class_folder="1",
        unique_names=False,
    ),
}
"""Name -> a tree for each layout with folders."""
