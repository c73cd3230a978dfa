"""Datasets of labelled expressions: RAF-DB, AffectNet, FERPlus, FER2013 and SFEW 2.0.

Layouts and counts come from papers, from the documentation of the datasets and from public code that reads them. No
dataset was at hand here, so a layout counts as checked only where code that ran on the real files showed it whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from posixpath import splitext

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import BASIC_7, EXPRESSIONS, LABEL_ORDERS, NOT_EXPRESSIONS
from expllm_jax.sources.columns import (
    Attribute,
    Box,
    Choice,
    Code,
    Label,
    LeftOut,
    Number,
    PointColumns,
    Points,
    Row,
    Word,
    whole_number,
)
from expllm_jax.sources.dataset import Dataset, Layout
from expllm_jax.sources.folder_tree import FolderTree
from expllm_jax.sources.label_table import LabelTable
from expllm_jax.sources.listing import is_picture
from expllm_jax.sources.pixel_table import FER2013_SPLITS, FERPLUS_FOLDERS, FERPLUS_TABLE, PixelTable
from expllm_jax.sources.side_files import SideFile, numbered_lines, read_array
from expllm_jax.sources.table import BLANKS, Header, Table


def _counts(order: tuple[str, ...], numbers: str) -> Mapping[str, int]:
    return dict(zip(order, map(int, numbers.split()), strict=True))


def _stem(row: Row) -> str:
    return splitext(row["name"])[0]


# --- RAF-DB ----------------------------------------------------------------------------------------------------------

_RAF_ORDER = tuple(LABEL_ORDERS["raf-db"].values())
_RAF_POINTS = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")
_RAF_LINES = (*_RAF_POINTS, "gender", "race", "age")


def _raf_split(row: Row) -> str:
    split = row["name"].partition("_")[0]
    if split not in ("train", "test"):
        hint = "; the columns look swapped" if is_picture(row["label"]) else ""
        raise ExpllmError(f"the name {row['name']!r} tells no split{hint}.", "Names begin with 'train_' or 'test_'.")
    return split


_RAF_ALIGNED = LabelTable(
    files={"EmoLabel/list_patition_label.txt": ""},  # their spelling
    table=Table(("name", "label"), delimiter=BLANKS),
    picture=lambda row: f"Image/aligned/{_stem(row)}_aligned.jpg",
    picture_folder="Image/aligned",
    split=_raf_split,
    split_names=("train", "test"),
    expression=Code("label", "raf-db"),
    attributes={
        "gender": Attribute("gender", "raf-db gender"),
        "race": Attribute("race", "raf-db race"),
        "age_group": Attribute("age", "raf-db age group"),
    },
    beside=(
        SideFile(
            path=lambda row: f"Annotation/manual/{_stem(row)}_manu_attri.txt",
            columns=_RAF_LINES,
            read=numbered_lines(_RAF_LINES),
            optional=True,
        ),
    ),
    bases=("basic", ""),
)

_RAF_DB = Dataset(
    name="raf-db",
    title="RAF-DB, basic expressions",
    licence="Non-commercial research only; neither the pictures nor anything derived from them may be copied, "
    "published, passed on or used commercially. Ask the authors for access: http://whdeng.cn/RAF/model1.html",
    splits=("train", "test"),
    counts={
        "train": _counts(_RAF_ORDER, "1290 281 717 4772 1982 705 2524"),
        "test": _counts(_RAF_ORDER, "329 74 160 1185 478 162 680"),
    },
    layouts=(
        Layout("basic", _RAF_ALIGNED, checked=False, notes="The aligned faces.", instead_of=("original",)),
        Layout(
            "original",
            # The five landmarks are places in these pictures, not in the aligned ones.
            replace(
                _RAF_ALIGNED,
                picture="Image/original/{name}",
                picture_folder="Image/original",
                landmarks=PointColumns(_RAF_POINTS),
            ),
            checked=False,
            notes="The pictures as they were found, with five landmarks.",
        ),
        Layout(
            "kaggle-csv",
            LabelTable(
                files={"train_labels.csv": "train", "test_labels.csv": "test"},
                table=Table(("image", "label"), header=Header.SOME),
                picture="DATASET/{split}/{label}/{image}",
                picture_folder="DATASET",
                expression=Code("label", "raf-db"),
            ),
            checked=False,
            instead_of=("folders",),
        ),
        Layout(
            "folders",
            FolderTree(
                folders={"train": "train", "test": "test"},
                expression=Label("class", "raf-db"),
                unique_names=True,
                bases=("", "DATASET"),
            ),
            checked=False,
            notes="Folders 1 to 7, or words.",
        ),
    ),
)

# --- AffectNet -------------------------------------------------------------------------------------------------------

_AFFECTNET_TERMS = (
    "Research only, under a signed licence that only a professor or head of a laboratory may ask for: "
    "http://mohammadmahoor.com/affectnet/"
)
_AFFECT = {
    # -2 stands for pictures without a value.
    "valence": Number("valence", -1, 1, unknown=-2),
    "arousal": Number("arousal", -1, 1, unknown=-2),
}


def _affectnet_array(ending: str, column: str) -> SideFile:
    return SideFile(
        path=lambda row: f"{row['split']}_set/annotations/{row['stem']}_{ending}.npy",
        columns=(column,),
        read=read_array(column),
    )


_AFFECTNET_ENGINES: Mapping[str, LabelTable | FolderTree] = {
    "csv": LabelTable(
        files={"training.csv": "train", "validation.csv": "val"},
        table=Table(
            tuple(
                "subDirectory_filePath face_x face_y face_width face_height facial_landmarks expression valence "
                "arousal".split()
            ),
            header=Header.SOME,  # the validation table comes without
        ),
        picture="Manually_Annotated_Images/{subDirectory_filePath}",
        picture_folder="Manually_Annotated_Images",
        expression=Code("expression", "affectnet"),
        face_box=Box("face_x", "face_y", "face_width", "face_height"),
        landmarks=Points("facial_landmarks"),
        attributes=_AFFECT,
    ),
    "npy": FolderTree(
        folders={"train_set/images": "train", "val_set/images": "val"},
        class_folders=False,
        expression=Code("expression", "affectnet"),
        landmarks=Points("landmarks"),
        attributes=_AFFECT,
        beside=(
            _affectnet_array("exp", "expression"),
            _affectnet_array("val", "valence"),
            _affectnet_array("aro", "arousal"),
            _affectnet_array("lnd", "landmarks"),
        ),
    ),
    "folders": FolderTree(
        folders={"train": "train", "val": "val", "valid": "val", "test": "test"},
        expression=Label("class", "affectnet"),
    ),
}
_AFFECTNET_COUNTS = {
    "train": _counts(EXPRESSIONS, "74874 134415 25459 14090 6378 3803 24882 3750"),
    "val": dict.fromkeys(EXPRESSIONS, 500),
}
_AFFECTNET_FOLDER_COUNTS = {
    "train": _counts(EXPRESSIONS, "5000 5000 5000 5000 5000 3803 5000 3750"),
    "val": dict.fromkeys(EXPRESSIONS, 500),
}


def _affectnet(classes: tuple[str, ...]) -> Dataset:
    def kept(counts: Mapping[str, Mapping[str, int]]) -> Mapping[str, Mapping[str, int]]:
        return {split: {name: numbers[name] for name in classes} for split, numbers in counts.items()}

    left_out = tuple(name for name in EXPRESSIONS if name not in classes)
    return Dataset(
        name="affectnet-7" if left_out else "affectnet",
        title=f"AffectNet, {len(classes)} classes",
        licence=_AFFECTNET_TERMS,
        splits=("train", "val"),
        counts=kept(_AFFECTNET_COUNTS),
        layouts=tuple(
            Layout(
                name,
                replace(engine, leave_out=left_out),
                checked=False,
                notes="Folders 0 to 7, or words." if name == "folders" else "",
                counts=kept(_AFFECTNET_FOLDER_COUNTS) if name == "folders" else None,
            )
            for name, engine in _AFFECTNET_ENGINES.items()
        ),
    )


# --- FER2013 and FERPlus ---------------------------------------------------------------------------------------------

_FER2013_TERMS = (
    "Pictures found with a search engine, whose rights lie with their owners; given out for research with a Kaggle "
    "competition of 2013, whose rules apply: "
    "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge"
)
_FER2013_ORDER = tuple(LABEL_ORDERS["fer2013"].values())
_FER2013_TRAIN = _counts(_FER2013_ORDER, "3995 436 4097 7215 4830 3171 4965")

_FER2013 = Dataset(
    name="fer2013",
    title="FER2013",
    licence=_FER2013_TERMS,
    splits=("train", "val", "test"),
    counts={
        "train": _FER2013_TRAIN,
        "val": _counts(_FER2013_ORDER, "467 56 496 895 653 415 607"),
        "test": _counts(_FER2013_ORDER, "491 55 528 879 594 416 626"),
    },
    layouts=(
        Layout(
            "folders",
            FolderTree(
                folders={"train": "train", "val": "val", "test": "test"},
                expression=Label("class", "fer2013"),
                all_folders=True,
                unique_names=True,
            ),
            checked=False,
            instead_of=("kaggle-folders", "csv"),
        ),
        Layout(
            "kaggle-folders",
            FolderTree(
                folders={"train": "train", "test": "test"},
                expression=Label("class", "fer2013"),
                unique_names=True,
            ),
            checked=False,
            notes="Both test sets of the competition are one here.",
            counts={"train": _FER2013_TRAIN, "test": _counts(_FER2013_ORDER, "958 111 1024 1774 1247 831 1233")},
            instead_of=("csv",),
        ),
        Layout("csv", PixelTable("fer2013.csv"), checked=False, notes="Its pictures have to be written out first."),
    ),
)

_VOTES = tuple("neutral happiness surprise sadness anger disgust fear contempt unknown NF".split())


def ferplus_majority(row: Row) -> str:
    """The expression that most of FERPlus' ten taggers saw, by the rule of its authors.

    A label with a single vote does not count. Of the other votes one label needs more than half.

    Raises:
        LeftOut: none has, or it is "unknown" or "not a face".
        ExpllmError: a cell is no number of votes.
    """
    votes = [whole_number(row, column) for column in _VOTES]
    votes = [count if count > 1 else 0 for count in votes]
    most = max(votes)
    if 2 * most <= sum(votes):
        raise LeftOut("no majority of the votes")
    code = votes.index(most)
    if code in NOT_EXPRESSIONS["ferplus-csv"]:
        raise LeftOut(f"{code} ({NOT_EXPRESSIONS['ferplus-csv'][code]})")
    return LABEL_ORDERS["ferplus-csv"][code]


def _ferplus_picture(row: Row) -> str:
    if not row["Image name"]:
        raise LeftOut("9 (not a face (NF))")  # the table gives those no name
    return f"{FERPLUS_FOLDERS[row['Usage']]}/{row['Image name']}"


_FERPLUS = Dataset(
    name="ferplus",
    title="FERPlus: FER2013 labelled anew by ten taggers each",
    licence=f"The labels are free (MIT licence, https://github.com/microsoft/FERPlus). {_FER2013_TERMS}",
    splits=("train", "val", "test"),
    layouts=(
        Layout(
            "votes",
            LabelTable(
                files={FERPLUS_TABLE: ""},
                table=Table(("Usage", "Image name", *_VOTES), header=Header.YES),
                picture=_ferplus_picture,
                split=Choice("Usage", FER2013_SPLITS),
                split_names=tuple(FER2013_SPLITS.values()),
                expression=ferplus_majority,
            ),
            checked=False,
            notes="The label is what more than half of the votes say, single votes set aside.",
        ),
        Layout(
            "folders",
            FolderTree(
                folders={"train": "train", "val": "val", "valid": "val", "test": "test"},
                expression=Label("class", "ferplus-folders"),
                unique_names=True,
                bases=("", "FERPlus"),
            ),
            checked=True,
            counts={
                "test": _counts(tuple(LABEL_ORDERS["ferplus-csv"].values()), "1274 929 450 449 322 21 98 30"),
            },
        ),
    ),
)

# --- SFEW ------------------------------------------------------------------------------------------------------------

_SFEW = Dataset(
    name="sfew",
    title="SFEW 2.0: faces from films",
    licence="Non-commercial research only, under a signed agreement with its authors (Dhall et al.): "
    "https://cs.anu.edu.au/few/AFEW.html",
    splits=("train", "val"),
    counts={"val": _counts(BASIC_7, "84 72 73 56 46 23 77")},
    layouts=(
        Layout(
            "aligned",
            FolderTree(
                folders={"Train/Train_Aligned_Faces": "train", "Val/Val_Aligned_Faces": "val"},
                expression=Word("class"),
            ),
            checked=True,
            notes="The faces as its authors aligned them; a few are missing against the pictures.",
        ),
    ),
)

EXPRESSION_SETS: tuple[Dataset, ...] = (
    _RAF_DB,
    _affectnet(EXPRESSIONS),
    _affectnet(BASIC_7),
    _FERPLUS,
    _FER2013,
    _SFEW,
)
"""All of them."""
