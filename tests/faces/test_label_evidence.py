"""Published counts tell which order a label file follows."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import EXPRESSIONS, LABEL_ORDERS, label_order_evidence

# Pictures per label number, as several codebases print them.
RAFDB_TRAIN = dict(zip(range(1, 8), (1290, 281, 717, 4772, 1982, 705, 2524), strict=True))
RAFDB_TEST = dict(zip(range(1, 8), (329, 74, 160, 1185, 478, 162, 680), strict=True))
AFFECTNET_TRAIN = dict(enumerate((74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750, 33088, 11645, 82414)))
# The same, by name, as papers print them.
RAFDB_BY_NAME = dict(Surprise=1290, Fear=281, Disgust=717, Happiness=4772, Sadness=1982, Anger=705, Neutral=2524)
AFFECTNET_BY_NAME = dict(
    Neutral=74874, Happiness=134415, Sadness=25459, Surprise=14090, Fear=6378, Disgust=3803, Anger=24882, Contempt=3750
)
FERPLUS_TEST = dict(Neutral=1274, Happiness=929, Surprise=450, Sadness=449, Anger=322, Fear=98, Contempt=30, Disgust=21)
SFEW_VAL = dict(Neutral=84, Anger=77, Sadness=73, Happiness=72, Surprise=56, Fear=46, Disgust=23)


def numbered(order: str, by_name: dict[str, int]) -> dict[int, int]:
    return {number: by_name[word] for number, word in LABEL_ORDERS[order].items() if word in by_name}


def test_the_counts_of_the_label_files_are_explained_exactly():
    best = label_order_evidence(RAFDB_TRAIN, RAFDB_BY_NAME)[0]
    assert (best.order, best.exact, best.distance, best.explains) == ("raf-db", True, 0.0, True)
    best = label_order_evidence(AFFECTNET_TRAIN, AFFECTNET_BY_NAME)[0]
    assert (best.order, best.exact) == ("affectnet", True)  # 8 to 10 are left out for it, and for no other
    assert sum(AFFECTNET_TRAIN[number] for number in range(8)) == 287651 == sum(AFFECTNET_BY_NAME.values())
    assert sum(RAFDB_TRAIN.values()) == 12271 and sum(RAFDB_TEST.values()) == 3068


@pytest.mark.skipif("EXPLLM_FIXTURES" not in os.environ, reason="EXPLLM_FIXTURES names no folder of released labels")
def test_released_words_speak_for_the_order_of_the_list_file():
    records = json.loads((Path(os.environ["EXPLLM_FIXTURES"]) / "rafdb_valid_labels.json").read_text(encoding="utf-8"))
    best = label_order_evidence(RAFDB_TEST, Counter(record["emo"] for record in records))[0]
    assert (best.order, best.exact) == ("raf-db", True)


@pytest.mark.parametrize(
    ("order", "by_name"),
    [
        ("raf-db", RAFDB_BY_NAME),
        ("raf-db-zero-based", RAFDB_BY_NAME),
        ("affectnet-kaggle-csv", AFFECTNET_BY_NAME),
        ("ferplus-csv", FERPLUS_TEST),
        ("ferplus-folders", FERPLUS_TEST),
        ("sfew", SFEW_VAL),
    ],
)
def test_every_order_is_told_from_all_that_differ(order, by_name):
    ranked = label_order_evidence(numbered(order, by_name), by_name)
    exact = {evidence.order for evidence in ranked if evidence.exact}
    expected = {name for name in LABEL_ORDERS if numbered(name, by_name) == numbered(order, by_name)}
    assert exact == expected and order in exact
    assert {evidence.order for evidence in ranked[: len(exact)]} == exact
    assert all(evidence.distance > 0.02 for evidence in ranked[len(exact) :])


def test_a_part_of_a_data_set_speaks_for_its_order_too():
    tenth = {number: round(count / 10) for number, count in RAFDB_TRAIN.items()}
    best, second = label_order_evidence(tenth, RAFDB_BY_NAME)[:2]
    assert best.order == "raf-db" and not best.exact and best.distance < 0.001 < 0.1 < second.distance


def test_numbers_without_meaning_are_named_and_rank_last():
    ranked = label_order_evidence(AFFECTNET_TRAIN, AFFECTNET_BY_NAME)
    by_order = {evidence.order: evidence for evidence in ranked}
    assert by_order["ferplus-csv"].unexplained == (10,)  # its 8 and 9 are unknown and not a face
    assert by_order["raf-db"].unexplained == (0, 8, 9, 10)
    assert [evidence.explains for evidence in ranked] == [True] + [False] * (len(ranked) - 1)


def test_classes_of_one_size_leave_a_tie():
    balanced = dict.fromkeys(range(8), 500)
    ranked = label_order_evidence(balanced, dict.fromkeys(EXPRESSIONS, 500))
    assert {e.order for e in ranked if e.exact} == {"affectnet", "emotiefflib-8", "ferplus-csv", "ferplus-folders"}


@pytest.mark.parametrize("counts", [{}, {1: 0}, {1: -3}])
def test_no_pictures_are_no_evidence(counts):
    with pytest.raises(ExpllmError, match="counts are"):
        label_order_evidence(counts, RAFDB_BY_NAME)
    with pytest.raises(ExpllmError, match="published counts are"):
        label_order_evidence(RAFDB_TRAIN, {})
