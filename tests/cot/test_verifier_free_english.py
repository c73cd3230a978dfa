"""Reading texts in words of their own: which units a sentence tells of."""

from __future__ import annotations

import pytest

from expllm_jax.cot.free_statements import find_free_statements
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import ARKIT_52, FACS, FEAFA_24


def read(text: str, vocabulary=FEAFA_24) -> dict[str, str]:
    """Unit -> "side band", with a "no" before it where the unit is denied."""
    found = find_free_statements(text, vocabulary, 0, len(text))
    return {s.code: f"{'no ' if s.negated else ''}{s.side} {s.band}" for s in found}


BOTH = {"brow raise": ("FEAFA7", "FEAFA8"), "eye": ("FEAFA1", "FEAFA2"), "lid": ("FEAFA3", "FEAFA4")}
BOTH |= {"brow lower": ("FEAFA5", "FEAFA6"), "corner": ("FEAFA12", "FEAFA13")}


def both(name: str, band: str | None = None, *, no: bool = False) -> dict[str, str]:
    return dict.fromkeys(BOTH[name], f"{'no ' if no else ''}both {band}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("The eyebrows are slightly raised.", both("brow raise", "slight")),
        ("Both brows show a pronounced elevation.", both("brow raise", "significant")),
        ("A subtle lifting of the brows is noted.", both("brow raise", "slight")),
        ("It features partially closed eyes.", both("eye")),
        ("The lip corners are strongly pulled upward.", both("corner", "strong")),
        ("The lips are pulled upward.", both("corner")),
        ("A sideways pull of the left lip corner shows.", {"FEAFA14": "left None"}),
        ("There is an upward curve at the corners of the mouth.", both("corner")),
        ("The eyelids and the brows are raised.", both("lid") | both("brow raise")),
        ("Lowered brows and closed eyes dominate.", both("brow lower") | both("eye")),
        ("The left brow is slightly lowered.", {"FEAFA5": "left slight"}),
        ("The left and right eyes are closed.", both("eye")),
        ("A slight movement upward on the left corner shows.", {"FEAFA12": "left slight"}),
        ("The lower lip is markedly depressed.", {"FEAFA20": "both strong"}),
        ("The jaw shifts slightly to the left, sliding.", {}),
        ("A slight slide of the jaw to the left is seen.", {"FEAFA10": "left slight"}),
        ("The cheeks are puffed and the nose is wrinkled.", {"FEAFA23": "both None", "FEAFA24": "both None"}),
    ],
)
def test_statements(text, told):
    assert read(text) == told


@pytest.mark.parametrize(
    "text",
    [
        "Without raised brows, it looks calm.",
        "The brows are not raised.",
        "No brow raise is visible.",
        "The face lacks any brow raise or lid raise.",
        "Brow raising is absent.",
        "Neither raised brows nor raised lids occur.",
    ],
)
def test_denials(text):
    found = read(text)
    assert found and all(told.startswith("no ") for told in found.values())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("There is no jaw drop and the brows are raised.", {"FEAFA9": "no both None"} | both("brow raise")),
        ("Not only raised brows are seen.", both("brow raise")),
        ("The raised brows are not strong enough to matter.", both("brow raise")),
    ],
)
def test_denials_that_end(text, told):
    found = read(text)
    assert {code: what.rsplit(" ", 1)[0] for code, what in found.items()} == {
        code: what.rsplit(" ", 1)[0] for code, what in told.items()
    }


@pytest.mark.parametrize(
    "text",
    [
        "The posture suggests raised brows.",  # the clause tells nothing of the face before
        "The eyes stay close to rest.",
        "The corners of the mouth are pulled downward.",  # FEAFA has no unit for it
        "Cues such as raised brows are of interest.",
        "A fuller picture would include raised brows.",
        "Missing: brow raise, lid raise.",
        "The lower lip is an important part.",
    ],
)
def test_what_is_no_statement(text):
    assert set(read(text)) <= set(BOTH["brow raise"]) if "posture" in text else read(text) == {}


def test_what_a_clause_means_is_no_statement():
    assert read("The lips are pursed, suggesting raised brows.") == {"FEAFA22": "both None"}
    assert read("Closed eyes hint at raised brows.") == both("eye")


@pytest.mark.parametrize(
    "text",
    [
        "Marked by lowered brows, it is tense.",
        "The lowered brows strongly suggest tension.",
        "The right brow is more prominently lowered.",
        "Notably, the lowered brows stand out.",
        "The lowered brows are a strong sign.",
    ],
)
def test_words_of_intensity_that_tell_none(text):
    assert {what.split()[-1] for what in read(text).values()} == {"None"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The lips are firmly pressed together.", "AU24"),
        ("The lip corners are pulled down.", "AU15"),
        ("There is a tightening of the eyelids.", "AU7"),
        ("A narrowing of the eyes is seen.", "AU7"),
        ("The cheeks are lifted.", "AU6"),
        ("The nostrils are flared.", "AU38"),
        ("The inner brows are raised.", "AU1"),
    ],
)
def test_units_of_facs(text, code):
    assert set(read(text, FACS)) == {code}


def test_a_vocabulary_without_words():
    with pytest.raises(ExpllmError):
        read("The brows are raised.", ARKIT_52)
