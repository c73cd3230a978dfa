"""Records from annotations: in parallel, after a kill, around bad pictures."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import tensorflow_datasets as tfds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import write_annotations
from expllm_jax.records import Manifest, build_records, building, open_records, verify_records, write_records
from tests.records.examples import annotation, picture_bytes

FACES = 30


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> list:
    folder = tmp_path_factory.mktemp("pictures mit Leerzeichen ü")
    found = []
    for index in range(FACES):
        path = folder / f"{index} 日本.png"
        path.write_bytes(picture_bytes(index))
        found.append((dataclasses.replace(annotation(index), picture=path.name), path))
    return found


@pytest.fixture(scope="module")
def expected(faces, encoder, tmp_path_factory) -> Manifest:
    """What must come out, by the way that has no jobs."""
    records = {
        "train": [encoder.record(*face) for face in faces[:24]],
        "test": [encoder.record(*f) for f in faces[24:]],
    }
    return write_records(tmp_path_factory.mktemp("expected") / "faces", records, encoder)


def splits(faces) -> dict:
    return {"train": faces[:24], "test": faces[24:]}


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """The numbers of the shards that were made, not found."""
    made: list[int] = []
    write_shard = building.write_shard

    def written(folder, split, number, *rest):
        made.append(number)
        return write_shard(folder, split, number, *rest)

    monkeypatch.setattr(building, "write_shard", written)
    return made


def test_two_processes_build_what_one_does(faces, encoder, expected, tmp_path):
    told = []
    manifest = build_records(
        tmp_path / "faces", splits(faces), encoder, workers=2, shard_records=5,
        report=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert manifest.sha256 == expected.sha256
    assert verify_records(tmp_path / "faces") == manifest
    assert [shard.records for shard in manifest.splits["train"].shards] == [5, 5, 5, 5, 4]
    assert told[-1] == (FACES, FACES) and len(told) == 7 and sorted(told) == told
    assert os.listdir(tmp_path) == ["faces"]
    source = open_records(tmp_path / "faces", "train")
    assert [source.id(index) for index in range(24)] == [face.picture for face, _ in faces[:24]]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, FACES), shard=st.integers(1, 12), data=st.data())
def test_the_hash_does_not_tell_how_the_work_was_cut(faces, encoder, tmp_path_factory, size, shard, data):
    place = tmp_path_factory.mktemp("cut")
    chosen = data.draw(st.permutations(faces))[:size]
    manifest = build_records(place / "a", {"train": chosen}, encoder, workers=1, shard_records=shard)
    assert len(manifest.splits["train"].shards) == -(-size // shard)
    assert verify_records(place / "a") == manifest
    again = write_records(place / "b", {"train": open_records(place / "a", "train")}, encoder)
    assert again.sha256 == manifest.sha256
    assert [record.id for record in open_records(place / "b", "train")] == [face.picture for face, _ in chosen]


# Builds again and again in processes that kill themselves at a random function call; the first counts the calls.
KILLED = """
import itertools, os, pathlib, random, signal, sys
from expllm_jax.faces import read_annotations
from expllm_jax.records import build_records, building, open_encoder, verify_records
pictures, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
encoder, made = open_encoder(sys.argv[3]), folder.with_name("made.txt")
faces = [(face, pictures / face.picture) for face in read_annotations(folder.with_name("faces.jsonl"))]
splits = {"train": faces[:24], "test": faces[24:]}
write_shard = building.write_shard
def written(*arguments):
    with made.open("a") as file:
        file.write(".")
    return write_shard(*arguments)
building.write_shard = written
def forked(work):
    # This process only ever forks: what reads or builds starts threads, and a fork would not take them along.
    child = os.fork()
    if child == 0:
        work()
        sys.stdout.flush()
        os._exit(0)
    return os.waitpid(child, 0)[1]
def build(point):
    def work():
        calls = itertools.count()
        def profile(frame, event, argument):
            if event in ("call", "c_call") and next(calls) == point:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.setprofile(profile)
        build_records(folder, splits, encoder, workers=1, shard_records=4, overwrite=True)
        sys.setprofile(None)
        folder.with_name("calls.txt").write_text(str(next(calls)))
    status = forked(work)
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else "whole"
    told = lambda: print(ended, len(made.read_text()), verify_records(folder).sha256 if folder.exists() else "absent")
    assert forked(told) == 0
made.touch()
build(-1)
calls, rng = int(folder.with_name("calls.txt").read_text()), random.Random(0)
for _ in range(int(sys.argv[4])):
    build(rng.randrange(calls))
