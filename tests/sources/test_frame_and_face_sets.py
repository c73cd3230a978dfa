"""Every data set of frames, face tasks and captions: read as it should be, and with everything that can go wrong."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.sources.captions import CAPTION_DATASETS
from expllm_jax.sources.coding_tables import NO_APEX, coded_units
from expllm_jax.sources.dataset import Problems, Reading, raise_first
from expllm_jax.sources.expression_sets import EXPRESSION_SETS
from expllm_jax.sources.face_task_sets import FACE_TASK_DATASETS
from expllm_jax.sources.frame_sets import BP4D, CASME2, DISFA, DISFA_FOLDS, FRAME_DATASETS
from expllm_jax.sources.interchange import INTERCHANGE_DATASETS
from expllm_jax.sources.tfds_sets import TFDS_DATASETS
from tests.sources.frame_trees import TREES, Tree, edit, remove, touch

CASES = [(name, damage) for name, tree in TREES.items() for damage in tree.damages]
TEXT = (".txt", ".csv", ".tsv", ".json", ".jsonl")


def build(tree: Tree, folder: Path) -> Path:
    """The tree in a folder whose name has blanks and letters beyond ASCII."""
    root = folder / "daten ü 数"
    root.mkdir()
    tree.build(root)
    return root


def read(
    tree: Tree, root: Path, *, split: str = "", layout: str = "", problems: Problems = raise_first
) -> tuple[list[Annotation], Counter[str]]:
    reading = Reading(root, split, problems, provenance={"dataset": tree.dataset.name})
    return list(tree.dataset.layout(layout or tree.layout).engine.read(reading)), reading.left_out


@pytest.mark.parametrize("name", TREES)
def test_the_layout_is_read(tmp_path, name):
    tree = TREES[name]
    root = build(tree, tmp_path)
    annotations, _ = read(tree, root)
    assert tuple(annotation.picture for annotation in annotations) == tree.pictures
    assert all((root / annotation.picture).is_file() for annotation in annotations)
    assert Counter(a.split for a in annotations) == {split: n for split, n in tree.splits.items() if n}
    for split, count in tree.splits.items():
        assert len(read(tree, root, split=split)[0]) == (count or (0 if split else len(annotations)))
    for annotation in annotations:
        assert annotation.provenance["dataset"] == tree.dataset.name
        if name != "utkface":  # whose labels are the names
            assert (root / annotation.provenance["label_file"]).exists() or annotation.provenance["label_file"] in (
                "captions.jsonl",
                "chat.json",
            )


@pytest.mark.parametrize("name", TREES)
def test_the_layout_is_found_out(tmp_path, name):
    tree = TREES[name]
    root = build(tree, tmp_path)
    fitting = {layout.name: layout for layout in tree.dataset.layouts if layout.engine.detect(root)}
    hidden = {other for layout in fitting.values() for other in layout.instead_of}
    assert set(fitting) - hidden == {tree.layout}
    (tmp_path / "empty").mkdir()
    assert not any(layout.engine.detect(tmp_path / "empty") for layout in tree.dataset.layouts)
    assert all(layout.engine.looks_for for layout in tree.dataset.layouts)


@pytest.mark.parametrize("name", TREES)
def test_line_ends_and_byte_order_marks_do_not_matter(tmp_path, name):
    tree = TREES[name]
    root = build(tree, tmp_path)
    plain = read(tree, root)
    for path in root.rglob("*"):
        if path.suffix in TEXT:
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(tree, root) == plain


@pytest.mark.parametrize(("name", "damage"), CASES, ids=[f"{name}-{damage}" for name, damage in CASES])
def test_damages_are_told_with_their_place(tmp_path, name, damage):
    tree, spoilt = TREES[name], TREES[name].damages[damage]
    root = build(tree, tmp_path)
    whole, _ = read(tree, root)
    spoilt.spoil(root)
    with pytest.raises(ExpllmError):
        read(tree, root)
    problems: list[ExpllmError] = []
    try:
        annotations, _ = read(tree, root, problems=problems.append)
    except ExpllmError as error:  # nothing can be read without that file
        annotations = []
        problems.append(error)
    assert any(all(words in str(problem) for words in spoilt.said) for problem in problems), problems
    assert all(problem.remedy for problem in problems)
    assert len(annotations) == spoilt.left
    # Whatever is left is what it was, but for units that one file no longer tells.
    before = {annotation.picture: annotation for annotation in whole}
    for annotation in annotations:
        assert annotation.identity == before[annotation.picture].identity
        for code, value in annotation.units.get("facs", {}).items():
            assert before[annotation.picture].units["facs"][code] == value


def test_disfa_joins_twelve_units_and_shifts_by_one(tmp_path):
    tree = TREES["disfa"]
    root = build(tree, tmp_path)
    second = read(tree, root)[0][1]
    assert second.units == {
        "facs": {f"AU{unit}": 1.0 if unit == 12 else 0.4 for unit in (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)}
    }
    assert (second.picture, second.provenance["frame"], second.identity) == ("img/SN001/1.png", "2", "SN001")
    assert second.provenance["label_file"].endswith("SN001_au1.txt") and second.provenance["line"] == "2"


def test_disfa_pictures_that_count_from_one_are_seen_and_can_be_insisted_on(tmp_path):
    tree = TREES["disfa"]
    root = build(tree, tmp_path)
    for subject in ("SN001", "SN003"):
        touch(f"img/{subject}/3.png")(root)
        remove(f"img/{subject}/0.png")(root)
    annotations = read(tree, root)[0]
    assert [a.picture for a in annotations[:3]] == [f"img/SN001/{n}.png" for n in (1, 2, 3)]
    assert annotations == read(tree, root, layout="frames-from-1")[0]
    # Said to count from 0, they do not fit: the last picture has no label and the first label has no picture.
    problems: list[ExpllmError] = []
    assert len(read(tree, root, layout="frames-from-0", problems=problems.append)[0]) == 4
    assert len(problems) == 4
    assert "line 1: frame 1 has no picture number 0" in problems[0].problem and "3.png" in problems[1].problem


def test_disfa_a_missing_picture_leaves_the_rest_where_the_count_is_declared(tmp_path):
    tree = TREES["disfa"]
    root = build(tree, tmp_path)
    remove("img/SN001/1.png")(root)
    problems: list[ExpllmError] = []
    annotations, _ = read(tree, root, layout="frames-from-0", problems=problems.append)
    assert len(annotations) == 5 and len(problems) == 1 and "frame 2 has no picture" in problems[0].problem


def test_disfa_folds():
    assert len(DISFA_FOLDS) == 27 and Counter(DISFA_FOLDS.values()) == {"fold1": 9, "fold2": 9, "fold3": 9}
    assert (DISFA_FOLDS["SN016"], DISFA_FOLDS["SN024"], DISFA_FOLDS["SN004"]) == ("fold1", "fold2", "fold3")
    assert {number for number in range(1, 33)} - {int(name[2:]) for name in DISFA_FOLDS} == {14, 15, 19, 20, 22}
    assert DISFA.layouts[0].engine.splits == DISFA.splits


def test_bp4d_leaves_unknown_units_out(tmp_path):
    annotations, left_out = read(TREES["bp4d"], build(TREES["bp4d"], tmp_path))
    assert [annotation.units for annotation in annotations] == [
        {"facs": {"AU1": 1.0, "AU2": 0.0}},
        {"facs": {"AU1": 0.0, "AU2": 1.0, "AU12": 1.0}},
        {},
        {"facs": {"AU1": 1.0, "AU2": 0.0, "AU12": 1.0}},
    ]
    assert [annotation.identity for annotation in annotations] == ["F001"] * 3 + ["M002"]
    assert left_out == {TREES["bp4d"].unlabelled: 2, "labels of AU35, which is no FACS unit here": 3}
    assert BP4D.splits == ()


def test_casme2_apex_frames(tmp_path):
    tree = TREES["casme2"]
    root = build(tree, tmp_path)
    (happy, other), left_out = read(tree, root)
    assert (happy.expression, happy.identity, other.identity) == ("Happiness", "1", "2")
    assert happy.units == {"facs": {"AU4": 1.0, "AU10": 1.0}, "opengraphau": {"AUL10": 1.0}}
    assert other.expression is None and other.provenance["emotion"] == "others"
    assert other.units == {
        "facs": {"AU12": 0.2, "AU14": 1.0},
        "opengraphau": {"AUR12": 0.2, "AUR14": 1.0},
    }
    assert left_out[NO_APEX] == 1 and sum(left_out.values()) == 2
    with_onset, counted = read(tree, root, layout="cropped-onset")
    assert [a.provenance["frame"] for a in with_onset] == ["onset", "apex", "onset", "apex", "onset"]
    assert with_onset[0].units == {} and with_onset[0].expression is None
    assert with_onset[0].picture == "Cropped/sub01/EP02_01f/reg_img46.jpg" and counted[NO_APEX] == 1
    assert CASME2.published_counts("cropped")[""]["Disgust"] == 63


def test_spreadsheets_need_openpyxl(tmp_path, monkeypatch):
    root = build(TREES["samm"], tmp_path)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ExpllmError, match="openpyxl"):
        read(TREES["samm"], root)


def test_samm_finds_its_header_and_unsure_units_are_unknown(tmp_path):
    (anger, other), left_out = read(TREES["samm"], build(TREES["samm"], tmp_path))
    assert anger.expression == "Anger" and anger.units["facs"] == {"AU4": 0.4, "AU12": 1.0}
    assert anger.units["opengraphau"] == {"AUR4": 0.4, "AUL12": 1.0}
    assert other.units == {} and other.provenance["action_units"] == "14 or 15" and sum(left_out.values()) == 1


@pytest.mark.parametrize(
    ("note", "units"),
    [
        ("", {}),
        ("4", {"AU4": 1.0}),
        (" AU 1 + au2c", {"AU1": 1.0, "AU2": 0.6}),
        ("L12B+R12D", {"AU12": 0.8}),
        ("1+2?", {"AU1": 1.0}),
    ],
)
def test_notes_of_coders(note, units):
    assert coded_units(note).get("facs", {}) == pytest.approx(units)


@pytest.mark.parametrize("note", ["happy", "4F", "99", "4-5", "L"])
def test_notes_that_are_none(note):
    with pytest.raises(ExpllmError, match="no action unit"):
        coded_units(note)


def test_celeba_in_both_kinds_of_pictures(tmp_path):
    for name, layout, box in (("celeba aligned", "aligned", ()), ("celeba wild", "wild", (40.0,) * 4)):
        (tmp_path / layout).mkdir()
        root = build(TREES[name], tmp_path / layout)
        first = read(TREES[name], root)[0][0]
        assert first.face_box == box and first.landmarks == ((7.0, 7.0),) * 5 and first.identity == "2880"
        assert first.attributes["5_o_Clock_Shadow"] == 1.0 and first.attributes["Young"] == 0.0
        assert len(first.attributes) == 40


def test_celeba_without_identities_and_with_a_box_that_nobody_drew(tmp_path):
    tree = TREES["celeba wild"]
    root = build(tree, tmp_path)
    remove("Anno/identity_CelebA.txt")(root)
    edit("Anno/list_bbox_celeba.txt", "000003.jpg 40 40 40 40", "000003.jpg 0 0 0 0")(root)
    annotations = read(tree, root)[0]
    assert [a.identity for a in annotations] == [""] * 3
    assert [bool(a.face_box) for a in annotations] == [True, True, False]


def test_celeba_wild_hides_behind_aligned(tmp_path):
    tree = TREES["celeba aligned"]
    root = build(tree, tmp_path)
    touch("Img/img_celeba/000001.jpg")(root)
    wild = tree.dataset.layout("wild")
    assert wild.engine.detect(root) and "wild" in tree.dataset.layout("aligned").instead_of


def test_words_of_fairface_and_utkface(tmp_path):
    faces, _ = read(TREES["fairface"], build(TREES["fairface"], tmp_path))
    assert faces[0].attributes == {"age_group": "50-59", "gender": "male", "race": "East Asian"}
    assert faces[1].attributes["age_group"] == "70+"
    (tmp_path / "utk").mkdir()
    old, young = read(TREES["utkface"], build(TREES["utkface"], tmp_path / "utk"))[0]
    assert old.attributes == {"age": 100.0, "gender": "female", "race": "Others"}
    assert young.attributes == {"age": 26.0, "gender": "male", "race": "Asian"}


@pytest.mark.parametrize("name", ["300w-lp", "aflw2000"])
def test_poses_boxes_and_landmarks(tmp_path, name):
    annotations, _ = read(TREES[name], build(TREES[name], tmp_path))
    face = annotations[0]
    assert face.landmarks[0] == (10.0, 20.0) and face.landmarks[67] == (77.0, 154.0)
    assert face.face_box == (10.0, 20.0, 67.0, 134.0)
    assert face.attributes == {
        "yaw": pytest.approx(math.degrees(-0.5)),
        "pitch": pytest.approx(math.degrees(0.1), rel=1e-6),
        "roll": pytest.approx(math.degrees(0.25)),
    }
    if name == "300w-lp":  # a face, its turns and its mirror image stay together
        assert annotations[0].identity == annotations[4].identity == "AFW_12 é_1"


def test_every_data_set_says_what_it_is():
    datasets = (*FRAME_DATASETS, *FACE_TASK_DATASETS, *CAPTION_DATASETS, *INTERCHANGE_DATASETS, *TFDS_DATASETS)
    names = [dataset.name for dataset in datasets]
    assert len(set(names)) == len(names) and not set(names) & {dataset.name for dataset in EXPRESSION_SETS}
    for dataset in datasets:
        layouts = [layout.name for layout in dataset.layouts]
        assert len(set(layouts)) == len(layouts) and dataset.licence and dataset.title
        assert {other for layout in dataset.layouts for other in layout.instead_of} <= set(layouts)
        assert all(set(layout.engine.splits) <= set(dataset.splits) | {""} for layout in dataset.layouts)


def test_captions_are_kept_as_they_are(tmp_path):
    for name, tree in TREES.items():
        if name.startswith("captions"):
            (tmp_path / name).mkdir()
            annotations = read(tree, build(tree, tmp_path / name))[0]
            assert {a.picture: a.caption for a in annotations}["a b/1.jpg"] == "A café."
