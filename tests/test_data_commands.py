"""`expllm data datasets | import | unpack | export | validate | build | verify | inspect`: what each gives."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expllm_jax import cli
from expllm_jax.config import load_experiment
from expllm_jax.data_commands import build_from_annotations, import_dataset
from expllm_jax.evaluate.record_page import terminal_text, view_record
from expllm_jax.faces import Annotation, read_annotations, write_annotations
from expllm_jax.records import open_encoder, open_records
from expllm_jax.sources.catalogue import DATASETS
from tests.cli.commands import assert_refused, expllm, unchanged

COT = (
    "**Key Observations:** The left lip corner is pulled up (AU12).\n\n"
    "**Overall Emotional Interpretation:** It agrees.\n\n**Conclusion:** The face shows happiness."
)
EVIL = "<script>alert(1)</script>"


def drawing(seed: int, size: int = 48) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def raf(tmp_path) -> Path:
    """A little RAF-DB in its basic layout."""
    root = tmp_path / "RAF-DB"
    (root / "basic/EmoLabel").mkdir(parents=True)
    (root / "basic/Image/aligned").mkdir(parents=True)
    lines = []
    for number in range(14):
        name = f"{'train' if number < 9 else 'test'}_{number:05d}"
        drawing(number).save(root / f"basic/Image/aligned/{name}_aligned.jpg")
        lines.append(f"{name}.jpg {number % 7 + 1}\n")
    (root / "basic/EmoLabel/list_patition_label.txt").write_text("".join(lines))
    return root


def add_line(root: Path, line: str) -> None:
    with (root / "basic/EmoLabel/list_patition_label.txt").open("a") as labels:
        labels.write(f"{line}\n")


# ---- datasets, import, export


def test_datasets_are_listed_with_layouts_and_terms():
    listed = json.loads(expllm("data", "datasets", "--json").out)
    assert [each["name"] for each in listed] == list(DATASETS)
    by_name = {each["name"]: each for each in listed}
    assert set(by_name["raf-db"]) == {"name", "title", "layouts", "splits", "counts", "licence"}
    assert by_name["raf-db"]["counts"]["test"]["Fear"] == 74 and by_name["raf-db"]["licence"]
    text = expllm("data", "datasets").out
    assert all(name in text for name in DATASETS) and "never checked on real files" in text


def test_import_writes_annotations_and_says_counts_terms_and_doubts(raf, tmp_path):
    out = tmp_path / "raf.jsonl"
    told = expllm("data", "import", "raf-db", raf, "--out", out)
    assert told.status == 0, told
    for said in ("train: 9", "Surprise", DATASETS["raf-db"].licence, "never checked on the real files", str(out)):
        assert said in told.out
    annotations = read_annotations(out)
    assert len(annotations) == 14 and annotations[0].expression == "Surprise" and annotations[9].split == "test"
    with unchanged(tmp_path):
        assert_refused(expllm("data", "import", "raf-db", raf, "--out", out), out, "exists already")
    part = json.loads(expllm("data", "import", "raf-db", raf, "--out", tmp_path / "t", "--split", "test", "--json").out)
    assert part["count"] == 5 and list(part["counts"]) == ["test"] and part["skipped"] == 0 and part["notice"]


def test_what_import_skips_is_counted_and_listed(raf, tmp_path):
    add_line(raf, "train_00000.jpg 9")
    add_line(raf, "train_77777.jpg 1")
    out = tmp_path / "raf.jsonl"
    refused = expllm("data", "import", "raf-db", raf, "--out", out)
    assert_refused(refused, "line 1", "list_patition_label.txt")
    assert not out.exists()
    told = json.loads(expllm("data", "import", "raf-db", raf, "--out", out, "--on-error", "skip", "--json").out)
    assert told["count"] == 14 and told["skipped"] == 2
    listed = [json.loads(line) for line in Path(told["skipped_list"]).read_text().splitlines()]
    assert len(listed) == 2 and all(set(each) == {"problem", "remedy"} for each in listed)
    assert "line 15" in listed[0]["problem"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["raf-bd", "."], "Did you mean 'raf-db'"),
        (["raf-db", "nowhere"], "nowhere is no folder"),
        (["raf-db", "."], "EmoLabel"),
        (["raf-db", "RAF-DB/basic/EmoLabel/list_patition_label.txt"], "is a file that raf-db cannot be read from"),
        (["raf-db", "RAF-DB", "--split", "tset"], "Did you mean 'test'"),
        (["raf-db", "RAF-DB", "--layout", "basics"], "no layout 'basics'"),
    ],
)
def test_wrong_datasets_are_one_error(words, said, raf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with unchanged(tmp_path):
        assert_refused(expllm("data", "import", *words, "--out", "out.jsonl"), said)
        assert_refused(expllm("data", "validate", *words), said)


def test_nothing_of_a_dataset_is_one_error(raf, tmp_path):
    (raf / "basic/EmoLabel/list_patition_label.txt").write_text("train_00000.jpg 12\n")
    outcome = expllm("data", "import", "raf-db", raf, "--out", tmp_path / "out", "--on-error", "skip")
    assert_refused(outcome, "gave no annotation", "line 1")


@pytest.mark.parametrize("form", ["llava", "ferbench", "expllm", "facial-r1"])
def test_export_writes_what_others_read(form, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.json"
    units = {"facs": {"AU12": 0.8}} if form == "facial-r1" else {}
    write_annotations(source, [Annotation("a.jpg", "Happiness", units=units), Annotation("b.jpg", "Fear", units=units)])
    words = ["data", "export", source, "--format", form, "--out", out]
    if form == "facial-r1":
        with unchanged(tmp_path):
            assert_refused(expllm(*words), "--at-least is missing")
        words += ["--at-least", "2", "--lossy"]
    told = json.loads(expllm(*words, "--json").out)
    assert told == {"file": str(out), "format": form, "count": 2}
    assert "a.jpg" in out.read_text() and "b.jpg" in out.read_text()
    with unchanged(tmp_path):
        assert_refused(expllm(*words), "exists already")


def test_export_refuses_a_loss_unless_it_is_allowed(tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.json"
    write_annotations(source, [Annotation("a.jpg", "Happiness", attributes={"age": 30.0})])
    assert_refused(expllm("data", "export", source, "--format", "ferbench", "--out", out), "attributes", "--lossy")
    assert expllm("data", "export", source, "--format", "ferbench", "--out", out, "--lossy").status == 0
    words = ["data", "export", source, "--format", "llava", "--out", tmp_path / "new"]
    assert_refused(expllm(*words, "--at-least", "2"), "--at-least is of no use for llava")
    source.write_text("")
    assert_refused(expllm("data", "export", source, "--format", "llava", "--out", tmp_path / "o"), "no annotations")


@pytest.fixture
def released(tmp_path) -> Path:
    """A released JSON, its pictures beside it and, the same ones, in another folder."""
    for folder in (tmp_path / "beside", tmp_path / "apart" / "pictures"):
        folder.mkdir(parents=True)
        for number in range(2):
            drawing(number).save(folder / f"{number}.png")
    entries = [{"file_name": f"{number}.png", "emo": "Fear"} for number in range(2)]
    for folder in ("beside", "apart"):
        (tmp_path / folder / "list.json").write_text(json.dumps(entries))
    return tmp_path


def test_a_dataset_that_lies_in_a_file_may_be_named_itself(released):
    out = released / "out.jsonl"
    told = expllm("data", "import", "expllm", released / "beside" / "list.json", "--out", out)
    assert told.status == 0 and f"next: expllm data validate {out} {released / 'beside'}" in told.out
    assert expllm("data", "validate", out, released / "beside").status == 0
    assert expllm("data", "validate", "expllm", released / "beside" / "list.json").status == 0
    apart = released / "apart" / "list.json"
    assert expllm("data", "validate", "expllm", apart).status == 1
    assert expllm("data", "validate", "expllm", apart, "--pictures", apart.parent / "pictures").status == 0
    for words, said in (
        (["expllm", apart, "--pictures", "nowhere"], "nowhere is no folder"),
        (["expllm", released / "beside", "--pictures", released], "is a folder"),
        ([apart, released], "expllm data validate expllm"),
    ):
        assert_refused(expllm("data", "validate", *words), said)


@pytest.fixture
def pixels(tmp_path) -> Path:
    """fer2013.csv with a picture of each split, and FERPlus' table for it."""
    row = " ".join(["7"] * 48 * 48)
    (tmp_path / "fer2013.csv").write_text(
        f"emotion,pixels,Usage\n3,{row},Training\n0,{row},PublicTest\n6,{row},PrivateTest\n"
    )
    votes = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    rows = "Training,fer0.png,0,9,0,0,0,0,0,0,0,0\nPublicTest,fer1.png,9,0,0,0,0,0,0,0,0,0\n"
    rows += "PrivateTest,fer2.png,0,9,0,0,0,0,0,0,0,0\n"
    (tmp_path / "fer2013new.csv").write_text(votes + rows)
    return tmp_path / "fer2013.csv"


