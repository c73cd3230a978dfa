"""The stages of an experiment where no run is needed to see what they do."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expllm_jax.config import load_experiment
from expllm_jax.faces import Annotation
from expllm_jax.records import ConversationTemplate, EncodeConfig, RecordEncoder
from expllm_jax.stages import experiment_tokenizer

TASKS = ("label", "cot", "bbox", "landmark")
TEMPLATE = ConversationTemplate.load("face_v1")


def face(number: int, **changes: object) -> Annotation:
    """A face at another place in every picture, with a text that says left but never the other side."""
    rng = np.random.default_rng(number)
    x, y = rng.uniform(-5, 60, 2)
    described = {
        "expression": "Fear" if number % 2 else "Anger",
        "cot": f"The left brow is raised by 0.{number % 10}.",
        "face_box": (x, y, *rng.uniform(20, 40, 2)),
        "landmarks": tuple((x + dx, y + dy) for dx, dy in rng.uniform(0, 20, (68, 2))),
    }
    return Annotation(f"{number}.png", **(described | changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(tokenizer, experiment) of 80 faces with texts and positions, among them some whose positions lie outside."""
    experiment = dataclasses.replace(load_experiment("tiny"), records=EncodeConfig(image_tokens=16, tasks=TASKS))
    faces = [face(number) for number in range(80)]
    faces += [
        face(80, face_box=(-30.0, -30.0, 10.0, 10.0), landmarks=((-20.0, -20.0),) * 5),
        Annotation("81.png"),
    ]
    folder = tmp_path_factory.mktemp("tokenizer")
    return experiment_tokenizer(experiment, faces, TEMPLATE, folder), experiment


def test_a_tokenizer_learns_from_positions_whose_pictures_were_not_opened(trained):
    tokenizer, experiment = trained
    content = io.BytesIO()
    Image.new("RGB", (120, 90)).save(content, "PNG")
    encoder = RecordEncoder(TEMPLATE, tokenizer, experiment.records)
    record = encoder.record(face(100), content.getvalue())
    assert record.located and record.mirrored is not None
    rounds = encoder.rounds(face(100), (120, 90))
    assert [round_.task for round_ in rounds] == list(TASKS)
    for round_ in rounds:
        question, answer = TEMPLATE.prompt_text(round_.task), TEMPLATE.answer_text(round_.answer)
        assert tokenizer.decode(tokenizer.encode(answer)) == answer
        assert len(tokenizer.encode(question)) < len(question) / 3  # seen in training, of every task


def test_a_tokenizer_learns_from_texts_as_they_are_and_not_mirrored(trained):
    tokenizer, _ = trained
    one, other = (len(tokenizer.encode(f"The {side} brow is raised")) for side in ("left", "right"))
    assert one < other


def test_devices_share_out_the_pictures_that_features_are_made_of(tmp_path):
    child = subprocess.run(
        [sys.executable, "-m", "tests.features_on_four", tmp_path], cwd=Path(__file__).parents[1], capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    told = json.loads(child.stdout.splitlines()[-1])
    assert len(told) == 2
    for name, found in told.items():
        assert found["shape"] == [6, 256, 16] and found["difference"] < 4e-3, (name, found)  # of float16 tokens of ±3
