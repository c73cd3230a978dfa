"""Numbers of a set of texts against arithmetic on paper, and the page that shows them."""

from __future__ import annotations

import json
import math

import pytest

from expllm_jax.cli import main
from expllm_jax.cot import STRICT, Finding, write_parts
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.text_page import SampleText, TextPage, marked_text, render_text_page
from expllm_jax.evaluate.text_statistics import distinct, runs, self_bleu, text_statistics, words_of
from expllm_jax.faces import FACS, FEAFA_24, Annotation, write_annotations
from expllm_jax.sources.interchange import write_released

TRUE = write_parts("The brows are slightly lowered. There is strong lip press.", "Both fit.", "This is anger.")
WRONG = write_parts("There is strong smile. Brow lowering is visible.", "It is seen.", "This is happiness, not anger.")
FACES = [
    Annotation("one.png", "Anger", {"facs": {"AU4": 0.15, "AU24": 0.8}}, cot=TRUE),
    Annotation("two.png", "Anger", {"facs": {"AU4": 0.45}}, cot=WRONG),
    Annotation("three.png", "Fear", {"facs": {"AU1": 0.5}}),
]


def test_words_are_lower_case_and_without_punctuation():
    assert words_of("**The Lip-corner** isn't (AU12) 0.5; up.") == [
        "the",
        "lip-corner",
        "isn't",
        "au12",
        "0",
        "5",
        "up",
    ]


def test_distinct_counts_different_runs_over_all_of_them():
    texts = ["a b a b".split(), "a b c".split()]
    assert runs(texts[0], 3) == [("a", "b", "a"), ("b", "a", "b")] and runs(["a"], 2) == []
    assert distinct(texts, 1) == pytest.approx(3 / 7)
    assert distinct(texts, 2) == pytest.approx(3 / 5)  # ab, ba, bc of ab ba ab ab bc
    assert distinct(texts, 3) == pytest.approx(3 / 3)
    assert math.isnan(distinct([["a"]], 2))


def test_self_bleu_is_what_it_is_on_paper():
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 runs of four: their product is 0.2.
    assert self_bleu(["a b c d e".split(), "a b c d f".split()]) == pytest.approx(0.2**0.25)
    # The shorter text matches wholly, and is shortened by exp(1 - 5/4); the longer one as above.
    assert self_bleu(["a b c d".split(), "a b c d e".split()]) == pytest.approx((math.exp(-0.25) + 0.2**0.25) / 2)
    assert self_bleu(["a b c d".split()] * 3) == pytest.approx(1)
    assert self_bleu(["a b c d".split(), "e f g h".split()]) == 0
    assert math.isnan(self_bleu(["a b".split()]))


