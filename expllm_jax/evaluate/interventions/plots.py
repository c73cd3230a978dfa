"""Pictures of what interventions came to: per unit two shares with their intervals, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.plots import LIGHT, Theme, blank_figure, finish_bars, plain_axes, png_of
from expllm_jax.faces import FACS


def plot_counterfactuals(found: Mapping[str, Any], *, theme: Theme = LIGHT) -> bytes:
    """Per unit, how often its statement moves in the right direction when it is added and when it is taken away; units
    that the bar is for are marked. Of what `counterfactual_rates` returns."""
    rows = [
        (f"{FACS.unit(code).name} {code[2:]}{' *' if row['well_stated'] else ''}",
         row["right_added"], row["right_removed"])
        for code, row in found["units"].items()
    ]  # fmt: skip
    title = f"statement moves in the right direction (* held-out F1 ≥ {found['f1_bar']:g})"
    return _paired(rows, ("unit added", "unit taken away"), title, found["right_bar"], theme)


def plot_masks(found: Mapping[str, Any], *, theme: Theme = LIGHT) -> bytes:
    """Per unit, how often it is no longer stated when its region is covered, and when one elsewhere is. Of what
    `mask_rates` returns."""
    rows = [
        (f"{FACS.unit(code).name} {code[2:]}", row["unstated"], row["unstated_elsewhere"])
        for code, row in found["units"].items()
    ]
    return _paired(rows, ("its region covered", "elsewhere covered"), "no longer stated", None, theme)


def _paired(
    rows: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]],
    labels: tuple[str, str],
    title: str,
    bar: float | None,
    theme: Theme,
) -> bytes:
    """Two shares of each row with their intervals, and the bar that they are to reach."""
    if not rows:
        raise ExpllmError("there is nothing to draw", "intervene on at least one unit")
    figure = blank_figure(1.05 + 0.33 * len(rows), theme)
    axes = figure.add_subplot()
    place = np.arange(len(rows))
    for column, offset, colour in ((1, -0.19, theme.first), (2, 0.19, theme.second)):
        rates = [row[column] for row in rows]
        values = np.array([rate["value"] if rate["value"] is not None else 0.0 for rate in rates])
        axes.barh(place + offset, values, 0.34, color=colour, label=labels[column - 1])
        for row, (rate, value) in enumerate(zip(rates, values, strict=True)):
            if rate["low"] is not None:
                axes.plot([rate["low"], rate["high"]], [row + offset] * 2, color=theme.ink, linewidth=0.8)
            note = f"{100 * value:.0f}" if rate["n"] else "–"
            end = max(value, rate["high"] or 0.0)
            axes.text(end + 0.012, row + offset, note, va="center", fontsize=6, color=theme.ink)
    if bar is not None:
        axes.axvline(bar, color=theme.muted, linewidth=0.8, linestyle="--")
    plain_axes(axes, theme)
    axes.set_yticks(place, [row[0] for row in rows], color=theme.ink, fontsize=7.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    finish_bars(figure, axes, title, theme)
    return png_of(figure)
