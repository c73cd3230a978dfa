"""Pictures of what is uncertain: reliability, what abstaining buys, and values with their intervals.

Like those of `plots`: PNG bytes in a light or a dark theme, colours never the only sign.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.bootstrap import Interval
from expllm_jax.evaluate.calibration import CalibrationScores
from expllm_jax.evaluate.plots import LIGHT, Theme, blank_figure, finish_bars, legend_above, plain_axes, png_of


def plot_reliability(
    raw: CalibrationScores, mended: CalibrationScores, *, title: str = "", theme: Theme = LIGHT
) -> bytes:
    """Accuracy by confidence with Wilson's intervals, before and after the temperature, and below it how many faces.

    On the diagonal, the model is right as often as it says; below it, it is too sure.
    """
    figure = blank_figure(4.2, theme)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    upper.plot([0, 1], [0, 1], color=theme.muted, linewidth=1, linestyle=(0, (2, 2)), label="as sure as right")
    width = 1 / len(raw.bins)
    for scores, colour, mark, shift, label in (
        (raw, theme.second, "s", -0.12, "as given"),
        (mended, theme.first, "o", 0.12, "temperature"),
    ):
        shown = [row for row in scores.bins if row.n]
        place = np.array([row.confidence for row in shown])
        value = np.array([row.accuracy.value for row in shown])
        ends = np.array(
            [[row.accuracy.value - row.accuracy.low, row.accuracy.high - row.accuracy.value] for row in shown]
        )
        upper.errorbar(
            place,
            value,
            ends.T,
            fmt=mark,
            color=colour,
            markersize=4,
            linewidth=1.2,
            label=f"{label}, ECE {scores.ece:.3f}",
        )
        middles = np.array([(row.low + row.high) / 2 for row in scores.bins]) + shift * 2 * width
        lower.bar(middles, [row.n for row in scores.bins], width * 0.42, color=colour)
    upper.set_ylim(-0.02, 1.02)
    upper.set_xlim(-0.02, 1.02)
    _percents(upper, "y")
    upper.set_ylabel("right", color=theme.muted, fontsize=8)
    lower.set_ylabel("faces", color=theme.muted, fontsize=8)
    lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    lower.set_xlabel("confidence", color=theme.muted, fontsize=8)
    _percents(lower, "x")
    for axes in (upper, lower):
        plain_axes(axes, theme)
        axes.grid(axis="y", color=theme.grid, linewidth=0.6)
        axes.set_axisbelow(True)
    legend_above(figure, upper, title, theme)
    return png_of(figure)


def plot_risk_coverage(
    runs: Sequence[tuple[str, np.ndarray, np.ndarray]], *, title: str = "", theme: Theme = LIGHT
) -> bytes:
    """Error among the faces that are answered, by how many are, surest first.

    `runs` holds one or two (name, coverage, error) as `calibration.risk_by_coverage` gives them. Raises ExpllmError
    for none.
    """
    if not runs:
        raise ExpllmError("there is no risk to draw", "give at least one run")
    figure = blank_figure(2.9, theme)
    axes = figure.add_subplot()
    styles = ((theme.first, "-"), (theme.second, (0, (4, 2))))
    for (name, coverage, error), (colour, dash) in zip(runs, styles, strict=False):
        axes.plot(coverage, error, color=colour, linestyle=dash, linewidth=1.8, label=name)
        axes.axhline(error[-1], color=colour, linewidth=0.7, linestyle=(0, (1, 2)))
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)
    plain_axes(axes, theme)
    axes.grid(axis="y", color=theme.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    _percents(axes, "x")
    _percents(axes, "y")
    axes.set_xlabel("faces answered, the surest first (dotted: error if all are)", color=theme.muted, fontsize=8)
    axes.set_ylabel("wrong among them", color=theme.muted, fontsize=8)
    legend_above(figure, axes, title, theme)
    return png_of(figure)


def plot_intervals(
    rows: Sequence[tuple[str, Interval]],
    *,
    title: str = "",
    label: str = "95 % interval",
    reference: tuple[str, float] | None = None,
    faint: Sequence[bool] = (),
    theme: Theme = LIGHT,
) -> bytes:
    """Named values with their intervals, one below the other.

    Args:
      rows: name and interval; undefined ones keep their row and say so.
      title: above the picture.
      label: what the bars are.
      reference: a named value to compare with, as a line.
      faint: rows to draw hollow, such as those of small groups.
      theme: colours.

    Raises:
      ExpllmError: there are no rows.
    """
    if not rows:
        raise ExpllmError("there is no value to draw", "give at least one row")
    faint = faint or [False] * len(rows)
    figure = blank_figure(0.95 + 0.3 * len(rows), theme)
    axes = figure.add_subplot()
    ends = [end for _, interval in rows for end in (interval.low, interval.value, interval.high) if not math.isnan(end)]
    ends += [reference[1]] if reference else []
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    span = max(high - low, 0.02)
    named = False
    for place, ((_, interval), hollow) in enumerate(zip(rows, faint, strict=True)):
        if not interval.defined:
            axes.text(low, place, "undefined", va="center", fontsize=7, color=theme.muted)
            continue
        if not math.isnan(interval.low):
            bar = axes.plot([interval.low, interval.high], [place, place], color=theme.first, linewidth=2.2, alpha=0.55)
            bar[0].set_label(label if not named else "_")
            named = True
        axes.plot(
            interval.value, place, "o", markersize=6, markeredgecolor=theme.first, markeredgewidth=1.5,
            markerfacecolor=theme.surface if hollow else theme.first,
        )  # fmt: skip
        axes.text(high + 0.04 * span, place, f"{100 * interval.value:.1f}", va="center", fontsize=7.5, color=theme.ink)
    if reference:
        axes.axvline(reference[1], color=theme.second, linewidth=1.2, linestyle=(0, (3, 2)), label=reference[0])
    plain_axes(axes, theme)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], color=theme.ink, fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(low - 0.05 * span, high + 0.2 * span)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    finish_bars(figure, axes, title, theme)
    return png_of(figure)


def _percents(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
