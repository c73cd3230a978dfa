"""Which rounds a record has, in which order, by the released code's --question_index."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.records import QUESTION_INDEX, REFERENCE_KEYS, TASKS, EncodeConfig, RecordEncoder, choose_rounds
from tests.records.examples import annotation

EVERYTHING = tuple(REFERENCE_KEYS)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_table_is_the_released_one():
    assert list(REFERENCE_KEYS.values()) == [
        "bbox", "attr", "landmark", "age_gender_race", "headpose", "description", "emo",
    ]  # fmt: skip
    assert set(TASKS) - {"caption"} == set(REFERENCE_KEYS)


def test_fixed_orders():
    assert choose_rounds(EVERYTHING, -1, rng()) == EVERYTHING
    assert choose_rounds({"label", "cot"}, -1, rng()) == ("cot", "label")
    assert choose_rounds({"label"}, -1, rng()) == ("label",)
    assert choose_rounds({"label", "landmark", "bbox"}, 0, rng()) == ("bbox",)


def test_the_box_comes_first_and_the_others_in_every_order():
    orders = collections.Counter(choose_rounds({"bbox", "label", "cot"}, 1, rng(seed)) for seed in range(400))
    assert set(orders) == {("bbox", "label", "cot"), ("bbox", "cot", "label")}
    assert 150 < orders["bbox", "label", "cot"] < 250


def test_all_are_shuffled():
    orders = collections.Counter(choose_rounds({"bbox", "label", "cot"}, 2, rng(seed)) for seed in range(600))
    assert len(orders) == 6
    assert all(60 < count < 140 for count in orders.values())


@pytest.mark.parametrize("index", [1, 2])
def test_the_order_is_a_function_of_what_is_there_and_of_the_generator(index):
    assert choose_rounds(EVERYTHING, index, rng(7)) == choose_rounds(EVERYTHING[::-1], index, rng(7))
    # What is missing is passed over, and takes nothing from what the next record draws.
    first, second = rng(7), rng(7)
    full, part = choose_rounds(EVERYTHING, index, first), choose_rounds({"label", "cot", "attr"}, index, second)
    assert part == tuple(task for task in full if task in part)
    assert first.bit_generator.state == second.bit_generator.state


@pytest.mark.parametrize("index", QUESTION_INDEX.values())
def test_a_caption_stands_alone(index):
    assert choose_rounds({"caption"}, index, rng()) == ("caption",)
    with pytest.raises(ExpllmError, match="caption and answers to cot, label"):
        choose_rounds({"caption", "label", "cot"}, index, rng())


@pytest.mark.parametrize(
    ("available", "index", "named"),
    [({"label"}, 3, "question_index is 3"), ({"gaze"}, -1, "gaze"), ({"label"}, 0, "label"), (set(), -1, "no answers")],
)
def test_errors(available, index, named):
    with pytest.raises(ExpllmError, match=named):
        choose_rounds(available, index, rng())


def test_the_encoder_orders_rounds_as_configured(encoder):
    def tasks(face, draw=0, **config):
        chosen = RecordEncoder(encoder.template, encoder.tokenizer, dataclasses.replace(encoder.config, **config))
        return tuple(round_.task for round_ in chosen.rounds(annotation(face), draw=draw))

    assert tasks(1) == ("label", "cot")
    assert tasks(1, order="all") == ("cot", "label")
    assert tasks(0, order="all") == ("label",)
    assert tasks(1, order="all", tasks=("label",)) == ("label",)
    drawn = [tasks(face, order="shuffled") for face in range(60) if face % 3]
    assert set(drawn) == {("label", "cot"), ("cot", "label")}
    assert drawn == [tasks(face, order="shuffled") for face in range(60) if face % 3]
    assert drawn != [tasks(face, order="shuffled", order_seed=1) for face in range(60) if face % 3]
    assert drawn != [tasks(face, draw=1, order="shuffled") for face in range(60) if face % 3]
    with pytest.raises(ExpllmError, match="question_index 0"):
        tasks(1, order="box")
    assert set(QUESTION_INDEX) == {"all", "box", "box_first", "shuffled"}


def test_the_row_has_the_rounds_in_that_order(encoder):
    config = EncodeConfig(image_tokens=4, layout="chained", order="all")
    row = RecordEncoder(encoder.template, encoder.tokenizer, config).row(annotation(1))
    ends = np.flatnonzero(row.tokens == encoder.tokenizer.eos)
    last = np.flatnonzero((row.loss_weights > 0) & (np.arange(len(row)) > ends[0]))
    assert encoder.tokenizer.decode(row.tokens[last]) == " " + annotation(1).expression
