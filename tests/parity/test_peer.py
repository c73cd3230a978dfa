"""The benchmarks' peer as a command: what launch/bench reads from its last line."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("arguments", [["generate", "--compile"], ["train", "--steps", "0"], ["data"]])
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
