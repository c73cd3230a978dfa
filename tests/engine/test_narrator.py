"""The narrator: its texts are true, keep to their form and length, and are read back exactly."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.cot import STATED_FROM, band_of, find_statements, parse_cot, split_parts, stated_units, verify
from expllm_jax.engine import NarratorConfig, narrate
from expllm_jax.engine.full_sentences import RESTING
from expllm_jax.engine.phrasing import Chooser
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.text_statistics import distinct, words_of
from expllm_jax.faces import (
    EXPRESSIONS,
    FACS,
    FEAFA_24,
    PROTOTYPES,
    arkit_from_facs,
    feafa_from_arkit,
    prototype_units,
    vocabulary,
)
from expllm_jax.sources.rendered import INDEPENDENT, sample_units

CONFIGS = [NarratorConfig(vocab, style) for vocab in ("facs", "feafa") for style in ("full", "brief")]
CUTS = st.sampled_from((0.0, 0.06, 0.1, 0.2, 0.4, 0.55, 1.0))


@st.composite
def faces(draw):
    """A configuration, an expression, units of its vocabulary and a seed."""
    config = draw(st.sampled_from(CONFIGS))
    vocab = vocabulary(config.vocabulary)
    value = st.floats(0, 1) | CUTS
    count = draw(st.integers(0, 9) | st.integers(0, len(vocab)))
    codes = draw(st.permutations(vocab.codes))[:count]
    units = {code: draw(value) for code in codes}
    if vocab is FEAFA_24 and draw(st.booleans()):  # real faces are nearly symmetric
        units |= {vocab.unit(code).mirror: amount for code, amount in units.items()}
    return config, draw(st.sampled_from(EXPRESSIONS)), units, draw(st.integers(0, 2**31))


@settings(max_examples=400, deadline=None)
@given(faces())
def test_texts_are_true_and_read_back(face):
    config, expression, units, seed = face
    vocab = vocabulary(config.vocabulary)
    text = narrate(expression, units, config, np.random.default_rng(seed))
    stated = {code: band_of(units[code]) for code in vocab.codes if units.get(code, 0) >= STATED_FROM}

    assert stated_units(text, vocab) == stated
    assert parse_cot(text, vocab, EXPRESSIONS).expression == expression
    for statement in find_statements(text, vocab):  # of all parts
        if statement.negated:
            assert units.get(statement.code, 0) < 0.06
        elif statement.start < text.index("**Overall"):
            assert statement.band == stated[statement.code]

    words = len(text.split())
    if config.style == "full" and len(stated) <= 25:
        assert 84 <= words <= 146 and len(text) <= 1000
    if config.style == "brief" and len(stated) <= 9:
        assert 30 <= words <= 60


AT_REST = re.compile(
    r"(?:stay|remain)s? (?:close to|near|at) rest|(?:show|contribute|add)s? nothing|^(?:at|close to|near) rest|"
    r"^nothing\b.* in ",
    re.IGNORECASE,
)


@settings(max_examples=150, deadline=None)
@given(faces())
def test_regions_called_at_rest_are_at_rest(face):
    config, expression, units, seed = face
    vocab = vocabulary(config.vocabulary)
    text = narrate(expression, units, config, np.random.default_rng(seed))
    moved = {vocab.unit(code).region for code in vocab.codes if units.get(code, 0) >= STATED_FROM}
    for sentence in re.split(r"(?<=\.) ", split_parts(text).observations):
        if AT_REST.search(sentence) and "no clear movement" not in sentence:
            words = set(re.findall(r"\w+", sentence.lower()))
            for unit in vocab.units:
                if unit.region in words or ("face" in words and unit.region not in moved):
                    assert units.get(unit.code, 0) < 0.06, (sentence, unit)


def test_regions_at_rest_are_told_in_the_ways_that_the_test_above_knows():
    for sentence in RESTING:
        for form in ({"s": "s", "is": "is"}, {"s": "", "is": "are"}):
            for seed in range(20):
                assert AT_REST.search(Chooser(np.random.default_rng(seed)).say(sentence, areas="the nose", **form))


def test_a_mouth_that_the_jaw_opens_is_not_called_at_rest():
    for seed in range(60):
        text = narrate("Surprise", {"AU27": 0.8}, NarratorConfig(), np.random.default_rng(seed))
        resting = [s for s in split_parts(text).observations.split(". ") if AT_REST.search(s)]
        assert not any("mouth" in sentence for sentence in resting)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.vocabulary}-{c.style}")
def test_units_are_stated_from_the_top_of_the_face_down(config):
    vocab = vocabulary(config.vocabulary)
    units = dict.fromkeys(vocab.codes[::2], 0.5)
    text = narrate("Anger", units, config, np.random.default_rng(0))
    regions = [vocab.unit(s.code).region for s in parse_cot(text, vocab).observations if not s.negated]
    order = list(dict.fromkeys(["brows", "eyes", "nose", "cheeks", "mouth", "chin", "jaw"]))
    assert [order.index(region) for region in regions] == sorted(order.index(region) for region in regions)


def typical(style, seed):
    rng = np.random.default_rng(seed)
    expression = EXPRESSIONS[seed % 7]
    units = {code: float(value * rng.uniform(0.5, 1.2)) for code, value in PROTOTYPES[expression].items()}
    return narrate(expression, {c: min(1.0, v) for c, v in units.items()}, NarratorConfig("facs", style), rng)


def test_full_texts_have_the_length_of_the_released_ones():
    assert np.median([len(typical("full", seed).split()) for seed in range(140)]) == pytest.approx(117, abs=5)


def sampled(name, number):
    """An expression and units as faces are rendered with them; of independent faces they have nothing in common."""
    rng = np.random.default_rng(number)
    regime = ("clean", "mild", "hard", INDEPENDENT)[number % 4]
    expression = EXPRESSIONS[int(rng.integers(8))]
    units = sample_units(None if regime == INDEPENDENT else expression, regime, rng)
    if name == "facs":
        return expression, units
    units = feafa_from_arkit(arkit_from_facs(units))
    return expression, {code: float(min(1.0, value * rng.uniform(0.6, 1.2))) for code, value in units.items()}


@pytest.mark.parametrize("name", ["facs", "feafa"])
def test_the_verifier_finds_nothing_and_full_texts_differ_in_most_of_their_phrases(name):
    words, lengths = [], []
    for number in range(300):
        expression, units = sampled(name, number)
        text = narrate(expression, units, NarratorConfig(name), np.random.default_rng([1, number]))
        found = verify(text, units=units, vocabulary=vocabulary(name), expression=expression, allowed=EXPRESSIONS)
        assert not found, text
        words.append(words_of(text))
        lengths.append(len(text.split()))
    assert 105 <= np.median(lengths) <= 125
    # At 300 texts; the first version had 0.06 and 0.05. It falls with their number, see launch/bench/narrator.py.
    assert distinct(words, 3) > 0.25


def test_brief_texts_are_those_that_demo_models_have_learnt():
    told = hashlib.sha256()
    for number in range(120):
        name = ("facs", "feafa")[number % 2]
        expression, units = sampled(name, number)
        told.update(narrate(expression, units, NarratorConfig(name, "brief"), np.random.default_rng(number)).encode())
    assert told.hexdigest() == "baa36fb6bf87d3d86bce85716fe62d4d771b62a80041f3972cfdaf8703f531ad"


def test_full_texts_vary_and_brief_ones_hardly_do():
    units = dict(PROTOTYPES["Anger"])
    counts = {}
    for style in ("full", "brief"):
        texts = {narrate("Anger", units, NarratorConfig("facs", style), np.random.default_rng(s)) for s in range(50)}
        counts[style] = len(texts)
    assert counts["full"] >= 45 and counts["brief"] == 2


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.vocabulary}-{c.style}")
def test_the_same_seed_writes_the_same_text(config):
    units = prototype_units("Fear", vocabulary(config.vocabulary))
    first, second = (narrate("Fear", units, config, np.random.default_rng(3)) for _ in range(2))
    assert first == second


def test_equal_sides_are_told_once_and_unequal_ones_apart():
    config = NarratorConfig("feafa", "brief")
    rng = np.random.default_rng(0)
    equal = split_parts(narrate("Happiness", {"FEAFA12": 0.7, "FEAFA13": 0.8}, config, rng)).observations
    apart = split_parts(narrate("Happiness", {"FEAFA12": 0.3, "FEAFA13": 0.8}, config, rng)).observations
    assert equal.startswith("strong lip corner pull.")
    assert apart.startswith("moderate left lip corner pull, strong right lip corner pull.")


def test_contradictions_and_gaps_are_told():
    texts = [
        narrate("Anger", {"AU4": 0.8, "AU12": 0.6}, NarratorConfig("facs", "full"), np.random.default_rng(s))
        for s in range(20)
    ]
    for text in texts:
        assert any(s.code == "AU12" for s in find_statements(split_parts(text).interpretation, FACS)), text
    denied = [{s.code for s in find_statements(text, FACS) if s.negated} for text in texts]
    assert any(denied) and all(codes <= {"AU5", "AU7", "AU24"} for codes in denied)
    brief = narrate("Anger", {"AU4": 0.8, "AU12": 0.6}, NarratorConfig("facs", "brief"), np.random.default_rng(0))
    assert "Unusual: AU12." in brief and "Missing: " in brief


def test_bad_input_is_told():
    rng = np.random.default_rng(0)
    for arguments, message in (
        (("Joy", {}, NarratorConfig()), "'Joy'"),
        (("Anger", {"AU4": 1.2}, NarratorConfig()), "AU4 is 1.2"),
        (("Anger", {"FEAFA5": 0.2}, NarratorConfig()), "'FEAFA5'"),
    ):
        with pytest.raises(ExpllmError, match=message):
            narrate(*arguments, rng)
    with pytest.raises(ExpllmError, match="style is 'long'.*full, brief"):
        NarratorConfig(style="long")
    with pytest.raises(ExpllmError, match="vocabulary is 'arkit'"):
        NarratorConfig(vocabulary="arkit")
