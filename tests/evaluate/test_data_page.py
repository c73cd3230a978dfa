"""The page of a dataset: what it says of much, of little and of nothing; its plot follows the numbers."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expllm_jax.evaluate import DARK, LIGHT
from expllm_jax.evaluate.data_page import LISTED, SHOWN, DataPage, render_data_page, write_data_page
from expllm_jax.evaluate.plots import plot_counts
from expllm_jax.sources.validation import ClassCount, Finding, Validation


def validation(root: Path, **changes) -> Validation:
    fields = {
        "root": root,
        "annotations": 30,
        "pictures": 29,
        "counts": (
            ClassCount("train", "Fear", 3, 4),
            ClassCount("train", "Anger", 5, 5),
            ClassCount("", "Fear", 1, None),
        ),
        "findings": (),
        "known": {"expression": 30, "face_box": 12},
        "sizes": {f"{side} x {side}": 1 for side in range(40, 60)},
        "modes": {"JPEG RGB": 29},
        "recorded": 0,
        "samples": {},
    } | changes
    return Validation(**fields)


def words(page: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return " ".join(re.sub("<[^>]+>", " ", body).replace("\N{NO-BREAK SPACE}", " ").split())


def test_a_clean_page_says_so_with_counts_terms_and_notes(tmp_path):
    said = words(render_data_page(DataPage("A & B", "Ask <first>", ("Never checked.",), validation(tmp_path))))
    assert "A &amp; B" in said and "Ask &lt;first&gt;" in said and "Never checked." in said
    assert "30 annotations of 29 pictures" in said and "✓ nothing to look at was found" in said
    assert (
        "Fear 3 4 -1 1 missing" in said
        and "Anger 5 5 0 as published" in said
        and "Fear 1 – – nothing published" in said
    )
    assert "8 other sizes 8" in said and "face box 12 40.0 %" in said


def test_no_terms_and_no_classes_leave_no_empty_headings(tmp_path):
    said = words(render_data_page(DataPage("A", "", (), validation(tmp_path, counts=()))))
    assert "Terms" not in said and "No picture has an expression." in said and "Samples" not in said


def test_of_many_findings_some_are_shown_some_listed_and_the_rest_counted(tmp_path):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    pairs = [Finding("duplicate", f"pair {number}", ("a.png", "a.png")) for number in range(SHOWN + LISTED + 7)]
    bad = [Finding("reading", f"line {number}") for number in range(3)]
    page = render_data_page(DataPage("A", "", (), validation(tmp_path, findings=(*bad, *pairs), counts=())))
    assert page.count('alt="a.png"') == 2 * SHOWN
    said = words(page)
    assert "and 7 more" in said and f"pair {SHOWN + LISTED - 1} " in said and f"pair {SHOWN + LISTED} " not in said
    assert f"twice in one split ({SHOWN + LISTED + 7})" in said and "annotations (3) line 0 line 1 line 2" in said


def test_the_page_is_written_as_rendered(tmp_path):
    data = DataPage("A", "", (), validation(tmp_path))
    path = write_data_page(tmp_path / "deep" / "page.html", data)
    assert path.read_text(encoding="utf-8") == render_data_page(data)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_plot_has_a_bar_as_long_as_each_number(theme):
    content = plot_counts(["Fear", "Anger"], [50, 100], [100, 25], theme=theme)
    assert content == plot_counts(["Fear", "Anger"], [50, 100], [100, 25], theme=theme)
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    legend = pixels.shape[0] // 3  # bars stand below it

    def lengths(colour: str) -> list[int]:
        wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        rows = (np.abs(pixels[legend:] - wanted).sum(-1) < 12).sum(1)
        return sorted({int(row) for row in rows if row > 40})

    (half, whole), (quarter, published) = lengths(theme.first), lengths(theme.second)
    assert half / whole == pytest.approx(0.5, abs=0.02) and whole == pytest.approx(published, abs=3)
    assert quarter / published == pytest.approx(0.25, abs=0.02)


def test_the_plot_without_published_numbers_has_no_second_bar():
    content = plot_counts(["Fear"], [3], [None])
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    wanted = [int(LIGHT.second[place : place + 2], 16) for place in (1, 3, 5)]
    assert not (np.abs(pixels - wanted).sum(-1) < 12).any()
