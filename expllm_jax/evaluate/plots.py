"""Pictures of numbers, drawn without a display: confusion matrix, training curves, units stated, texts.

Every function returns PNG bytes in a light or a dark theme. Figures are 4.2 inches wide, so that one point is about one
pixel on a phone 360 pixels wide; colours are Okabe & Ito's, told apart with any colour vision, and never the only sign.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.scores import Scores, ratio
from expllm_jax.evaluate.units import UnitRow
from expllm_jax.faces import FACS

WIDTH = 4.2  # inches
_DPI = 220  # sharp on a phone's 2.5 device pixels per pixel
_SHORT = 3  # letters of a class name above the confusion matrix's columns, where full names do not fit


@dataclass(frozen=True)
class Theme:
    """Colours of a plot on the report's light or dark card."""

    surface: str
    ink: str
    muted: str
    grid: str
    first: str  # the main series
    second: str  # what it is compared with
    ramp: tuple[str, str]  # none … all, for shares of a row


LIGHT = Theme("#ffffff", "#1b1f24", "#59636e", "#dde2e8", "#0072b2", "#d55e00", ("#f3f7fb", "#08519c"))
DARK = Theme("#1d2229", "#e8ecf1", "#a3adb9", "#353c46", "#56b4e9", "#e69f00", ("#232a33", "#7cc4f2"))


