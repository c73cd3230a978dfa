from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax import records
from expllm_jax.errors import ExpllmError
from expllm_jax.models import (
    SEGMENTS,
    ExpLLMConfig,
    LoRAConfig,
    Projector,
    ProjectorConfig,
    attention_mask,
    expllm_7b,
    merge,
)
from tests.models.sizes import DECODER, VISION, WHOLE, changed, random_params

CONFIG = changed(WHOLE, vision_layers=())
IMAGE = CONFIG.image_token
GRAPHDEF, PARAMS = random_params(CONFIG)
MODEL = merge(GRAPHDEF, jax.tree.map(jnp.asarray, PARAMS))


@jax.jit
def states(tokens, positions, segments, x):
    """Final states of the model; jitted, because every operation of it compiled alone takes longer."""
    return merge(GRAPHDEF, PARAMS)(tokens, positions, segments, x)


embed = jax.jit(lambda tokens, x: merge(GRAPHDEF, PARAMS).embed(tokens, x))


def features(rows, images=1, seed=0):
    """Features of 4 x 4 patches: 4 image tokens after 2 x 2 pooling."""
    return np.random.default_rng(seed).normal(size=(rows, images, 16, VISION.width)).astype(np.float32)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=12))
def test_mask_is_its_definition(tokens):
    segments = [record * SEGMENTS + segment if segment else 0 for record, segment in tokens]
    mask = np.asarray(attention_mask(np.array([segments])))[0]
    for i, (record, mine) in enumerate(tokens):
        record = record if mine else 0
        for j, (other, theirs) in enumerate(tokens):
            assert mask[i, j] == (j <= i and theirs > 0 and other == record and theirs in (mine, 1))


def test_rows_are_numbered_alike_in_models_and_records():
    assert SEGMENTS == records.SEGMENTS


def test_mask_of_some_queries_is_a_part_of_the_whole():
    segments = np.array([[1, 1, 2, 2, 3, 3, 0], [1, 2, 2, 2, 2, 0, 0]])
    whole = np.asarray(attention_mask(segments))
    for start, queries in ((0, 7), (2, 3), (6, 1)):
        part = jax.jit(lambda s, q=queries: attention_mask(segments, start=s, queries=q))(start)
        np.testing.assert_array_equal(part, whole[:, start : start + queries])


def test_two_branches_in_one_row_equal_two_rows():
    rng = np.random.default_rng(1)
    prefix = [3, IMAGE, IMAGE, IMAGE, IMAGE, 7]
    a, b = rng.integers(0, 50, 5).tolist(), rng.integers(0, 50, 8).tolist()
    pad = [0, 0]
    shared = np.array([prefix + a + b + pad])
    positions = np.array([[*range(6), *range(6, 11), *range(6, 14), 0, 0]])
    segments = np.array([[1] * 6 + [2] * 5 + [3] * 8 + [0] * 2])
    x = features(1)
    together = states(shared, positions, segments, x)
    for branch, where in ((a, slice(6, 11)), (b, slice(11, 19))):
        alone = np.array([prefix + branch])
        order = np.arange(alone.shape[1])[None]
        apart = states(alone, order, np.ones_like(alone), x)
        np.testing.assert_allclose(together[:, :6], apart[:, :6], atol=2e-6)
        np.testing.assert_allclose(together[:, where], apart[:, 6:], atol=2e-6)


def test_padding_changes_nothing_and_stays_finite():
    tokens = np.array([[3, IMAGE, IMAGE, IMAGE, IMAGE, 7, 9]])
    padded = np.pad(tokens, ((0, 0), (0, 3)))
    order, longer = np.arange(7)[None], np.arange(10)[None]
    segments = np.array([[1] * 7 + [0] * 3])
    x = features(1)
    out = states(padded, longer, segments, x)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out[:, :7], states(tokens, order, np.ones_like(tokens), x), atol=2e-6)


def test_image_tokens_are_filled_in_order():
    """Two images in a row, their tokens not even adjacent: the k-th placeholder gets the k-th projected feature."""
    x = features(2, images=2)
    places = [1, 2, 3, 4, 6, 8, 9, 11]
    tokens = np.full((2, 13), 5)
    tokens[:, places] = IMAGE
    embedded = np.asarray(embed(tokens, x))
    for row in range(2):
        projected = np.concatenate([MODEL.projector(x[row, image][None])[0] for image in range(2)])
        np.testing.assert_allclose(embedded[row, places], projected, atol=1e-6)
    words = [i for i in range(13) if i not in places]
    np.testing.assert_array_equal(embedded[:, words], np.broadcast_to(PARAMS["decoder/embedding"][5], (2, 5, 48)))


