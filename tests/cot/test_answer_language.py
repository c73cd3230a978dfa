"""The languages of answers: said once more in plain Python, and held against the parsers and the narrator."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.cot import (
    EXPRESSION_WORDS,
    HEADINGS,
    UnparsableAnswer,
    cot_language,
    label_language,
    named_expressions,
    parse_cot,
    parse_label,
    write_parts,
)
from expllm_jax.cot.conclusion_language import ALPHABET
from expllm_jax.cot.words import NEGATORS
from expllm_jax.engine.narrator import NarratorConfig, narrate
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import BASIC_7, EXPRESSIONS, vocabulary
from tests.cot.plain_language import belongs

LABEL_SETS = (BASIC_7, EXPRESSIONS, ("Anger", "Happiness"), ("Neutral",))

WORDS = [
    *(word for words in EXPRESSION_WORDS.values() for word in words),
    *NEGATORS,
    *("unhappy", "sadly", "sad_", "happy1", "minor", "knot", "only", "but", "The expression is", "SAD", "No", "3", "a"),
]
GAPS = [" ", ", ", ". ", ".", "—", "; ", "", "-", "’", "é"]
CONCLUSIONS = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), max_size=6).map(
    lambda pieces: "".join(word + gap for word, gap in pieces)
)


@settings(max_examples=80, deadline=None)
@given(CONCLUSIONS | st.text(ALPHABET, max_size=30), st.sampled_from(LABEL_SETS))
def test_conclusions_are_those_of_the_plain_definition_and_parse(conclusion: str, allowed: tuple[str, ...]) -> None:
    text = write_parts("Brow lowering.", "It hardens the gaze.", conclusion)
    accepted = cot_language(allowed).accepts(text)
    assert accepted == belongs(text, allowed)
    if accepted:
        assert (parse_cot(text, allowed=allowed).expression,) == named_expressions(conclusion, allowed)


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=8), st.text(max_size=8), st.sampled_from(["{}", " {}", "{}\n", "\n{}", "{}\n\nThanks."]))
def test_parts_may_hold_any_line_of_text(observations: str, interpretation: str, around: str) -> None:
    text = around.format(write_parts(observations, interpretation, "It is anger."))
    accepted = cot_language(BASIC_7).accepts(text)
    assert accepted == belongs(text, BASIC_7)
    if accepted:
        parsed = parse_cot(text)
        assert (parsed.interpretation, parsed.expression) == (interpretation, "Anger")


@pytest.mark.parametrize("character", ["\u00a0", "\u2028", "\u3000", "\x1f", "\x85", "\x00", "\n", "\t"])
def test_white_space_other_than_spaces_and_control_characters_are_refused(character: str) -> None:
    assert not cot_language(BASIC_7).accepts(write_parts(f"a{character}b", "c", "anger"))


@pytest.mark.parametrize("character", "é\u07ff\u0800\ud7ff\ue000\uffff\U00010000😀\U0010ffff")
def test_characters_of_every_length_are_known(character: str) -> None:
    assert cot_language(BASIC_7).accepts(write_parts(character, f"a {character}", "anger"))


@pytest.mark.parametrize(
    "content",
    [
        b"\xc0\x80",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf0\x80\x80\x80",
        b"\xf4\x90\x80\x80",
        b"\x80",
        b"\xff",
    ],
)
def test_bytes_that_are_no_characters_lead_nowhere(content: bytes) -> None:
    language = cot_language(BASIC_7)
    opened = language.state_after(f"{HEADINGS[0]} ")
    assert language.state_after(b"a", opened) != 0
    assert language.state_after(content, opened) == 0


def test_a_clause_that_the_parser_cuts_inside_a_word_is_no_way_round_the_negators() -> None:
    language, misread = cot_language(BASIC_7), []
    for length in range(385, 400):
        knot, knit = (write_parts("a", "b", f"A {word} {'a' * length} sadness") for word in ("knot", "knit"))
        assert language.accepts(knit) and parse_cot(knit)
        assert not language.accepts(knot)
        try:
            parse_cot(knot)
        except UnparsableAnswer:
            misread.append(length)
    assert misread, "no length cut the word, so this shows nothing"


@pytest.mark.parametrize("style", ["full", "brief"])
@pytest.mark.parametrize("words", ["facs", "feafa"])
def test_the_narrators_texts_belong_to_it(style: str, words: str) -> None:
    rng = np.random.default_rng(3)
    language, codes = cot_language(EXPRESSIONS), vocabulary(words).codes
    for number in range(64):
        shown = {code: float(rng.random()) for code in codes if rng.random() < number % 4 / 8}
        text = narrate(EXPRESSIONS[number % len(EXPRESSIONS)], shown, NarratorConfig(words, style), rng)
        assert language.accepts(text), text
        assert belongs(text, EXPRESSIONS)


@pytest.mark.parametrize("allowed", LABEL_SETS)
def test_labels(allowed: tuple[str, ...]) -> None:
    language = label_language(allowed)
    for label in allowed:
        assert language.accepts(label) and parse_label(label, allowed) == label
        for other in (label.lower(), label[:-1], label + "s", f" {label}", f"{label} ", "", label + label):
            assert not language.accepts(other)
    assert [label for label in EXPRESSIONS if language.accepts(label)] == [e for e in EXPRESSIONS if e in allowed]


def test_what_stands_before_a_language_is_part_of_it() -> None:
    language = label_language(("Anger",)).behind(" ")
    assert language.accepts(" Anger") and not language.accepts("Anger") and not language.accepts("  Anger")


def test_the_parts_of_a_text() -> None:
    language = cot_language(BASIC_7)
    text = write_parts("a b", "c", "anger")
    parts = [int(language.part_S[language.state_after(text[:end])]) for end in range(len(text) + 1)]
    starts = [0, *(match.start() + 1 for match in re.finditer("\n\n", text)), len(parts)]
    expected = [part for part in range(3) for _ in range(starts[part], starts[part + 1])]
    assert parts == expected


@pytest.mark.parametrize("allowed", [(), ("Joy",)])
def test_unusable_labels_are_named(allowed: tuple[str, ...]) -> None:
    with pytest.raises(ExpllmError, match="Joy|no allowed"):
        cot_language(allowed)


def test_every_negator_denies() -> None:
    for negator in NEGATORS:
        with pytest.raises(UnparsableAnswer, match="denies"):
            parse_cot(write_parts("a", "b", f"This {negator} anger"))
