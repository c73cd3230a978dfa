"""Rows: what is given, what is learnt, who sees whom, and that inference starts exactly where training does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.records import (
    EncodeConfig,
    RecordEncoder,
    Round,
    decode_answer,
    encode_prompt,
    encode_record,
    pad_row,
    read_picture,
)
from tests.records.examples import annotation, picture_bytes

ANSWERS = st.text(st.sampled_from(" \n*:(12)aehinp.,é😀"), min_size=1, max_size=30).filter(lambda text: text.strip())
ROUNDS = st.lists(st.builds(Round, st.sampled_from(["label", "cot"]), ANSWERS), min_size=1, max_size=4)
IMAGE = 5


def seen(row, i):
    """The indices that token i may look at: the model's mask rule, in words of its contract."""
    segments = row.segments
    return [j for j in range(i + 1) if segments[j] > 0 and (segments[j] == segments[i] or segments[j] == 1)]


def test_branched_row_by_hand(template, tokenizer):
    encode = tokenizer.encode
    rounds = [Round("label", "Fear"), Round("cot", "a\n\nb 12")]
    row = encode_record(rounds, template, tokenizer, IMAGE)
    prefix = encode(template.prefix_text(), first=True) + [tokenizer.image] * IMAGE
    tokens, positions, segments, weights = (
        list(prefix),
        list(range(len(prefix))),
        [1] * len(prefix),
        [0.0] * len(prefix),
    )
    for segment, share, round_ in ((2, 0.75, rounds[0]), (3, 0.25, rounds[1])):
        prompt = encode(template.prompt_text(round_.task))
        answer = encode(" " + round_.answer) + [tokenizer.eos]
        tokens += prompt + answer
        positions += range(len(prefix), len(prefix) + len(prompt + answer))
        segments += [segment] * len(prompt + answer)
        weights += [0.0] * len(prompt) + [share / len(answer)] * len(answer)
    assert row.tokens.tolist() == tokens
    assert row.positions.tolist() == positions
    assert row.segments.tolist() == segments
    np.testing.assert_allclose(row.loss_weights, weights, rtol=1e-6)
    assert [array.dtype for array in (row.tokens, row.positions, row.segments)] == [np.int32] * 3
    assert row.loss_weights.dtype == np.float32


@given(rounds=ROUNDS, layout=st.sampled_from(["branched", "chained"]))
@settings(max_examples=60, deadline=None)
def test_weights_and_supervised_text(template, tokenizer, rounds, layout):
    row = encode_record(rounds, template, tokenizer, IMAGE, layout)
    assert row.loss_weights.sum() == pytest.approx(1, abs=1e-5)
    assert row.loss_weights[0] == 0
    # Each run of supervised tokens is one answer and its end token, and nothing else.
    supervised = row.loss_weights > 0
    starts = np.flatnonzero(supervised & ~np.roll(supervised, 1))
    ends = np.flatnonzero(supervised & ~np.roll(supervised, -1))
    assert len(starts) == len(rounds)
    shares = {"label": 3.0, "cot": 1.0}
    total = sum(shares[round_.task] for round_ in rounds)
    for start, end, round_ in zip(starts, ends, rounds, strict=True):
        answer = row.tokens[start : end + 1]
        assert answer[-1] == tokenizer.eos
        assert decode_answer(answer, tokenizer) == round_.answer
        assert row.loss_weights[start : end + 1].sum() == pytest.approx(shares[round_.task] / total, rel=1e-5)
    assert (row.tokens == tokenizer.image).sum() == IMAGE


@given(rounds=ROUNDS)
@settings(max_examples=60, deadline=None)
def test_prompt_is_the_beginning_of_the_training_row(template, tokenizer, rounds):
    row = encode_record(rounds, template, tokenizer, IMAGE, "branched")
    for branch, round_ in enumerate(rounds, start=2):
        prompt = encode_prompt(round_.task, template, tokenizer, IMAGE)
        # What the branch's tokens can see, in order, is the row a single record would be …
        last = np.flatnonzero(row.segments == branch)[-1]
        visible = seen(row, last)
        single = encode_record([round_], template, tokenizer, IMAGE)
        assert row.tokens[visible].tolist() == single.tokens.tolist()
        assert row.positions[visible].tolist() == single.positions.tolist()
        # … and the prompt is that row up to the first supervised token.
        first = int(np.flatnonzero(single.loss_weights)[0])
        assert len(prompt) == first
        for name in ("tokens", "positions", "segments"):
            assert getattr(prompt, name).tolist() == getattr(single, name)[:first].tolist()
        assert not prompt.loss_weights.any()