def test_a_table_of_pixels_is_unpacked_into_what_the_readers_read(pixels, tmp_path):
    refused = expllm("data", "import", "fer2013", tmp_path, "--out", tmp_path / "x.jsonl")
    assert_refused(refused, f"expllm data unpack {pixels} --out")
    for name, more in (("fer2013", []), ("ferplus", ["--ferplus", tmp_path / "fer2013new.csv"])):
        words = ["data", "unpack", pixels, "--out", tmp_path / name, *more]
        told = json.loads(expllm(*words, "--json").out)
        assert told == {"folder": str(tmp_path / name), "dataset": name, "pictures": 3}
        with unchanged(tmp_path):
            assert_refused(expllm(*words), "exists already")
        told = expllm("data", "import", name, tmp_path / name, "--out", tmp_path / f"{name}.jsonl", "--json")
        assert told.status == 0 and json.loads(told.out)["count"] == 3
    assert (
        f"next: expllm data import fer2013 {tmp_path / 'b'}"
        in expllm("data", "unpack", pixels, "--out", tmp_path / "b").out
    )


def test_a_damaged_table_of_pixels_leaves_nothing_behind(pixels, tmp_path):
    with pixels.open("a") as file:
        file.write("0,1 2 3,Training\n")
    with unchanged(tmp_path):
        assert_refused(expllm("data", "unpack", pixels, "--out", tmp_path / "new"), "line 5")
        assert_refused(expllm("data", "unpack", tmp_path / "no.csv", "--out", tmp_path / "new"), "no.csv")
        assert_refused(expllm("data", "unpack", pixels, "--out", pixels / "new"), "Not a directory")


