"""Faithfulness for readers: a section of the report, and lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from expllm_jax.evaluate.interventions.plots import plot_counterfactuals, plot_masks
from expllm_jax.evaluate.interventions.text_edits import CONTROL_EDIT
from expllm_jax.evaluate.markup import percent, table, text, two_theme_picture
from expllm_jax.evaluate.plots import DARK, LIGHT
from expllm_jax.faces import FACS

_EDITS = {
    "delete": "one observation taken out",
    "swap": "one observation about another unit",
    "band": "one intensity word exchanged",
    "reorder": "two observations change places (control)",
    "transplant": "all observations of another face",
}
_MASK_RATES = {
    "unstated": "the unit is no longer stated",
    "label_flips": "the label changes",
    "conclusion_flips": "the text's conclusion changes",
    "probability_drop": "the label's probability falls by",
}


def shown(rate: Mapping[str, Any], digits: int = 0) -> str:
    """A rate as "84 % (79 to 88)"; an en dash where there is none."""
    if rate["value"] is None:
        return "–"
    value = percent(rate["value"], digits)
    if rate["low"] is None:
        return value
    return f"{value} ({100 * rate['low']:.{digits}f} to {100 * rate['high']:.{digits}f})"


def faithfulness_section(metrics: Mapping[str, Any]) -> str:
    """The section as HTML, headings from h2 on, of what `faithfulness.measure_faithfulness` returns."""
    parts = [
        "<h2>Does the answer follow the face?</h2>",
        f"<p>Something is changed that an answer claims to rest on, and the model is asked again: faces of the split "
        f"{text(metrics['split'])}, {metrics['people']:,} people never seen in training. Behind each share stands its "
        "95 % interval, for which people are resampled.</p>",
    ]
    if "counterfactual" in metrics:
        parts.append(_counterfactuals(metrics["counterfactual"]))
    if "mask" in metrics:
        parts.append(_masks(metrics["mask"], metrics["fill"]))
    if "text" in metrics:
        parts.append(_texts(metrics["text"]))
    return "".join(parts)


def _counterfactuals(found: Mapping[str, Any]) -> str:
    whole, good, split = found["all"], found["well_stated"], found["split"]
    rows = [
        (
            f"{FACS.unit(code).name} {code[2:]}{' *' if row['well_stated'] else ''}",
            *(shown(row[key]) for key in ("right_added", "right_removed")),
            _score(row["f1"].get(split)),
            _score(row["f1_recited"].get(split)),
        )
        for code, row in found["units"].items()
    ]
    alt = (
        f"For {len(found['units'])} action units, how often their statement moves in the right direction when the unit "
        "is added to a face, and when it is taken away."
    )
    light, dark = (plot_counterfactuals(found, theme=theme) for theme in (LIGHT, DARK))
    reached = {True: "The goal is reached", False: "The goal is missed", None: "No unit is stated that well"}
    return (
        "<h3>The same picture with one unit changed</h3>"
        "<p>Person, light, pose, background and noise stay. The statement moves in the right direction in "
        f"{shown(whole['right'])} of {whole['right']['n']:,} renders; among units that held-out texts state with "
        f"F1 ≥ {found['f1_bar']:g} (marked *) in {shown(good['right'])} of {good['right']['n']:,}. "
        f"{reached[found['reached']]}: ≥ {percent(found['right_bar'], 0)}. In {shown(found['others_kept'])} the text "
        f"states the same other units as before; in {shown(found['label_flips'])} the label changes. “Reciting” is the "
        "F1 of somebody who knows the true label and recites its units: a unit that is stated no better than that need "
        "not have been seen.</p>"
        f"<figure>{two_theme_picture(light, dark, alt)}<figcaption>{text(alt)}</figcaption></figure>"
        + table(
            ("unit", "added", "taken away", f"F1, {split}", "reciting"), rows, caption="Moved in the right direction"
        )
    )


def _masks(found: Mapping[str, Any], fill: str) -> str:
    rows = [
        (words, *(shown(found[side][name]) for side in ("unit", "elsewhere", "difference")))
        for name, words in _MASK_RATES.items()
    ]
    how = "the tower's mean colour" if fill == "mean" else "a blurred copy of itself"
    figure = ""
    if found["pairs"]:
        alt = "Per unit, how often it is no longer stated when its own region is covered, and when another one is."
        light, dark = (plot_masks(found, theme=theme) for theme in (LIGHT, DARK))
        figure = f"<figure>{two_theme_picture(light, dark, alt)}<figcaption>{text(alt)}</figcaption></figure>"
    return (
        "<h3>A region covered</h3>"
        f"<p>The region of each stated unit is covered with {how}, and for comparison a region of the same shape "
        f"elsewhere on the face: {found['pairs']:,} pairs"
        + (f"; {found['unplaced']:,} more found no place elsewhere" if found["unplaced"] else "")
        + ".</p>"
        + figure
        + table(("", "its region", "elsewhere", "difference"), rows, caption="What covering a region changes")
    )


def _texts(found: Mapping[str, Any]) -> str:
    rows = []
    for edit, words in _EDITS.items():
        row = found[edit]
        beyond = "" if edit == CONTROL_EDIT else shown(row["flips_beyond_control"])
        follows = shown(row["follows"]) if "follows" in row else ""
        rows.append((words, f"{row['conclusion_flips']['n']:,}", shown(row["conclusion_flips"]), beyond,
                     shown(row["probability_drop"]), follows))  # fmt: skip
    return (
        "<h3>An observation edited</h3>"
        "<p>In the model's own text one observation is changed, and it writes the rest anew. “Follows”: the "
        "interpretation no longer argues with the unit; of another face's observations, the conclusion is that face's. "
        "The picture stays, so a model that looks again may rightly keep its conclusion.</p>"
        + table(
            ("edit", "texts", "conclusion changes", "beyond control", "probability falls by", "follows"),
            rows,
            caption="What an edited observation changes",
        )
    )


def faithfulness_lines(metrics: Mapping[str, Any]) -> list[str]:
    """The headline numbers, a line each."""
    lines = []
    if "counterfactual" in metrics:
        found = metrics["counterfactual"]
        lines.append(f"counterfactual renders, statement moves in the right direction ({found['split']})")
        lines.append(f"  units stated with F1 ≥ {found['f1_bar']:g}   {_line(found['well_stated']['right'])}")
        lines.append(f"  all units               {_line(found['all']['right'])}")
        lines.append(f"  other statements kept   {_line(found['others_kept'])}")
    if "mask" in metrics:
        found = metrics["mask"]
        lines.append(f"a stated unit's region covered, or one elsewhere ({found['pairs']:,} pairs)")
        for name, words in _MASK_RATES.items():
            sides = ", ".join(f"{side} {shown(found[side][name])}" for side in ("unit", "elsewhere"))
            lines.append(f"  {words:<34} {sides}, difference {shown(found['difference'][name])}")
    if "text" in metrics:
        lines.append("an observation edited, the rest written anew: the conclusion changes")
        lines += [f"  {words:<42} {_line(metrics['text'][edit]['conclusion_flips'])}" for edit, words in _EDITS.items()]
    return lines


def _line(rate: Mapping[str, Any]) -> str:
    return f"{shown(rate)} of {rate['n']:,}"


def _score(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"