build(-1)
"""


def test_killed_anywhere_it_goes_on_and_ends_the_same(faces, expected, encoder, tmp_path):
    write_annotations(tmp_path / "faces.jsonl", [face for face, _ in faces])
    write_records(tmp_path / "encoder", {"train": [encoder.record(*faces[0])]}, encoder)
    command = [sys.executable, "-c", KILLED, faces[0][1].parent, tmp_path / "faces", tmp_path / "encoder", 40]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = [line.split() for line in done.stdout.splitlines()]
    killed = [run for run in runs if run[0] == str(int(signal.SIGKILL))]
    # Replacing takes two renames, between which there is no folder; there is never half of one.
    assert len(runs) == 42 and {run[2] for run in runs} <= {"absent", expected.sha256}
    assert runs[-1][::2] == ["whole", expected.sha256]
    # Eight shards for every build that came through (one may be killed when all but the clearing up is done), and at
    # most the one in hand for every other kill.
    assert 0 < len(killed) and int(runs[-1][1]) <= 8 * (len(runs) - len(killed) + 1) + len(killed)
    assert sorted(os.listdir(tmp_path)) == ["calls.txt", "encoder", "faces", "faces.jsonl", "made.txt"]


PARALLEL = """
import pathlib, sys
from expllm_jax.faces import read_annotations
from expllm_jax.records import build_records, open_encoder
if __name__ == "__main__":
    pictures, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    faces = [(face, pictures / face.picture) for face in read_annotations(folder.with_name("faces.jsonl"))]
    build_records(folder, {"train": faces[:24], "test": faces[24:]}, open_encoder(sys.argv[3]), workers=2,
                  shard_records=1)