def test_a_refusal_is_one_json_value_and_one_line_whatever_names_hold(tmp_path):
    name = "a\nb\x1b[2J.png"
    (tmp_path / "labels.csv").write_text(f'picture,expression\n"{name}",sad\n')
    outcome = expllm("data", "import", "csv", tmp_path, "--out", tmp_path / "out.jsonl", "--json")
    assert outcome.status == 2 and len(outcome.err.splitlines()) == 2 and "\x1b" not in outcome.err
    told = json.loads(outcome.out)
    assert set(told) == {"error", "remedy", "status"} and told["status"] == 2
    assert r"a\nb\x1b[2J.png" in told["error"] and told["error"] in outcome.err


def test_names_that_are_no_text_are_problems_and_not_crashes(tmp_path):
    folder = tmp_path / "set" / "train" / "sad"
    folder.mkdir(parents=True)
    drawing(0).save(folder / "a.png")
    os.rename(folder / "a.png", os.fsencode(folder) + b"/\xff.png")
    drawing(1).save(folder / "b.png")
    words = ["data", "import", "imagefolder", tmp_path / "set", "--out", tmp_path / "out.jsonl"]
    assert_refused(expllm(*words), "UTF-8")
    assert expllm(*words, "--on-error", "skip").status == 0
    assert "udcff" in json.loads((tmp_path / "out.jsonl.skipped.jsonl").read_text())["problem"]
    told = expllm("data", "validate", "imagefolder", tmp_path / "set", "--html", tmp_path / "page.html", "--json")
    assert [each["kind"] for each in json.loads(told.out)["findings"]] == ["reading"]
    assert "udcff" in (tmp_path / "page.html").read_text()


