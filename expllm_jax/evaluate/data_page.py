"""The page of a dataset: what is in it, what is published, and everything a person should look at, with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.gallery import embedded_picture
from expllm_jax.evaluate.markup import page, percent, table, text, two_theme_picture
from expllm_jax.evaluate.plots import DARK, LIGHT, plot_counts
from expllm_jax.files import write_whole
from expllm_jax.sources.validation import KINDS, ClassCount, Finding, Validation

SIDE = 112  # pixels of an embedded picture: some 4 kB each
SHOWN = 8  # findings of a kind with their pictures; the rest are counted
LISTED = 200  # findings of a kind in words
_SIZES = 12  # rows of the table of sizes


@dataclass(frozen=True)
class DataPage:
    """Everything the page shows. Texts are plain text; they are escaped here."""

    title: str
    licence: str  # "" if it is no dataset that we know
    notes: Sequence[str]  # sentences to read first, such as that a layout was never checked
    validation: Validation


def write_data_page(path: str | Path, data: DataPage) -> Path:
    """Writes the page as one self-contained HTML file, all or nothing. Raises ExpllmError if it cannot be written."""
    return write_whole(path, render_data_page(data))


def render_data_page(data: DataPage) -> str:
    """The whole page as one HTML string."""
    found = data.validation
    many = len(found.findings)
    verdict = "nothing to look at was found" if found.clean else f"{many:,} finding{'s' if many > 1 else ''}"
    lead = f"{found.annotations:,} annotations of {found.pictures:,} pictures in {found.root}: {verdict}."
    terms = f'<p class="lead"><b>Terms you must have accepted:</b> {text(data.licence)}</p>' if data.licence else ""
    notes = "".join(f'<p class="notice">{text(note)}</p>' for note in data.notes)
    body = [terms, notes, _summary(found), _classes(found), _findings(found), _samples(found), _contents(found)]
    return page(data.title, lead, "\n".join(body))


def _summary(found: Validation) -> str:
    if found.clean:
        return '<p><span class="verdict good">✓ nothing to look at was found</span></p>'
    rows = [(meaning, f"{len(rows):,}") for kind, rows in found.by_kind() for meaning in [KINDS[kind]]]
    return "<section><h2>Findings</h2>" + table((), rows, caption="Findings by kind", hidden=True) + "</section>"


def _classes(found: Validation) -> str:
    parts = []
    for split in dict.fromkeys(row.split for row in found.counts):
        rows = [row for row in found.counts if row.split == split]
        name = split or "no split"
        total, published = sum(row.found for row in rows), [row.published for row in rows]
        compared = all(number is not None for number in published)
        alt = f"{name}: {total:,} pictures in {len(rows)} classes" + (
            f", {sum(number or 0 for number in published):,} published." if compared else "."
        )
        light, dark = (
            plot_counts(
                [row.expression for row in rows],
                [row.found for row in rows],
                published,
                title=f"{name}: {total:,} pictures",
                theme=theme,
            )
            for theme in (LIGHT, DARK)
        )
        parts.append(
            f"<figure>{two_theme_picture(light, dark, alt)}<figcaption>{text(alt)}</figcaption></figure>"
            f"<div>{_class_table(name, rows)}</div>"
        )
    if not parts:
        return '<p class="mute">No picture has an expression.</p>'
    return f'<section><h2>Pictures of each class</h2><div class="grid plots">{"".join(parts)}</div></section>'


def _class_table(split: str, rows: Sequence[ClassCount]) -> str:
    body = [
        (
            row.expression,
            f"{row.found:,}",
            "–" if row.published is None else f"{row.published:,}",
            "–" if row.difference is None else f"{row.difference:+,}" if row.difference else "0",
            row.verdict.replace(" ", "\N{NO-BREAK SPACE}"),
        )
        for row in rows
    ]
    return table(("class", "found", "published", "difference", "verdict"), body, caption=f"{split}, class by class")


def _findings(found: Validation) -> str:
    # The counts have a table and a plot of their own.
    return "".join(_kind(found.root, kind, rows) for kind, rows in found.by_kind() if kind != "counts")


def _kind(root: Path, kind: str, rows: Sequence[Finding]) -> str:
    pictured = [row for row in rows if row.pictures][:SHOWN]
    cards = "".join(
        f'<figure><div class="pair{" single" if len(row.pictures) == 1 else ""}">'
        f"{''.join(_picture(root, name) for name in row.pictures)}</div>"
        f"<figcaption>{text(row.what)}</figcaption></figure>"
        for row in pictured
    )
    others = [row for row in rows if row not in pictured]
    listed = "".join(f"<li>{text(row.what)}</li>" for row in others[:LISTED])
    more = len(others) - LISTED
    rest = f"<p>and {more:,} more; `--json` has them all</p>" if more > 0 else ""
    return (
        f"<section><h2>{text(KINDS[kind].capitalize())} ({len(rows):,})</h2>"
        + (f'<div class="grid pairs">{cards}</div>' if cards else "")
        + (f'<ul class="small">{listed}</ul>' if listed else "")
        + f"{rest}</section>"
    )


def _samples(found: Validation) -> str:
    shelves = "".join(
        f'<h3>{text(expression)}</h3><div class="shelf">'
        + "".join(
            f'<figure title="{text(name)}">{_picture(found.root, name)}'
            f"<figcaption>{text(PurePosixPath(name).name)}</figcaption></figure>"
            for name in names
        )
        + "</div>"
        for expression, names in found.samples.items()
        if names
    )
    note = "Chosen by a hash of their names: the same ones for the same dataset, and nobody's choice."
    return f'<section><h2>Samples</h2><p class="mute small">{note}</p>{shelves}</section>' if shelves else ""


def _contents(found: Validation) -> str:
    known = [
        (name.replace("_", " "), f"{number:,}", percent(number / found.annotations if found.annotations else None))
        for name, number in found.known.items()
    ]
    sizes = list(found.sizes.items())
    rows = [(size, f"{number:,}") for size, number in sizes[:_SIZES]]
    if len(sizes) > _SIZES:
        rows.append((f"{len(sizes) - _SIZES:,} other sizes", f"{sum(number for _, number in sizes[_SIZES:]):,}"))
    modes = [(mode, f"{number:,}") for mode, number in found.modes.items()]
    return (
        '<section><h2>What is known, and how it is stored</h2><div class="grid plots">'
        + "".join(
            f"<div>{part}</div>"
            for part in (
                table(("of an annotation", "have it", ""), known, caption="What the annotations hold"),
                table(("width x height", "pictures"), rows, caption="Sizes"),
                table(("format", "pictures"), modes, caption="Formats"),
            )
        )
        + "</div></section>"
    )


def _picture(root: Path, name: str) -> str:
    try:
        return f'<img src="{embedded_picture(root / name, side=SIDE)}" alt="{text(name)}">'
    except ExpllmError:
        return '<div class="face none">unreadable</div>'
