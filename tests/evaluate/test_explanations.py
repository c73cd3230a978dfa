"""What an explanation leads to when it is read alone."""

from __future__ import annotations

import numpy as np
import pytest

from expllm_jax.cot import write_parts
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.explanations import (
    BLANK,
    explanation_of,
    explanation_scores,
    learnt_verifier,
    prototype_verifier,
)
from expllm_jax.faces import BASIC_7, PROTOTYPES, Annotation


def text(*codes, conclusion="The person expresses fear.", band="strong"):
    observations = " ".join(f"There is a {band} {code}." for code in codes) or "The face is at rest."
    return write_parts(observations, "This suggests sadness, and no happy mood.", conclusion)


def test_what_names_an_expression_is_blanked_and_the_conclusion_is_off():
    read = explanation_of(text("AU12"))
    assert read == f"There is a strong AU12.\n\nThis suggests {BLANK}, and no {BLANK} mood."
    assert (
        explanation_of("<think>AU4, angry, saddened</think><answer>anger</answer>")
        == f"<think>AU4, {BLANK}, {BLANK}</think>"
    )
    assert explanation_of("") == ""


def test_the_prototypes_speak_for_their_own_label():
    verifier = prototype_verifier(BASIC_7)
    named = {label: verifier.named(explanation_of(text(*PROTOTYPES[label]))) for label in BASIC_7}
    assert named == {label: label for label in BASIC_7}
    assert verifier.named("") is verifier.named("  \n") is None


def test_a_label_that_is_only_claimed_is_not_believed():
    """Text and conclusion say fear; the units are those of happiness."""
    claimed = write_parts("A strong AU12 and a strong AU6.", "Fear, fearful.", "The person expresses fear.")
    assert prototype_verifier(BASIC_7).named(explanation_of(claimed)) == "Happiness"


def test_a_verifier_learns_units_and_their_strength():
    labels = ("Surprise", "Fear")
    taught = [Annotation(f"s{n}.png", "Surprise", cot=text("AU1", band="strong")) for n in range(5)]
    taught += [Annotation(f"f{n}.png", "Fear", cot=text("AU1", band="slight")) for n in range(5)]
    taught += [Annotation("x.png", "Fear"), Annotation("y.png", cot=text("AU4"))]
    verifier = learnt_verifier(taught, labels)
    assert "10 texts" in verifier.name
    assert [verifier.named(f"A {band} AU1.") for band in ("strong", "slight")] == ["Surprise", "Fear"]
    assert np.allclose(np.exp(verifier.log_LUK).sum(2), 1.0)
    assert verifier.fingerprint == learnt_verifier(taught, labels).fingerprint
    assert verifier.fingerprint != learnt_verifier(taught[1:], labels).fingerprint
    with pytest.raises(ExpllmError, match="no text of Anger"):
        learnt_verifier(taught, (*labels, "Anger"))


def test_scores_by_hand(make_face):
    faces = [
        make_face(expression="Fear", predicted="Fear"),
        make_face(expression="Fear", predicted="Anger", concluded="Fear"),
        make_face(expression="Fear", predicted="Fear"),
        make_face(expression="Fear", predicted=None, label_text="?", cot=None, concluded=None),
    ]
    found = explanation_scores(faces, ["Fear", "Fear", "Anger", None], "by hand")
    assert (found.eea.value, found.epc.value, found.fcr.value) == (0.5, 0.25, 0.25)
    assert found.cells == {"both": 1, "label": 1, "explanation": 1, "neither": 1} and found.unread == 1
    assert found.eea.low <= 0.5 <= found.eea.high
    with pytest.raises(ExpllmError, match="1 readings for 4 faces"):
        explanation_scores(faces, ["Fear"], "by hand")
