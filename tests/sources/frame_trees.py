"""Tiny data sets in the exact layouts of the real ones, and what can go wrong with each.

A tree is built by a function; a damage is a function that spoils a built tree, with the words that the problem must
hold and how many annotations are left. Pictures are empty files: readers never open them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from openpyxl import Workbook, load_workbook
from scipy.io import loadmat, savemat

from expllm_jax.faces.attributes import CELEBA_40
from expllm_jax.sources.captions import CAPTIONS
from expllm_jax.sources.dataset import Dataset
from expllm_jax.sources.face_task_sets import AFLW2000, BOX, CELEBA, FAIRFACE, LP300W, POINTS, UTKFACE
from expllm_jax.sources.frame_sets import BP4D, CASME2, DISFA, SAMM

Spoil = Callable[[Path], None]


@dataclass(frozen=True)
class Damage:
    """What is done to a tree, what must be said of it, and how many annotations are read all the same."""

    spoil: Spoil
    said: tuple[str, ...]
    left: int


@dataclass(frozen=True)
class Tree:
    """One data set in one layout."""

    dataset: Dataset
    layout: str
    build: Spoil
    pictures: tuple[str, ...]  # of the annotations, in the order they are read in
    splits: Mapping[str, int]  # split -> how many annotations
    damages: Mapping[str, Damage]
    unlabelled: str = ""  # why pictures without labels are counted and not a mistake; "" where they are one


def touch(*pictures: str) -> Spoil:
    """Adds pictures."""

    def spoil(root: Path) -> None:
        for picture in pictures:
            (root / picture).parent.mkdir(parents=True, exist_ok=True)
            (root / picture).write_bytes(b"")

    return spoil


def remove(path: str) -> Spoil:
    """Removes a file or a folder."""

    def spoil(root: Path) -> None:
        shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()

    return spoil


def edit(path: str, old: str, new: str) -> Spoil:
    """Replaces a part of a text file that occurs in it once."""

    def spoil(root: Path) -> None:
        text = (root / path).read_text(encoding="utf-8")
        assert text.count(old) == 1, (old, text)
        (root / path).write_text(text.replace(old, new), encoding="utf-8")

    return spoil


def rename(old: str, new: str) -> Spoil:
    """Moves a file."""
    return lambda root: (root / old).rename(root / new) and None


def write(root: Path, path: str, *lines: str) -> None:
    """Writes a text file."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# DISFA: labels count from 1, pictures from 0.
DISFA_UNITS = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
DISFA_SUBJECTS = ("SN001", "SN003")


def _disfa(root: Path) -> None:
    for subject in DISFA_SUBJECTS:
        touch(*(f"img/{subject}/{frame}.png" for frame in range(3)))(root)
        for unit in DISFA_UNITS:
            grades = (0, 5 if unit == 12 else 2, 1)
            write(
                root,
                f"ActionUnit_Labels/{subject}/{subject}_au{unit}.txt",
                *(f"{frame},{grade}" for frame, grade in enumerate(grades, start=1)),
            )


_SN1_AU4 = "ActionUnit_Labels/SN001/SN001_au4.txt"

