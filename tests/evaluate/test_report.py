"""The report: self-contained, escaped, honest about what is missing; the plots: pictures that follow their data."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import (
    DARK,
    LIGHT,
    ReportInput,
    choose_faces,
    plot_confusion,
    plot_curves,
    plot_units,
    read_history,
    render_report,
    score,
    score_units,
    summarise,
    write_report,
)
from expllm_jax.evaluate.markup import reasoning

EVIL = "<script>alert('x')</script>"
HISTORY = [{"step": s, "loss": 3.0 * 0.98**s, "learning_rate": 1e-3, "seconds": 0.1 * s} for s in range(1, 60)]
COT = "**Key Observations:** Lips rise (AU12).\n\n**Overall Emotional Interpretation:** Joy.\n\n**Conclusion:** happy."


@pytest.fixture
def faces(make_face, tmp_path):
    rng = np.random.default_rng(0)
    made = []
    for number in range(12):
        picture = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (224, 224, 3), np.uint8)).save(picture)
        wrong = number % 4 == 0
        made.append(
            make_face(
                record=f"face-{number}",
                identity=f"p{number % 5}",
                picture=picture,
                cot=COT,
                predicted="Fear" if wrong else "Happiness",
                units={"AU6": 0.7, "AU9": 0.4},
                stated={"AU12": "strong", "AU6": None},
            )
        )
    return made


def make_input(faces, **changes):
    fields = {
        "title": "A run",
        "summary": "Trained on renders.",
        "trained_on": (("pictures", "12"),),
        "metrics": summarise({"mild": faces}, resamples=50),
        "faces": faces,
        "history": HISTORY,
        "bars": {"accuracy_mild": 0.7},
    } | changes
    return ReportInput(**fields)


class Audit(HTMLParser):
    """Collects tags and attributes, and checks that every opened tag is closed in order."""

    VOID = {"meta", "img", "source", "line", "rect", "br"}

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def test_report_is_well_formed_self_contained_and_accessible(faces, tmp_path):
    metrics = summarise({"clean": faces, "mild": faces, "hard": faces}, resamples=50)
    path = write_report(tmp_path / "out" / "report.html", make_input(faces, metrics=metrics))
    page = path.read_text(encoding="utf-8")
    audit = Audit(page)
    assert audit.open == []
    for tag, attributes in audit.seen:
        for name in ("src", "srcset", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, name)
        if tag == "img":
            assert attributes.get("alt")
    assert not re.search(r"url\(|@import|https?://", page)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in audit.seen
    assert "prefers-color-scheme: dark" in page
    assert path.stat().st_size < 6_000_000


def test_every_text_from_outside_is_escaped(make_face, tmp_path):
    face = make_face(
        record=EVIL,
        identity=EVIL,
        label_text=EVIL,
        predicted=None,
        cot=f"**Key Observations:** {EVIL}",
        cot_failure=EVIL,
    )
    right = make_face(record=f"2{EVIL}", cot=EVIL)
    page = render_report(
        make_input(
            [face, right],
            title=EVIL,
            summary=EVIL,
            trained_on=((EVIL, EVIL),),
            real_faces=((EVIL, EVIL),),
            commands=(EVIL,),
            limits=(EVIL,),
            intended=EVIL,
            prohibited=EVIL,
        )
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 14
    assert Audit(page).open == []


def test_attributes_cannot_be_broken_out_of(make_face):
    page = render_report(make_input([make_face(record='" onerror="alert(1)')]))
    assert not any("onerror" in attributes for _, attributes in Audit(page).seen)


def test_dollar_signs_in_data_are_not_template_placeholders(faces):
    assert "costs $title and $$5" in render_report(make_input(faces, summary="costs $title and $$5"))


def test_headline_tells_whether_the_goal_is_met(faces):
    page = render_report(make_input(faces, bars={"accuracy_mild": 0.7, "macro_f1": 0.8}))
    assert "✓ goal ≥ 70.0\xa0%" in page and "✗ goal ≥ 0.80" in page and "chance 14.3\xa0%" in page
    assert "75.0\xa0%" in page


def test_faces_show_units_truth_beside_text(faces):
    page = render_report(make_input(faces))
    assert "lip corner puller" in page and "not there" in page  # AU12 stated, absent
    assert "nose wrinkler" in page and "missed" in page  # AU9 present, not stated
    assert "no degree given" in page  # AU6 stated without an intensity word


def test_a_unit_of_which_nobody_knows_is_shown_as_such_and_counted(make_face):
    face = make_face(units={"AU6": 0.7}, unknown=("AU12",), stated={"AU12": "strong", "AU6": None}, cot=COT)
    page = render_report(make_input([face]))
    assert ">unknown</span>" in page and "<small>unknown</small>" in page and ">not there<" not in page
    assert re.search(r"stated units whose truth is unknown, in no score</th><td>1<", page)
    known = render_report(make_input([make_face(units={"AU6": 0.7}, stated={"AU12": "strong"}, cot=COT)]))
    assert "truth is unknown" not in known and ">not there<" in known


def test_limits_are_plain_and_real_faces_are_given_when_measured(faces):
    assert "how it does on them is not known" in render_report(make_input(faces))
    page = render_report(make_input(faces, real_faces=(("40 people of ORL", "31 % read as Neutral"),)))
    assert "31 % read as Neutral" in page and "is not known" not in page
    assert "Not to be used for" in page and "Intended for" in page


def test_gallery_is_half_wrong_where_there_are_enough(make_face):
    faces = [make_face(expression="Fear", predicted="Anger" if i < 5 else "Fear") for i in range(40)]
    chosen = choose_faces(faces, 8)
    assert sum(not face.correct for face in chosen) == 4
    assert [face.correct for face in chosen] == [True, False] * 4
    assert choose_faces(list(reversed(faces)), 8) == chosen
    assert len(choose_faces(faces, 100)) == 40
    few = choose_faces(faces, 20)
    assert len(few) == 20 and sum(not face.correct for face in few) == 5


def test_gallery_tops_up_with_wrong_ones_and_expressions_take_turns(make_face):
    wrong = [make_face(expression=e, predicted=None) for e in ("Fear",) * 8 + ("Anger",) * 2]
    chosen = choose_faces([*wrong, make_face()], 6)
    assert len(chosen) == 6 and sum(face.correct for face in chosen) == 1
    assert sum(face.expression == "Anger" for face in chosen) == 2


def test_a_missing_picture_file_is_named(make_face, tmp_path):
    with pytest.raises(ExpllmError, match="gone.png"):
        render_report(make_input([make_face(picture=tmp_path / "gone.png")]))


def test_a_report_too_large_is_refused(faces, tmp_path, monkeypatch):
    monkeypatch.setattr("expllm_jax.evaluate.report.MAX_BYTES", 1000)
    with pytest.raises(ExpllmError, match="gallery_size"):
        write_report(tmp_path / "report.html", make_input(faces))
    assert not (tmp_path / "report.html").exists()


def test_the_same_run_gives_the_same_bytes(faces):
    assert render_report(make_input(faces)) == render_report(make_input(faces))


def test_an_untrained_run_and_faces_without_units_still_have_a_report(make_face):
    page = render_report(make_input([make_face(expression="Neutral", predicted="Neutral")], history=()))
    assert "no training history" in page and "No action unit is present" in page and "no picture" in page


def test_reasoning_headings_and_paragraphs():
    html = reasoning(COT)
    assert html.count("<h4>") == 3 and "<h4>Key Observations</h4><p>Lips rise (AU12).</p>" in html
    assert reasoning("a < b\n\nc") == "<p>a &lt; b</p><p>c</p>"
    assert "no text" in reasoning("  ")


# --- plots ----------------------------------------------------------------------------------------------------------


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), float)


def test_plots_are_pictures_in_both_themes(faces):
    for draw in (
        lambda theme: plot_confusion(score(faces), title="mild", theme=theme),
        lambda theme: plot_curves(HISTORY, theme=theme),
        lambda theme: plot_units(score_units(faces).rows, theme=theme),
    ):
        light, dark = pixels(draw(LIGHT)), pixels(draw(DARK))
        assert light.shape[1] > 800
        assert np.median(light) > 230 and np.median(dark) < 60
        assert draw(LIGHT) == draw(LIGHT)


def test_plots_follow_their_data(faces, make_face):
    other = [*faces[1:], make_face(predicted=None)]
    assert plot_confusion(score(faces)) != plot_confusion(score(other))
    assert plot_curves(HISTORY) != plot_curves(HISTORY[:30])
    assert plot_units(score_units(faces).rows) != plot_units(
        score_units(faces[:3] + [make_face(units={"AU6": 0.9})]).rows
    )


def test_curves_of_a_resumed_run_count_a_repeated_step_once():
    again = [{"step": 40, "loss": 99.0, "learning_rate": 1.0}, *HISTORY]
    assert plot_curves(again) == plot_curves(HISTORY)


@pytest.mark.parametrize("rows", [[], [{"step": 1}], [{"step": 1, "loss": float("nan")}]])
def test_curves_without_a_loss_are_refused(rows):
    with pytest.raises(ExpllmError, match="no loss"):
        plot_curves(rows)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_contrast_of_text_and_marks(theme):
    def luminance(colour):
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    def contrast(first, second):
        high, low = sorted((luminance(first), luminance(second)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    assert contrast(theme.ink, theme.surface) > 7 and contrast(theme.muted, theme.surface) > 4.5  # WCAG 2.1, text
    assert contrast(theme.first, theme.surface) > 3 and contrast(theme.second, theme.surface) > 3  # graphics


def test_history_is_read_line_by_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    assert read_history(path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    with pytest.raises(ExpllmError, match="line 2"):
        read_history(path)
    with pytest.raises(ExpllmError, match="cannot read"):
        read_history(tmp_path / "none.jsonl")