def every_verb() -> list[tuple[list[str], str]]:
    """(words, example) of every verb below `data`."""
    group = next(action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
    verbs = next(action for action in group.choices["data"]._actions if isinstance(action, argparse._SubParsersAction))
    return [(["data", name], verb.epilog) for name, verb in verbs.choices.items()]


@pytest.mark.parametrize(("words", "example"), every_verb(), ids=lambda value: value[-1])
def test_the_example_of_a_verb_is_what_it_understands(words, example):
    typed = shlex.split(example.removeprefix("example: "))
    assert typed[:3] == ["expllm", *words]
    assert cli._parser().parse_args(typed[1:]).do


# ---- validate


@pytest.fixture
def faces(tmp_path) -> Path:
    """Annotations of a dataset that nobody knows, with their pictures."""
    for number in range(6):
        drawing(number).save(tmp_path / f"{number}.png")
    split = {number: "train" if number < 4 else "test" for number in range(6)}
    rows = [Annotation(f"{number}.png", "Fear" if number % 2 else "Anger", split=split[number]) for number in split]
    write_annotations(tmp_path / "faces.jsonl", rows)
    return tmp_path


def test_a_clean_dataset_has_status_0(faces):
    told = expllm("data", "validate", faces / "faces.jsonl", faces)
    assert told.status == 0 and "clean: nothing to look at" in told.out and "nothing published" in told.out
    assert "looking at 6/6" in told.err and "lack" not in told.out
    rows = read_annotations(faces / "faces.jsonl")
    write_annotations(faces / "faces.jsonl", [replace(rows[0], attributes={"gender": "male"}), *rows[1:]])
    assert "lack  attributes 5, attribute gender 5" in expllm("data", "validate", faces / "faces.jsonl", faces).out


def test_findings_have_status_1_and_are_told(raf, tmp_path):
    add_line(raf, "train_77777.jpg 1")
    aligned = raf / "basic/Image/aligned"
    Image.open(aligned / "train_00003_aligned.jpg").save(aligned / "test_00012_aligned.jpg", quality=60)
    told = expllm("data", "validate", "raf-db", raf, "--json")
    assert told.status == 1
    value = json.loads(told.out)
    assert set(value) == {
        "title", "licence", "notes", "clean", "annotations", "pictures", "counts", "findings", "known", "sizes",
        "modes", "recorded", "page",
    }  # fmt: skip
    kinds = {finding["kind"] for finding in value["findings"]}
    assert kinds == {"reading", "counts", "shared-look"} and not value["clean"]
    assert value["licence"] == DATASETS["raf-db"].licence and "never checked" in value["notes"][0]
    fear = next(row for row in value["counts"] if (row["split"], row["expression"]) == ("test", "Fear"))
    assert fear["published"] == 74 and fear["difference"] == fear["found"] - 74
    text = expllm("data", "validate", "raf-db", raf).out
    for said in ("line 15", "missing", "look the same", "terms you must have accepted", "48 x 48 (14)"):
        assert said in text


def test_an_imported_file_is_compared_with_its_datasets_numbers(raf, tmp_path):
    out = import_dataset("raf-db", raf, tmp_path / "raf.jsonl").annotations
    value = json.loads(expllm("data", "validate", out, raf, "--split", "test", "--json").out)
    assert value["title"].startswith("RAF-DB") and {row["split"] for row in value["counts"]} == {"test"}
    assert {row["published"] for row in value["counts"]} == {329, 74, 160, 1185, 478, 162, 680}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.jsonl", "."], "none.jsonl"),
        (["faces.jsonl", "nowhere"], "nowhere is no folder"),
        (["faces.jsonl", ".", "--split", "dev"], "no annotations in 'dev'"),
        (["broken.jsonl", "."], "line 1"),
    ],
)
def test_wrong_annotation_files_are_one_error(words, said, faces, monkeypatch):
    monkeypatch.chdir(faces)
    Path("broken.jsonl").write_text("{")
    with unchanged(faces):
        assert_refused(expllm("data", "validate", *words), said)


# ---- the page


