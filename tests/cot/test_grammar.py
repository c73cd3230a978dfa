"""The three parts and the label."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from expllm_jax.cot import (
    EXPRESSION_WORDS,
    HEADINGS,
    UnparsableAnswer,
    concluded_expression,
    named_expressions,
    parse_cot,
    parse_label,
    split_parts,
    write_parts,
)
from expllm_jax.faces import BASIC_7, EXPRESSIONS

GOOD = write_parts("Strong brow lowering (AU4).", "It hardens the gaze.", "The expression is anger.")


def test_the_written_form():
    assert GOOD == (
        "**Key Observations:** Strong brow lowering (AU4).\n\n"
        "**Overall Emotional Interpretation:** It hardens the gaze.\n\n"
        "**Conclusion:** The expression is anger."
    )


def test_a_good_text():
    parsed = parse_cot(GOOD)
    assert (parsed.expression, parsed.interpretation) == ("Anger", "It hardens the gaze.")
    assert parsed.conclusion == "The expression is anger."
    (statement,) = parsed.observations
    assert GOOD[statement.start : statement.end] == "brow lowering (AU4)"
    assert (statement.code, statement.band, statement.negated) == ("AU4", "strong", False)


@pytest.mark.parametrize("style", ["{}:**", "{}**:", "{}**"])
def test_headings_as_they_occur_in_released_texts(style):
    text = "\n \n".join(f"{style.replace('{}', h[:-3])}  \nText of happiness." for h in HEADINGS)
    assert split_parts(f"\n{text}\n").conclusion == "Text of happiness."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "1 paragraphs"),
        (GOOD.replace("\n\n", "\n"), "1 paragraphs"),
        (GOOD + "\n\nThank you.", "4 paragraphs"),
        ("\n\n".join(reversed(GOOD.split("\n\n"))), "no heading"),
        (GOOD.replace("**Conclusion:**", "Conclusion:"), "no heading"),
        (GOOD.replace("**Conclusion:**", "**Conclusions:**"), "no heading"),
        (GOOD.replace("The expression is anger.", ""), "nothing under"),
        (GOOD.replace("anger", "unclear"), "no allowed expression"),
        (GOOD.replace("anger", "contempt"), "no allowed expression"),
        (GOOD.replace("anger", "anger or fear"), "Fear and Anger"),
        (GOOD.replace("anger", "sad and not angry"), "Sadness and Anger"),
        (GOOD.replace("is anger", "is not anger"), "denies Anger"),
        (GOOD.replace("anger", "unhappy"), "no allowed expression"),
        (GOOD.replace("anger", "dangerous"), "no allowed expression"),
    ],
)
def test_what_leaves_the_form_is_refused(text, reason):
    with pytest.raises(UnparsableAnswer, match=reason):
        parse_cot(text)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_nouns_and_adjectives_name_an_expression(expression):
    for word in EXPRESSION_WORDS[expression]:
        assert concluded_expression(f"The face looks {word.upper()}.", EXPRESSIONS) == expression
        assert named_expressions(f"{word}fully non{word}", EXPRESSIONS) == ()


@pytest.mark.parametrize("text", ["Happiness", " Happiness\n"])
def test_a_label(text):
    assert parse_label(text, BASIC_7) == "Happiness"


@pytest.mark.parametrize("text", ["", "happiness", "Happiness.", "Happiness Anger", "Contempt", "The label is Anger"])
def test_anything_else_is_no_label(text):
    with pytest.raises(UnparsableAnswer):
        parse_label(text, BASIC_7)


# Conclusions that name the true label, RAF-DB test set, as measured on all 3,068 texts with common synonyms counted.
PUBLISHED = dict(Happiness=0.995, Anger=0.994, Surprise=0.991, Sadness=0.987, Fear=0.946, Neutral=0.928, Disgust=0.894)
SYNONYMS = dict(Happiness="joy", Sadness="sorrow", Surprise="astonish", Fear="afraid|terrified")


@pytest.mark.skipif("EXPLLM_FIXTURES" not in os.environ, reason="EXPLLM_FIXTURES names no folder of released texts")
def test_released_texts():
    records = json.loads((Path(os.environ["EXPLLM_FIXTURES"]) / "rafdb_val_cot_half.json").read_text(encoding="utf-8"))
    conclusions: dict[str, list[str]] = {name: [] for name in BASIC_7}
    for record in records:
        try:
            conclusions[record["emo"]].append(split_parts(record["description"]).conclusion)
        except UnparsableAnswer:
            continue
    assert sum(map(len, conclusions.values())) >= 0.96 * len(records)
    strict = 0
    for name, texts in conclusions.items():
        naming = [bool(named_expressions(text, [name])) for text in texts]
        strict += sum(naming)
        pattern = SYNONYMS.get(name, "(?!)")
        loose = [found or bool(re.search(pattern, text, re.I)) for found, text in zip(naming, texts, strict=True)]
        assert sum(loose) / len(texts) == pytest.approx(PUBLISHED[name], abs=0.03), name
    assert strict >= 0.88 * len(records)
