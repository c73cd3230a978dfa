"""The verifier on the released texts: what is known of them, and mistakes that are put into them."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from expllm_jax.cot import FREE_TEXT, VerifiedTexts, verify
from expllm_jax.faces import FEAFA_24
from launch.bench.verifier import is_found, labelled_texts
from tests.golden.corrupt_texts import KINDS, corrupted

# Known of all 3,068 texts; the half that may be read here is a random half of them.
NAMES_LABEL = {
    "Happiness": 0.995,
    "Anger": 0.994,
    "Surprise": 0.991,
    "Sadness": 0.987,
    "Fear": 0.946,
    "Neutral": 0.928,
    "Disgust": 0.894,
}


@pytest.fixture(scope="module")
def entries() -> list[dict]:
    folder = os.environ.get("EXPLLM_FIXTURES")
    if not folder:
        pytest.skip("EXPLLM_FIXTURES names no folder with the released texts")
    return json.loads((Path(folder) / "rafdb_val_cot_half.json").read_text())


def test_the_known_facts(entries):
    tally = VerifiedTexts()
    for entry in entries:
        known = {
            "units": dict(zip(FEAFA_24.codes, entry["au"], strict=True)),
            "vocabulary": FEAFA_24,
            "expression": entry["emo"],
        }
        tally.add(entry["description"], verify(entry["description"], rules=FREE_TEXT, **known), **known)
    facts = tally.summary()
    assert facts["n"] == 1534 and facts["three_parts"] == 1.0
    assert facts["exact_headings"] == pytest.approx(0.965, abs=0.005)
    # 2,827 of 2,830 in the whole set: three that match nothing.
    assert facts["quoted_numbers"] == 1501 and facts["quoted_numbers_matching"] == 1500
    assert facts["conclusion_names_label"].keys() == NAMES_LABEL.keys()
    for label, share in NAMES_LABEL.items():
        deviation = (share * (1 - share) / tally.of_label[label]) ** 0.5
        assert facts["conclusion_names_label"][label] == pytest.approx(share, abs=1.5 * deviation), label
    assert facts["texts_with_findings"] < 0.25 * facts["n"]


def test_mistakes_put_into_released_texts(entries):
    by_name = {entry["file_name"]: entry for entry in entries}
    made = corrupted(entries, 0, 300)
    found = [corruption for corruption in made if is_found(by_name[corruption.file_name], corruption)]
    assert len(found) >= 0.9 * len(made)
    for kind in KINDS:
        count = sum(corruption.kind == kind for corruption in made)
        assert sum(corruption.kind == kind for corruption in found) >= 0.8 * count, kind


def test_findings_that_a_person_has_judged(entries):
    sets = labelled_texts(entries)
    assert [told["texts"] for told in sets.values()] == [50, 50]
    assert sum(told["findings"] for told in sets.values()) >= 60, "the labels are of another verifier: judge anew"
    assert sum(told["true"] for told in sets.values()) >= 0.9 * sum(told["findings"] for told in sets.values())
    assert sum(told["not_labelled"] for told in sets.values()) <= 3


SENTENCES = (
    "The left brow is slightly lowered. Both eyebrows are strongly raised, and the left lip corner pulls upward. The "
    "eyes are closed (left: 0.35, right: 0.20), with raised eyelids and a slight jaw drop."
)


def entry_of(number: int) -> dict:
    """A text in the released form, written here."""
    values = [0.0] * 24
    for unit, value in {1: 0.35, 2: 0.2, 3: 0.4, 4: 0.4, 5: 0.15, 7: 0.6, 8: 0.62, 9: 0.15, 12: 0.3}.items():
        values[unit - 1] = value
    text = (
        f"**Key Observations:** {SENTENCES}\n\n**Overall Emotional Interpretation:** It is surprise.\n\n"
        "**Conclusion:** The face conveys surprise."
    )
    return {"file_name": f"{number}.jpg", "emo": "Surprise", "au": values, "description": text}


ENTRIES = [entry_of(number) for number in range(30)]


def test_corruptions_are_a_function_of_file_and_seed():
    random.seed(1)  # of no consequence
    made = corrupted(ENTRIES, 3, 21)
    assert made == corrupted(ENTRIES, 3, 21) != corrupted(ENTRIES, 4, 21)
    assert Counter(corruption.kind for corruption in made) == dict.fromkeys(KINDS, 3)
    assert len({corruption.file_name for corruption in made}) == 21


def test_a_corruption_says_where_it_differs():
    original = ENTRIES[0]["description"]
    for corruption in corrupted(ENTRIES, 3, 28):
        rest = corruption.text[: corruption.start] + corruption.was + corruption.text[corruption.end :]
        assert rest == original != corruption.text


def test_corruptions_of_this_text_are_found():
    made = corrupted(ENTRIES, 3, 28)
    assert all(is_found(ENTRIES[0], corruption) for corruption in made)


def test_too_few_texts_of_a_kind():
    with pytest.raises(ValueError, match="wrong-side"):
        corrupted([entry_of(0) | {"au": [0.3] * 24, "description": "a\n\nb\n\nc"}], 0, 7)
