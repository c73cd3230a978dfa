"""Datasets by name, and finding out in which layout one lies."""

from __future__ import annotations

import json

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation, write_annotations
from expllm_jax.sources import DATASETS, find_dataset, find_layout, read_dataset, unchecked_notice
from expllm_jax.sources.expression_sets import EXPRESSION_SETS
from tests.sources.trees import FOLDERS, TABLES, put_picture, put_pictures

TREES = TABLES | FOLDERS


@pytest.mark.parametrize("name", TREES)
def test_the_layout_of_every_tree_is_found(name, tmp_path):
    tree = TREES[name]
    root = tree.build(tmp_path)
    dataset = find_dataset(tree.dataset)
    assert find_layout(dataset, root).name == tree.layout


def test_there_is_a_tree_for_every_layout_that_reads_labels():
    trees = {(tree.dataset.partition(":")[0], tree.layout) for tree in TREES.values()}
    elsewhere = {("raf-db", "original"), ("fer2013", "csv"), ("annotations", "jsonl")}  # tested by name
    own = [DATASETS[name] for name in ("imagefolder", "csv", "annotations")]
    for dataset in (*EXPRESSION_SETS, *own):  # test_frame_and_face_sets.py has trees of the others
        if dataset.name != "affectnet-7":  # the layouts of "affectnet"
            for layout in dataset.layouts:
                assert (dataset.name, layout.name) in trees | elsewhere


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_every_dataset_says_what_it_is_and_what_its_terms_are(dataset):
    assert DATASETS[dataset.name] is dataset
    assert dataset.title
    assert dataset.licence.count(" ") > 5
    assert len({layout.name for layout in dataset.layouts}) == len(dataset.layouts) > 0
    for layout in dataset.layouts:
        assert layout.engine.looks_for
        assert set(layout.instead_of) <= {other.name for other in dataset.layouts} - {layout.name}
        assert set(dataset.published_counts(layout.name)) <= set(layout.engine.splits or ("",))


def test_an_unknown_dataset_is_answered_with_the_nearest():
    with pytest.raises(ExpllmError, match="Did you mean 'raf-db'"):
        find_dataset("RAFDB")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("csv:raf", "no label order 'raf'"),
        ("raf-db:affectnet", "a label order of its own"),
        ("nothing", "There are raf"),
    ],
)
def test_names_that_mean_nothing_are_refused(name, says):
    with pytest.raises(ExpllmError, match=says):
        find_dataset(name)


def test_an_unknown_layout_or_split_is_refused_at_once(tmp_path):
    root = TABLES["raf-db basic"].build(tmp_path)
    with pytest.raises(ExpllmError, match="no layout 'aligned'.*basic, original"):
        read_dataset("raf-db", root, layout="aligned")
    with pytest.raises(ExpllmError, match="no split 'tets'.*Did you mean 'test'"):
        read_dataset("raf-db", root, split="tets")
    with pytest.raises(ExpllmError, match="is no folder"):
        read_dataset("raf-db", root / "nowhere")