@given(rounds=ROUNDS)
@settings(max_examples=60, deadline=None)
def test_chained_prompt_with_history(template, tokenizer, rounds):
    row = encode_record(rounds, template, tokenizer, IMAGE, "chained")
    assert row.positions.tolist() == list(range(len(row)))
    assert sorted(set(row.segments.tolist())) == [1, 2]
    supervised = row.loss_weights > 0
    starts = np.flatnonzero(supervised & ~np.roll(supervised, 1))
    for index, start in enumerate(starts):
        prompt = encode_prompt(rounds[index].task, template, tokenizer, IMAGE, history=rounds[:index])
        assert prompt.tokens.tolist() == row.tokens[:start].tolist()
        assert prompt.positions.tolist() == row.positions[:start].tolist()
        assert prompt.segments.tolist() == row.segments[:start].tolist()


def test_chained_rounds_follow_the_end_token_directly(template, own_tokenizer):
    row = encode_record([Round("cot", "x"), Round("label", "Fear")], template, own_tokenizer, IMAGE, "chained")
    after_end = row.tokens[np.flatnonzero(row.tokens == own_tokenizer.eos)[0] + 1 :]
    assert own_tokenizer.decode(after_end).startswith("TASK:")


def test_the_prompt_is_short_for_a_trained_tokenizer(template, own_tokenizer):
    """The laptop preset pays for every prompt token; the wording must stay within a few dozen."""
    assert max(len(encode_prompt(task, template, own_tokenizer, 64)) - 64 for task in ("label", "cot")) <= 60


def test_decode_answer_stops_at_the_first_end(own_tokenizer):
    ids = [*own_tokenizer.encode("  two spaces"), own_tokenizer.eos, *own_tokenizer.encode(" more")]
    assert decode_answer(ids, own_tokenizer) == " two spaces"
    assert decode_answer([], own_tokenizer) == ""


def test_pad_row(template, own_tokenizer):
    row = encode_record([Round("label", "Fear")], template, own_tokenizer, IMAGE)
    padded = pad_row(row, len(row) + 3, own_tokenizer.pad)
    assert padded.tokens[-3:].tolist() == [own_tokenizer.pad] * 3
    assert padded.segments[-3:].tolist() == [0] * 3
    assert padded.loss_weights.sum() == row.loss_weights.sum()
    assert pad_row(row, len(row), own_tokenizer.pad) == row
    with pytest.raises(ExpllmError, match="does not fit"):
        pad_row(row, len(row) - 1, own_tokenizer.pad)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layout": "woven"}, "woven"),
        ({"image_tokens": 0}, "image_tokens"),
        ({"label_weight": -1.0}, "label_weight"),
        ({"label_weight": 0.0, "cot_weight": 0.0}, "cot_weight"),
        ({"tasks": ("label", "joke")}, "joke"),
        ({"tasks": ("label", "label")}, "twice"),
    ],
)
def test_config_says_what_is_wrong(changes, named):
    with pytest.raises(ExpllmError, match=named):
        EncodeConfig(**changes)


def test_a_round_of_weight_zero_is_given_but_not_learnt(template, own_tokenizer):
    rounds = [Round("label", "Fear"), Round("cot", "text")]
    row = encode_record(rounds, template, own_tokenizer, IMAGE, cot_weight=0.0)
    assert row.loss_weights[row.segments == 2].sum() == pytest.approx(1)
    assert row.loss_weights[row.segments == 3].sum() == 0
    with pytest.raises(ExpllmError, match="nothing to learn"):
        encode_record([], template, own_tokenizer, IMAGE)


def test_encoder_makes_records_and_their_prompts(encoder):
    record = encoder.record(annotation(1), picture_bytes(7))
    assert record.id == "faces/0001.png"
    assert (read_picture(record.picture) == 7).all()
    prompt = encoder.prompt("label")
    assert record.row.tokens[: len(prompt)].tolist() == prompt.tokens.tolist()
    only_cot = RecordEncoder(encoder.template, encoder.tokenizer, EncodeConfig(image_tokens=4, tasks=("cot",)))
    assert set(only_cot.row(annotation(1)).segments) == {1, 2}
    with pytest.raises(ExpllmError, match="faces/0001.png"):
        encoder.record(annotation(1), b"hello")
