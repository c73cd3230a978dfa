"""Texts of flipped pictures."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.cot import find_statements, mirror_text
from expllm_jax.cot.mirror import _SIDED, _no_sides, _swapped
from expllm_jax.faces import ARKIT_52, FACS, FEAFA_24, OPENGRAPHAU_41, Vocabulary


@pytest.mark.parametrize(
    ("text", "turned"),
    [
        ("The left brow is lowered.", "The right brow is lowered."),
        ("Left and RIGHT", "Right and LEFT"),
        ("the left and right brows", "the right and left brows"),
        ("raised ([left]: 0.21, right: 0.3)", "raised ([right]: 0.21, left: 0.3)"),
        ("asymmetry—left brow", "asymmetry—right brow"),
        ("a right-sided smile, left-side activation", "a left-sided smile, right-side activation"),
        ("a leftward slide, rightwards", "a rightward slide, leftwards"),
        ("lefthand and right-hand, leftmost", "righthand and left-hand, rightmost"),
        ("upper-left, eye_left", "upper-right, eye_right"),
        ("the right angle of the mouth", "the left angle of the mouth"),
        ("the left at 0.3 and the right with 0.4", "the right at 0.3 and the left with 0.4"),
        ("she looks right now and then left", "she looks left now and then right"),
        ("one on the right behind the other", "one on the left behind the other"),
        ("AUL12, AUR4 and AU L1", "AUR12, AUL4 and AU R1"),
        ("AU12L, AU4R, AU12_L, AU2 (R)", "AU12R, AU4L, AU12_R, AU2 (L)"),
        ("R1+L2+4", "L1+R2+4"),
        ("R12A+R14A", "L12A+L14A"),
        ("eyes (L: 0.3, R = .2), brow (L) raised", "eyes (R: 0.3, L = .2), brow (R) raised"),
        ("strong FEAFA12 and FEAFA 5", "strong FEAFA13 and FEAFA 6"),
        ("mouthSmileLeft 0.3, jawRight, browDown_L", "mouthSmileRight 0.3, jawLeft, browDown_R"),
    ],
)
def test_sides_are_swapped(text, turned):
    assert mirror_text(text) == turned
    assert mirror_text(turned) == text


@pytest.mark.parametrize(
    "text",
    [
        "A bright, upright, outright, frightened look, rightly and rightfully so; leftovers.",
        "She reacts right away.",
        "Right now, all right.",
        "a display in its own right",
        "at right angles",
        "the right balance",
        "The mouth is left open, the lips left slightly parted.",
        "He was left with nothing; no doubt left.",
        "a bag left behind, sitting right next to a chair",
        "right-minded",
        "AU12 of 0.4 and AU5, FEAFA24, FEAFA9, FEAFA99, jawOpen",
        "AU12_r and AU12_c of OpenFace",
        "R2-D2, L2-norm, XL12, RAF-DB, L",
    ],
)
def test_what_is_no_side_stays(text):
    assert mirror_text(text) == text


WORDS = (
    "left right Left RIGHT leftward right-hand now away all own the angle angles at open mouth is with behind next to "
    "looks balance brow doubt L12 AUR4 AU12L FEAFA12 mouthSmileLeft _L L R : (L) , . - ( ) 0.3 over minded"
).split()


TEXTS = st.text() | st.lists(st.sampled_from(WORDS)).flatmap(lambda w: st.sampled_from((" ".join(w), "".join(w))))


@given(TEXTS | st.text("LRleftrighFEAU12_ (:)=", max_size=12))
def test_a_text_that_is_passed_over_early_has_no_side(text):
    """What is looked for first leaves nothing out: trying every form on every text gives the same."""
    kept = _no_sides(text)
    slowly = _SIDED.sub(lambda match: match[0] if match.start() in kept else _swapped(match), text)
    assert mirror_text(text) == slowly


@given(TEXTS)
def test_mirrored_twice_is_the_same_text(text):
    assert mirror_text(mirror_text(text)) == text


@pytest.mark.parametrize("vocab", [FACS, FEAFA_24, ARKIT_52, OPENGRAPHAU_41], ids=lambda v: v.name)
def test_every_code_becomes_its_mirror(vocab):
    for unit in vocab.units:
        assert mirror_text(f"({unit.code})") == f"({unit.mirror})"


# --- the released texts -----------------------------------------------------------------------------------------------

OPPOSITE = {"left": "right", "leftward": "rightward"}
OPPOSITE |= {right: left for left, right in OPPOSITE.items()}
LOOK_ALIKE = re.compile(r"(?:out|b)right\w*|\w*fright\w*|rightful\w*", re.IGNORECASE)


@pytest.fixture(scope="module")
def released():
    if "EXPLLM_FIXTURES" not in os.environ:
        pytest.skip("EXPLLM_FIXTURES names no folder of released texts")
    path = Path(os.environ["EXPLLM_FIXTURES"]) / "rafdb_val_cot_half.json"
    return [record["description"] for record in json.loads(path.read_text(encoding="utf-8"))]


def pieces(text: str) -> list[str]:
    """Words, and what stands between them: numbers stay where they are, in between."""
    return re.split(r"([A-Za-z]+)", text)


def test_every_side_of_the_released_texts_is_swapped_and_nothing_else_changes(released):
    swapped = 0
    for text in released:
        for before, after in zip(pieces(text), pieces(mirror_text(text)), strict=True):
            word = before.lower()
            if word in OPPOSITE:
                assert after.lower() == OPPOSITE[word] and after.istitle() == before.istitle(), text
                swapped += 1
            else:
                assert after == before, text
                assert not re.search("left|right", word) or LOOK_ALIKE.fullmatch(word), word
        assert mirror_text(mirror_text(text)) == text
    assert swapped == 1938


def sided(text: str, vocab: Vocabulary, *, turn: bool) -> list[tuple]:
    """What a text states, in an order that does not depend on the codes' sides."""
    other = {"left": "right", "right": "left", "both": "both"}
    return sorted(
        (
            vocab.unit(s.code).mirror if turn else s.code,
            other[s.side] if turn else s.side,
            s.band or "",
            s.negated,
        )
        for s in find_statements(text, vocab)
    )


def test_the_released_texts_state_the_mirrored_units(released):
    stated = one_sided = 0
    for text in (text for text in released if mirror_text(text) != text):
        mirrored = sided(text, FEAFA_24, turn=True)
        assert sided(mirror_text(text), FEAFA_24, turn=False) == mirrored, text
        stated += len(mirrored)
        one_sided += sum(side != "both" for _, side, _, _ in mirrored)
    assert stated > 2500 and one_sided > 150


@given(st.sampled_from(FEAFA_24.codes), st.sampled_from(("slight", "strong")), st.booleans())
def test_statements_about_one_unit_are_mirrored(code, band, denied):
    text = f"There is {'no ' if denied else ''}{band} {FEAFA_24.unit(code).name} ({code})."
    assert sided(mirror_text(text), FEAFA_24, turn=False) == sided(text, FEAFA_24, turn=True)