def test_a_file_is_no_folder_but_some_datasets_lie_in_one(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("")
    for layout in ("", "folders"):
        with pytest.raises(ExpllmError, match=r"list\.txt is a file that raf-db cannot be read from.*folders needs"):
            read_dataset("raf-db", file, layout=layout)
    released = file.with_suffix(".json")
    released.write_text('[{"file_name": "a.png", "emo": "Fear"}]')
    assert [face.picture for face in read_dataset("expllm", released)] == ["a.png"]
    with pytest.raises(ExpllmError, match=r"list\.txt is a file that expllm cannot be read from.*ends in \.json"):
        read_dataset("expllm", file)


def test_answers_of_other_peoples_conversations_are_named_with_the_dataset(tmp_path):
    turns = [{"from": "human", "value": "<image>\nHow does she look?"}, {"from": "gpt", "value": "Glad."}]
    (tmp_path / "a.json").write_text(json.dumps([{"id": "1", "image": "a.png", "conversations": turns}]))
    with pytest.raises(ExpllmError, match="not known here.*llava:caption"):
        list(read_dataset("llava", tmp_path / "a.json"))
    (face,) = read_dataset("llava:caption", tmp_path / "a.json")
    assert face.caption == "Glad." and face.provenance["dataset"] == "llava"
    with pytest.raises(ExpllmError, match="answers is nonsense"):
        list(read_dataset("llava:nonsense", tmp_path / "a.json"))


def test_a_folder_without_the_dataset_is_told_what_each_layout_needs(tmp_path):
    with pytest.raises(ExpllmError) as caught:
        read_dataset("raf-db", tmp_path)
    for layout, needs in (
        ("basic", "EmoLabel/list_patition_label.txt and Image/aligned/"),
        ("kaggle-csv", "train_labels.csv and test_labels.csv"),
        ("folders", "class folders in train/ or test/"),
    ):
        assert f"{layout} needs {needs}" in caught.value.problem


def test_several_layouts_are_told_and_one_has_to_be_named(tmp_path):
    TABLES["raf-db basic"].build(tmp_path)
    FOLDERS["raf-db folders"].build(tmp_path)
    with pytest.raises(ExpllmError, match="in several layouts: basic and folders. Name one"):
        read_dataset("raf-db", tmp_path)
    assert len(list(read_dataset("raf-db", tmp_path, layout="basic"))) == 3


def test_a_layout_that_nobody_checked_says_so():
    affectnet, own = DATASETS["affectnet"], DATASETS["csv"]
    assert "'npy' of affectnet is known from descriptions only" in unchecked_notice(affectnet, affectnet.layout("npy"))
    assert unchecked_notice(own, own.layout("one-file")) == ""


def test_numbers_in_folders_need_the_name_of_their_order(tmp_path):
    put_pictures(tmp_path, ["train/0/1.png", "train/3/2.png"])
    with pytest.raises(ExpllmError, match="does not hold imagefolder"):
        read_dataset("imagefolder", tmp_path)
    words = [face.expression for face in read_dataset("imagefolder:fer2013", tmp_path)]
    assert words == ["Anger", "Happiness"]


# --- Files of annotations


@pytest.fixture
def annotated(tmp_path):
    faces = [
        Annotation("a/1.png", "Fear", split="train", identity="p", provenance={"seed": "1"}),
        Annotation("a/2.png", "Anger", split="test", units={"facs": {"AU4": 0.5}}),
    ]
    put_pictures(tmp_path, [face.picture for face in faces])
    write_annotations(tmp_path / "annotations.jsonl", faces)
    return tmp_path


def test_a_file_of_annotations_is_read_as_it_stands(annotated):
    first, second = read_dataset("annotations", annotated)
    assert (first.picture, first.expression, first.identity) == ("a/1.png", "Fear", "p")
    assert first.provenance == {
        "dataset": "annotations",
        "layout": "jsonl",
        "label_file": "annotations.jsonl",
        "seed": "1",
    }
    assert second.units == {"facs": {"AU4": 0.5}}
    assert list(read_dataset("annotations", annotated, split="test")) == [second]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 3: not JSON"),
        ("[]", "line 3: \\[\\] is no object"),
        ('{"picture": "a/1.png"}', "line 3: a/1.png was named before, in line 1"),
        ('{"picture": "a/9.png"}', "line 3: There is no picture a/9.png"),
        ('{"picture": "../a.png"}', "line 3: The path '../a.png' leads out"),
        ('{"picture": "a/1.png", "expression": "Joy"}', "line 3: a/1.png has the expression 'Joy'"),
    ],
)
def test_wrong_lines_are_refused_by_number(annotated, line, says):
    with (annotated / "annotations.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ExpllmError, match=says):
        list(read_dataset("annotations", annotated))
    problems: list[ExpllmError] = []
    assert len(list(read_dataset("annotations", annotated, problems=problems.append))) == 2
    assert len(problems) == 1


def test_pictures_that_no_annotation_names_are_told(annotated):
    put_picture(annotated / "a/3.png")
    with pytest.raises(ExpllmError, match=r"1 picture\(s\) .* have no annotation: a/3\.png"):
        list(read_dataset("annotations", annotated))


def test_an_empty_file_of_annotations_is_refused(annotated):
    (annotated / "annotations.jsonl").write_text("\n")
    with pytest.raises(ExpllmError, match="holds no annotation"):
        list(read_dataset("annotations", annotated))
