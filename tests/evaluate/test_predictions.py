"""Predictions of any model against annotations: whatever a file holds, every face is scored, every misfit counted."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expllm_jax.cot import PROTOCOLS, write_parts
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import score, score_units
from expllm_jax.evaluate.predictions import read_predictions, read_truth, said_units
from expllm_jax.faces import BASIC_7, EXPRESSIONS, FACS, Annotation, write_annotations

COT = write_parts("A strong lip-corner pull (AU12).", "This suggests joy.", "The person expresses happiness.")


@pytest.fixture
def scored(tmp_path):
    """Writes truth and predictions, and reads them back."""
    truth_file, file = tmp_path / "annotations.jsonl", tmp_path / "predictions.jsonl"

    def read(truth, lines, *, split=None, **keywords):
        write_annotations(truth_file, truth)
        text = lines if isinstance(lines, (str, bytes)) else "".join(json.dumps(line) + "\n" for line in lines)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_predictions(file, read_truth(truth_file, split=split), **keywords)

    return read


def face(name="a", expression="Happiness", **keywords):
    return Annotation(f"p/{name}.png", expression, {"facs": {"AU12": 0.8, "AU4": 0.0}}, **keywords)


def test_all_that_a_line_may_say(scored):
    truth = [face(name, identity="someone", split="mild", attributes={"gender": "female"}) for name in "abcde"]
    found = scored(
        truth,
        [
            {"picture": "p/a.png", "label": "Happiness", "prompt_tokens": 9, "new_tokens": 2},
            {"picture": "/p/b.png", "label_text": "Happiness", "cot": COT},
            {"id": "c", "text": COT, "finish_reason": "length", "model": "x"},
            {"picture": "./p/d.png", "cot": COT, "label": None},
            {"picture": "elsewhere/e.png", "text": "Anger"},
        ],
    )
    assert sum(found.unfit.counts().values()) == 0 and found.unfit.told() == []
    a, b, c, d, e = found.faces
    assert [f.order for f in found.faces] == [
        "label-only", "label-first", "reasoning-first", "reasoning-first", "label-only",
    ]  # fmt: skip
    assert [f.predicted for f in found.faces] == ["Happiness"] * 4 + ["Anger"]
    assert (a.prompt_tokens, a.new_tokens, a.identity, a.split, a.groups) == (
        9,
        2,
        "someone",
        "mild",
        {"gender": "female"},
    )
    assert b.stated == {"AU12": "strong"} and b.concluded == "Happiness" and c.truncated and not d.truncated
    assert a.cot is None and c.label_text is None and (a.asked, b.asked, c.asked) == (1, 2, 1)


def test_every_misfit_is_counted_and_no_face_is_dropped(scored):
    truth = [face("a"), face("b", "Anger"), face("c", "Fear"), Annotation("p/unlabelled.png")]
    found = scored(
        truth,
        json.dumps({"picture": "p/a.png", "label": "Happiness"})
        + "\nnot json\n[1]\n\n"
        + "\n".join(
            json.dumps(line)
            for line in (
                {"picture": "p/a.png", "label": "Happiness"},
                {"picture": "p/a.png", "label": "Fear"},
                {"picture": "p/b.png", "label": "Boredom"},
                {"picture": "p/nobody.png", "label": "Fear"},
                {"picture": "p/unlabelled.png", "label": "Fear"},
                {"label": "Fear"},
                {"id": True, "label": "Fear"},
                {"picture": "p/c.png", "label": 4, "text": ["x"]},
            )
        ),
    )
    assert found.unfit.counts() == {
        "missing": 0, "duplicate": 2, "contradicting": 1, "unknown": 1, "unscored": 1, "malformed": 7, "mended": 0,
    }  # fmt: skip
    assert [f.predicted for f in found.faces] == ["Happiness", None, None]
    assert score(found.faces).n == 3 and score(found.faces).unparsable == 2
    assert any("line 2" in line for line in found.unfit.told())
    assert "p/a.png (line 6)" in "\n".join(found.unfit.told())


def test_a_face_without_a_prediction_is_unparsable(scored):
    found = scored([face("a"), face("b")], [])
    assert found.unfit.missing == ["p/a.png", "p/b.png"]
    assert all(f.unparsable_label and not f.correct for f in found.faces)


def test_a_file_name_that_two_faces_share_stands_for_none(scored):
    found = scored([face("a"), Annotation("q/a.png", "Fear")], [{"picture": "a.png", "label": "Fear"}])
    assert found.unfit.counts()["unknown"] == 1 and found.unfit.counts()["missing"] == 2


def test_of_several_names_one_that_is_known_counts(scored):
    truth = [face("a"), Annotation("q/a.png", "Fear")]
    found = scored(truth, [{"picture": "a.png", "record": "q/a.png", "label_text": "Fear"}])
    assert [f.predicted for f in found.faces] == [None, "Fear"] and found.unfit.counts()["unknown"] == 0


def test_other_splits_are_not_unknown(scored):
    truth = [face("a", split="mild"), face("b", split="hard")]
    found = scored(truth, [{"picture": "p/a.png", "label": "Fear"}, {"picture": "b", "label": "Fear"}], split="mild")
    assert len(found.faces) == 1 and found.unfit.counts()["unscored"] == 1
    lines = [{"picture": "stranger", "record": "p/b.png", "label": "Fear"}]
    assert scored(truth, lines, split="mild").unfit.counts()["unscored"] == 1
    assert found.unfit.counts()["unknown"] == 0


def test_the_labels_that_may_be_given_are_those_of_the_truth(scored, tmp_path):
    lines = [{"picture": "p/a.png", "label": "Contempt"}]
    assert scored([face("a")], lines).faces[0].predicted is None
    assert scored([face("a"), face("b", "Contempt")], lines).faces[0].predicted == "Contempt"
    assert read_truth(tmp_path / "annotations.jsonl").allowed == EXPRESSIONS


def test_a_truth_that_cannot_be_scored_is_refused(scored):
    with pytest.raises(ExpllmError, match=r"line 2: the picture 'p/a.png' is on line 1 already"):
        scored([face("a"), face("a")], [])
    with pytest.raises(ExpllmError, match="has no face with a label"):
        scored([Annotation("p/a.png")], [])
    with pytest.raises(ExpllmError, match="has no face of the split 'x' with a label"):
        scored([face("a", split="y")], [], split="x")


def test_the_same_text_by_several_protocols(scored):
    lines = [
        {
            "picture": "p/a.png",
            "text": "<think>The nose: AU4. Lip corners pulled up.</think><answer>unhappy, sad</answer>",
        }
    ]
    read = {name: scored([face("a")], lines, protocol=name).faces[0] for name in PROTOCOLS}
    assert {name: f.predicted for name, f in read.items()} == {
        "strict": None, "expllm": None, "faba": "Happiness", "unifer": "Happiness", "unifer-affectnet": "Happiness",
        "unifer-ferplus": "Happiness", "unifer-sfew": "Happiness", "facial-r1": None,
    }  # fmt: skip
    corrected = scored([face("a")], lines, protocol="unifer", corrected=True).faces[0]
    assert corrected.predicted == corrected.concluded == "Sadness" and set(corrected.stated) == {"AU4", "AU12"}
    assert read["facial-r1"].unparsable_cot and read["facial-r1"].stated == {}


def test_units_in_free_words_count_and_denied_ones_do_not():
    assert set(said_units("The lip corners are pulled up and there is no AU4.", FACS)) == {"AU12"}
    assert said_units(COT, FACS) == {"AU12": "strong"}


def test_halves_of_characters_are_mended_and_counted(scored):
    found = scored([face("a")], b'{"picture": "p/a.png", "text": "\\ud83d \\u202eAnger"}\n')
    assert found.unfit.mended == ["line 1, 'text'"]
    found.faces[0].label_text.encode()


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=30), st.sampled_from([*BASIC_7, COT, "", "😀", "שמחה"]),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip
LINES = st.dictionaries(
    st.sampled_from(
        ["picture", "id", "label", "label_text", "cot", "text", "truncated", "finish_reason", "new_tokens"]
    ),
    st.one_of(VALUES, st.sampled_from(["p/a.png", "p/b.png", "a", "length"])),
    max_size=5,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.one_of(LINES.map(json.dumps), st.text(max_size=20)), max_size=6),
    protocol=st.sampled_from(list(PROTOCOLS)),
    corrected=st.booleans(),
)
def test_whatever_a_file_holds_all_faces_are_scored(scored, lines, protocol, corrected):
    text = "\n".join(line.replace("\n", " ").lstrip("[") for line in lines)
    found = scored(
        [face("a"), face("b", "Fear")], text.encode("utf-8", "replace"), protocol=protocol, corrected=corrected
    )
    assert len(found.faces) == 2
    assert score(found.faces).n == 2
    score_units(found.faces)


@pytest.mark.parametrize(
    "piece", ["", "😀", "\u202eשלום ", "AU12 ", "no AU12, ", "the lip corners are raised ", "**", "\n\n"]
)
def test_long_and_strange_answers_are_counted(scored, piece):
    found = scored(
        [face("a")], [{"picture": "p/a.png", "text": piece * (100_000 // max(1, len(piece)))}], protocol="unifer"
    )
    assert len(found.faces) == 1 and found.faces[0].predicted is None
    assert said_units(piece * (100_000 // max(1, len(piece))), FACS).keys() <= set(FACS.codes)
