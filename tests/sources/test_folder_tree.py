"""Every layout whose folders say what the pictures show: read as it is, and with every mistake that folders have."""

from __future__ import annotations

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.sources import read_dataset
from tests.sources.trees import FOLDERS, PictureTree, put_affectnet_arrays, put_picture, put_pictures

WITH_CLASSES = {name: tree for name, tree in FOLDERS.items() if tree.class_folder}


def read(tree: PictureTree, root, **options) -> list[Annotation]:
    return list(read_dataset(tree.dataset, root, layout=tree.layout, **options))


def refusal(tree: PictureTree, root, **options) -> str:
    """The first problem of a strict reading; a reading that goes on finds everything else."""
    with pytest.raises(ExpllmError) as caught:
        read(tree, root, **options)
    problems: list[ExpllmError] = []
    pictures = {annotation.picture for annotation in read(tree, root, problems=problems.append, **options)}
    assert [problem.problem for problem in problems] == [caught.value.problem]
    assert pictures >= {name for name in tree.labels if (root / name).exists()}
    return caught.value.problem


@pytest.fixture(params=FOLDERS)
def tree(request) -> PictureTree:
    return FOLDERS[request.param]


@pytest.fixture(params=WITH_CLASSES)
def class_tree(request) -> PictureTree:
    return WITH_CLASSES[request.param]


def test_a_tree_without_mistakes_is_read_whole(tree, tmp_path):
    root = tree.build(tmp_path)
    found = read(tree, root)
    assert {face.picture: (face.split, face.expression) for face in found} == tree.labels
    assert [face.picture for face in read(tree, root)] == [face.picture for face in found]
    for split in {face.split for face in found}:
        assert read(tree, root, split=split) == [face for face in found if face.split == split]


def test_names_may_hold_blanks_and_any_letters(class_tree, tmp_path):
    root = class_tree.build(tmp_path)
    name = f"{class_tree.class_folder}/é 笑 1.jpg"
    put_picture(root / name)
    assert name in {face.picture for face in read(class_tree, root)}


def test_what_file_managers_leave_behind_is_no_mistake(class_tree, tmp_path):
    root = class_tree.build(tmp_path)
    expected = read(class_tree, root)
    for litter in (".DS_Store", "Thumbs.db", "._1.jpg"):
        (root / class_tree.class_folder / litter).write_bytes(b"?")
    assert read(class_tree, root) == expected


def test_a_folder_that_is_no_class_is_refused_once(class_tree, tmp_path):
    root = class_tree.build(tmp_path)
    folder = (root / class_tree.class_folder).parent / "happyness"
    for number in range(3):
        put_picture(folder / f"{number}.jpg")
    assert refusal(class_tree, root).startswith(f"{folder}: ")


def test_a_picture_outside_the_class_folders_has_no_annotation(class_tree, tmp_path):
    root = class_tree.build(tmp_path)
    picture = put_picture((root / class_tree.class_folder).parent / "stray.jpg")
    problem = refusal(class_tree, root)
    assert "lie in no class folder: stray.jpg" in problem
    assert str(picture.parent) in problem


def test_a_file_that_is_no_picture_is_refused(tree, tmp_path):
    root = tree.build(tmp_path)
    folder = (root / next(iter(tree.labels))).parent
    (folder / "labels.txt").write_text("1")
    assert "are no pictures: " in (problem := refusal(tree, root))
    assert problem.endswith("labels.txt.")


def test_a_file_that_is_no_picture_is_found_in_deeper_folders_too(tmp_path):
    root = FOLDERS["imagefolder splits"].build(tmp_path)
    (root / "valid/Sadness/deep/note.txt").write_text("?")
    problem = refusal(FOLDERS["imagefolder splits"], root)
    assert problem == f"1 file(s) in {root / 'valid/Sadness'} are no pictures: deep/note.txt."


def test_the_same_name_twice_is_refused_where_names_are_numbers(class_tree, tmp_path):
    root = class_tree.build(tmp_path)
    first = root / next(name for name in class_tree.labels if name.startswith(class_tree.class_folder + "/"))
    again = put_picture(first.parent / "more" / first.name)
    if class_tree.unique_names:
        assert refusal(class_tree, root) == f"{again}: the same name as {first.relative_to(root).as_posix()}."
    else:
        assert len(read(class_tree, root)) == len(class_tree.labels) + 1


def test_a_split_that_is_not_there_is_refused(tmp_path):
    put_picture(tmp_path / "train/happy/1.png")
    with pytest.raises(ExpllmError, match="has nothing for the split 'test'"):
        list(read_dataset("imagefolder", tmp_path, split="test"))


def test_a_folder_without_pictures_is_no_dataset(tmp_path):
    (tmp_path / "train/happy").mkdir(parents=True)
    with pytest.raises(ExpllmError, match="holds no annotation"):
        list(read_dataset("imagefolder", tmp_path))


NPY = FOLDERS["affectnet npy"]


def test_a_side_file_that_is_missing_is_named_with_its_picture(tmp_path):
    root = NPY.build(tmp_path)
    (root / "train_set/annotations/12_exp.npy").unlink()
    problems: list[ExpllmError] = []
    pictures = [face.picture for face in read(NPY, root, problems=problems.append)]
    assert "train_set/images/12.jpg" not in pictures
    assert len(pictures) == 2
    picture, missing = root / "train_set/images/12.jpg", root / "train_set/annotations/12_exp.npy"
    assert problems[0].problem == f"{picture}: there is no {missing}."


def test_side_files_without_a_picture_are_named(tmp_path):
    root = NPY.build(tmp_path)
    put_affectnet_arrays(root / "val_set", "77", "2")
    problem = refusal(NPY, root)
    assert problem.startswith("4 file(s)")
    assert "val_set/annotations/77_aro.npy" in problem


def test_a_side_file_with_a_wrong_label_is_refused(tmp_path):
    root = NPY.build(tmp_path)
    put_affectnet_arrays(root / "train_set", "12", "11")
    with pytest.raises(ExpllmError, match=r"images/12\.jpg: .*no expression with label 11"):
        read(NPY, root)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "12_exp.npy"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }\n", "12_exp"),
    ],
    ids=["empty", "pickled object"],
)
def test_a_side_file_of_another_kind_is_refused(tmp_path, content, says):
    root = NPY.build(tmp_path)
    (root / "train_set/annotations/12_exp.npy").write_bytes(content)
    with pytest.raises(ExpllmError, match=says):
        read(NPY, root)


def test_links_count_as_what_they_lead_to(tmp_path):
    root = put_pictures(tmp_path / "set", ["train/happy/1.png", "train/sad/1.png"])
    outside = put_pictures(tmp_path / "elsewhere", ["2.png"])
    (root / "train/happy/more").symlink_to(outside)
    (root / "train/sad/nowhere.png").symlink_to("nowhere.png")  # leads to itself: a file that nobody can read
    assert [face.picture for face in read_dataset("imagefolder", root)] == [
        "train/happy/1.png", "train/happy/more/2.png", "train/sad/1.png", "train/sad/nowhere.png"
    ]  # fmt: skip


def test_a_link_to_a_folder_that_it_lies_in_is_refused(tmp_path):
    root = put_pictures(tmp_path, ["train/happy/1.png"])
    (root / "train/happy/again").symlink_to(root / "train")
    with pytest.raises(ExpllmError, match=r"happy/again is a link to a folder that it lies in, .*train"):
        list(read_dataset("imagefolder", root))
