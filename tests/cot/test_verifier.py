"""What the verifier finds, code by code, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.cot import FINDING_CODES, FREE_TEXT, STRICT, VerifierRules, verify, write_parts
from expllm_jax.engine import NarratorConfig, narrate
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import BASIC_7, EXPRESSIONS, FACS, FEAFA_24, RENDERED_UNITS
from tests.cot.narrated_corruptions import Narrated, corruptions

UNITS = {"AU4": 0.7, "AU7": 0.3, "AU12": 0.0, "AU26": 0.03}
OBSERVED = "The brows are strongly lowered (AU4). There is moderate lid tightening, often associated with anger."
GOOD = write_parts(OBSERVED, "Brow lowering fits anger.", "The expression is anger.")


def text(
    observations: str = OBSERVED,
    interpretation: str = "Brow lowering fits anger.",
    conclusion: str = "The expression is anger.",
) -> str:
    return write_parts(observations, interpretation, conclusion)


def found(told: str, units=UNITS, rules: VerifierRules = STRICT, **known) -> list[tuple[str, str]]:
    """(code, span) of every finding, in order; every finding is a valid one."""
    findings = verify(told, units=units, **{"expression": "Anger", "rules": rules} | known)
    assert all(f.code in FINDING_CODES and 0 <= f.start <= f.end <= len(told) for f in findings)
    assert all(re.search(r"[.*]$|\w$", f.reason) and len(f.reason) > 15 for f in findings)
    return [(finding.code, told[finding.start : finding.end]) for finding in findings]


def codes(*arguments, **known) -> list[str]:
    return [code for code, _ in found(*arguments, **known)]


def test_a_true_text_has_no_findings():
    assert found(GOOD) == []
    assert found(GOOD, rules=FREE_TEXT) == []


def test_every_code_says_what_it_means():
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) and len(meaning) > 15 for code, meaning in FINDING_CODES.items())


class TestForm:
    def test_missing_part(self):
        first, second, third = GOOD.split("\n\n")
        assert codes(f"{first}\n\n{third}") == ["missing-part"]
        assert "missing-part" in codes(f"{second}\n\n{third}")
        assert codes("") == ["missing-part"] * 3

    def test_the_place_of_a_missing_part_is_where_it_belongs(self):
        first, _, third = GOOD.split("\n\n")
        (finding,) = verify(f"{first}\n\n{third}", units=UNITS, expression="Anger")
        assert (finding.start, finding.end) == (len(first), len(first))
        assert "**Overall Emotional Interpretation:**" in finding.reason

    def test_parts_out_of_order(self):
        first, second, third = GOOD.split("\n\n")
        for order in ((second, first, third), (first, third, second), (third, second, first)):
            assert codes("\n\n".join(order)) == ["parts-out-of-order"]

    def test_empty_part(self):
        assert codes(text(interpretation="")) == ["empty-part"]

    def test_extra_part(self):
        assert found(GOOD + "\n\nThank you.") == [("extra-part", "Thank you.")]
        assert codes(GOOD + "\n\n**Conclusion:** It is anger.") == ["extra-part"]

    @pytest.mark.parametrize(
        "heading", ["### Conclusion\n", "Conclusion: ", "**Conclusions:** ", "**conclusion:** ", "## Conclusion:\n"]
    )
    def test_inexact_heading(self, heading):
        told = GOOD.replace("**Conclusion:** ", heading)
        assert codes(told) == ["inexact-heading"]
        assert codes(told, rules=dataclasses.replace(STRICT, exact_headings=False)) == []

    @pytest.mark.parametrize("heading", ["**Conclusion**: ", "**Conclusion** ", "**Conclusion:**  \n"])
    def test_headings_whose_colon_stands_elsewhere_are_exact(self, heading):
        assert codes(GOOD.replace("**Conclusion:** ", heading)) == []

    def test_extra_bold(self):
        assert found(text(conclusion="The expression is **anger**.")) == [("extra-bold", "**anger**")]

    def test_length(self):
        rules = dataclasses.replace(STRICT, words=(30, 60))
        assert codes(GOOD, rules=rules) == ["wrong-length"]
        assert codes(text(interpretation="Nothing else matters here. " * 4), rules=rules) == []
        assert codes(text(interpretation="Nothing else matters here. " * 20), rules=rules) == ["wrong-length"]


class TestUnits:
    def test_unsupported_unit(self):
        assert found(text(OBSERVED + " There is slight jaw drop.")) == [("unsupported-unit", "jaw drop")]

    def test_what_is_called_minimal_may_be_weak(self):
        assert found(text(OBSERVED + " There is minimal jaw drop.")) == []

    @pytest.mark.parametrize("word", ["slight", "significant"])
    def test_wrong_intensity(self, word):
        assert found(text(OBSERVED.replace("moderate", word))) == [("wrong-intensity", "lid tightening")]

    def test_the_reason_names_the_right_words(self):
        (finding,) = verify(text(OBSERVED.replace("moderate", "slight")), units=UNITS, expression="Anger")
        assert finding.reason == "Lid tightener is 0.30: moderate or noticeable, not slight."

    def test_intensity_slack(self):
        told = text(OBSERVED.replace("moderate", "significant"))
        assert codes(told, rules=dataclasses.replace(STRICT, intensity_slack=0.1)) == []
        assert codes(told, rules=dataclasses.replace(STRICT, intensity_slack=0.09)) == ["wrong-intensity"]

    def test_denied_unit(self):
        told = text(OBSERVED.replace("There is moderate", "There is no"))
        assert found(told) == [("denied-unit", "lid tightening")]
        assert codes(text(OBSERVED + " There is no smile or jaw drop.")) == []

    def test_a_denied_intensity_denies_that_intensity(self):
        assert codes(text(OBSERVED.replace("moderate lid", "no strong lid"))) == []
        assert codes(text("There is no strong brow lowering. There is moderate lid tightening.")) == ["denied-unit"]

    def test_omitted_unit(self):
        told = text("There is moderate lid tightening.")
        assert codes(told) == ["omitted-unit"]
        assert "strong brow lowering (AU4, 0.70)" in verify(told, units=UNITS, expression="Anger")[0].reason
        assert codes(told, rules=dataclasses.replace(STRICT, omitted_from=0.75)) == []
        assert codes(told, rules=dataclasses.replace(STRICT, omitted_from=None)) == []

    def test_wrong_side(self):
        told = write_parts("There is strong left brow raise.", "It is telling.", "The expression is surprise.")
        known = {"vocabulary": FEAFA_24, "expression": "Surprise"}
        assert codes(told, {"FEAFA7": 0.7}, **known) == []
        assert "wrong-side" in codes(told, {"FEAFA8": 0.7}, **known)
        assert codes(told.replace("left ", ""), {"FEAFA7": 0.7, "FEAFA8": 0.02}, **known) == ["wrong-side"]
        assert codes(told.replace("left ", ""), {"FEAFA7": 0.7, "FEAFA8": 0.02}, rules=FREE_TEXT, **known) == []

    @pytest.mark.parametrize(
        ("told", "wrong"),
        [
            ("The left and right brows are raised.", 0),
            ("The left and left brows are raised.", 1),
            ("The brows are raised (left: 0.7, right: 0.6).", 0),
            ("The brows are raised (left: 0.6, left: 0.7).", 1),
            ("The brows are raised, with 0.7 for the left and 0.6 for the right.", 0),
            ("The brows are raised, with 0.6 for the right and 0.7 for the right.", 1),
            ("The left brow is raised, while the right brow is raised less.", 0),
            ("The right brow is raised, while the right side is raised more.", 1),
            ("The right brow is raised, while the right eye shows nothing.", 0),
            ("The right brow is raised more than the right, clearly.", 1),
            ("The left brow is raised and a left upper lid is idle.", 0),
            ("The left brow is raised and the left brow stands out.", 0),
            ("Both brows are raised, especially on the left side.", 0),
            ("Both brows are raised, especially on the right side.", 1),
            ("The right brow raise at 0.7 is clear.", 1),
            ("The left brow raise at 0.7 is clear.", 0),
        ],
    )
    def test_left_and_right_are_told_apart(self, told, wrong):
        units = {"FEAFA7": 0.7, "FEAFA8": 0.6, "FEAFA2": 0.604, "FEAFA1": 0.702, "FEAFA13": 0.7}
        known = {"vocabulary": FEAFA_24, "expression": "Surprise", "rules": FREE_TEXT}
        found_codes = codes(text(told, "It is so.", "It is surprise."), units, **known)
        assert set(found_codes) == ({"wrong-side"} if wrong else set())

    def test_a_side_that_the_values_do_not_tell(self):
        told = text(OBSERVED.replace("moderate", "moderate left"))
        assert codes(told) == ["wrong-side"]
        assert codes(told, rules=dataclasses.replace(STRICT, unsided_units_may_have_sides=True)) == []

    def test_without_values_units_are_left_alone(self):
        assert codes(text("There is strong smile and no brow lowering."), None) == []
        assert (
            codes(text(OBSERVED + " There is slight jaw drop."), rules=dataclasses.replace(STRICT, units=False)) == []
        )

    def test_units_that_are_none_are_refused(self):
        with pytest.raises(ExpllmError):
            verify(GOOD, units={"AU99": 0.1})
        with pytest.raises(ExpllmError):
            verify(GOOD, units={"AU4": 1.1})


class TestLabels:
    def test_associations(self):
        told = text(OBSERVED.replace("with anger", "with surprise"))
        assert found(told) == [("unsupported-association", "surprise")]
        assert codes(told, rules=dataclasses.replace(STRICT, associations=False)) == []
        assert codes(text(OBSERVED.replace("with anger", "with anger rather than surprise"))) == []
        assert codes(text(interpretation="The lid tightening does not belong to the picture of surprise.")) == []

    def test_an_association_of_several_units_must_hold_for_each(self):
        told = text("There is strong brow lowering and moderate lid tightening, movements associated with sadness.")
        (finding,) = verify(told, units=UNITS, expression="Anger")
        assert finding.code == "unsupported-association" and "lid tightener" in finding.reason

    def test_label_in_observations(self):
        assert codes(GOOD, rules=dataclasses.replace(STRICT, label_in_observations=False)) == ["label-in-observations"]
        without = text(OBSERVED.replace(", often associated with anger", ""))
        assert codes(without, rules=dataclasses.replace(STRICT, label_in_observations=False)) == []

    @pytest.mark.parametrize(
        ("conclusion", "code"),
        [
            ("The expression is unclear.", "no-conclusion"),
            ("The expression is not anger.", "no-conclusion"),
            ("The expression is sadness.", "wrong-conclusion"),
            ("The expression is anger, with some sadness.", "several-conclusions"),
        ],
    )
    def test_conclusion(self, conclusion, code):
        assert codes(text(conclusion=conclusion)) == [code]
        assert codes(text(conclusion=conclusion), rules=dataclasses.replace(STRICT, conclusion=False)) == []

    def test_without_a_label_any_single_one_will_do(self):
        assert codes(text(conclusion="The expression is fear."), expression=None) == []
        assert codes(text(conclusion="It is fear or disgust."), expression=None) == ["several-conclusions"]
        assert codes(text(conclusion="It is contempt."), expression=None) == ["no-conclusion"]
        assert codes(text(conclusion="It is contempt."), expression=None, allowed=EXPRESSIONS) == []

    @pytest.mark.parametrize(
        ("conclusion", "code"),
        [
            ("It conveys happiness with hints of surprise.", []),
            ("A joyful demeanor, rather than sadness.", []),
            ("The lack of tension clearly conveys joy.", []),
            ("It conveys contentment, with no signs of sadness, anger or joy.", ["no-conclusion"]),
            ("It conveys surprise rather than joy.", ["wrong-conclusion"]),
        ],
    )
    def test_free_conclusions(self, conclusion, code):
        assert codes(text(conclusion=conclusion), rules=FREE_TEXT, expression="Happiness") == code


class TestNumbers:
    def test_a_number_at_a_code(self):
        assert codes(text(OBSERVED.replace("(AU4)", "(AU4, 0.70)"))) == []
        assert found(text(OBSERVED.replace("(AU4)", "(AU4, 0.30)"))) == [("wrong-number", "0.30")]
        assert codes(text(OBSERVED.replace("(AU4)", "(AU4: 0.706)"))) == []
        assert codes(text(OBSERVED.replace("(AU4)", "(AU4: 0.707)"))) == ["wrong-number"]

    def test_a_number_alone_is_that_of_some_unit(self):
        assert codes(text(OBSERVED.replace("(AU4)", "(0.3)"))) == []
        assert found(text(OBSERVED.replace("(AU4)", "(0.5)"))) == [("wrong-number", "0.5")]

    def test_the_side_of_a_number(self):
        units = {"FEAFA7": 0.7, "FEAFA8": 0.6}
        told = text("The brows are raised (left: 0.7, right: 0.6).", "It is so.", "It is surprise.")
        known = {"vocabulary": FEAFA_24, "expression": "Surprise", "rules": FREE_TEXT}
        assert codes(told, units, **known) == []
        swapped = told.replace("0.7", "?").replace("0.6", "0.7").replace("?", "0.6")
        assert codes(swapped, units, **known) == ["wrong-side", "wrong-side"]
        respectively = told.replace("(left: 0.7, right: 0.6)", "at 0.7 and 0.6 for the left and right")
        assert codes(respectively, units, **known) == []

    def test_codes_of_no_unit(self):
        assert found(text(OBSERVED + " AU99 is active.")) == [("unknown-unit", "AU99")]
        assert codes(text(OBSERVED + " FEAFA12 is active.")) == ["unknown-unit"]

    def test_codes_are_those_of_the_vocabulary(self):
        told = text("Left lip corner pull (AU12: 0.35).", "It is so.", "It is happiness.")
        known = {"vocabulary": FEAFA_24, "expression": "Happiness"}
        assert codes(told, {"FEAFA12": 0.35}, **known) == []
        assert "wrong-number" in codes(told, {"FEAFA12": 0.45}, **known)

    @pytest.mark.parametrize("number", ["70 %", "70%", "an intensity of 4", "level 3", "4 out of 5", "3/5"])
    def test_bare_numbers(self, number):
        assert codes(text(OBSERVED + f" It is {number}.")) == ["bare-number"]

    def test_numbers_may_go_unchecked(self):
        assert codes(text(OBSERVED + " AU99 is 0.5."), rules=dataclasses.replace(STRICT, numbers=False)) == []


class TestPersonalWords:
    @pytest.mark.parametrize("word", ["woman", "his", "elderly", "Asian", "teenager", "a famous actor", "boy's"])
    def test_they_are_found(self, word):
        assert "personal-word" in codes(text(interpretation=f"This is {word} to see."))
        assert (
            codes(text(interpretation=f"It is {word}."), rules=dataclasses.replace(STRICT, personal_words=True)) == []
        )

    @pytest.mark.parametrize("phrase", ["the human face", "their eyes", "a manner of this", "here", "then", "named"])
    def test_other_words_are_not(self, phrase):
        assert codes(text(interpretation=f"This is {phrase}.")) == []


WILD = st.text(alphabet=st.one_of(st.characters(), st.sampled_from(list("*:\n .,()0123456789AU🙂שa"))), max_size=300)
WORDS = st.lists(
    st.sampled_from(
        """**Key Observations:** **Overall Emotional Interpretation:** **Conclusion:** \n\n left right both eyebrows
        raised lips corners of the are not no slightly strong AU12 (0.35) 0.5 suggests associated with joy anger , .
        smile without and or rather than lower lip pulled downward eyes closed to more is a""".replace(
            "\n\n", "¶"
        ).split()
    ),
    max_size=120,
).map(lambda words: " ".join(words).replace("¶", "\n\n"))


@settings(max_examples=150, deadline=None)
@given(told=st.one_of(WILD, WORDS, WORDS.map(lambda words: text(words, words, words))), free=st.booleans())
def test_any_text_is_read(told, free):
    rules = dataclasses.replace(FREE_TEXT if free else STRICT, omitted_from=0.4, label_in_observations=False)
    for vocabulary, units in ((FACS, UNITS), (FEAFA_24, {"FEAFA12": 0.35}), (FEAFA_24, None)):
        found(told, units, rules=rules, vocabulary=vocabulary)


@pytest.mark.parametrize("rules", [STRICT, FREE_TEXT], ids=["strict", "free"])
@pytest.mark.parametrize(
    "piece", ["no smile or ", "not happy, ", "raised brows and ", "smile suggests joy ", "**\n \n", "🙂(", ".1"]
)
def test_long_texts_take_no_longer_than_their_length(piece, rules):
    # Reading that grew with the square of the length would take minutes here.
    told = text(*[piece * (100_000 // len(piece))] * 3)
    assert verify(told, units=UNITS, expression="Anger", rules=rules)


def narrated(count: int):
    rng = np.random.default_rng(11)
    for number in range(count):
        vocabulary = (FACS, FEAFA_24)[number % 2]
        names = RENDERED_UNITS if vocabulary == FACS else vocabulary.codes
        share = rng.choice([0.1, 0.3, 0.5])
        units = {code: float(rng.beta(0.6, 1.2)) for code in names if rng.random() < share}
        expression = str(rng.choice(BASIC_7))
        config = NarratorConfig(vocabulary=vocabulary.name, style=("brief", "full")[number // 2 % 2])
        yield Narrated(narrate(expression, units, config, rng), units, vocabulary, expression)


def test_narrated_texts():
    """The engine's own texts: at most 1 % false alarms, at least 98 % of mistakes found."""
    rng, made, missed, alarms = random.Random(5), 0, [], []
    for told in narrated(600):
        known = {"units": told.units, "vocabulary": told.vocabulary, "expression": told.expression}
        alarms += verify(told.text, **known)
        for corrupted in list(corruptions(told, rng))[:: 1 if made < 1000 else 3]:
            made += 1
            if not any(finding.code in corrupted.codes for finding in verify(corrupted.text, **known)):
                missed.append(corrupted)
    assert len(alarms) <= 6, alarms
    assert len(missed) <= 0.02 * made, missed[:3]


def test_narrated_texts_pass_as_free_texts_too():
    rules = dataclasses.replace(FREE_TEXT, omitted_from=0.4, one_label=True)
    told = list(narrated(200))
    alarms = [
        (finding, each.text)
        for each in told
        for finding in verify(
            each.text, units=each.units, vocabulary=each.vocabulary, expression=each.expression, rules=rules
        )
    ]
    assert len(alarms) <= 2, alarms
