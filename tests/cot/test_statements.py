"""What texts state and deny."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.cot import (
    BANDS,
    MOVEMENTS,
    band_of,
    codes_of_movements,
    find_statements,
    movement_of,
    stated_units,
    write_parts,
)
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import ARKIT_52, FACS, FEAFA_24

VOCABULARIES = pytest.mark.parametrize("vocab", [FACS, FEAFA_24], ids=lambda v: v.name)


@VOCABULARIES
def test_every_unit_has_words_and_every_word_a_unit(vocab):
    for code in vocab.codes:
        assert code in codes_of_movements(vocab)[movement_of(code, vocab).name]
    for name, codes in codes_of_movements(vocab).items():
        assert name in MOVEMENTS and all(code in vocab for code in codes)


@VOCABULARIES
def test_every_phrase_is_read_as_its_own_unit(vocab):
    for name, codes in codes_of_movements(vocab).items():
        movement = MOVEMENTS[name]
        phrases = [f"There is slight {phrase}." for phrase in (*movement.nouns, *movement.read_only)]
        for part, participle in movement.states:
            phrases += [f"The {part} are slightly {participle}.", f"We see slightly {participle} {part}."]
        for phrase in phrases:
            assert stated_units(phrase, vocab) == dict.fromkeys(codes, "slight"), phrase
            denied = phrase.replace("There is slight", "There is no").replace("are slightly", "are not")
            denied = denied.replace("see slightly", "see no")
            assert stated_units(denied, vocab) == {}, denied
            assert {s.code for s in find_statements(denied, vocab) if s.negated} == set(codes), denied


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("Strong brow lowering (AU4), slight lid raise (AU5).", {"AU4": "strong", "AU5": "slight"}),
        ("AU12 of moderate intensity", {"AU12": "moderate"}),
        ("strong AU4 and AU 7", {"AU4": "strong", "AU7": None}),
        ("the nose is wrinkled", {"AU9": None}),
        ("The nose is clearly wrinkled, notably so.", {"AU9": None}),
        ("The Nose is markedly wrinkled", {"AU9": "strong"}),
        ("A smile (AU12) that is strong", {"AU12": None}),
        ("The smile is pronounced", {"AU12": "significant"}),
        ("raised eyebrows", {"AU1": None, "AU2": None}),
        ("an outer brow raise", {"AU2": None}),
        ("slightly tightened lip corners", {}),
        ("not only a frown", {"AU4": None}),
        ("a mild smile, often a sign of strong happiness, and a jaw drop", {"AU12": "slight", "AU26": None}),
        ("a slight smile. The smile is strong.", {"AU12": "slight"}),
        ("a smile, and a strong smile", {"AU12": "strong"}),
        ("no smile, but strong brow lowering", {"AU4": "strong"}),
        ("no smile and strong brow lowering", {"AU4": "strong"}),
        ("without AU12, strong AU4", {"AU4": "strong"}),
        ("The brows are not lowered and the jaw is slightly dropped.", {"AU26": "slight"}),
        ("inner brow raise is absent; outer brows are markedly raised", {"AU2": "strong"}),
        ("neither brow lowering nor lip press is seen, yet a mild smile", {"AU12": "slight"}),
        ("A value of 0.36 speaks for strong lip press", {"AU24": "strong"}),
        ("AU99 and AU1.", {"AU1": None}),
    ],
)
def test_stated_units(text, units):
    assert stated_units(text, FACS) == units


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        ("no lip corner pull", "AU12"),
        ("nose is not wrinkled", "AU9"),
        ("the nose isn't wrinkled", "AU9"),
        ("without AU12", "AU12"),
        ("a smile (AU12) is not visible", "AU12"),
        ("the lack of a smile", "AU12"),
        ("there is no strong brow lowering", "AU4"),
        ("no cheek raise or lip press", "AU6 AU24"),
        ("no cheek raise, lip press or jaw drop", "AU6 AU24 AU26"),
        ("neither cheek raise (AU6) nor lip press (AU24) occurs", "AU6 AU24"),
    ],
)
def test_denied_units(text, denied):
    assert stated_units(text, FACS) == {}
    assert [s.code for s in find_statements(text, FACS) if s.negated] == denied.split()


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("strong left brow lowering and slight right brow lowering", {"FEAFA5": "strong", "FEAFA6": "slight"}),
        ("the left brow is strongly lowered", {"FEAFA5": "strong"}),
        ("slight closing of the right eye", {"FEAFA2": "slight"}),
        ("slight eye closure on the right", {"FEAFA2": "slight"}),
        ("slight eye closure", {"FEAFA1": "slight", "FEAFA2": "slight"}),
        ("slight closure of left and right eye closure", {"FEAFA1": "slight", "FEAFA2": "slight"}),
        ("moderate jaw slide to the left", {"FEAFA10": "moderate"}),
        ("notable upper lip suck and no lower lip suck", {"FEAFA16": "significant"}),
        ("slight AU12", {}),
        ("slight FEAFA12", {"FEAFA12": "slight"}),
    ],
)
def test_sides(text, units):
    assert stated_units(text, FEAFA_24) == units


def test_only_observations_state():
    text = write_parts("Slight brow lowering.", "A strong smile would fit.", "With a strong jaw drop, this is anger.")
    assert stated_units(text) == {"AU4": "slight"}


def test_a_name_and_its_code_are_one_statement():
    (statement,) = find_statements("Marked brow lowering (AU4) is seen", FACS)
    assert (statement.start, statement.end) == (7, 26)
    assert len(find_statements("raised brows (AU1, AU2)", FACS)) == 2


def test_arkit_has_no_words():
    with pytest.raises(ExpllmError, match="'arkit'"):
        stated_units("strong smile", ARKIT_52)


@given(st.dictionaries(st.sampled_from(FACS.codes), st.floats(0, 1), min_size=1))
def test_a_list_of_codes_comes_back(units):
    adjectives = {entry.name: entry.adjectives[0] for entry in BANDS}
    text = ", ".join(f"{adjectives[band_of(value)]} {code}" for code, value in units.items())
    assert stated_units(text, FACS) == {code: band_of(value) for code, value in units.items()}


@given(st.text())
def test_any_text_can_be_read(text):
    stated_units(text, FACS)
    stated_units(text, FEAFA_24)