"""


def test_workers_end_with_a_parent_that_was_killed(faces, expected, encoder, encoded, tmp_path):
    write_annotations(tmp_path / "faces.jsonl", [face for face, _ in faces])
    write_records(tmp_path / "encoder", {"train": [encoder.record(*faces[0])]}, encoder)
    script = tmp_path / "script.py"
    script.write_text(PARALLEL)
    build = subprocess.Popen(
        [sys.executable, script, faces[0][1].parent, tmp_path / "faces", tmp_path / "encoder"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    jobs = tmp_path / ".faces.partial" / "jobs"
    while not (jobs.is_dir() and any(jobs.glob("*.json"))):
        assert build.poll() is None
        time.sleep(0.002)
    children = psutil.Process(build.pid).children(recursive=True)
    build.kill()
    build.wait()
    assert children and psutil.wait_procs(children, timeout=60)[1] == []
    finished = len(list(jobs.glob("*.json")))
    manifest = build_records(tmp_path / "faces", splits(faces), encoder, workers=1, shard_records=1)
    assert manifest.sha256 == expected.sha256
    assert len(encoded) <= FACES - finished


def test_a_killed_worker_is_one_clear_error_and_no_loss(faces, expected, encoder, encoded, tmp_path):
    finished = []

    def kill(done, total):
        finished.append(done)
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(ExpllmError, match="was killed or could not start"):
        build_records(tmp_path / "faces", splits(faces), encoder, workers=2, shard_records=1, report=kill)
    assert finished and not (tmp_path / "faces").exists()
    assert (
        build_records(tmp_path / "faces", splits(faces), encoder, workers=1, shard_records=1).sha256 == expected.sha256
    )
    assert len(encoded) <= FACES - len(finished)


def test_what_is_finished_is_made_again_only_if_something_changed(faces, encoder, encoded, tmp_path):
    pictures = []
    for face, path in faces[:12]:
        pictures.append((face, tmp_path / path.name))
        pictures[-1][1].write_bytes(path.read_bytes())
    folder = tmp_path / "faces"
    last = pictures[-1][1]
    last.write_bytes(b"no picture")

    def build(chosen=pictures, **settings):
        encoded.clear()
        return build_records(folder, {"train": chosen}, encoder, workers=1, shard_records=4, **settings)

    with pytest.raises(ExpllmError, match="11 日本.png.*is not a picture"):
        build()
    assert encoded == [0, 1, 2] and not folder.exists()
    with pytest.raises(ExpllmError, match="is not a picture"):
        build()
    assert encoded == [2]

    last.write_bytes(picture_bytes(11))
    pictures[0][1].write_bytes(picture_bytes(0) + b" ")
    shard = tmp_path / ".faces.partial" / "records" / "expllm_records-train.array_record-00001"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    manifest = build()
    assert encoded == [0, 1, 2]  # another picture, a damaged file, a mended picture
    assert verify_records(folder) == manifest
    assert not (tmp_path / ".faces.partial").exists()


def test_another_encoder_or_other_faces_use_nothing_of_an_unfinished_build(faces, encoder, encoded, tmp_path):
    bad = (annotation(99), tmp_path / "missing.png")

    def build(chosen, encoder):
        encoded.clear()
        return build_records(tmp_path / "faces", {"train": chosen}, encoder, workers=1, shard_records=4)

    with pytest.raises(ExpllmError, match="missing.png"):
        build([*faces[:16], bad], encoder)
    other = dataclasses.replace(encoder, config=dataclasses.replace(encoder.config, image_tokens=5))
    with pytest.raises(ExpllmError, match="missing.png"):
        build([*faces[:8], bad], other)
    assert encoded == [0, 1, 2]
    manifest = build(faces[:4], other)  # the file is whole, the encoder the same: nothing to do
    assert encoded == []
    assert verify_records(tmp_path / "faces") == manifest
    assert len(list((tmp_path / "faces").glob("*array_record-*"))) == 1


def test_bad_faces_are_skipped_counted_and_listed(faces, encoder, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(picture_bytes(1, size=8))
    empty = tmp_path / "empty.png"
    empty.touch()
    broken = [(dataclasses.replace(annotation(50 + index), picture=path.name), path)
              for index, path in enumerate([bad, empty, tmp_path / "gone.png"])]  # fmt: skip
    silent = (dataclasses.replace(annotation(60), picture="silent.png", expression=None), faces[0][1])
    chosen = [*faces[:2], broken[0], *broken[1:], silent, *faces[2:5]]
    manifest = build_records(
        tmp_path / "faces", {"train": chosen}, encoder, workers=1, shard_records=2, on_error="skip"
    )
    summary = manifest.splits["train"]
    assert summary.records == 5 and [shard.records for shard in summary.shards] == [2, 0, 0, 2, 1]
    assert len(summary.skipped) == 4 and set(summary.skipped.values()) == {1}
    assert "is too small" in summary.skipped and not any("png" in reason for reason in summary.skipped)
    lines = [json.loads(line) for line in (tmp_path / "faces" / "skipped.jsonl").read_text().splitlines()]
    assert [line["picture"] for line in lines] == ["bad.png", "empty.png", "gone.png", "silent.png"]
    assert all(line["split"] == "train" and line["problem"] for line in lines)
    assert verify_records(tmp_path / "faces") == manifest
    ids = [
        example["id"].decode() for example in tfds.builder_from_directory(tmp_path / "faces").as_data_source("train")
    ]
    assert ids == [record.id for record in open_records(tmp_path / "faces", "train")]
    assert ids == [face.picture for face, _ in faces[:5]]
    alone = write_records(tmp_path / "alone", {"train": [encoder.record(*face) for face in faces[:5]]}, encoder)
    assert manifest.sha256 == alone.sha256

    with pytest.raises(ExpllmError, match="'train' has no records; 3 were skipped"):
        build_records(tmp_path / "none", {"train": broken}, encoder, workers=1, on_error="skip")


def test_bad_requests_are_refused_before_any_work(faces, encoder, encoded, tmp_path):
    twice = {"train": faces[:3], "test": faces[2:4]}
    for wanted, options, problem in (
        (twice, {}, "two records have the id '2 日本.png'"),
        ({"train": []}, {}, "'train' has no records"),
        ({"train set": faces}, {}, "train set"),
        ({"train": faces}, {"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"train": faces}, {"workers": -1}, "workers is -1"),
        ({"train": faces}, {"shard_records": -1}, "shard_records is -1"),
    ):
        with pytest.raises(ExpllmError, match=problem):
            build_records(tmp_path / "faces", wanted, encoder, **options)
    assert encoded == [] and os.listdir(tmp_path) == []


def test_a_second_writer_is_kept_out(faces, encoder, tmp_path):
    (tmp_path / ".faces.partial").mkdir()
    with (tmp_path / ".faces.partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ExpllmError, match="another process is writing"):
            build_records(tmp_path / "faces", {"train": faces}, encoder, workers=1)
        with pytest.raises(ExpllmError, match="another process is writing"):
            write_records(tmp_path / "faces", {"train": []}, encoder)
    build_records(tmp_path / "faces", {"train": faces}, encoder, workers=1)
