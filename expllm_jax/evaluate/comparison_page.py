"""A comparison of runs for people: as lines of text, and as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from expllm_jax.evaluate.bootstrap import Interval
from expllm_jax.evaluate.comparison import METRICS, Comparison, Pair
from expllm_jax.evaluate.interval_plots import plot_intervals
from expllm_jax.evaluate.markup import page, percent, table, text, two_theme_picture
from expllm_jax.evaluate.plots import DARK, LIGHT
from expllm_jax.files import write_whole

SIGNIFICANT = 0.05

_HOW = (
    "Only pictures that every run answered are compared. Intervals are 95 % and resample people. p: the answers about "
    "each person are exchanged between the two runs at random, and p is how often they then differ as much. p (Holm) "
    "is corrected for the number of pairs: below .05, a difference is more than luck. McNemar's mid-p counts single "
    "pictures, so it is too sure where several pictures show one person."
)
_RATES = {"unparsable_label": "Unparsable label", "unparsable_cot": "Unparsable text", "truncated": "Truncated"}


def comparison_lines(comparison: Comparison) -> list[str]:
    """One split's comparison as text for a terminal."""
    width = max(len(run.name) for run in comparison.runs)
    lines = [f"{comparison.split}: {_asked(comparison)}", ""]
    lines.append(f"  {'':{width}}  " + "".join(f"{name:>24}" for name in ("Accuracy", "UAR", "Macro-F1", "Unit F1")))
    for run in comparison.runs:
        cells = [_bracketed(run.metrics[metric]) for metric in ("accuracy", "uar", "macro_f1", "unit_f1")]
        lines.append(f"  {run.name:{width}}  " + "".join(f"{cell:>24}" for cell in cells))
    lines.append(f"\n  {'':{width}}  " + "".join(f"{name:>18}" for name in (*_RATES.values(), "tokens a face")))
    for run in comparison.runs:
        cells = [percent(run.rates[rate].value) for rate in _RATES] + [_tokens(run.tokens)]
        lines.append(f"  {run.name:{width}}  " + "".join(f"{cell:>18}" for cell in cells))
    lines.append("")
    for pair in comparison.pairs:
        lines.append(f"  {pair.second} minus {pair.first}")
        for metric, name in METRICS.items():
            difference = pair.differences[metric]
            if difference.interval.defined:
                lines.append(
                    f"    {name:28}{_bracketed(difference.interval, signed=True):>24}   p {_p(difference.p)}"
                    f"   Holm {_p(difference.p_holm)}{_verdict(difference.p_holm)}"
                )
        lines.append(f"    {_mcnemar(pair)}{' (people repeat: too sure)' if comparison.people_repeat else ''}")
    return lines


def render_comparison(comparisons: Sequence[Comparison]) -> str:
    """The page. Raises ExpllmError for no comparison, as its plots do."""
    runs = ", ".join(run.name for run in comparisons[0].runs)
    return page("Runs compared", runs, "\n".join(_section(comparison) for comparison in comparisons) + _notes())


def write_comparison(path: str | Path, comparisons: Sequence[Comparison]) -> Path:
    """Writes the page, all or nothing."""
    return write_whole(path, render_comparison(comparisons))


def _section(comparison: Comparison) -> str:
    rows = [(run.name, run.metrics["accuracy"]) for run in comparison.runs]
    light, dark = (plot_intervals(rows, title=f"Accuracy, {comparison.split}", theme=theme) for theme in (LIGHT, DARK))
    described = "; ".join(f"{name} {_bracketed(interval)}" for name, interval in rows)
    shown = [metric for metric in METRICS if any(run.metrics[metric].defined for run in comparison.runs)]
    scores = table(
        ["Run", *(METRICS[metric] for metric in shown), *_RATES.values(), "Tokens a face"],
        [
            [
                run.name,
                *(_bracketed(run.metrics[metric]) for metric in shown),
                *(percent(run.rates[rate].value) for rate in _RATES),
                _tokens(run.tokens),
            ]
            for run in comparison.runs
        ],
        caption=f"Scores in percent with their 95 % intervals, split {comparison.split}",
    )
    tests = table(
        ["Difference", "Metric", "Points", "p", "p (Holm)", ""],
        [
            [
                f"{pair.second} − {pair.first}",
                METRICS[metric],
                _bracketed(pair.differences[metric].interval, signed=True),
                _p(pair.differences[metric].p),
                _p(pair.differences[metric].p_holm),
                _verdict(pair.differences[metric].p_holm).strip(),
            ]
            for pair in comparison.pairs
            for metric in shown
            if pair.differences[metric].interval.defined
        ],
        caption="Is a difference more than luck? In percentage points, with 95 % intervals",
    )
    counted = "".join(
        f"<li>{text(f'{pair.second} − {pair.first}: {_mcnemar(pair)}')}</li>" for pair in comparison.pairs
    )
    return (
        f"<h2>{text(comparison.split)}</h2>\n<p>{text(_asked(comparison))}</p>\n"
        f'<div class="grid plots"><figure>{two_theme_picture(light, dark, f"Accuracy: {described}")}</figure></div>\n'
        f'<div class="stack">{scores}\n{tests}</div>\n<ul class="small">{counted}</ul>'
    )


def _notes() -> str:
    return f'\n<h2>How to read this</h2>\n<p class="lead">{text(_HOW)}</p>'


def _asked(comparison: Comparison) -> str:
    """How many pictures are compared, and whose others are not."""
    asked = f"{comparison.common:,} pictures of {comparison.people:,} people that all runs answered"
    left = [f"{run.left_out:,} of {run.name}" for run in comparison.runs if run.left_out]
    return asked + (f"; not common and left out: {', '.join(left)}." if left else "; none is left out.")


def _mcnemar(pair: Pair) -> str:
    right = pair.right
    return (
        f"only {pair.second} right {right.second_only:,}, only {pair.first} right {right.first_only:,}; "
        f"McNemar mid-p {_p(right.mid_p)}, exact {_p(right.exact)}"
    )


def _bracketed(interval: Interval, *, signed: bool = False) -> str:
    """In percent: "84.5 [81.8, 87.2]"; an en dash where undefined."""
    if not interval.defined:
        return "–"
    sign = "+" if signed else ""
    # Adding 0 turns −0 into 0.
    value, low, high = (
        f"{round(100 * end, 1) + 0.0:{sign}.1f}" for end in (interval.value, interval.low, interval.high)
    )
    return value if math.isnan(interval.low) else f"{value} [{low}, {high}]"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _verdict(p: float) -> str:
    return "  differs" if p < SIGNIFICANT else ""


def _tokens(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f}"
