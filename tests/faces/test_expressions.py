"""Label orders, words for expressions and the ties between expressions and units."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from expllm_jax.cot import EXPRESSION_WORDS
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import (
    ARKIT_52,
    ASSOCIATIONS,
    BASIC_7,
    EXPRESSIONS,
    FACS,
    FEAFA_24,
    LABEL_ORDERS,
    LABEL_WORDS,
    NOT_EXPRESSIONS,
    PROTOTYPES,
    SOURCED_UNITS,
    associated_expressions,
    expression_of,
    expression_word,
    prototype_units,
)


def test_label_orders_name_each_expression_once():
    for dataset, order in LABEL_ORDERS.items():
        assert sorted(order.values()) in (sorted(BASIC_7), sorted(EXPRESSIONS)), dataset
        assert list(order) == list(range(min(order), min(order) + len(order))), dataset


def test_known_label_numbers():
    assert expression_of("raf-db", 4) == "Happiness"
    assert expression_of("affectnet", 3) == "Surprise"
    assert expression_of("fer2013", 0) == "Anger"
    with pytest.raises(ExpllmError, match="raf-db has no expression with label 0"):
        expression_of("raf-db", 0)
    with pytest.raises(ExpllmError, match="'rafdb'"):
        expression_of("rafdb", 1)
    with pytest.raises(ExpllmError, match="label 9.*'uncertain'"):
        expression_of("affectnet", 9)


def test_alphabetical_orders_are_alphabetical():
    adjectives = dict(Anger="angry", Happiness="happy", Sadness="sad")  # as the folders are called
    for name in ("emotiefflib-7", "emotiefflib-8", "ferplus-folders", "sfew"):
        words = [adjectives.get(word, word.lower()) for word in LABEL_ORDERS[name].values()]
        assert words == sorted(words) and min(LABEL_ORDERS[name]) == 0, name


def test_labels_left_out_on_purpose_are_no_expressions():
    for dataset, meanings in NOT_EXPRESSIONS.items():
        known = {**LABEL_ORDERS.get(dataset, {}), **LABEL_WORDS.get(dataset, {})}
        assert known and not set(meanings) & set(known), dataset
    assert set(NOT_EXPRESSIONS["affectnet"]) == {8, 9, 10} and set(NOT_EXPRESSIONS["ferplus-csv"]) == {8, 9}


def test_words_of_micro_expression_sets():
    casme2 = "others disgust happiness repression surprise sadness fear".split()
    samm = "anger other happiness surprise contempt disgust fear sadness".split()
    for dataset, words in (("casme2", casme2), ("samm", samm)):
        assert {*LABEL_WORDS[dataset], *NOT_EXPRESSIONS[dataset]} == set(words)
        assert all(expression_word(word) == label for word, label in LABEL_WORDS[dataset].items())


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_nouns_and_adjectives_in_any_case_name_an_expression(expression):
    for word in (expression, *EXPRESSION_WORDS[expression]):
        for written in (word, word.upper(), word.capitalize(), f" {word.lower()} "):
            assert expression_word(written) == expression


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("hapiness", "'hapiness'.*'happiness' .Happiness.*Neutral, Happiness"),
        ("angr", "'angry' .Anger"),
        ("natural", "'neutral' .Neutral"),
        ("", "'' names no expression. The label words"),
        ("7", "'7'"),
    ],
)
def test_a_word_that_names_no_expression_is_refused_with_the_nearest(word, message):
    with pytest.raises(ExpllmError, match=message):
        expression_word(word)


@pytest.mark.skipif("EXPLLM_FIXTURES" not in os.environ, reason="EXPLLM_FIXTURES names no folder of released labels")
def test_released_labels_are_the_basic_seven():
    records = json.loads((Path(os.environ["EXPLLM_FIXTURES"]) / "rafdb_valid_labels.json").read_text(encoding="utf-8"))
    counts = Counter(record["emo"] for record in records)
    assert {name: counts[name] for name in BASIC_7} == dict(
        Neutral=680, Happiness=1185, Sadness=478, Surprise=329, Fear=74, Disgust=160, Anger=162
    )


def test_prototypes_rest_on_sources():
    assert tuple(PROTOTYPES) == EXPRESSIONS
    for expression, units in PROTOTYPES.items():
        attested = {code for codes in SOURCED_UNITS.get(expression, {}).values() for code in codes}
        assert set(units) <= attested and set(units) <= set(FACS.codes)
        assert all(0 < value <= 1 for value in units.values())
        assert prototype_units(expression) == dict(units)


def test_associations_hold_every_sourced_unit_and_what_the_sources_say_beside():
    for entry in ASSOCIATIONS:
        assert entry.unit in FACS and entry.expression in EXPRESSIONS
        assert (entry.share is not None) == (entry.source == "Du 2014")
        listed = entry.unit in SOURCED_UNITS[entry.expression].get(entry.source, ())
        assert listed == (entry.share is None or entry.share >= 0.5)
    found = {(e.expression, e.unit): e for e in ASSOCIATIONS if e.source == "EMFACS"}
    assert found["Contempt", "AU14"].side == "right" and found["Contempt", "AU14"].at_least == "A"
    assert found["Fear", "AU7"].optional and not found["Fear", "AU20"].optional
    assert SOURCED_UNITS["Sadness"]["Du 2014"] == ("AU4", "AU15", "AU1", "AU6", "AU17")
    assert "AU26" not in SOURCED_UNITS["Fear"]["Du 2014"]  # 33 % of the subjects


def test_no_two_prototypes_are_alike():
    assert len({tuple(sorted(units)) for units in PROTOTYPES.values()}) == len(EXPRESSIONS)


def test_associations():
    assert associated_expressions("AU12")[0] == "Happiness"
    assert associated_expressions("AU9") == ("Disgust",)
    assert associated_expressions("AU18") == ()
    assert associated_expressions("FEAFA12", FEAFA_24) == associated_expressions("AU12", FACS)
    for expression, units in PROTOTYPES.items():
        assert all(expression in associated_expressions(code) for code in units)
    with pytest.raises(ExpllmError, match="'arkit'"):
        associated_expressions("jawOpen", ARKIT_52)


def test_prototypes_in_feafa():
    assert prototype_units("Happiness", FEAFA_24) == {"FEAFA12": 0.8, "FEAFA13": 0.8}
    assert "FEAFA9" in prototype_units("Surprise", FEAFA_24)
    with pytest.raises(ExpllmError, match="'Joy'"):
        prototype_units("Joy")
