"""The whole model with adapters against the peer: logits, loss, and the gradient of everything that trains."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from expllm_jax.models import PAPER_TRAINABLE, merge, select
from expllm_jax.parallel import MeshConfig, make_mesh
from expllm_jax.records import pad_row
from expllm_jax.train.optimizer import Optimizer
from expllm_jax.train.state import create_state
from expllm_jax.train.step import make_eval_step, make_train_step
from expllm_jax.weights.naming import scatter
from tests.models.sizes import random_params
from tests.parity.agreement import agree
from tests.train.tiny import IMAGE_TOKEN, IMAGE_TOKENS, PICTURE_SIZE, branched_row, tiny_config

pytestmark = pytest.mark.parity

PREFIX = [1, 2]
# Of every record, its branches: (prompt, answer, weight). A record's weights sum to 1.
RECORDS = (
    [([3, 4], [21, 5], 0.75), ([6, 7, 8], [22, 23, 24, 25, 5], 0.25)],
    [([3, 4, 9], [31, 32, 5], 1.0)],
    [([6], [33], 0.6), ([7], [34, 35, 36, 37, 38, 39, 5], 0.4)],
)
SUPERVISED = 8  # of the longest record, as a static size


@pytest.fixture(scope="module")
def model():
    """(configuration, definition, parameters): adapters of which neither half is zero, no dropout."""
    config = tiny_config(rank=2)
    graphdef, params = random_params(config)
    return config, graphdef, {path: jnp.asarray(leaf) for path, leaf in params.items()}


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """The records as `records.batches` gives them, padded."""
    rows = [branched_row(PREFIX, branches) for branches in RECORDS]
    rows = [pad_row(row, max(map(len, rows)) + 2, 0) for row in rows]
    names = ("tokens", "positions", "segments", "loss_weights")
    size = (len(rows), PICTURE_SIZE, PICTURE_SIZE, 3)
    pixels = np.random.default_rng(0).normal(size=size).astype(np.float32)
    return {name: np.stack([getattr(row, name) for row in rows]) for name in names} | {"pixels": pixels}


def torch_loss(torch_models, peer, pixels):
    """Mean over records of the weighted mean over branches of the mean over answer tokens, each branch on its own."""
    import torch

    total = torch.zeros(())
    for picture, branches in zip(torch_models.pixels(pixels), RECORDS, strict=True):
        for prompt, answer, weight in branches:
            ids = torch.tensor([*PREFIX, *[IMAGE_TOKEN] * IMAGE_TOKENS, *prompt, *answer])[None]
            embedded = torch_models.spliced(peer, picture[None], ids, IMAGE_TOKEN)
            logits = peer.llm(inputs_embeds=embedded).logits[0]
            nll = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
            total = total + weight * nll[-len(answer) :].mean()
    return total / len(RECORDS)


def test_logits_with_the_picture_in_the_middle_of_the_text(torch_models, model):
    import torch

    config, graphdef, params = model
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, IMAGE_TOKEN, (2, 12))
    tokens[0, 3 : 3 + IMAGE_TOKENS] = tokens[1, 5 : 5 + IMAGE_TOKENS] = IMAGE_TOKEN
    pixels = rng.normal(size=(2, PICTURE_SIZE, PICTURE_SIZE, 3)).astype(np.float32)
    positions = np.tile(np.arange(12), (2, 1))

    @jax.jit
    def logits(params):
        net = merge(graphdef, params)
        return net.logits(net(tokens, positions, np.ones_like(tokens), net.encode(pixels)[:, None]))

    peer = torch_models.expllm(params, config).eval()
    with torch.no_grad():
        ids = torch_models.tensor(tokens)
        embedded = torch_models.spliced(peer, torch_models.pixels(pixels), ids, IMAGE_TOKEN)
        expected = peer.llm(inputs_embeds=embedded).logits
    agree("logits", logits(params), expected)


def test_loss(torch_models, model, batch):
    import torch

    config, graphdef, params = model
    sums = jax.jit(make_eval_step(graphdef, supervised=SUPERVISED))(params, {}, batch)
    peer = torch_models.expllm(params, config).eval()
    with torch.no_grad():
        expected = torch_loss(torch_models, peer, batch["pixels"])
    agree("loss", sums["nll"] / sums["weight"], expected)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients(torch_models, model, batch, accumulate):
    """Of every adapter and of the projector, out of the step that trains; in one part, or in one per record."""
    config, graphdef, params = model
    trained, frozen = select(params, PAPER_TRAINABLE)
    # An optimiser that changes nothing and keeps the gradient it was given as its state.
    keep = Optimizer(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda grads, state, params: (jax.tree.map(jnp.zeros_like, grads), grads),
        learning_rate=lambda step: jnp.zeros(()),
    )
    step = make_train_step(graphdef, keep, supervised=SUPERVISED, accumulate=accumulate)
    state, metrics = jax.jit(step)(create_state(trained, keep, make_mesh(MeshConfig())), frozen, batch, np.uint32(0))
    found = scatter(state.opt_state, torch_models.trained_table(config))

    peer = torch_models.expllm(params, config).train()
    loss = torch_loss(torch_models, peer, batch["pixels"])
    loss.backward()
    expected = {name: weight.grad for name, weight in peer.named_parameters() if weight.requires_grad}
    agree("loss", metrics["loss"], loss.detach())
    assert set(found) == set(expected) and sum("lora" in name for name in found) == 16
    for name in sorted(expected):
        agree(name, found[name], expected[name])
    agree("norm", metrics["grad_norm"], optax.tree.norm({name: grad.numpy() for name, grad in expected.items()}))