_TREE_DISFA = Tree(
    DISFA,
    "frames",
    _disfa,
    tuple(f"img/{subject}/{frame}.png" for subject in DISFA_SUBJECTS for frame in range(3)),
    {"fold1": 3, "fold2": 0, "fold3": 3},
    {
        "missing label file": Damage(remove(_SN1_AU4), ("SN001_au4.txt",), 6),
        "label out of range": Damage(edit(_SN1_AU4, "2,2", "2,6"), ("SN001_au4.txt, line 2", "6"), 6),
        "label no number": Damage(edit(_SN1_AU4, "2,2", "2,x"), ("SN001_au4.txt, line 2", "'x'"), 6),
        "swapped columns": Damage(edit(_SN1_AU4, "1,0\n2,2\n3,1", "0,1\n2,2\n1,7"), ("au4.txt, line 3", "columns"), 3),
        "duplicate": Damage(edit(_SN1_AU4, "3,1", "2,1"), ("SN001_au4.txt, line 3", "frame 2"), 6),
        "frames missing in one file": Damage(edit(_SN1_AU4, "3,1\n", ""), ("SN001_au4.txt", "frames 3"), 6),
        "no picture": Damage(remove("img/SN001/1.png"), ("SN001", "3 frames, 1 to 3", "2 pictures, 0 to 2"), 3),
        "no pictures at all": Damage(remove("img/SN003"), ("no pictures of SN003",), 3),
        "no annotation": Damage(touch("img/SN001/3.png"), ("SN001", "4 pictures, 0 to 3"), 3),
        "not a subject": Damage(
            rename("ActionUnit_Labels/SN003", "ActionUnit_Labels/SN014"), ("SN014 is no subject",), 3
        ),
        "picture without a number": Damage(touch("img/SN001/cover.png"), ("cover.png", "no number"), 6),
        "two pictures of a frame": Damage(touch("img/SN001/00.png"), ("0.png, 00.png",), 3),
    },
)

_BP_TABLE = "AUCoding/AU_OCC/F001_T1.csv"


def _bp4d(root: Path) -> None:
    write(root, _BP_TABLE, "0,1,2,12,35", "2440,1,0,9,0", "2441,0,1,1,1", "2442,9,9,9,9")
    write(root, "AUCoding/AU_OCC/M002_T8.csv", "0,1,2,12,35", "7,1,0,1,0")
    # The numbers are padded in some of the clips, and most frames of a clip are not coded.
    touch(*(f"F001/T1/{frame}.jpg" for frame in range(2438, 2443)), "M002/T8/0007.jpg")(root)


_TREE_BP4D = Tree(
    BP4D,
    "occurrence",
    _bp4d,
    ("F001/T1/2440.jpg", "F001/T1/2441.jpg", "F001/T1/2442.jpg", "M002/T8/0007.jpg"),
    {"": 4},
    {
        "label out of range": Damage(
            edit(_BP_TABLE, "2441,0,1,1,1", "2441,0,2,1,1"), ("T1.csv, line 3", "AU2 is 2"), 3
        ),
        "too few cells": Damage(edit(_BP_TABLE, "2441,0,1,1,1", "2441,0,1,1"), ("T1.csv, line 3", "4 cells"), 3),
        "swapped columns": Damage(edit(_BP_TABLE, "2441,0,1,1,1", "0,1,1,1,2441"), ("T1.csv, line 3", "2441"), 3),
        "header without numbers": Damage(edit(_BP_TABLE, "0,1,2,12", "0,1,2,AU12"), ("T1.csv", "'AU12'"), 1),
        "duplicate": Damage(edit(_BP_TABLE, "2441,", "2440,"), ("T1.csv, line 3", "2440 came in line 2"), 3),
        "no picture": Damage(remove("F001/T1/2441.jpg"), ("T1.csv, line 3", "frame 2441 has no picture"), 3),
        "no pictures at all": Damage(remove("M002"), ("no pictures of M002_T8",), 3),
        "two pictures of a frame": Damage(touch("F001/T1/02440.jpg"), ("02440.jpg, 2440.jpg",), 3),
        "a file that is no table": Damage(touch("AUCoding/AU_OCC/notes.txt"), ("notes.txt",), 4),
        "empty table": Damage(edit("AUCoding/AU_OCC/M002_T8.csv", "7,1,0,1,0\n", ""), ("M002_T8.csv", "no rows"), 3),
    },
    unlabelled="pictures outside the labelled stretch of a clip",
)

_CASME_HEADER = ("Subject", "Filename", "", "OnsetFrame", "ApexFrame", "OffsetFrame", "", "Action Units")


def _workbook(root: Path, name: str, *rows: tuple[object, ...]) -> None:
    book = Workbook()
    for row in rows:
        book.active.append(row)
    book.save(root / name)


