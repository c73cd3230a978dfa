"""How published evaluators read answers: every misreading that is documented, and the reading without it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.cot import PROTOCOLS, UnparsableAnswer, read_label, write_parts
from expllm_jax.cot.answer_protocols import _tagged
from expllm_jax.faces import BASIC_7, EXPRESSIONS

UNPARSABLE = "unparsable"
COT = write_parts("The lip corners are raised.", "This suggests joy.", "The person expresses happiness.")


def read(text, protocol, *, corrected=False, allowed=BASIC_7):
    try:
        return read_label(text, protocol, allowed, corrected=corrected)
    except UnparsableAnswer:
        return UNPARSABLE


@pytest.mark.parametrize(
    ("protocol", "text", "published", "corrected"),
    [
        # strict: one reading only.
        ("strict", "Anger", "Anger", "Anger"),
        ("strict", " Anger\n", "Anger", "Anger"),
        ("strict", "anger", UNPARSABLE, UNPARSABLE),
        ("strict", "I think it is anger.", UNPARSABLE, UNPARSABLE),
        ("strict", COT, "Happiness", "Happiness"),
        ("strict", COT.replace("happiness.", "no happiness."), UNPARSABLE, UNPARSABLE),
        ("strict", COT.replace("happiness.", "happiness and fear."), UNPARSABLE, UNPARSABLE),
        ("strict", COT + "\n\nSo: Anger", UNPARSABLE, UNPARSABLE),
        # ExpLLM: the exact word; no folding of case, no punctuation.
        ("expllm", "Happiness\n", "Happiness", "Happiness"),
        ("expllm", "happiness", UNPARSABLE, "Happiness"),
        ("expllm", "Happiness.", UNPARSABLE, "Happiness"),
        ("expllm", "**Happy**", UNPARSABLE, "Happiness"),
        ("expllm", "The label is Happiness", UNPARSABLE, UNPARSABLE),
        # FABA: denials as substrings.
        ("faba", "The nose is wrinkled in disgust. The rest is mild.", "Neutral", "Disgust"),
        ("faba", "The nose is wrinkled and the upper lip is raised. This is disgust.", "Disgust", "Disgust"),
        ("faba", "A known sign of anger. The face is calm.", "Neutral", "Anger"),
        ("faba", "There is pronounced fear. The lids show surprise.", "Surprise", "Fear"),
        ("faba", "There is no smile. The person shows anger.", "Anger", "Anger"),
        ("faba", "Not a trace of joy.", "Happiness", UNPARSABLE),  # all sentences dropped: the whole text is read
        # FABA: words in two lists, the first in the order of the labels wins; words in none are happiness.
        ("faba", "The face shows curiosity.", "Surprise", UNPARSABLE),
        ("faba", "The face shows discomfort.", "Sadness", UNPARSABLE),
        ("faba", "The person looks displeased.", "Anger", UNPARSABLE),
        ("faba", "The person looks sad.", "Happiness", "Sadness"),
        ("faba", "The person looks angry.", "Happiness", "Anger"),
        ("faba", "A face.", "Happiness", UNPARSABLE),
        # FABA: the first word of the first sentence, else the label with most words.
        ("faba", "Fear rather than joy.", "Fear", "Fear"),
        ("faba", "A face. Fear, fear and panic, joy.", "Fear", "Fear"),
        ("faba", "A face. Joy and fear.", "Happiness", UNPARSABLE),  # a tie is the first label's
        # FABA: the evaluator stops with an exception.
        ("faba", "This is fear", UNPARSABLE, "Fear"),
        ("faba", "Fear\nis seen.", UNPARSABLE, "Fear"),
        ("faba", "", UNPARSABLE, UNPARSABLE),
        # UniFER: substrings, and the order of the labels instead of that of the text.
        ("unifer", "<answer>unhappy, sad</answer>", "Happiness", "Sadness"),
        ("unifer-ferplus", "<answer>unhappy, sad</answer>", "Happiness", "Sadness"),
        ("unifer-sfew", "<answer>unhappy, sad</answer>", "Happiness", "Sadness"),
        ("unifer", "<answer>not fear but anger</answer>", "Fear", "Anger"),
        ("unifer", "<think>no surprise here; brows lowered, anger", "Surprise", UNPARSABLE),
        ("unifer", "<answer>anger</answer>", "Anger", "Anger"),
        ("unifer", "<ANSWER> Anger </ANSWER>", "Anger", "Anger"),
        ("unifer", "<think>fear?</think><answer>anger\nit is</answer>", "Fear", "Anger"),  # "." stops at a line's end
        ("unifer", "<answer>fear</answer> no: <answer>anger</answer>", "Fear", "Anger"),
        ("unifer", "<think>joy</think><answer>tired</answer>", "Happiness", UNPARSABLE),
        ("unifer", "<answer>blank stare</answer>", "Neutral", UNPARSABLE),
        ("unifer", "tired", UNPARSABLE, UNPARSABLE),
        ("unifer", "", UNPARSABLE, UNPARSABLE),
        ("unifer", "nomad", UNPARSABLE, UNPARSABLE),
        ("unifer-affectnet", "nomad", "Anger", UNPARSABLE),  # "mad" stands in this table
        # Facial-R1: the first word of the whole output where there is no tag.
        ("facial-r1", "Happiness is absent, so this is anger", "Happiness", UNPARSABLE),
        ("facial-r1", "<think>AU4</think><answer>anger</answer>", "Anger", "Anger"),
        ("facial-r1", "<answer>anger, disgust</answer>", "Anger", UNPARSABLE),
        ("facial-r1", "<answer>not fear but anger</answer>", UNPARSABLE, "Anger"),
        ("facial-r1", "<answer>  </answer>", UNPARSABLE, UNPARSABLE),
        ("facial-r1", "<Answer>anger</Answer>", UNPARSABLE, "Anger"),
        ("facial-r1", "anger", "Anger", UNPARSABLE),
        ("facial-r1", "", UNPARSABLE, UNPARSABLE),
    ],
)
def test_readings(protocol, text, published, corrected):
    assert read(text, protocol) == published
    assert read(text, protocol, corrected=True) == corrected


@pytest.mark.parametrize(
    ("protocol", "text"),
    [("expllm", "Contempt"), ("unifer-affectnet", "<answer>contempt</answer>"), ("facial-r1", "contempt")],
)
def test_a_label_of_another_data_set_is_unparsable_and_says_so(protocol, text):
    assert read(text, protocol, allowed=EXPRESSIONS) == "Contempt"
    with pytest.raises(UnparsableAnswer, match="Contempt is none of this data set's labels"):
        read_label(text, protocol, BASIC_7)


def test_every_label_is_read_by_every_protocol():
    for label in BASIC_7:
        for name in PROTOCOLS:
            text = label if name in ("strict", "expllm") else f"<answer>{label.lower()}</answer>."
            assert read(text, name) == read(text, name, corrected=True) == label, (name, text)


PIECES = st.sampled_from(
    ["<answer>", "</answer>", "<ANSWER>", "a", " ", "\n", "fear", "no", ".", "😀", "שלום", "ſ", "İ", "<think>"]
)
texts = st.one_of(st.lists(PIECES, max_size=14).map("".join), st.text(max_size=60))


@settings(max_examples=80, deadline=None)
@given(texts)
def test_the_first_answer_is_what_one_pattern_would_find(text):
    """For short texts, where the published pattern ends in time."""
    for flags, keywords in ((re.IGNORECASE, {"lines": False}), (re.DOTALL, {"lines": True, "exact_tag": True})):
        match = re.search(r"<answer>\s*(.*?)\s*</answer>", text, flags)
        assert _tagged(text, **keywords) == (match[1].strip() if match else None)


@settings(max_examples=80, deadline=None)
@given(texts, st.sampled_from(list(PROTOCOLS)), st.booleans())
def test_whatever_is_answered_it_is_read_or_unparsable(text, protocol, corrected):
    assert read(text, protocol, corrected=corrected) in (*BASIC_7, UNPARSABLE)


@pytest.mark.parametrize(
    "unit",
    ["<answer>", "<answer> ", "<answer>fear\n", " ", "no fear. ", "a", "😀", "\u202e", "**Conclusion:** ", "\n\n"],
)
def test_long_answers_are_read_as_well(unit):
    """100,000 characters, also of kinds on which patterns with several repeats take hours."""
    text = (unit * 100_000)[:100_000] + "</answer>"
    for protocol in PROTOCOLS:
        for corrected in (False, True):
            assert read(text, protocol, corrected=corrected) in (*BASIC_7, UNPARSABLE)