def test_more_image_tokens_than_features_is_not_a_number():
    tokens = np.array([[IMAGE] * 5])
    embedded = embed(tokens, features(1))
    assert np.isfinite(embedded[0, :4]).all() and np.isnan(embedded[0, 4]).all()


def test_rows_without_a_picture_need_no_features():
    tokens = np.array([[1, 2, 3]])
    out = states(tokens, np.arange(3)[None], np.ones_like(tokens), None)
    with_unused = states(tokens, np.arange(3)[None], np.ones_like(tokens), features(1))
    np.testing.assert_allclose(out, with_unused, atol=1e-6)


def test_gradient_reaches_the_projector_through_the_fusion():
    tokens = np.array([[3, IMAGE, IMAGE, IMAGE, IMAGE, 7]])

    def loss(params):
        model = merge(GRAPHDEF, params)
        return (model(tokens, np.arange(6)[None], np.ones_like(tokens), features(1)) ** 2).sum()

    gradient = jax.jit(jax.grad(loss))(PARAMS)
    assert all(np.isfinite(value).all() for value in gradient.values())
    assert np.abs(gradient["projector/layers/0/kernel"]).max() > 0


def test_encode_concatenates_the_chosen_layers():
    graphdef, params = random_params(WHOLE)
    params |= {path: value for path, value in PARAMS.items() if path.startswith("vision/")}
    pixels = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    both = jax.jit(lambda params: merge(graphdef, params).encode(pixels))(params)
    assert both.shape == (2, 16, WHOLE.vision_width) == (2, 16, 64)
    np.testing.assert_allclose(both[..., 32:], jax.jit(lambda: MODEL.encode(pixels))(), atol=1e-5)


@pytest.mark.parametrize(("pool", "depth"), [(1, 1), (2, 2), (4, 3)])
def test_projector_pools_neighbours(pool, depth):
    """Token (y, x) of the pooled grid holds the pool x pool block at (y, x), row by row."""
    config = ProjectorConfig(depth=depth, pool=pool)
    projector = Projector(3, 5, config, rngs=nnx.Rngs(0))
    grid = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    out = projector(grid.reshape(2, 64, 3))
    cells = 8 // pool
    assert out.shape == (2, cells * cells, 5) and config.tokens(64) == cells * cells
    y, x = cells - 1, 0
    block = grid[:, y * pool : (y + 1) * pool, x * pool : (x + 1) * pool].reshape(2, -1)
    hidden = block @ projector.layers[0].kernel[...]
    for layer in list(projector.layers)[1:]:
        hidden = jax.nn.gelu(hidden, approximate=False) @ layer.kernel[...]
    np.testing.assert_allclose(out[:, y * cells + x], hidden, atol=1e-6)


def test_tokens_of_a_picture():
    assert expllm_7b().image_tokens(224, 224) == 256
    assert CONFIG.image_tokens(16, 16) == 4
    with pytest.raises(ExpllmError, match="pooled"):
        CONFIG.image_tokens(12, 12)
    with pytest.raises(ExpllmError, match="pooled"):
        CONFIG.image_tokens(16, 8)


def test_impossible_configurations_are_refused():
    with pytest.raises(ExpllmError):
        ProjectorConfig(depth=0)
    with pytest.raises(ExpllmError):
        ProjectorConfig(pool=0)
    with pytest.raises(ExpllmError):
        ExpLLMConfig(VISION, DECODER, image_token=-1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"vision_lora": LoRAConfig(rank=2, targets=("q", "gate"))}, "vision_lora.targets names gate"),
        ({"decoder_lora": LoRAConfig(rank=2, targets=("fc1", "v"))}, "decoder_lora.targets names fc1"),
    ],
)
def test_adapters_on_layers_that_a_part_does_not_have_are_refused(changes, told):
    """They would be left out without a word, and the rest would train."""
    with pytest.raises(ExpllmError, match=told):
        changed(WHOLE, **changes)
    gated = changed(WHOLE.vision, feed_forward="swiglu")
    changed(WHOLE, vision=gated, vision_lora=LoRAConfig(rank=2, targets=("q", "gate")))
