"""The parity ladder: every part of the model and of training against torch, transformers and peft, rung by rung.

From a checkout, with an environment of its own (launch/lock/parity.txt):

    EXPLLM_VENV=.venv-parity EXPLLM_LOCK=parity ./launch/test.sh -m parity tests/parity -rP

`-rP` shows the error that each test measured. Everything is float32 on the CPU. An error is max |ours - theirs| over
max |theirs| (`agreement.relative_error`); random tiny models stay below 1e-5, whatever the part.

    test_layers.py       norms, GELU, rotary positions, attention, projector
    test_towers.py       one layer, then the whole, of tower and decoder
    test_whole.py        logits, loss and gradients of the whole model
    test_optimizer.py    AdamW: clipping, decay, schedule
    test_loss_curve.py   fifty updates here and in the benchmarks' peer (launch/bench/torch_expllm.py)
    test_peer.py         the peer as a command
    test_real_weights.py DINOv2-S against ONNX Runtime; SmolLM2-135M, logits and greedy text, against transformers

`torch_models.py` puts our parameters into torch's modules. A missing package is an error here, not a skipped test:
nobody selects these tests by chance.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def torch_models() -> ModuleType:
    """tests/parity/torch_models.py, which the default tests could not import."""
    return importlib.import_module("tests.parity.torch_models")