def _casme2(root: Path) -> None:
    touch(
        *(f"Cropped/sub01/EP02_01f/reg_img{frame}.jpg" for frame in (46, 59, 86)),
        *(f"Cropped/sub02/EP 09 é/reg_img{frame}.jpg" for frame in (1, 5)),
        "Cropped/sub02/EP03/reg_img7.jpg",
    )(root)
    _workbook(
        root,
        "CASME2-coding-20140508.xlsx",
        (*_CASME_HEADER, "Estimated Emotion"),
        (1, "EP02_01f", None, 46, 59, 86, None, "4+L10", "happiness"),
        ("02", "EP 09 é", None, 1, 5, 9, None, "R12A+R14", "others"),
        (2, "EP03", None, 7, "/", 9, None, 5, "surprise"),
    )


def _cell(name: str, place: str, value: object) -> Spoil:
    def spoil(root: Path) -> None:
        book = load_workbook(root / name)
        book.active[place] = value
        book.save(root / name)

    return spoil


def _both(*spoils: Spoil) -> Spoil:
    return lambda root: [spoil(root) for spoil in spoils] and None


_CASME = "CASME2-coding-20140508.xlsx"
_TREE_CASME2 = Tree(
    CASME2,
    "cropped",
    _casme2,
    ("Cropped/sub01/EP02_01f/reg_img59.jpg", "Cropped/sub02/EP 09 é/reg_img5.jpg"),
    {"": 2},
    {
        "label out of range": Damage(_cell(_CASME, "I2", "joyous"), (_CASME, "line 2", "'joyous'"), 1),
        "unknown unit": Damage(_cell(_CASME, "H2", "4+99"), (_CASME, "line 2", "'99'"), 1),
        "swapped columns": Damage(
            _both(_cell(_CASME, "A2", "EP02_01f"), _cell(_CASME, "B2", 1)), (_CASME, "line 2", "columns"), 1
        ),
        "frame no number": Damage(_cell(_CASME, "E2", "late"), (_CASME, "line 2", "'late'"), 1),
        "column missing": Damage(_cell(_CASME, "I1", "Feeling"), (_CASME, "no row with the columns"), 0),
        "duplicate": Damage(
            _both(_cell(_CASME, "A3", 1), _cell(_CASME, "B3", "EP02_01f"), remove("Cropped/sub02/EP 09 é")),
            (_CASME, "line 3", "line 2"),
            1,
        ),
        "no picture": Damage(remove("Cropped/sub01/EP02_01f/reg_img59.jpg"), ("line 2", "apex frame 59"), 1),
        "no annotation": Damage(touch("Cropped/sub01/EP99/reg_img1.jpg"), ("no row", "EP99"), 2),
        "no spreadsheet": Damage(
            lambda root: (root / _CASME).write_text("a,b") and None, (_CASME, "no spreadsheet"), 0
        ),
    },
)


def _samm(root: Path) -> None:
    touch("006/006_1_2/006_05562.jpg", "006/006_1_2/006_05588.jpg", "011/011_3_1/011_00004.jpg")(root)
    _workbook(
        root,
        "SAMM_Micro_FACS_Codes_v2.xlsx",
        ("SAMM micro-expressions",),
        (),
        ("Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame", "Offset Frame", "Duration", "Micro")
        + ("Action Units", "Estimated Emotion", "Objective Classes", "Notes"),
        ("006", "006_1_2", 1, 5562, 5588.0, 5632, 71, "Micro - 1/2", "R4B+L12+7?", "Anger", 1, None),
        (11, "011_3_1", 3, 4, 4, 9, 6, "Micro - 1/2", "14 or 15", "Other", 7, "x"),
    )


_SAMM = "SAMM_Micro_FACS_Codes_v2.xlsx"
_TREE_SAMM = Tree(
    SAMM,
    "frames",
    _samm,
    ("006/006_1_2/006_05588.jpg", "011/011_3_1/011_00004.jpg"),
    {"": 2},
    {
        "missing label file": Damage(remove(_SAMM), (_SAMM,), 0),
        "label out of range": Damage(_cell(_SAMM, "J4", "Bored"), (_SAMM, "line 4", "'Bored'"), 1),
        "no picture": Damage(remove("006/006_1_2/006_05588.jpg"), ("line 4", "apex frame 5588"), 1),
        "no annotation": Damage(touch("006/006_9_9/006_00001.jpg"), ("no row", "006_9_9"), 2),
    },
)