def test_self_bleu_counts_a_word_no_more_often_than_a_reference_has_it():
    texts = ["a a a a b c d e".split(), "a a b c d e f g".split(), "x a b c d e".split()]
    # The first: a twice, b c d e once each: 6 of 8 words; aa ab bc cd de: 5 of 7 pairs (the third aa is not clipped
    # away by the second text's one aa alone: 1 of 3); aab abc bcd cde: 4 of 6; aabc abcd bcde: 3 of 5.
    first = (6 / 8 * 5 / 7 * 4 / 6 * 3 / 5) ** 0.25
    second = (6 / 8 * 5 / 7 * 4 / 6 * 3 / 5) ** 0.25
    third = (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25 * math.exp(1 - 8 / 6)
    assert self_bleu(texts) == pytest.approx((first + second + third) / 3)


def test_what_texts_state_is_counted_against_the_values():
    told = text_statistics(FACES, FACS, rules=STRICT)
    assert (told.texts, told.checked_values, told.three_parts, told.clean) == (2, 2, 2, 1)
    assert told.words == (len(TRUE.split()), len(WRONG.split()))
    assert [(u.code, u.present, u.stated, u.stated_where_present) for u in told.units] == [
        ("AU4", 2, 2, 2), ("AU12", 0, 1, 0), ("AU24", 1, 1, 1),
    ]  # fmt: skip
    assert told.bands["slight"] == {"slight": 1} and told.bands["strong"] == {"strong": 1}
    assert told.bands["minimal"] == {"strong": 1} and told.bands["significant"] == {"no word": 1}
    assert told.fitting_words == pytest.approx(2 / 3)
    assert [(row.expression, row.texts, row.in_conclusion, row.alone) for row in told.labels] == [("Anger", 2, 2, 1)]
    assert told.findings["unsupported-unit"] == 1 and all(count == 1 for count in told.findings.values())
    json.dumps(told.to_json(), allow_nan=False)


def test_without_texts_there_is_nothing_to_count():
    with pytest.raises(ExpllmError, match="no reasoning text"):
        text_statistics(FACES[2:], FACS, rules=STRICT)


def test_a_lone_text_has_no_self_bleu_and_stays_valid_json():
    told = text_statistics(FACES[:1], FEAFA_24, rules=STRICT)
    assert told.to_json()["self_bleu"] is None and told.units == () and told.checked_values == 0
    assert "No units are known" in render_text_page(TextPage("T", "s", told, ()))


def test_spans_are_marked_and_everything_is_escaped():
    raw = write_parts("A <b>strong</b> smile & more.", "Two.", "Three.")
    start = raw.index("<b>strong")
    findings = [Finding("a", start, start + 13, ""), Finding("b", start + 3, start + 9, ""), Finding("c", 0, 40, "")]
    told = marked_text(raw + "\ue000", findings)
    assert '<mark class="found">&lt;b&gt;strong&lt;/b&gt;</mark> smile &amp; more.' in told
    assert told.count("<mark") == 1 and "<h4>Key Observations</h4>" in told and "\ue000" not in told


def test_a_page_shows_findings_and_dead_letters():
    told = text_statistics(FACES, FACS, rules=STRICT)
    start = WRONG.index("strong smile")
    bad = SampleText("two.png", "Anger", WRONG, (Finding("unsupported-unit", start, start + 12, "no <smile>"),))
    letter = SampleText("<x>.png", "", "A try.", reason="rejected after 3 round(s): why", remarks=("remark",))
    page = render_text_page(TextPage("T", "s", told, [], flagged=[bad], dead_letters=[letter], dead=7))
    assert "1 of 1, what the verifier found marked." in page
    assert '<mark class="found">strong smile</mark>' in page and "no &lt;smile&gt;" in page
    assert "1 of 7 faces that got no text" in page and "&lt;x&gt;.png" in page and "<x>" not in page
    assert page.count("data:image/png") == 2 * 3  # three plots, light and dark


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_annotations(folder / "annotations.jsonl", FACES[:2])
    summary = {"config": {"vocabulary": "facs"}, "narrator": {"name": "offline", "fingerprint": "f00"},
               "by_class": {"Anger": {"accepted": 2, "rejected": 1}},
               "accepted_by_round": {"1": 1, "2": 1}}  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    attempt = {"description": "The eyes are wide.", "problem": "p", "findings": []}
    letter = {"annotation": FACES[2].to_json(), "status": "rejected", "reason": "no agreement", "rounds": 3,
              "findings": [{"code": "wrong-side", "start": 0, "end": 3, "reason": "say right"}],
              "history": [attempt]}  # fmt: skip
    (folder / "dead_letters.jsonl").write_text(json.dumps(letter) + "\n")
    return folder


def test_the_command_reports_a_run_and_compares_it(run_folder, tmp_path, capsys):
    released, out = tmp_path / "released.json", tmp_path / "page.html"
    known = {code: 0.5 if code == "FEAFA9" else 0.0 for code in FEAFA_24.codes}
    write_released(released, [Annotation("r.png", "Surprise", {"feafa": known}, cot=TRUE.replace("anger", "surprise"))])
    command = ["engine", "report", str(run_folder), "--reference", str(released), "--out", str(out), "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["texts"], told["dead_letters"], told["reference"]["texts"]) == (2, 1, 1)
    assert told["reference"]["vocabulary"] == "feafa" and told["vocabulary"] == "facs"
    assert told["summary"]["accepted_by_round"] == {"1": 1, "2": 1}
    page = out.read_text()
    for shown in (
        "Texts with findings",
        "66.7",
        "rejected after 3 round(s): no agreement",
        "The eyes are wide.",
        "wrong-side: say right",
    ):
        assert shown in page
    assert main(command) == 2 and "exists already" in json.loads(capsys.readouterr().out)["error"]


def test_the_command_tells_what_is_no_run(tmp_path, run_folder, capsys):
    (tmp_path / "empty").mkdir()
    out = str(tmp_path / "page.html")
    assert main(["engine", "report", str(tmp_path / "empty"), "--out", out, "--json"]) == 2
    assert "no annotations.jsonl" in json.loads(capsys.readouterr().out)["error"]
    (run_folder / "dead_letters.jsonl").write_text('{"annotation": ')
    assert main(["engine", "report", str(run_folder), "--out", out, "--json"]) == 2
    assert "dead_letters.jsonl, line 1: not JSON" in json.loads(capsys.readouterr().out)["error"]
