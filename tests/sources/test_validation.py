"""Validation finds what is planted and nothing else; look-alikes are those that comparing all with all finds."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from expllm_jax.faces import LABEL_ORDERS, Annotation
from expllm_jax.records import read_picture
from expllm_jax.sources.look_alikes import CORRELATION, DISTANCE, look_alikes, look_of
from expllm_jax.sources.validation import KINDS, validate

CLASSES = ("Neutral", "Happiness", "Sadness", "Fear")
PUBLISHED = {
    "train": dict(zip(CLASSES, (5, 4, 3, 2), strict=True)),
    "test": dict(zip(CLASSES, (1, 2, 3, 4), strict=True)),
}


def drawing(seed: int, size: int = 64) -> Image.Image:
    """Soft blobs: every seed another picture, as smooth as a face."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def tree(tmp_path) -> tuple[Path, list[Annotation]]:
    """A dataset without faults, with exactly the published numbers."""
    annotations, number = [], 0
    for split, classes in PUBLISHED.items():
        for expression, count in classes.items():
            for _ in range(count):
                name = f"{split}/{number:03d}.jpg"
                (tmp_path / split).mkdir(exist_ok=True)
                drawing(number).save(tmp_path / name, quality=92)
                annotations.append(Annotation(name, expression, split=split, identity=f"{split}-{number // 2}"))
                number += 1
    return tmp_path, annotations


def found_in(root, annotations, **options):
    return validate(annotations, root, read=read_picture, published=PUBLISHED, workers=2, **options)


def kinds(validation) -> list[str]:
    return [finding.kind for finding in validation.findings]


def test_a_clean_dataset_has_no_findings(tree):
    root, annotations = tree
    told = []
    found = found_in(root, annotations, progress=lambda done, total: told.append((done, total)), samples=2)
    assert found.clean and found.findings == () and list(found.by_kind()) == []
    assert found.annotations == found.pictures == len(annotations) == 24
    assert {row.verdict for row in found.counts} == {"as published"} and len(found.counts) == 8
    assert found.sizes == {"64 x 64": 24} and found.modes == {"JPEG RGB": 24}
    assert found.known["expression"] == found.known["identity"] == 24 and found.known["landmarks"] == 0
    assert told[-1] == (24, 24) and [done for done, _ in told] == list(range(1, 25))
    assert {expression: len(names) for expression, names in found.samples.items()} == dict.fromkeys(CLASSES, 2)
    assert found == found_in(root, annotations, samples=2)


def test_the_same_file_twice_is_found_in_a_split_and_across(tree):
    root, annotations = tree
    (root / "train/001.jpg").write_bytes((root / "train/000.jpg").read_bytes())
    (root / "test/020.jpg").write_bytes((root / "train/002.jpg").read_bytes())
    found = found_in(root, annotations)
    assert kinds(found) == ["duplicate", "shared-file"]
    assert [finding.pictures for finding in found.findings] == [
        ("train/000.jpg", "train/001.jpg"), ("train/002.jpg", "test/020.jpg")
    ]  # fmt: skip
    assert (
        "labelled Neutral and Fear" in found.findings[1].what and "in 'train' and in 'test'" in found.findings[1].what
    )


def test_a_recompressed_copy_in_the_other_split_is_found(tree):
    root, annotations = tree
    Image.open(root / "train/003.jpg").resize((40, 40)).save(root / "test/017.jpg", quality=40)
    found = found_in(root, annotations)
    assert kinds(found) == ["shared-look"] and set(found.findings[0].pictures) == {"train/003.jpg", "test/017.jpg"}


def test_look_alikes_of_one_split_are_findings_unless_they_are_of_one_person(tree):
    root, annotations = tree
    Image.open(root / "train/003.jpg").save(root / "train/005.jpg", quality=50)
    found = found_in(root, annotations)
    assert kinds(found) == ["look-alike"] and found.findings[0].pictures == ("train/003.jpg", "train/005.jpg")
    annotations[5] = replace(annotations[5], identity=annotations[3].identity)
    found = found_in(root, annotations)
    assert found.clean and found.recorded == 1


