"""ROUGE and REGE against worked examples, and against the packages that published numbers come from."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.porter import stem
from expllm_jax.evaluate.text_overlap import (
    Told,
    common_subsequence,
    corrected_rege,
    published_rege,
    published_rouge_l,
    rouge_l,
    rouge_n,
    tokens,
)


def test_words_are_those_of_rouge_score():
    assert tokens("Lip-corner 0.36: RAISED, naïve") == ["lip", "corner", "0", "36", "raised", "na", "ve"]
    assert tokens("the raised brows are raising", stemmed=True) == ["the", "rais", "brow", "are", "rais"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("caresses", "caress"), ("ties", "tie"), ("flies", "fli"), ("agreed", "agre"), ("feed", "feed"),
        ("hopping", "hop"), ("falling", "fall"), ("filing", "file"), ("happy", "happi"), ("enjoy", "enjoy"),
        ("relational", "relat"), ("radically", "radic"), ("geology", "geolog"), ("hopefulness", "hope"),
        ("adoption", "adopt"), ("controll", "control"), ("skies", "sky"), ("dying", "die"), ("is", "is"),
        ("died", "die"), ("spied", "spi"), ("sing", "sing"), ("replacement", "replac"), ("rate", "rate"),
    ],
)  # fmt: skip
def test_stems(word, expected):
    assert stem(word) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_the_common_subsequence_is_that_of_the_table(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, word in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if word == other else max(table[i][j + 1], table[i + 1][j])
    assert common_subsequence(first, second) == table[-1][-1]


def test_rouge_by_hand():
    assert rouge_l("the brows are raised", "raised brows are the brows") == pytest.approx(2 * 2 / 9)
    assert rouge_n("a b a b", "a b c", 2) == pytest.approx(2 * 1 / 5)
    assert rouge_n("a", "a", 2) == 0.0
    assert rouge_l("", "a b") == rouge_l("a b", "") == rouge_l("😀", "😀") == 0.0
    assert rouge_l("raised brow", "raising brows") == 0.0
    assert rouge_l("raised brow", "raising brows", stemmed=True) == 1.0


def test_the_published_rouge_has_faults_of_its_own():
    assert published_rouge_l("fear fear fear joy", "fear joy") == pytest.approx(1.0)  # words count once
    assert published_rouge_l("Fear.", "fear.") == 0.0  # case counts
    assert published_rouge_l("a value of 0.36 here", "36 here") == pytest.approx(2 * 2 / 6 / (2 / 6 + 1), abs=1e-6)
    assert published_rouge_l("fear", "") is published_rouge_l("fear", "...") is None
    assert published_rouge_l("w " * 500, "w " * 500) is None  # too deep to trace back


def test_long_texts_take_moments():
    drawn = random.Random(0)
    one, other = (" ".join(drawn.choices(["brow", "lip", "jaw", "raised"], k=15_000)) for _ in range(2))
    assert 0.5 < rouge_l(one, other) < 0.8


def _told(**changes):
    fields = {
        "expression": "Fear", "reference": "the brows are raised.", "text": "the brows are raised.",
        "as_published": "Fear", "as_corrected": "Fear",
    } | changes  # fmt: skip
    return Told(**fields)


def test_rege_is_a_sum_that_reciting_raises():
    told = [_told(), _told(text=""), _told(as_published=None), _told(expression="Anger", reference="the jaw drops.")]
    published = published_rege(told)
    assert published.recognition == 50.0 and published.left_out == 1
    # Without the empty text: 1, 1 and what "the" is worth.
    the = 2 * (1 / 3) * (1 / 4) / (1 / 3 + 1 / 4)
    assert published.generation == pytest.approx(100 * (1 + 1 + the) / 3)
    corrected = corrected_rege(told)
    assert corrected.recognition == 75.0 and corrected.left_out == 0
    assert corrected.generation == pytest.approx(100 * (1 + 0 + 1 + 2 / 7) / 4)
    assert corrected.recited == pytest.approx(100 * (1 + 0 + 1 + 1) / 4)  # all is recited
    assert corrected.total == corrected.recognition + corrected.generation


def test_rege_of_nothing():
    assert math.isnan(published_rege([_told(text="")]).generation)
    with pytest.raises(ExpllmError, match="no face with a reference text"):
        corrected_rege([])


WORDS = st.one_of(
    st.text("abdeginosty", min_size=1, max_size=9),
    st.builds(
        lambda base, end: base + end,
        st.sampled_from(
            ["rais", "hop", "happ", "geo", "form", "relat", "tr", "fall", "siz", "y", "yy", "conflat", "ob"]
        ),
        st.sampled_from(
            "ed ing ies ied eed s ational alli logi fulli ization ness ful ement ion e y ly iviti ous ity al".split()
        ),
    ),
)
TEXTS = st.lists(st.one_of(WORDS, st.sampled_from([".", ",", "AU12", "0.36", "É", "😀", "\n"])), max_size=25)


@pytest.mark.parity
@settings(max_examples=150, deadline=None)
@given(TEXTS.map(" ".join), TEXTS.map(" ".join), st.booleans())
def test_rouge_is_that_of_rouge_score(reference, text, stemmed):
    from rouge_score.rouge_scorer import RougeScorer

    scores = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmed).score(reference, text)
    assert rouge_l(reference, text, stemmed=stemmed) == pytest.approx(scores["rougeL"].fmeasure)
    for length in (1, 2):
        assert rouge_n(reference, text, length, stemmed=stemmed) == pytest.approx(scores[f"rouge{length}"].fmeasure)


@pytest.mark.parity
def test_stems_are_those_of_nltk():
    from nltk.stem.porter import PorterStemmer

    stemmer, drawn = PorterStemmer(), random.Random(0)
    ends = (
        "ed ing ies ied eed s ss sses ational tional enci anci izer bli alli entli eli ousli ization ation ator alism "
    )
    ends += "iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence "
    ends += "er ic able ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize e y ll"
    for _ in range(20_000):
        word = "".join(drawn.choices("aeiouybcdlstwxz", k=drawn.randint(1, 6))) + drawn.choice(["", *ends.split()])
        assert stem(word) == stemmer.stem(word), word
