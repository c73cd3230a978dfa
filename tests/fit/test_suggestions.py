"""What is proposed where a run does not fit: changes that are possible, each with the compiler's number."""

from __future__ import annotations

import dataclasses

from expllm_jax.fit.suggestions import suggestions
from tests.fit.fake_compiler import REQUEST, FakeCompiler, answer
from tests.models.sizes import changed


def proposed(request, *, fixed=1.0, each=2.0, most=20):
    before = answer(request, fixed, each)
    assert not before.fits
    return list(suggestions(before, FakeCompiler(fixed, each).compile, most)), before


def test_fewer_rows_come_first_and_fit():
    found, before = proposed(dataclasses.replace(REQUEST, rows=16))
    assert found[0].change == "--rows 6" and found[0].answer.fits
    assert found[0].saves(before) == 10 * 2 * 2**30


def test_every_suggestion_can_be_typed_and_changes_the_request():
    found, _ = proposed(dataclasses.replace(REQUEST, rows=16))
    changes = [one.change for one in found]
    assert changes == [
        "--rows 6",
        "--set model.decoder.remat=full --set model.vision.remat=full",
        "--set records.layout=chained",
        "--set model.decoder.remat=offload",
        "--mesh 1,4,2",
        "--set model.decoder.param_dtype=bfloat16 --set model.vision.param_dtype=bfloat16",
        "--set model.decoder.base=int8",
        "--topology v5e:4x4",
    ]
    requests = [one.answer.request for one in found]
    assert len({*requests, REQUEST}) == len(changes) + 1
    assert requests[-1].mesh == (1, 16, 1)


def test_what_is_set_already_or_impossible_is_not_proposed():
    decoder = changed(REQUEST.model.decoder, remat="offload", param_dtype="bfloat16", heads=5, kv_heads=5)
    vision = changed(REQUEST.model.vision, remat="full")
    model = changed(REQUEST.model, decoder=decoder, vision=vision, chained=True)
    request = dataclasses.replace(REQUEST, model=model, trainable=("decoder/.*",))
    found, _ = proposed(request, fixed=16.0, each=1.0)
    assert [one.change for one in found] == ["--topology v5e:4x4"]


def test_no_more_are_compiled_than_asked_for():
    compiler = FakeCompiler(1.0, 2.0)
    assert len(list(suggestions(answer(dataclasses.replace(REQUEST, rows=16), 1.0, 2.0), compiler.compile, 3))) == 3
    assert len(compiler.asked) == 3
