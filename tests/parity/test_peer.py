"""The benchmarks' peer as a command: what launch/bench reads from its last line."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.parity

PEER = Path(__file__).parents[2] / "launch" / "bench" / "torch_expllm.py"
TINY = ["--preset", "tiny", "--batch", "2", "--text-len", "8", "--steps", "3", "--warmup", "1", "--threads", "1"]


@pytest.mark.parametrize(
    ("what", "more", "median", "rate", "each"),
    [
        ("train", [], "step_s", "samples_per_s", 2),
        ("generate", ["--new-tokens", "3"], "call_s", "new_tokens_per_s", 2 * 3),
    ],
)
def test_the_last_line_holds_medians_and_every_time(what, more, median, rate, each):
    command = [sys.executable, str(PEER), what, *TINY, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["what"], found["preset"], found["batch"], found["text_len"], found["threads"]) == (
        what,
        "tiny",
        2,
        8,
        1,
    )
    assert len(found["times_s"]) == 3 and len(found["warmup_times_s"]) == 1
    assert found[median] == statistics.median(found["times_s"])
    assert found[rate] == pytest.approx(each / found[median])


def test_data_loads_the_pictures_of_all_folders(tmp_path):
    for number in range(5):
        folder = tmp_path / f"{number % 2}"
        folder.mkdir(exist_ok=True)
        levels = np.random.default_rng(number).integers(0, 256, (90 + number, 120, 3), np.uint8)
        Image.fromarray(levels).save(folder / f"{number}.jpg")
    command = [sys.executable, str(PEER), "data", "--images", str(tmp_path), "--batch", "2", "--steps", "3"]
    done = subprocess.run([*command, "--workers", "1"], capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["what"], found["batch"], found["workers"]) == ("data", 2, 1)
    assert found["records_per_s"] > 0


def test_the_peers_pictures_are_normalised_and_keep_their_size():
    from launch.bench.torch_expllm import DEVIATION, MEAN, augment

    image = Image.fromarray(np.full((224, 224, 3), 255, np.uint8))
    white = (1 - np.array(MEAN)) / DEVIATION
    for _ in range(20):
        pixels = augment(image)
        assert pixels.shape == (3, 224, 224) and str(pixels.dtype) == "torch.float32"
        assert float(pixels.max()) <= white.max() + 1e-5


@pytest.mark.parametrize(
    "arguments",
    [["generate", "--compile"], ["train", "--steps", "0"], ["data"], ["train", "--images", "faces"]],
)
def test_what_cannot_be_measured_is_refused(arguments):
    done = subprocess.run([sys.executable, str(PEER), *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "error:" in done.stderr


def test_the_recipe():
    """Of the smallest preset: what trains, and what weight decay pulls on."""
    from launch.bench.torch_expllm import TorchExpLLM, make_optimizer

    model = TorchExpLLM.of_preset("tiny")
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trained) == 2 * 4 * 2 * 2 + 4  # two towers of 4 layers, q and v, A and B; the projector
    assert all("lora_" in name or name.startswith("projector.") for name in trained)
    decayed, free = (group["params"] for group in make_optimizer(model).param_groups)
    assert {weight.ndim for weight in decayed} == {2} and [weight.ndim for weight in free] == [1, 1]