def blank_figure(height: float, theme: Theme) -> Figure:
    """An empty figure of the common width; `height` in inches."""
    figure = Figure(figsize=(WIDTH, height), dpi=_DPI, facecolor=theme.surface, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_of(figure: Figure) -> bytes:
    """The figure as a file."""
    buffer = io.BytesIO()
    # No version or date inside: the same numbers give the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def plain_axes(axes: Axes, theme: Theme) -> None:
    """Takes off what only adds ink."""
    axes.set_facecolor(theme.surface)
    axes.tick_params(which="both", colors=theme.muted, labelsize=8, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)


def finish_bars(figure: Figure, axes: Axes, title: str, theme: Theme) -> None:
    """The grid behind the bars, and title and legend above them."""
    axes.grid(axis="x", color=theme.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    legend_above(figure, axes, title, theme)


def legend_above(figure: Figure, axes: Axes, title: str, theme: Theme) -> None:
    """Title and legend above the plot."""
    figure.legend(
        *axes.get_legend_handles_labels(),
        fontsize=8,
        frameon=False,
        labelcolor=theme.ink,
        loc="outside upper left",
        ncols=2,
        title=title,
        title_fontproperties={"size": 9.5},
        alignment="left",
    ).get_title().set_color(theme.ink)


def _luminance(colour: Sequence[float]) -> float:
    """Relative luminance of an RGB colour 0–1 (WCAG 2.1)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def plot_confusion(scores: Scores, *, title: str = "", theme: Theme = LIGHT) -> bytes:
    """Confusion matrix as PNG: each cell has its count and its share of the row; the last column is unparsable."""
    classes, counts = scores.classes, scores.confusion
    shares = np.nan_to_num(ratio(counts, counts.sum(1, keepdims=True)))
    rows, columns = counts.shape
    figure = blank_figure(0.75 + 0.4 * rows, theme)
    axes = figure.add_subplot()
    _draw_cells(axes, counts, shares, theme)
    axes.set_xticks(np.arange(columns) + 0.5, [*(name[:_SHORT] for name in classes), "unp."])
    axes.set_yticks(np.arange(rows) + 0.5, classes)
    axes.set_xlabel("predicted (unp. = unparsable)", color=theme.muted, fontsize=8)
    axes.set_ylabel("true", color=theme.muted, fontsize=8)
    if title:
        axes.set_title(title, fontsize=9.5, loc="left", color=theme.ink)
    return png_of(figure)


def _draw_cells(axes: Axes, counts: np.ndarray, shares: np.ndarray, theme: Theme) -> None:
    """Cells with counts and shares, coloured by share, the first row on top."""
    rows, columns = counts.shape
    ramp = LinearSegmentedColormap.from_list("share", theme.ramp)
    axes.pcolormesh(shares, cmap=ramp, vmin=0, vmax=1, edgecolors=theme.surface, linewidth=2)
    for row in range(rows):
        for column in range(columns):
            if not counts[row, column]:
                continue
            light_cell = _luminance(ramp(shares[row, column])) > 0.18  # where black and white contrast equally
            ink = "#000000" if light_cell else "#ffffff"
            place: dict[str, Any] = {"ha": "center", "color": ink}
            axes.text(
                column + 0.5, row + 0.42, f"{counts[row, column]:,}", va="center", fontsize=8.5, weight="bold", **place
            )
            axes.text(
                column + 0.5, row + 0.77, f"{100 * shares[row, column]:.0f} %", va="center", fontsize=6.5, **place
            )
    plain_axes(axes, theme)
    axes.spines["bottom"].set_visible(False)
    axes.invert_yaxis()
    axes.xaxis.tick_top()


def read_history(path: str | Path) -> list[dict[str, float]]:
    """Rows of a metrics.jsonl. Raises ExpllmError naming file and line when one is not a JSON object with a step."""
    rows = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ExpllmError(
            f"cannot read {path}: {error.strerror or error}", "name a run that has been trained"
        ) from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            float(row["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise ExpllmError(
                f"{path}, line {number}: not a JSON object with a step",
                "remove the line; it is one training step's metrics",
            ) from error
        rows.append(row)
    return rows


def _series(history: Sequence[Mapping[str, float]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that have `key`; of a step logged twice (a resumed run) the later row counts."""
    by_step = {row["step"]: row[key] for row in history if row.get(key) is not None and math.isfinite(row[key])}
    steps = sorted(by_step)
    return np.array(steps, float), np.array([by_step[step] for step in steps], float)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over about a fortieth of the run; near the ends the window shrinks symmetrically."""
    reach = len(values) // 80
    total = np.concatenate([[0.0], np.cumsum(values)])
    position = np.arange(len(values))
    half = np.minimum(reach, np.minimum(position, position[::-1]))
    return (total[position + half + 1] - total[position - half]) / (2 * half + 1)


def plot_curves(history: Sequence[Mapping[str, float]], *, theme: Theme = LIGHT) -> bytes:
    """Training curves as PNG: loss (each logged step and its running mean), and below it the learning rate.

    `history` holds rows with `step`, `loss` and, where known, `learning_rate` and `eval_loss`. Raises ExpllmError
    when no row has a loss.
    """
    steps, losses = _series(history, "loss")
    if not len(steps):
        raise ExpllmError("there is no loss to draw", "give the rows of the run's metrics.jsonl")
    rate_steps, rates = _series(history, "learning_rate")
    eval_steps, eval_losses = _series(history, "eval_loss")
    figure = blank_figure(3.4 if len(rates) else 2.5, theme)
    panels = figure.subplots(
        2 if len(rates) else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 1][: 1 + bool(len(rates))]
    )
    loss_axes = panels[0, 0]
    loss_axes.plot(steps, losses, color=theme.first, alpha=0.3, linewidth=0.7)
    loss_axes.plot(steps, _smooth(losses), color=theme.first, linewidth=1.8, label="training loss")
    if len(eval_steps):
        loss_axes.plot(
            eval_steps, eval_losses, color=theme.second, linewidth=1.4, marker="o", markersize=3, label="held-out loss"
        )
    loss_axes.set_title("Loss by training step", fontsize=9.5, loc="left", color=theme.ink)
    loss_axes.legend(fontsize=8, frameon=False, labelcolor=theme.ink)
    positive = losses[losses > 0]
    if len(positive) == len(losses) and positive.max() > 20 * positive.min():
        loss_axes.set_yscale("log")
        loss_axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        loss_axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        loss_axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        loss_axes.set_ylim(bottom=0)
    if len(rates):
        rate_axes = panels[1, 0]
        rate_axes.plot(rate_steps, rates, color=theme.muted, linewidth=1.4)
        rate_axes.set_ylim(bottom=0)
        rate_axes.yaxis.set_major_locator(MaxNLocator(2))
        rate_axes.set_title("Learning rate", fontsize=8.5, loc="left", color=theme.ink)
    for axes in panels[:, 0]:
        plain_axes(axes, theme)
        axes.grid(axis="y", color=theme.grid, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.yaxis.get_offset_text().set(color=theme.muted, fontsize=7)
    panels[-1, 0].set_xlabel("step", color=theme.muted, fontsize=8)
    return png_of(figure)


def plot_units(rows: Sequence[UnitRow], *, title: str = "", theme: Theme = LIGHT) -> bytes:
    """Per unit, how often the text states it where it is present and where it is absent, as PNG.

    Only units that are present somewhere are drawn. Raises ExpllmError when there is none.
    """
    shown = [row for row in rows if row.present]
    if not shown:
        raise ExpllmError("no unit is present in any picture", "draw units of pictures whose action units are known")
    figure = blank_figure(1.05 + 0.33 * len(shown), theme)
    axes = figure.add_subplot()
    place = np.arange(len(shown))
    present = np.array([row.stated_present for row in shown])
    absent = np.array([row.stated_absent for row in shown])
    axes.barh(place - 0.19, present, 0.34, color=theme.first, label="stated where present")
    axes.barh(place + 0.19, absent, 0.34, color=theme.second, label="stated where absent")
    for position, row in enumerate(shown):
        for offset, share in ((-0.19, row.stated_present), (0.19, row.stated_absent)):
            text = "–" if math.isnan(share) else f"{100 * share:.0f}"
            axes.text(
                (0 if math.isnan(share) else share) + 0.012,
                position + offset,
                text,
                va="center",
                fontsize=6,
                color=theme.ink,
            )
    plain_axes(axes, theme)
    axes.set_yticks(
        place, [f"{FACS.unit(row.code).name} {row.code[2:]}" for row in shown], color=theme.ink, fontsize=7.5
    )
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, 1.08)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    finish_bars(figure, axes, title, theme)
    return png_of(figure)


def plot_counts(
    names: Sequence[str],
    found: Sequence[int],
    published: Sequence[int | None],
    *,
    title: str = "",
    theme: Theme = LIGHT,
) -> bytes:
    """Pictures per class as PNG, beside the published numbers where there are any (None where not)."""
    figure = blank_figure(1.0 + 0.36 * len(names), theme)
    axes = figure.add_subplot()
    place = np.arange(len(names))
    compared = any(number is not None for number in published)
    offset, height = (0.19, 0.34) if compared else (0.0, 0.6)
    axes.barh(place - offset, found, height, color=theme.first, label="found")
    if compared:
        expected = [number or 0 for number in published]
        axes.barh(place + offset, expected, height, color=theme.second, label="published")
    largest = max([1, *found, *(number or 0 for number in published)])
    for row, (here, there) in enumerate(zip(found, published, strict=True)):
        for shift, number in ((-offset, here), (offset, there)):
            if number is not None:
                axes.text(
                    number + 0.012 * largest, row + shift, f"{number:,}", va="center", fontsize=6.5, color=theme.ink
                )
    plain_axes(axes, theme)
    axes.set_yticks(place, names, color=theme.ink, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.14 * largest)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    finish_bars(figure, axes, title, theme)
    return png_of(figure)


def plot_lengths(
    words: Sequence[int], reference: Sequence[int] = (), *, title: str = "", theme: Theme = LIGHT
) -> bytes:
    """How many texts have how many words, as PNG: shares of a set, and of the one it is compared with, if any.

    Raises ExpllmError when there is no text.
    """
    if not words:
        raise ExpllmError("there is no text to count words of", "give annotations with texts")
    every = [*words, *reference]
    step = max(1, math.ceil((max(every) - min(every) + 1) / 30))
    edges = np.arange(min(every), max(every) + step + 1, step) - 0.5
    figure = blank_figure(2.5, theme)
    axes = figure.add_subplot()
    for counts, colour, label in ((words, theme.first, "these texts"), (reference, theme.second, "reference")):
        if counts:
            weights = np.full(len(counts), 1 / len(counts))
            axes.hist(counts, edges, weights=weights, color=colour, alpha=0.25)
            axes.hist(counts, edges, weights=weights, color=colour, histtype="step", linewidth=1.4, label=label)
    plain_axes(axes, theme)
    axes.grid(axis="y", color=theme.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    axes.set_xlabel("words in a text", color=theme.muted, fontsize=8)
    legend_above(figure, axes, title, theme)
    return png_of(figure)


def plot_shares(
    names: Sequence[str],
    first: Sequence[float],
    second: Sequence[float],
    *,
    labels: tuple[str, str],
    title: str = "",
    theme: Theme = LIGHT,
) -> bytes:
    """Two shares, 0 to 1, of each of several things, as PNG bars side by side; raises ExpllmError for no things."""
    if not names:
        raise ExpllmError("there is nothing to draw", "give at least one row")
    figure = blank_figure(1.05 + 0.33 * len(names), theme)
    axes = figure.add_subplot()
    place = np.arange(len(names))
    for shares, offset, colour, label in (
        (first, -0.19, theme.first, labels[0]),
        (second, 0.19, theme.second, labels[1]),
    ):
        axes.barh(place + offset, shares, 0.34, color=colour, label=label)
        for row, share in enumerate(shares):
            axes.text(
                share + 0.012 * max(*first, *second),
                row + offset,
                f"{100 * share:.0f}",
                va="center",
                fontsize=6,
                color=theme.ink,
            )
    plain_axes(axes, theme)
    axes.set_yticks(place, names, color=theme.ink, fontsize=7.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.12 * max(0.01, *first, *second))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    finish_bars(figure, axes, title, theme)
    return png_of(figure)


def plot_table(
    counts: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    across: str,
    down: str,
    title: str = "",
    theme: Theme = LIGHT,
) -> bytes:
    """Counts [R, C] as PNG: each cell has its count and its share of the row, which its colour shows too."""
    shares = np.nan_to_num(ratio(counts, counts.sum(1, keepdims=True)))
    figure = blank_figure(0.75 + 0.4 * len(rows), theme)
    axes = figure.add_subplot()
    _draw_cells(axes, counts, shares, theme)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.set_xlabel(across, color=theme.muted, fontsize=8)
    axes.set_ylabel(down, color=theme.muted, fontsize=8)
    if title:
        axes.set_title(title, fontsize=9.5, loc="left", color=theme.ink)
    return png_of(figure)