class Tags(HTMLParser):
    """Tags and where they lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "source", "br", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def assert_self_contained(page: str) -> Tags:
    seen = Tags(page)
    assert seen.open == [] and "script" not in seen.tags and "link" not in seen.tags
    assert seen.links and all(link.startswith("data:image/") for link in seen.links)
    assert "@import" not in page and "url(" not in page
    return seen


def test_the_page_shows_findings_and_samples_and_escapes_everything(tmp_path):
    folder = tmp_path / EVIL.replace("/", "∕")
    folder.mkdir()
    names = [f"{EVIL.replace('/', '∕')}-{number}.png" for number in range(4)]
    for number, name in enumerate(names):
        drawing(number).save(folder / name)
    (folder / names[3]).write_bytes((folder / names[0]).read_bytes())
    rows = [Annotation(name, "Fear", split=EVIL, identity=f"{EVIL}{number}") for number, name in enumerate(names)]
    write_annotations(folder / "a.jsonl", rows)
    told = expllm("data", "validate", folder / "a.jsonl", folder, "--html", tmp_path / "page.html", "--samples", "3")
    assert told.status == 1 and str(tmp_path / "page.html") in told.out
    page = (tmp_path / "page.html").read_text()
    seen = assert_self_contained(page)
    assert "<script>" not in page and "&lt;script&gt;" in page
    # A pair, three samples, one plot in two themes.
    assert seen.tags.count("img") == 2 + 3 + 1 and seen.tags.count("source") == 1
    assert "The same file twice in one split (1)" in page


def test_the_page_of_unreadable_pictures_says_so(faces, tmp_path):
    (faces / "2.png").write_bytes(b"no picture")
    told = expllm("data", "validate", faces / "faces.jsonl", faces, "--html", tmp_path / "page.html", "--json")
    assert told.status == 1 and json.loads(told.out)["page"] == str(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert_self_contained(page)
    assert '<div class="face none">unreadable</div>' in page


def test_a_page_that_cannot_be_written_is_one_error(faces, tmp_path):
    (tmp_path / "file").write_text("")
    for page in (tmp_path / "file" / "page.html", tmp_path / "nowhere" / "page.html", tmp_path):
        # Before anything is looked at, which may take hours.
        assert_refused(expllm("data", "validate", faces / "faces.jsonl", faces, "--html", page), page)


# ---- build and inspect


def write_faces(folder: Path, *, name: str = "faces.jsonl", start: int = 0, split: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    rows = []
    for number in range(start, start + 6):
        drawing(number).save(folder / f"{number}.png")
        rows.append(
            Annotation(
                f"{number}.png", "Happiness", cot=COT, split=split, units={"facs": {"AU12": 0.5, "AU4": 0.0}},
                provenance={"dataset": "drawn"}, identity=f"p{number}",
            )
        )  # fmt: skip
    write_annotations(folder / name, rows)
    return folder / name


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Records of two annotation files."""
    folder = tmp_path_factory.mktemp("built")
    files = [write_faces(folder / "in"), write_faces(folder / "in", name="test.jsonl", start=6, split="test")]
    words = [word for file in files for word in ("--annotations", file)]
    told = expllm("data", "build", "tiny", *words, "--pictures", folder / "in", "--out", folder / "r", "--workers", "1")
    assert told.status == 0, told
    for said in (
        "train     6 records",
        "test      6 records",
        "the longest row has",
        "next: expllm data inspect",
        "SHA",
    ):
        assert said in told.out, told.out
    assert "records 12/12" in told.err
    assert sorted(path.name for path in folder.iterdir()) == ["in", "r"]  # nothing is left beside them
    return folder / "r"


def test_records_are_built_from_annotation_files(built):
    source = open_records(built, "train")
    assert len(source) == 6 and source[0].annotation.provenance["dataset"] == "drawn" and source[2].id == "2.png"
    assert open_encoder(built).tokenizer.decode(source[0].row.tokens).count("left lip corner") == 1


def test_building_again_needs_overwrite_and_gives_the_same(built, tmp_path):
    first = write_faces(tmp_path / "in")
    words = ["data", "build", "tiny", "--annotations", first, "--pictures", tmp_path / "in", "--out", tmp_path / "r",
             "--workers", "1"]  # fmt: skip
    before = json.loads(expllm(*words, "--json").out)
    assert before["splits"]["train"]["records"] == 6 and before["splits"]["train"]["skipped"] == {}
    assert_refused(expllm(*words), tmp_path / "r")
    assert json.loads(expllm(*words, "--overwrite", "--json").out)["sha256"] == before["sha256"]


def test_pictures_that_cannot_be_read_stop_the_build_or_are_counted(tmp_path):
    file = write_faces(tmp_path / "in")
    (tmp_path / "in" / "3.png").write_bytes(b"")
    words = ["data", "build", "tiny", "--annotations", file, "--pictures", tmp_path / "in", "--out", tmp_path / "r",
             "--workers", "1"]  # fmt: skip
    outcome = expllm(*words)
    assert outcome.status == 2 and "3.png" in outcome.err and not (tmp_path / "r").exists()
    told = json.loads(expllm(*words, "--on-error", "skip", "--json").out)
    assert told["splits"]["train"]["records"] == 5 and sum(told["splits"]["train"]["skipped"].values()) == 1