# CelebA.
CELEBA_NAMES = ("000001.jpg", "000 02.jpg", "000003.jpg")


def _celeba_lists(root: Path, *, csv: bool, wild: bool, folders: tuple[str, str]) -> None:
    annotations, partition = folders
    suffix, apart = ("csv", ",") if csv else ("txt", " ")

    def table(folder: str, name: str, columns: tuple[str, ...], value: str, plain: bool = False) -> None:
        lines = [apart.join([picture, *[value] * len(columns)]) for picture in CELEBA_NAMES]
        if csv:
            head = [",".join(("image_id", *columns))]
        else:
            named = ("image_id", *columns) if columns == BOX else columns
            head = [] if plain else [str(len(lines)), " ".join(named)]
        write(root, f"{folder}{name}.{suffix}", *head, *lines)

    table(annotations, "list_attr_celeba", CELEBA_40, "-1")
    if wild:
        table(annotations, "list_bbox_celeba", BOX, "40")
    table(annotations, "list_landmarks_celeba" if wild else "list_landmarks_align_celeba", POINTS, "7")
    if not csv:
        table(annotations, "identity_CelebA", ("identity",), "2880", plain=True)
    table(partition, "list_eval_partition", ("partition",), "0", plain=not csv)
    edit(f"{partition}list_eval_partition.{suffix}", f"000 02.jpg{apart}0", f"000 02.jpg{apart}2")(root)
    edit(f"{annotations}list_attr_celeba.{suffix}", f"000001.jpg{apart}-1", f"000001.jpg{apart}1")(root)


def _celeba(layout: str, pictures: str, *, csv: bool, wild: bool, folders: tuple[str, str]) -> Tree:
    annotations, partition = folders
    suffix, apart = ("csv", ",") if csv else ("txt", " ")
    top = 2 if csv else 1  # the line of the first picture in the partition
    attributes, split = f"{annotations}list_attr_celeba.{suffix}", f"{partition}list_eval_partition.{suffix}"
    points = f"{annotations}list_landmarks{'' if wild else '_align'}_celeba.{suffix}"

    def build(root: Path) -> None:
        _celeba_lists(root, csv=csv, wild=wild, folders=folders)
        touch(*(f"{pictures}/{name}" for name in CELEBA_NAMES))(root)

    damages = {
        "missing label file": Damage(remove(attributes), (f"list_attr_celeba.{suffix}",), 0),
        "label out of range": Damage(
            edit(attributes, f"000001.jpg{apart}1", f"000001.jpg{apart}0"), ("5_o_Clock_Shadow", f"line {top}"), 2
        ),
        "split out of range": Damage(
            edit(split, f"000 02.jpg{apart}2", f"000 02.jpg{apart}3"), (f"line {top + 1}", "'3'"), 2
        ),
        "too few cells": Damage(edit(attributes, f"000001.jpg{apart}1{apart}", f"000001.jpg{apart}"), ("line",), 2),
        "row missing in one list": Damage(
            edit(points, "000003.jpg" + f"{apart}7" * 10, ""), ("no line for 000003.jpg",), 2
        ),
        "duplicate": Damage(
            edit(split, f"000003.jpg{apart}0", f"000001.jpg{apart}0"), (f"line {top + 2}", f"line {top}"), 2
        ),
        "no picture": Damage(remove(f"{pictures}/000003.jpg"), (f"line {top + 2}", "000003.jpg"), 2),
        "no annotation": Damage(touch(f"{pictures}/000009.jpg"), ("000009.jpg",), 3),
    }
    if not csv:
        damages["swapped columns"] = Damage(
            edit(attributes, "Arched_Eyebrows Attractive", "Attractive Arched_Eyebrows"), (attributes, "line 2"), 0
        )
    return Tree(
        CELEBA,
        layout,
        build,
        tuple(f"{pictures}/{name}" for name in CELEBA_NAMES),
        {"train": 2, "test": 1, "val": 0},
        damages,
    )


