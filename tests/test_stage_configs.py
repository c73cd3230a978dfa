"""The 7B experiments say what the spec says: which parameters train, how many updates of what, with which optimiser."""

from __future__ import annotations

import pytest

from expllm_jax.config import load_experiment
from expllm_jax.models import abstract, count, select
from expllm_jax.records import MixtureEntry

# By hand: 24 blocks x 4 matrices of 8 x 1024, 32 x 4 of 8 x 4096, 1024 x 4096 + 4096 and 4096 x 4096 + 4096
ADAPTERS, PROJECTOR = 786_432 + 4_194_304, 20_979_712
DECODER, TOWER = 6_738_415_616, 304_367_616


@pytest.mark.parametrize(
    ("name", "trained", "frozen"),
    [
        ("expllm_7b_rafdb", ADAPTERS + PROJECTOR, DECODER + TOWER),
        ("expllm_7b_affectnet", ADAPTERS + PROJECTOR, DECODER + TOWER),
        ("expllm_7b_faces", ADAPTERS + PROJECTOR, DECODER + TOWER),
        ("expllm_7b_align", PROJECTOR, DECODER + TOWER),
        ("expllm_7b_full", DECODER + PROJECTOR, TOWER),
        ("expllm_7b_pretrain", DECODER + PROJECTOR + TOWER, 0),
    ],
)
def test_what_trains(name, trained, frozen):
    experiment = load_experiment(name)
    chosen, rest = select(abstract(experiment.model)[1], experiment.train.trainable)
    assert (count(chosen), count(rest)) == (trained, frozen)
    # A frozen decoder takes two bytes a number; what trains has four, and no update is lost in rounding.
    assert {leaf.dtype.name for path, leaf in chosen.items()} == {"float32"}
    assert all(leaf.dtype == "bfloat16" for path, leaf in rest.items() if path.startswith("decoder/"))


@pytest.mark.parametrize(
    ("name", "records", "epochs", "updates", "order"),
    [
        ("expllm_7b_rafdb", 12_271, 20, 7_669, "all"),
        ("expllm_7b_affectnet", 37_553, 30, 35_205, "box_first"),
    ],
)
def test_the_released_recipe(name, records, epochs, updates, order):
    experiment = load_experiment(name)
    labels, texts = (MixtureEntry.parse(entry) for entry in experiment.mixture)
    assert (labels.repeat, texts.repeat) == (3, 1)
    train = experiment.train
    assert records * (labels.repeat + texts.repeat) * epochs // train.batch == updates
    assert (train.epochs, train.batch, train.seed) == (epochs, 128, 42)
    optimizer = train.optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.eps, optimizer.weight_decay) == (5e-4, (0.9, 0.999), 1e-8, 0.05)
    assert (optimizer.clip, optimizer.warmup_ratio, optimizer.schedule) == (1.0, 0.03, "cosine")
    assert experiment.records.order == order and experiment.records.layout == "reference"
    for lora in (experiment.model.vision_lora, experiment.model.decoder_lora):
        assert (lora.rank, lora.alpha, lora.dropout, lora.targets) == (8, 16.0, 0.05, ("q", "v"))
