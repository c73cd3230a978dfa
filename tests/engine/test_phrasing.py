"""Sentences with alternatives, and the names of movements: well formed, true to the rules, and read back exactly."""

from __future__ import annotations

import re

import numpy as np
import pytest

from expllm_jax.cot import BAND_WORDS, BANDS, EXPRESSION_WORDS, codes_of_movements, find_statements
from expllm_jax.engine import full_sentences
from expllm_jax.engine.naming import nouns, phrases, states
from expllm_jax.engine.phrasing import Chooser, ways
from expllm_jax.engine.reading import read_face
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import FACS, FEAFA_24


def chooser(seed=0):
    return Chooser(np.random.default_rng(seed))


def test_brackets_offer_alternatives_and_gaps_are_filled():
    sentence = "[one|two [small|]] {thing}[s|]"
    assert ways(sentence) == (1 + 2) * 2
    said = {chooser(seed).say(sentence, thing="dog") for seed in range(200)}
    assert said == {"one dog", "one dogs", "two small dog", "two small dogs", "two  dog", "two  dogs"}
    assert chooser(3).say(sentence, thing="dog") == chooser(3).say(sentence, thing="dog")


@pytest.mark.parametrize("sentence", ["[a|b", "a]", "[[a|b]", "a|b"])
def test_brackets_that_do_not_match_are_told(sentence):
    with pytest.raises(ExpllmError, match="bracket"):
        chooser().say(sentence)


def test_a_gap_without_a_filling_is_an_error():
    with pytest.raises(KeyError):
        chooser().say("{nothing}")


def test_draws_are_even_and_shuffles_keep_everything():
    say = chooser()
    counts = np.bincount([say.below(4) for _ in range(4000)], minlength=4)
    assert counts.sum() == 4000 and counts.min() > 850
    assert sorted(say.shuffled(range(20))) == list(range(20)) and say.shuffled(range(20)) != list(range(20))


def all_sentences():
    for name, value in vars(full_sentences).items():
        if not name.isupper():
            continue
        entries = value.values() if hasattr(value, "values") else value
        for entry in entries if not isinstance(entries, frozenset) else ():
            if isinstance(entry, tuple):
                entry = entry[1] if isinstance(entry[0], frozenset) else entry
            yield from [entry] if isinstance(entry, str) else entry


def test_the_table_keeps_to_its_own_rules():
    sentences = list(all_sentences())
    assert len(sentences) > 150
    # "neutral" of Neutral's own sentences, and "surprise" nowhere.
    labels = {word for words in EXPRESSION_WORDS.values() for word in words} - {"neutral"}
    for sentence in sentences:
        assert ways(sentence) >= 1
        words = set(re.findall(r"[a-z]+", sentence))
        assert not words & {"left", "right", *BAND_WORDS, *labels}, sentence


@pytest.mark.parametrize("vocabulary", [FACS, FEAFA_24], ids=lambda v: v.name)
def test_every_name_of_a_movement_is_read_back_as_what_it_was_made_from(vocabulary):
    for name, codes in codes_of_movements(vocabulary).items():
        if len(codes) > 1 and vocabulary.unit(codes[0]).side == "both":
            continue  # is only read
        sided = vocabulary.unit(codes[0]).side != "both"
        meanings = {"both": codes} | ({"left": codes[:1], "right": codes[1:]} if sided else {})
        for side, meant in meanings.items():
            if sided and side == "both" and name == "jaw slide":
                continue  # a jaw slides to one side
            for noun in nouns(name, side):
                assert {s.code for s in find_statements(f"The {noun} decides.", vocabulary)} == set(meant), noun
            for band in BANDS[1:]:
                told = [f"There is {p.words}{p.degree}." for p in phrases(name, side, band.name, alone=True)]
                told += [f"{clause.words}." for clause in states(name, side, band.name)]
                for sentence in told:
                    found = find_statements(sentence, vocabulary)
                    assert {s.code for s in found} == set(meant), sentence
                    assert {(s.band, s.negated) for s in found} == {(band.name, False)}, sentence


def test_names_have_their_side_and_their_article():
    assert nouns("brow lowering", "left")[:2] == ("left brow lowering", "lowering of the left brow")
    assert nouns("jaw slide", "right") == ("right jaw slide", "right jaw shift")
    assert "an intense brow lowering" in [p.words for p in phrases("brow lowering", "both", "strong", alone=False)]
    wrinkled = [p for p in phrases("nose wrinkling", "both", "slight", alone=False) if "wrinkled" in p.words]
    assert wrinkled[0].words == "a slightly wrinkled nose" and not wrinkled[0].plural
    assert "the left brow appears slightly lowered" in [s.words for s in states("brow lowering", "left", "slight")]


def test_a_face_is_read_from_the_top_down_and_once():
    reading = read_face("Fear", {"AU27": 0.5, "AU20": 0.3, "AU1": 0.9, "AU5": 0.05}, FACS)
    assert [finding.codes for finding in reading.findings] == [("AU1",), ("AU20",), ("AU27",)]
    assert "lid raise" in dict(reading.missing) and reading.resting == ("eyes", "nose", "cheeks", "chin")