_TREES_CELEBA = {
    "celeba aligned": _celeba("aligned", "Img/img_align_celeba", csv=False, wild=False, folders=("Anno/", "Eval/")),
    "celeba wild": _celeba("wild", "Img/img_celeba", csv=False, wild=True, folders=("Anno/", "Eval/")),
    "celeba flat-aligned": _celeba("flat-aligned", "img_align_celeba", csv=False, wild=False, folders=("", "")),
    "celeba csv": _celeba("csv", "img_align_celeba/img_align_celeba", csv=True, wild=False, folders=("", "")),
}


def _fairface(root: Path) -> None:
    header = "file,age,gender,race,service_test"
    write(
        root,
        "fairface_label_train.csv",
        header,
        "train/1.jpg,50-59,Male,East Asian,True",
        "train/2 é.jpg,more than 70,Female,Latino_Hispanic,False",
    )
    write(root, "fairface_label_val.csv", header, "val/1.jpg,3-9,Male,Middle Eastern,False")
    touch("train/1.jpg", "train/2 é.jpg", "val/1.jpg")(root)


_FAIR = "fairface_label_train.csv"
_TREE_FAIRFACE = Tree(
    FAIRFACE,
    "csv",
    _fairface,
    ("train/1.jpg", "train/2 é.jpg", "val/1.jpg"),
    {"train": 2, "val": 1},
    {
        "missing label file": Damage(remove(_FAIR), (_FAIR,), 1),
        "label out of range": Damage(edit(_FAIR, "East Asian", "Elf"), (f"{_FAIR}, line 2", "'Elf'"), 2),
        "swapped columns": Damage(
            edit(_FAIR, "train/1.jpg,50-59", "50-59,train/1.jpg"), (f"{_FAIR}, line 2", "50-59"), 2
        ),
        "column missing": Damage(edit(_FAIR, "gender", "sex"), (f"{_FAIR}, line 1", "'gender'"), 1),
        "duplicate": Damage(edit(_FAIR, "train/2 é.jpg", "train/1.jpg"), (f"{_FAIR}, line 3", "line 2"), 2),
        "no picture": Damage(remove("train/1.jpg"), (f"{_FAIR}, line 2", "train/1.jpg"), 2),
        "no annotation": Damage(touch("train/7.jpg"), ("train/7.jpg",), 3),
    },
)

_UTK = ("26_0_2_20170104023102422.jpg.chip.jpg", "100_1_4_20170110182836729.jpg.chip.jpg")
_TREE_UTKFACE = Tree(
    UTKFACE,
    "cropped",
    touch(*(f"UTKFace/{name}" for name in _UTK)),
    tuple(f"UTKFace/{name}" for name in sorted(_UTK)),
    {"": 2},
    {
        "label out of range": Damage(
            rename(f"UTKFace/{_UTK[0]}", "UTKFace/26_0_5_20170104023102422.jpg.chip.jpg"), ("26_0_5_", "race"), 1
        ),
        "age out of range": Damage(touch("UTKFace/117_0_2_2017.jpg"), ("117_0_2_2017.jpg", "[age]_"), 2),
        "name too short": Damage(touch("UTKFace/39_1_20170116174525125.jpg.chip.jpg"), ("39_1_2017",), 2),
        "not a picture": Damage(touch("UTKFace/notes.txt"), ("notes.txt",), 2),
    },
)


def mat(root: Path, name: str, **variables: object) -> None:
    """A MATLAB file with 68 points, a pose, and what else is given."""
    points = np.stack([np.arange(68.0) + 10, np.arange(68.0) * 2 + 20])
    pose = np.array([[0.1, -0.5, 0.25, 100, 200, 0, 0.001]], np.float32)
    values = {"pt2d": points, "pt3d_68": np.vstack([points, np.zeros((1, 68))]), "Pose_Para": pose, **variables}
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    savemat(root / name, values)


