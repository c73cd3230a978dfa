"""`expllm compare`."""

from __future__ import annotations

import argparse
from typing import Any

from expllm_jax.cli.parsing import add_verb, natural, say, show


def _compare(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.evaluate.comparison import common_splits, compare, plain, read_candidates
    from expllm_jax.evaluate.comparison_page import comparison_lines, write_comparison

    candidates = read_candidates(options.runs)
    comparisons = []
    for split in options.split or common_splits(candidates):
        say(f"comparing {len(candidates)} runs on {split}")
        comparisons.append(compare(candidates, split, seed=options.seed))
        for line in comparison_lines(comparisons[-1]):
            show(options, line)
        show(options, "")
    if options.html:
        show(options, f"page  {write_comparison(options.html, comparisons)}")
    else:
        show(options, "next: the same command with --html compare.html for a page with plots")
    return {"splits": {comparison.split: plain(comparison) for comparison in comparisons}, "html": options.html}


def add(verbs: Any) -> None:
    """Adds the verb to the parser."""
    compare = add_verb(
        verbs,
        "compare",
        _compare,
        "runs side by side on the pictures that all answered, with tests of significance",
        "expllm compare runs/a runs/b --html compare.html",
    )
    compare.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="two or more: a run's folder, an evaluation's folder, or an answers.jsonl",
    )
    compare.add_argument(
        "--split", action="append", metavar="NAME", help="only this split; may be repeated (default: all in common)"
    )
    compare.add_argument("--html", metavar="FILE", help="write a page with plots as well")
    compare.add_argument("--seed", type=natural, default=0, help="of the random deals and resamples (default: 0)")
