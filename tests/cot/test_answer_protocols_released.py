"""The released texts as answers: each was written for its label, so what a parser does not find there it misreads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from expllm_jax.cot import UnparsableAnswer, read_label
from expllm_jax.faces import BASIC_7

# Protocol -> share of the 1,534 texts in which it finds the label, as published and as it should.
FOUND = {"strict": (0.744, 0.744), "faba": (0.608, 0.759), "unifer": (0.499, 0.0), "facial-r1": (0.0, 0.0)}


def test_published_parsers_miss_labels_that_are_there():
    folder = os.environ.get("EXPLLM_FIXTURES")
    if not folder:
        pytest.skip("EXPLLM_FIXTURES names no folder with the released texts")
    entries = json.loads((Path(folder) / "rafdb_val_cot_half.json").read_text())
    found = {}
    for protocol in FOUND:
        for corrected in (False, True):
            right = 0
            for entry in entries:
                try:
                    label = read_label(entry["description"], protocol, BASIC_7, corrected=corrected)
                except UnparsableAnswer:
                    continue
                right += label == entry["emo"]
            found.setdefault(protocol, []).append(right / len(entries))
    assert {name: tuple(shares) for name, shares in found.items()} == {
        name: pytest.approx(shares, abs=0.0006) for name, shares in FOUND.items()
    }