_LP_FOLDERS = tuple(f"{name}{flip}" for flip in ("", "_Flip") for name in ("AFW", "HELEN", "IBUG", "LFPW"))


def _lp300w(root: Path) -> None:
    for folder in _LP_FOLDERS:
        stem = f"{folder}/{folder.partition('_')[0]}_12 é_1_3"
        touch(f"{stem}.jpg")(root)
        mat(root, f"{stem}.mat", pt3d_68=np.zeros(1))


def _poses(prefix: str, total: int, points: str) -> dict[str, Damage]:
    """What can go wrong with `prefix`.jpg and its file; `points` is the variable with the landmarks."""

    def variable(**values: object) -> Spoil:
        return lambda root: mat(root, f"{prefix}.mat", **values)

    def without(root: Path) -> None:
        values = loadmat(root / f"{prefix}.mat", variable_names=(points,))
        savemat(root / f"{prefix}.mat", {points: values[points]})

    return {
        "missing label file": Damage(remove(f"{prefix}.mat"), (f"{prefix}.jpg", "no .mat"), total - 1),
        "no picture": Damage(
            remove(f"{prefix}.jpg"), ("no picture belongs to", f"{prefix.rpartition('/')[2]}.mat"), total - 1
        ),
        "no MATLAB file": Damage(
            lambda root: (root / f"{prefix}.mat").write_bytes(b"MATLAB" * 50) and None, (f"{prefix}.mat",), total - 1
        ),
        "variable missing": Damage(without, (f"{prefix}.mat", "'Pose_Para'"), total - 1),
        "label out of range": Damage(
            variable(Pose_Para=np.array([[10.0, 45.0, 3.0]])), (f"{prefix}.mat", "radians"), total - 1
        ),
        "swapped columns": Damage(variable(**{points: np.zeros((68, 2))}), (f"{prefix}.mat", "(68, 2)"), total - 1),
        "not finite": Damage(variable(**{points: np.full((2, 68), np.nan)}), (f"{prefix}.mat", "finite"), total - 1),
        "all points in one": Damage(variable(**{points: np.ones((2, 68))}), (f"{prefix}.mat", "face box"), total - 1),
        "duplicate": Damage(touch(f"{prefix}.png"), (f"{prefix}.png", "same .mat"), total),
    }


_TREE_300W = Tree(
    LP300W,
    "folders",
    _lp300w,
    tuple(f"{folder}/{folder.partition('_')[0]}_12 é_1_3.jpg" for folder in _LP_FOLDERS),
    {"": 8},
    {
        **_poses("HELEN/HELEN_12 é_1_3", 8, "pt2d"),
        "folder missing": Damage(remove("IBUG_Flip"), ("IBUG_Flip",), 7),
        "no annotation": Damage(touch("AFW/AFW_9_1_0.jpg"), ("AFW_9_1_0.jpg", "no .mat"), 8),
    },
)


def _aflw2000(root: Path) -> None:
    for number in (2, 4):
        touch(f"image{number:05}.jpg")(root)
        mat(root, f"image{number:05}.mat", pt2d=np.zeros((2, 21)))


_TREE_AFLW = Tree(
    AFLW2000, "folder", _aflw2000, ("image00002.jpg", "image00004.jpg"), {"": 2}, _poses("image00002", 2, "pt3d_68")
)


def _captions(*, suffix: str) -> Spoil:
    def build(root: Path) -> None:
        touch("a b/1.jpg", "é.png")(root)
        if suffix == "jsonl":
            write(
                root,
                "captions.jsonl",
                '{"image": "a b/1.jpg", "caption": "A caf\u00e9."}',
                '{"image": "é.png", "caption": "Two, \\"three\\"."}',
            )
        elif suffix == "tsv":
            write(root, "captions.tsv", "image\tcaption", "a b/1.jpg\tA café.", "é.png\tTwo, three.")
        else:
            write(root, "a b/1.txt", "A café.")
            write(root, "é.txt", "Two, three.")

    return build


