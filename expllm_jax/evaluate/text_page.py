"""The page of a set of reasoning texts: how long, how varied and how true they are, and what they read like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expllm_jax.cot import FINDING_CODES, Finding
from expllm_jax.evaluate.markup import page, percent, reasoning, table, text, two_theme_picture
from expllm_jax.evaluate.plots import DARK, LIGHT, plot_lengths, plot_shares, plot_table
from expllm_jax.evaluate.text_statistics import BAND_NAMES, NO_WORD, TextStatistics
from expllm_jax.faces import vocabulary
from expllm_jax.files import write_whole

_UNIT_ROWS = 26  # units on the plot, those that most faces show


@dataclass(frozen=True)
class SampleText:
    """A text to read, or what was tried for a face that has none."""

    picture: str
    expression: str  # "" if unlabelled
    text: str
    findings: tuple[Finding, ...] = ()  # their spans lie in the text
    reason: str = ""  # why it was not accepted
    remarks: tuple[str, ...] = ()  # further sentences below it


@dataclass(frozen=True)
class TextPage:
    """Everything the page shows. Texts are plain text; they are escaped here."""

    title: str
    source: str
    statistics: TextStatistics
    samples: Sequence[SampleText]
    flagged: Sequence[SampleText] = ()  # texts with findings
    reference: TextStatistics | None = None
    reference_source: str = ""
    summary: Mapping[str, Any] | None = None  # summary.json of an engine's run
    dead_letters: Sequence[SampleText] = ()
    dead: int = 0  # how many there are


def write_text_page(path: str | Path, data: TextPage) -> Path:
    """Writes the page as one self-contained HTML file, all or nothing. Raises ExpllmError if it cannot be written."""
    return write_whole(path, render_text_page(data))


def render_text_page(data: TextPage) -> str:
    """The whole page as one HTML string."""
    compared = f" Compared with the {data.reference.texts:,} of {data.reference_source}." if data.reference else ""
    lead = f"{data.statistics.texts:,} reasoning texts of {data.source}.{compared}"
    sections = (_headline, _acceptance, _form, _content, _labels, _findings, _samples, _dead_letters)
    return page(data.title, lead, "\n".join(section(data) for section in sections))


def _section(title: str, body: str, note: str = "") -> str:
    told = f'<p class="mute small lead">{text(note)}</p>' if note else ""
    return f"<section><h2>{text(title)}</h2>{body}{told}</section>"


def _tile(label: str, value: str, below: str, compare: str = "") -> str:
    notes = f'<p class="notes"><span>{text(compare)}</span></p>' if compare else ""
    return (
        f'<div class="tile"><h3>{text(label)}</h3><p class="big">{text(value)}</p>'
        f'<p class="mute">{text(below)}</p>{notes}</div>'
    )


def _number(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _headline(data: TextPage) -> str:
    own, other = data.statistics, data.reference

    def against(value: str) -> str:
        return f"reference {value}" if other else ""

    tiles = [
        _tile("Texts", f"{own.texts:,}", f"{percent(own.three_parts / own.texts)} have the three parts",
              against(f"{other.texts:,}") if other else ""),
        _tile("Words, median", f"{own.median_words:g}", f"{min(own.words)} to {max(own.words)}",
              against(f"{other.median_words:g}") if other else ""),
        _tile("Distinct-3", _number(own.distinct[3]), "different runs of three words, of all",
              against(_number(other.distinct[3])) if other else ""),
        _tile("Self-BLEU", _number(own.self_bleu), f"over {own.self_bleu_texts:,} of them; 1 is all alike",
              against(_number(other.self_bleu)) if other else ""),
        _tile("Without a finding", percent(own.clean / own.texts), f"{own.clean:,} texts pass the verifier",
              against(percent(other.clean / other.texts)) if other else ""),
        _tile("Intensity words that fit", percent(own.fitting_words), "name the band of the unit's value",
              against(percent(other.fitting_words)) if other else ""),
    ]  # fmt: skip
    note = ""
    if other and other.texts != own.texts:
        note = "Distinct-n falls as a set grows: it compares only between sets of one size."
    return f'<section aria-label="Headline numbers"><div class="grid tiles">{"".join(tiles)}</div></section>' + (
        f'<p class="mute small">{text(note)}</p>' if note else ""
    )


def _acceptance(data: TextPage) -> str:
    if data.summary is None:
        return ""
    rows = []
    for label, ended in data.summary.get("by_class", {}).items():
        finished = sum(ended.get(name, 0) for name in ("accepted", "rejected", "failed"))
        share = percent(ended.get("accepted", 0) / finished if finished else None)
        counts = (f"{ended.get(name, 0):,}" for name in ("accepted", "rejected", "failed", "pending"))
        rows.append((label, share, *counts))
    header = ("class", "share", "accepted", "rejected", "failed", "pending")
    by_class = table(header, rows, caption="By class; share: accepted, of those finished")
    rounds = data.summary.get("accepted_by_round", {})
    accepted = sum(rounds.values())
    by_round = table(
        ("round", "accepted", "of all accepted"),
        [(number, f"{count:,}", percent(count / accepted)) for number, count in rounds.items()],
        caption="In which round",
    )
    narrator = data.summary.get("narrator", {})
    note = f"Narrator: {narrator.get('name', 'unknown')} ({narrator.get('fingerprint', 'no fingerprint')})."
    return _section("What was accepted", f'<div class="grid plots">{by_class}{by_round}</div>', note)


def _form(data: TextPage) -> str:
    own, other = data.statistics, data.reference
    alt = f"Words in a text: median {own.median_words:g}, from {min(own.words)} to {max(own.words)}" + (
        f"; in the reference {other.median_words:g}, from {min(other.words)} to {max(other.words)}." if other else "."
    )
    reference = other.words if other else ()
    light, dark = (plot_lengths(own.words, reference, title="Length", theme=theme) for theme in (LIGHT, DARK))
    header = ("", "these texts", *(("reference",) if other else ()))
    sets = [own, *([other] if other else [])]
    rows = [
        (f"distinct\N{NON-BREAKING HYPHEN}{length}", *(_number(each.distinct[length], 4) for each in sets))
        for length in (1, 2, 3)
    ]
    rows.append(("self\N{NON-BREAKING HYPHEN}BLEU", *(_number(each.self_bleu, 4) for each in sets)))
    rows.append(("… over texts", *(f"{each.self_bleu_texts:,}" for each in sets)))
    variety = table(header, rows, caption="Variety of phrases")
    figure = f"<figure>{two_theme_picture(light, dark, alt)}<figcaption>{text(alt)}</figcaption></figure>"
    return _section("Length and variety", f'<div class="grid plots">{figure}<div>{variety}</div></div>')


def _content(data: TextPage) -> str:
    own = data.statistics
    if not own.units:
        return _section("What the texts state", "<p>No units are known of these faces, so nothing can be compared.</p>")
    vocab, faces = vocabulary(own.vocabulary), own.checked_values
    shown = sorted(own.units, key=lambda unit: -unit.present)[:_UNIT_ROWS]
    names = [f"{vocab.unit(unit.code).name} {unit.code.removeprefix('AU').removeprefix('FEAFA')}" for unit in shown]
    shares = [[unit.present / faces for unit in shown], [unit.stated / faces for unit in shown]]
    labels = ("of faces show it", "of texts state it")
    light, dark = (plot_shares(names, *shares, labels=labels, title="Units", theme=t) for t in (LIGHT, DARK))
    first = shown[0]
    alt = (
        f"How many faces show each of {len(shown)} units, and how many texts state it; most often "
        f"{vocab.unit(first.code).name}, in {percent(first.present / faces)} of faces."
    )
    units = f"<figure>{two_theme_picture(light, dark, alt)}<figcaption>{text(alt)}</figcaption></figure>"
    others = _bands(data.reference, "the reference") if data.reference else ""
    plots = f'<div class="grid plots">{units}<div class="stack">{_bands(own, "these texts")}{others}</div></div>'
    note = (
        "A text states a unit if its observations say that it moves; a face shows it from an intensity of 0.1 on. Read "
        "by the lexicon's phrases, so texts in other words state more than is counted."
    )
    return _section("What the texts state", plots, note)


def _bands(told: TextStatistics, whose: str) -> str:
    counts = np.array([[row.get(word, 0) for word in (*BAND_NAMES, NO_WORD)] for row in told.bands.values()])
    if not counts.sum():
        return ""
    columns = [*(name[:6] + ("." if len(name) > 6 else "") for name in BAND_NAMES), "none"]
    made = {"across": "word in the text", "down": "band of the value", "title": f"Intensity words, {whose}"}
    light, dark = (plot_table(counts, BAND_NAMES, columns, theme=theme, **made) for theme in (LIGHT, DARK))
    alt = f"Intensity words of {whose} against the values: {percent(told.fitting_words)} name the value's band."
    return f"<figure>{two_theme_picture(light, dark, alt)}<figcaption>{text(alt)}</figcaption></figure>"


def _labels(data: TextPage) -> str:
    if not data.statistics.labels:
        return ""
    other = {label.expression: label for label in data.reference.labels} if data.reference else {}
    rows = []
    for label in data.statistics.labels:
        row = [label.expression, f"{label.texts:,}", percent(label.in_conclusion / label.texts),
               percent(label.alone / label.texts)]  # fmt: skip
        if data.reference:
            same = other.get(label.expression)
            row.append(percent(same.in_conclusion / same.texts) if same else "–")
        rows.append(row)
    header = ("class", "texts", "conclusion names it", "and no other", *(("reference: names it",) if other else ()))
    named = table(header, rows, caption="How often the conclusion names the label", hidden=True)
    return _section("The label", named, "Named by its noun or adjective (“sadness”, “sad”); synonyms do not count.")


def _findings(data: TextPage) -> str:
    own, other = data.statistics, data.reference
    codes = [code for code in FINDING_CODES if own.findings.get(code) or (other and other.findings.get(code))]
    if not codes:
        return _section("Findings", '<p><span class="verdict good">✓ the verifier found nothing</span></p>')
    sets = (own, *((other,) if other else ()))
    rows = []
    for code in codes:
        counts = [each.findings.get(code, 0) for each in sets]
        shares = (f"{count:,} ({percent(count / each.texts)})" for count, each in zip(counts, sets, strict=True))
        rows.append((code, FINDING_CODES[code], *shares))
    header = ("finding", "meaning", "texts", *(("reference",) if other else ()))
    return _section("Findings", table(header, rows, caption="What the verifier found, by texts", hidden=True))


def _samples(data: TextPage) -> str:
    cards = "".join(_card(sample) for sample in data.samples)
    samples = _section("Samples", f'<div class="grid gallery">{cards}</div>') if cards else ""
    if not data.flagged:
        return samples
    note = f"{len(data.flagged):,} of {len(data.statistics.flagged):,}, what the verifier found marked."
    cards = "".join(_card(sample) for sample in data.flagged)
    body = f'<p class="mute">{text(note)}</p><div class="grid gallery">{cards}</div>'
    return samples + _section("Texts with findings", body)


def _dead_letters(data: TextPage) -> str:
    if not data.dead:
        return ""
    note = f"{len(data.dead_letters):,} of {data.dead:,} faces that got no text."
    cards = "".join(_card(sample) for sample in data.dead_letters)
    return _section("Dead letters", f'<p class="mute">{text(note)}</p><div class="grid gallery">{cards}</div>')


def _card(sample: SampleText) -> str:
    listed = "".join(
        f"<li><b>{text(finding.code)}</b> {text(finding.reason)}</li>" for finding in sample.findings
    ) + "".join(f"<li>{text(remark)}</li>" for remark in sample.remarks)
    reason = f'<p class="notice">{text(sample.reason)}</p>' if sample.reason else ""
    return (
        f'<article class="card"><dl><dt>picture</dt><dd>{text(sample.picture)}</dd>'
        f"<dt>label</dt><dd>{text(sample.expression or 'none')}</dd></dl>{reason}"
        f'<div class="text">{marked_text(sample.text, sample.findings)}</div>'
        + (f'<ul class="small">{listed}</ul>' if listed else "")
        + "</article>"
    )


# Stand for the marks until the text is HTML: characters of Unicode's private use area, taken out of the text first.
_OPENS, _CLOSES = "\ue000", "\ue001"


def marked_text(raw: str, findings: Sequence[Finding]) -> str:
    """A three-part text as HTML, with the spans of findings marked; of spans that overlap the first, and none that
    holds a heading or the end of a paragraph.
    """
    pieces, done = [], 0
    for finding in sorted(findings, key=lambda each: (each.start, -each.end)):
        span = raw[finding.start : finding.end]
        if finding.start < done or not span.strip() or "**" in span or "\n" in span:
            continue
        pieces += [_plain(raw[done : finding.start]), _OPENS, _plain(span), _CLOSES]
        done = finding.end
    pieces.append(_plain(raw[done:]))
    told = reasoning("".join(pieces))
    return told.replace(_OPENS, '<mark class="found">').replace(_CLOSES, "</mark>")


def _plain(piece: str) -> str:
    return piece.replace(_OPENS, "").replace(_CLOSES, "")