def plant_truncated(path):
    path.write_bytes(path.read_bytes()[:400])


def plant_text(path):
    path.write_text("<html>404</html>")


PLANTED = {
    "truncated": (plant_truncated, "unreadable", "broken or truncated"),
    "empty": (lambda path: path.write_bytes(b""), "unreadable", "test/015.jpg"),
    "missing": (lambda path: path.unlink(), "unreadable", "No such file"),
    "text": (plant_text, "unreadable", "not a picture"),
    "8 x 8": (lambda path: drawing(99, 8).save(path), "tiny", "8 x 8"),
    "24 x 24": (lambda path: drawing(99, 24).save(path), "tiny", "24 x 24"),
    "grey": (lambda path: Image.new("RGB", (64, 64), (90, 90, 90)).save(path), "flat", "one colour"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_bad_picture_is_found(planted, tree):
    root, annotations = tree
    plant, kind, said = PLANTED[planted]
    plant(root / "test/015.jpg")
    found = found_in(root, annotations)
    assert kinds(found) == [kind], found.findings
    assert found.findings[0].pictures == ("test/015.jpg",)
    assert "test/015.jpg" in found.findings[0].what and said in found.findings[0].what


def test_two_pictures_of_one_colour_are_not_alike(tree):
    root, annotations = tree
    for name, shade in (("train/000.jpg", 10), ("test/015.jpg", 200)):
        Image.new("RGB", (64, 64), (shade,) * 3).save(root / name)
    assert kinds(found_in(root, annotations)) == ["flat", "flat"]


def test_counts_that_differ_are_found_with_their_difference(tree):
    root, annotations = tree
    found = found_in(root, annotations[1:])
    assert kinds(found) == ["counts"]
    row = found.counts[0]
    assert (row.expression, row.found, row.published, row.difference, row.verdict) == ("Neutral", 4, 5, -1, "1 missing")
    extra = replace(annotations[0], expression="Disgust", face_box=(0.0, 0.0, 5.0, 5.0))
    found = found_in(root, [*annotations, extra])
    assert kinds(found) == ["counts"] and "train: 1 of Disgust, published are 0 (1 too many)" in found.findings[0].what


def test_nothing_is_compared_where_nothing_is_published(tree):
    root, annotations = tree
    found = validate(annotations[3:], root, read=read_picture)
    assert found.clean and {row.verdict for row in found.counts} == {"nothing published"}


def relabelled(annotations, meaning):
    return [replace(a, expression=meaning.get(a.expression, a.expression)) for a in annotations]


def test_swapped_labels_are_told_from_counts(tree):
    root, annotations = tree
    found = found_in(root, relabelled(annotations, {"Neutral": "Fear", "Fear": "Neutral"}))
    assert kinds(found) == ["counts"] * 4 + ["label-order"] * 2
    assert "what is labelled Neutral has the published number of Fear" in found.findings[-1].what


def test_labels_read_in_another_known_order_are_told_with_its_name(tmp_path):
    """RAF-DB's test split, with AffectNet's Kaggle numbers read as RAF-DB's."""
    counts = dict(zip(LABEL_ORDERS["raf-db"].values(), (329, 74, 160, 1185, 478, 162, 680), strict=True))
    drawing(0).save(tmp_path / "one.png")
    wrong, right = LABEL_ORDERS["affectnet-kaggle-csv"], LABEL_ORDERS["raf-db"]
    annotations = []
    for number, expression in wrong.items():
        for copy in range(counts.get(expression, 0)):
            annotations.append(Annotation("one.png", right[number], split="test", face_box=(0.0, 0.0, 9.0, 1.0 + copy)))
    # One picture for all: what is looked at here are the labels.
    annotations = [replace(a, face_box=annotations[0].face_box) for a in annotations[:1]] + annotations[1:]
    found = validate(annotations, tmp_path, read=read_picture, published={"test": counts}, order="raf-db")
    said = [finding.what for finding in found.findings if finding.kind == "label-order"]
    assert len(said) == 1 and "affectnet-kaggle-csv" in said[0] and "exactly" in said[0]


def test_people_in_two_splits_and_pictures_listed_twice_are_found(tree):
    root, annotations = tree
    annotations[20] = replace(annotations[20], identity=annotations[0].identity)
    again = replace(annotations[4], expression="Sadness")
    found = validate([*annotations, again], root, read=read_picture)
    assert kinds(found) == ["listed-twice", "shared-identity"]
    assert "as Neutral and as Sadness" in found.findings[0].what and "train-0" in found.findings[1].what
    two_faces = replace(annotations[4], face_box=(1.0, 2.0, 3.0, 4.0))
    assert "listed-twice" not in kinds(validate([*annotations, two_faces], root, read=read_picture))


def test_people_of_two_test_splits_are_no_finding(tree):
    root, annotations = tree
    annotations = [replace(a, split="mild" if a.split == "test" else "clean", identity="one") for a in annotations]
    assert validate(annotations, root, read=read_picture).clean


def test_what_is_known_is_counted_by_attribute_and_vocabulary(tree):
    root, annotations = tree
    annotations[0] = replace(annotations[0], units={"facs": {"AU12": 0.0}}, attributes={"gender": "female", "age": 3.0})
    annotations[1] = replace(annotations[1], attributes={"gender": "male"})
    known = found_in(root, annotations).known
    assert known["units"] == known["units facs"] == known["attribute age"] == 1 and known["attribute gender"] == 2
    assert known["attributes"] == 2


def test_every_kind_of_finding_has_a_description(tree):
    assert all(description and description[0].islower() for description in KINDS.values())


def copies(image: Image.Image) -> dict[str, Image.Image]:
    made = {}
    for quality in (90, 50, 20):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        made[f"quality {quality}"] = Image.open(buffer)
    made["half"] = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    made["larger"] = image.resize((150, 150), Image.Resampling.BICUBIC)
    made["brighter"] = ImageEnhance.Brightness(image).enhance(1.1)
    return made


def test_copies_look_alike_and_other_pictures_do_not():
    looks = [look_of(np.asarray(drawing(seed))) for seed in range(40)]
    for seed in range(0, 40, 8):
        for name, copy in copies(drawing(seed)).items():
            look = look_of(np.asarray(copy.convert("RGB")))
            assert (look.hash ^ looks[seed].hash).bit_count() <= DISTANCE, name
            pair = [np.frombuffer(each.thumbnail, np.uint8).astype(float) for each in (look, looks[seed])]
            assert np.corrcoef(pair)[0, 1] >= CORRELATION, name
    assert not any(
        (first.hash ^ second.hash).bit_count() <= DISTANCE for first, second in itertools.combinations(looks, 2)
    )


@pytest.mark.parametrize("groups", [1, 3])
def test_the_index_finds_what_comparing_all_with_all_finds(groups):
    rng = np.random.default_rng(groups)
    count, kinds_of_looks = 1200, 200
    which = rng.integers(0, kinds_of_looks, count)
    which[:300] = 7  # a film: more frames under one key than are tried first
    hashes = rng.integers(0, 2**64, kinds_of_looks, dtype=np.uint64)[which]
    for _ in range(4):
        hashes ^= np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64)
    thumbnails = rng.integers(0, 256, (3, 256), np.uint8)[rng.integers(0, 3, count)]
    group = rng.integers(0, groups, count)
    alike = np.bitwise_count(hashes[:, None] ^ hashes) <= DISTANCE
    alike &= np.corrcoef(thumbnails.astype(float)) >= CORRELATION
    same, earlier = group[:, None] == group, np.tri(count, k=-1, dtype=bool)
    found = look_alikes(hashes, thumbnails, group)
    rows = np.arange(count)
    for named, expected in ((found.within, alike & same & earlier), (found.across, alike & ~same)):
        np.testing.assert_array_equal(named >= 0, expected.any(1))
        assert expected[rows[named >= 0], named[named >= 0]].all()
    assert (found.across >= 0).any() == (groups > 1)


def test_no_pictures_have_no_look_alikes():
    empty = look_alikes(np.zeros(0, np.uint64), np.zeros((0, 256), np.uint8), np.zeros(0, np.int64))
    assert len(empty.within) == len(empty.across) == 0