_LLAVA_LIST = (
    '[{{"id": "1", "image": "a b/1.jpg", "conversations": [{{"from": "human", "value": "<image>\\nDescribe it."}}, '
    '{{"from": "gpt", "value": "A café."}}]}}, {{"id": "2", "image": "{second}", "conversations": [{{"from": "human", '
    '"value": "What is it?\\n<image>"}}, {{"from": "gpt", "value": "Two."}}]}}]'
)


def _llava_pretrain(root: Path) -> None:
    touch("a b/1.jpg", "é.png")(root)
    write(root, "chat.json", _LLAVA_LIST.format(second="é.png"))


_PAIRS = ("a b/1.jpg", "é.png")
_JSONL, _TSV = "captions.jsonl", "captions.tsv"
_TREES_CAPTIONS = {
    "captions objects": Tree(
        CAPTIONS,
        "objects",
        _captions(suffix="jsonl"),
        _PAIRS,
        {"": 2},
        {
            "label out of range": Damage(edit(_JSONL, "A café.", " "), (f"{_JSONL}, line 1", "empty"), 1),
            "swapped columns": Damage(
                edit(_JSONL, '"caption": "A café."', '"captoin": "x"'), (f"{_JSONL}, line 1", "captoin"), 1
            ),
            "duplicate": Damage(edit(_JSONL, "é.png", "a b/1.jpg"), (f"{_JSONL}, line 2", "line 1"), 1),
            "no picture": Damage(remove("é.png"), (f"{_JSONL}, line 2", "é.png"), 1),
        },
    ),
    "captions llava-pretrain": Tree(
        CAPTIONS,
        "llava-pretrain",
        _llava_pretrain,
        _PAIRS,
        {"": 2},
        {"no picture": Damage(remove("é.png"), ("chat.json, index 1", "é.png"), 1)},
    ),
    "captions tsv": Tree(
        CAPTIONS,
        "tsv",
        _captions(suffix="tsv"),
        _PAIRS,
        {"": 2},
        {
            "label out of range": Damage(edit(_TSV, "A café.", ""), (f"{_TSV}, line 2", "empty"), 1),
            "swapped columns": Damage(
                edit(_TSV, "a b/1.jpg\tA café.", "A café.\ta b/1.jpg"), (f"{_TSV}, line 2", "A café."), 1
            ),
            "duplicate": Damage(edit(_TSV, "é.png", "a b/1.jpg"), (f"{_TSV}, line 3", "line 2"), 1),
            "no picture": Damage(remove("é.png"), (f"{_TSV}, line 3", "é.png"), 1),
            "no annotation": Damage(touch("a b/2.jpg"), ("a b/2.jpg",), 2),
        },
    ),
    "captions folder": Tree(
        CAPTIONS,
        "folder",
        _captions(suffix="txt"),
        ("é.png", "a b/1.jpg"),
        {"": 2},
        {
            "missing label file": Damage(remove("a b/1.txt"), ("a b/1.jpg", "no .txt file beside it"), 1),
            "label out of range": Damage(edit("é.txt", "Two, three.", ""), ("é.txt", "empty"), 1),
            "no picture": Damage(remove("a b/1.jpg"), ("no picture belongs to", "1.txt"), 1),
            "duplicate": Damage(touch("a b/1.png"), ("a b/1.png", "the same .txt file"), 2),
            "no annotation": Damage(touch("a b/2.jpg"), ("a b/2.jpg", "no .txt file beside it"), 2),
        },
    ),
}

TREES: Mapping[str, Tree] = {
    "disfa": _TREE_DISFA,
    "bp4d": _TREE_BP4D,
    "casme2": _TREE_CASME2,
    "samm": _TREE_SAMM,
    **_TREES_CELEBA,
    "fairface": _TREE_FAIRFACE,
    "utkface": _TREE_UTKFACE,
    "300w-lp": _TREE_300W,
    "aflw2000": _TREE_AFLW,
    **_TREES_CAPTIONS,
}
"""Name -> a tree."""
