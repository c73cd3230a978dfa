"""Tower and decoder against transformers: one layer, then all of them.

Plain pictures and rows are compared where the export is tested (tests/weights/test_hugging_face.py); here stand the
ways of calling that only we have, spelled out for transformers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.models import attention_mask, merge
from tests.models.sizes import DECODER, VISION, changed, random_params
from tests.parity.agreement import agree

pytestmark = pytest.mark.parity


def test_one_tower_block(torch_models):
    import torch

    graphdef, params = random_params(VISION)
    x = np.random.default_rng(0).normal(size=(2, 9, VISION.width)).astype(np.float32)
    tower = torch_models.tower(params, VISION)
    for number in range(VISION.depth):
        block = jax.tree.map(lambda leaf, i=number: leaf[i], merge(graphdef, jax.tree.map(jnp.asarray, params)).blocks)
        with torch.no_grad():
            expected = tower.encoder.layer[number](torch_models.tensor(x))
        agree(f"tower block {number}", block(x, None), expected)


@pytest.mark.parametrize("size", [(20, 20), (28, 16)])
def test_tower(torch_models, size):
    """A picture of the table's own size, and one that is not even square; two blocks' outputs side by side."""
    import torch

    graphdef, params = random_params(VISION)
    pictures = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    tower = torch_models.tower(params, VISION)
    with torch.no_grad():
        hidden = tower(torch_models.pixels(pictures), output_hidden_states=True).hidden_states
        expected = [tower.layernorm(hidden[1 + block])[:, 1:] for block in (0, 2)]
    found = jax.jit(lambda params, x: merge(graphdef, params)(x, layers=(0, -1)))(params, pictures)
    agree("tower", found, torch.cat(expected, -1))


def test_one_decoder_layer(torch_models):
    """With the final norm behind it. Each layer as the only one of a decoder."""
    import torch

    x = np.random.default_rng(0).normal(size=(2, 9, DECODER.width)).astype(np.float32)
    positions = np.tile(np.arange(9, dtype=np.int32), (2, 1))
    config = changed(DECODER, depth=1)
    for seed in range(3):
        graphdef, params = random_params(config, seed=seed)
        model = torch_models.decoder(params, config).model
        with torch.no_grad():
            rope = model.rotary_emb(torch_models.tensor(x), torch_models.tensor(positions))
            expected = model.norm(model.layers[0](torch_models.tensor(x), position_embeddings=rope))
        mask = jnp.tril(jnp.ones((9, 9), bool))[None]
        agree("decoder layer", merge(graphdef, params)(x, positions, mask)[0], expected)


@pytest.mark.parametrize("changes", [{}, {"tied": True, "kv_heads": 6}])
def test_decoder(torch_models, changes):
    """A row of a prefix and two branches computes what transformers computes of two rows."""
    import torch

    config = changed(DECODER, **changes)
    graphdef, params = random_params(config)
    prefix, *branches = (np.random.default_rng(length).integers(0, config.vocab, length) for length in (6, 5, 9))
    tokens = np.concatenate([prefix, *branches])[None]
    positions = np.concatenate([np.arange(6), 6 + np.arange(5), 6 + np.arange(9)])[None]
    segments = np.repeat([1, 2, 3], [6, 5, 9])[None]

    @jax.jit
    def logits(params):
        model = merge(graphdef, params)
        return model.logits(model(model.embed(tokens), positions, attention_mask(jnp.asarray(segments)))[0])

    found = logits(params)[0]
    model = torch_models.decoder(params, config)
    for start, branch in zip((6, 11), branches, strict=True):
        with torch.no_grad():
            expected = model(torch_models.tensor(np.concatenate([prefix, branch])[None])).logits[0]
        agree("prefix", found[:6], expected[:6])
        agree("branch", found[start : start + len(branch)], expected[6:])