def test_faces_without_answers_are_skipped_and_positions_can_be_asked_for(tmp_path):
    file = write_faces(tmp_path / "in")
    faces = [replace(face, expression=None, cot=None) if face.picture == "2.png" else face
             for face in read_annotations(file)]  # fmt: skip
    write_annotations(file, [replace(face, face_box=(4.0, 5.0, 30.0, 31.0)) for face in faces])
    words = ["data", "build", "tiny", "--annotations", file, "--pictures", tmp_path / "in", "--workers", "1", "--json"]
    outcome = expllm(*words, "--out", tmp_path / "r")
    assert outcome.status == 2 and "2.png" in outcome.err
    told = json.loads(expllm(*words, "--out", tmp_path / "r", "--on-error", "skip").out)
    assert told["splits"]["train"]["records"] == 5 and sum(told["splits"]["train"]["skipped"].values()) == 1
    boxes = ["--out", tmp_path / "boxes", "--set", "records.tasks=bbox,label"]
    assert json.loads(expllm(*words, *boxes).out)["splits"]["train"]["records"] == 6
    assert open_records(tmp_path / "boxes", "train")[0].located


def test_wrong_builds_are_one_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_faces(tmp_path / "in", split="test")
    (tmp_path / "none.jsonl").write_text("")
    build = ["data", "build", "tiny", "--out", "r"]
    with unchanged(tmp_path):
        for words, said in (
            (["--annotations", file], "--pictures"),
            (["--annotations", file, "--pictures", "nowhere"], "nowhere is no folder"),
            (["--annotations", "none.jsonl", "--pictures", "in"], "no annotations"),
            (["--annotations", "missing.jsonl", "--pictures", "in"], "missing.jsonl"),
            (["--annotations", file, "--pictures", "in"], "no split 'train'"),
            (["--pictures", "in"], "without --annotations"),
            (["--overwrite"], "without --annotations"),
        ):
            assert_refused(expllm(*build, *words), said)


def test_a_picture_is_one_record(tmp_path):
    first = write_faces(tmp_path / "in")
    second = write_faces(tmp_path / "in", name="second.jsonl", start=5)
    twice = tmp_path / "twice.jsonl"
    twice.write_text(first.read_text() * 2)
    build = ["data", "build", "tiny", "--pictures", tmp_path / "in", "--out", tmp_path / "r"]
    with unchanged(tmp_path):
        refused = expllm(*build, "--annotations", first, "--annotations", second)
        assert_refused(refused, f"{first} and {second} both name 5.png", "mixture")
        assert_refused(expllm(*build, "--annotations", twice), f"{twice} names 0.png twice")


@pytest.mark.parametrize("picture", ["../secret.png", "/etc/passwd", "a/../../b.png"])
def test_a_file_from_elsewhere_reaches_no_picture_outside_the_folder(picture, tmp_path):
    (tmp_path / "in").mkdir()
    drawing(0).save(tmp_path / "secret.png")
    file = tmp_path / "a.jsonl"
    write_annotations(file, [Annotation(picture, "Fear", split="train")])
    assert_refused(expllm("data", "validate", file, tmp_path / "in"), file, picture)
    words = ["--annotations", file, "--pictures", tmp_path / "in", "--out", tmp_path / "r"]
    assert_refused(expllm("data", "build", "tiny", *words), file, picture)


def test_faces_that_answer_nothing_name_the_tasks(tmp_path):
    file = write_faces(tmp_path / "in")
    write_annotations(file, [replace(face, expression=None, cot=None) for face in read_annotations(file)])
    words = ["--annotations", file, "--pictures", tmp_path / "in", "--out", tmp_path / "r"]
    assert_refused(expllm("data", "build", "tiny", *words), "label, cot", "--set records.tasks=")


def test_faces_without_a_split_are_for_training(tmp_path):
    file = write_faces(tmp_path / "in", split="")
    done = build_from_annotations(load_experiment("tiny"), [file], tmp_path / "in", tmp_path / "r", print, workers=1)
    assert list(done.manifest.splits) == ["train"]


