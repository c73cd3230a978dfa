"""Building records with Apache Beam. It runs in an environment of its own, see launch/lock/beam.txt."""

from __future__ import annotations

import dataclasses
import os

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.records import build_records, open_records, verify_records
from tests.records.examples import annotation, picture_bytes

pytest.importorskip("apache_beam")
from apache_beam.options.pipeline_options import PipelineOptions

from expllm_jax.records.beam import build_records_with_beam

LOCAL = ["--runner=DirectRunner"]


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    faces = []
    for index in range(20):
        path = folder / f"{index} ü.png"
        path.write_bytes(picture_bytes(index))
        faces.append((dataclasses.replace(annotation(index), picture=path.name), path))
    return {"train": faces[:15], "test": faces[15:]}


@pytest.mark.parametrize("processes", [1, 2])
def test_beam_builds_what_the_processes_here_build(splits, encoder, tmp_path, processes):
    options = PipelineOptions(
        [*LOCAL, f"--direct_num_workers={processes}"] + ["--direct_running_mode=multi_processing"] * (processes > 1)
    )
    manifest = build_records_with_beam(tmp_path / "beam", splits, encoder, options=options, shard_records=4)
    assert manifest == build_records(tmp_path / "here", splits, encoder, workers=1, shard_records=4)
    assert verify_records(tmp_path / "beam") == manifest
    assert [record.id for record in open_records(tmp_path / "beam", "test")] == [f"{i} ü.png" for i in range(15, 20)]
    assert sorted(os.listdir(tmp_path)) == ["beam", "here"]


def test_a_bad_picture_is_named_or_skipped(splits, encoder, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    faces = [*splits["train"], (annotation(99), bad)]
    options = PipelineOptions(LOCAL)
    with pytest.raises(ExpllmError, match="bad.png"):
        build_records_with_beam(tmp_path / "faces", {"train": faces}, encoder, options=options, shard_records=4)
    assert not (tmp_path / "faces").exists()
    finished = list((tmp_path / ".faces.partial" / "jobs").iterdir())
    manifest = build_records_with_beam(
        tmp_path / "faces", {"train": faces[:-1]}, encoder, options=options, shard_records=4
    )
    assert manifest.splits["train"].records == 15 and finished
    skipping = build_records_with_beam(
        tmp_path / "faces", {"train": faces}, encoder, options=options, on_error="skip", overwrite=True
    )
    assert sum(skipping.splits["train"].skipped.values()) == 1 and skipping.sha256 == manifest.sha256