def test_verify_finds_the_record_whose_bytes_changed(built, tmp_path):
    told = expllm("data", "verify", built)
    assert told.status == 0 and "6 test, 6 train is as it was written" in told.out and "reading 12/12" in told.err
    shutil.copytree(built, tmp_path / "r")
    shard = tmp_path / "r" / "expllm_records-test.array_record-00000"
    content = bytearray(shard.read_bytes())
    content[content.index(b"7.png") + 1] ^= 1
    shard.write_bytes(content)
    outcome = expllm("data", "verify", tmp_path / "r")
    assert outcome.status == 2 and "record 1 (7.png) is damaged" in outcome.err and outcome.out == ""
    assert_refused(expllm("data", "verify", tmp_path), "manifest.json")


def test_inspect_marks_what_is_learnt(built):
    told = expllm("data", "inspect", "--records", built, "--split", "test", "--index", "1")
    assert told.status == 0 and "\x1b" not in told.out
    for said in ("7.png", "AU12 0.50; 1 absent", "from: dataset", "drawn", "‹picture: 16 places›", "‹end›", "learnt: "):
        assert said in told.out, told.out
    learnt = re.findall(r"⟦(.*?)⟧", told.out, re.S)
    assert any(text.strip() == "Happiness‹end›" for text in learnt) and any("AU12" in text for text in learnt)
    assert "mirrored row" in told.out and "The right lip corner" in told.out
    value = json.loads(expllm("data", "inspect", "--records", built, "--json").out)
    assert "The right lip corner" in "".join(each["text"] for each in value["mirrored_row"])
    assert value["id"] == "0.png" and sum(each["weight"] for each in value["row"]) == pytest.approx(1)
    text = "".join(each["text"] for each in value["row"] if not each["special"])
    assert COT in text and value["annotation"]["identity"] == "p0"


def test_inspect_colours_a_terminal_unless_asked_not_to(built):
    record = open_records(built, "train")[0]
    view = view_record(record, open_encoder(built).tokenizer, place="here")
    coloured = terminal_text(view, colour=True)
    assert "\x1b[1;32m" in coloured and "⟦" not in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).count(COT) >= 1
    assert "\x1b" not in terminal_text(view, colour=False)


@pytest.mark.parametrize(("no_colour", "expected"), [("", True), ("1", False)])
def test_colours_are_for_terminals_only(no_colour, expected, built, monkeypatch):
    monkeypatch.setenv("NO_COLOR", no_colour)
    seen = []
    monkeypatch.setattr("expllm_jax.evaluate.record_page.terminal_text", lambda view, *, colour: seen.append(colour))
    leader, follower = os.openpty()
    with open(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert cli.main(["data", "inspect", "--records", str(built)]) == 0
    os.close(leader)
    assert seen == [expected]


def test_the_record_page_escapes_and_shows_both_pictures(built, tmp_path):
    told = expllm("data", "inspect", "--records", built, "--html", tmp_path / "record.html")
    assert told.status == 0 and str(tmp_path / "record.html") in told.out
    page = (tmp_path / "record.html").read_text()
    assert_self_contained(page)
    assert "AU12</th>" in page and "AU4</th>" not in page  # of the units those that are there
    assert "The right" in re.sub("<[^>]+>", "", page) and "The left" in re.sub("<[^>]+>", "", page)
    images = re.findall(r'src="(data:image/jpeg[^"]+)" alt="(the picture[^"]*)"', page)
    assert [alt for _, alt in images] == ["the picture", "the picture, mirrored"] and images[0][0] != images[1][0]
    record = open_records(built, "train")[0]
    largest = record.row.loss_weights.max()
    assert f"weight {largest:.4g}" in page and 'class="w1' in page and 'class="w2' in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--index", "6"], "use 0 to 5"),
        (["--split", "tset"], "did you mean 'test'"),
    ],
)
def test_records_that_are_not_there_are_one_error(words, said, built):
    assert_refused(expllm("data", "inspect", "--records", built, *words), said)


def test_inspect_of_no_records_is_one_error(tmp_path):
    assert_refused(expllm("data", "inspect", "--records", tmp_path), tmp_path)
    outcome = expllm("data", "inspect", "--records", "a", "--run", "b")
    assert outcome.status == 2 and "not allowed with" in outcome.err
