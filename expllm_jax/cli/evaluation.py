"""`expllm eval`: a run is asked about faces whose truth is known, and its answers are scored."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expllm_jax.cli.parsing import add_verb, one_or_more, positive, run_argument, say, show
from expllm_jax.errors import ExpllmError

if TYPE_CHECKING:
    from expllm_jax.assessment import Asking
    from expllm_jax.evaluate import Metrics
    from expllm_jax.stages import RunFolder

SAMPLING_TEMPERATURE = 0.7
"""At which several answers about one face are drawn, unless another is asked for."""


def _eval(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax import assessment, reporting, stages, unit_regression

    if unit_regression.is_unit_run(options.run):
        return _eval_units(options)
    run = stages.reopen_folder(options.run, say)
    evaluations = [
        assessment.Evaluation(run, asking, tuple(options.records), options.out and Path(options.out))
        for asking in _askings(options)
    ]
    found = {each: assessment.evaluate_run(each, again=options.again, by=options.by) for each in evaluations}
    told: dict[str, Any] = {each.asking.name: dict(metrics.values) for each, metrics in found.items()}
    if options.full and not options.records:
        told["faithfulness"] = _intervene(options, run)
    for each, metrics in found.items():  # at the end, since each report shows the others' numbers too
        report = reporting.report_evaluation(each, metrics)
        show(options, f"{each.asking.name}\n")
        _show_metrics(options, metrics)
        places = {"report": report, "model card": each.folder / reporting.CARD,
                  "metrics": each.folder / assessment.METRICS, "plots": each.folder / "plots"}  # fmt: skip
        show(options, "\n" + "\n".join(f"{what:<11} {place}" for what, place in places.items()) + "\n")
    if len(told) == 1:
        return told.popitem()[1]
    for line in reporting.orders_in_words({each.asking.name: metrics for each, metrics in found.items()}):
        show(options, line)
    return told


def _intervene(options: argparse.Namespace, run: RunFolder) -> dict[str, Any]:
    from expllm_jax.evaluate.interventions import faithfulness_lines
    from expllm_jax.faithfulness import measure_faithfulness

    metrics = measure_faithfulness(run, again=options.again)
    for line in (*faithfulness_lines(metrics), ""):
        show(options, line)
    return metrics


def _askings(options: argparse.Namespace) -> list[Asking]:
    """The ways of asking that the options name."""
    from expllm_jax.assessment import Asking
    from expllm_jax.infer import ORDERS

    several = options.full or options.order == "all"
    if options.out and several:
        raise ExpllmError("--out is one folder, and this writes several", "leave it out, or ask in one order")
    if options.full and (options.order != "label-first" or options.constrained or options.samples > 1):
        raise ExpllmError("--full asks in every order already", "leave out --order, --constrained and --samples")
    if options.full:
        return [Asking(order, constrained) for constrained in (False, True) for order in ORDERS]
    temperature = options.temperature
    if temperature is None:
        temperature = SAMPLING_TEMPERATURE if options.samples > 1 else 0.0
    chosen = ORDERS if several else (options.order,)
    return [Asking(order, options.constrained, options.samples, temperature) for order in chosen]


def _show_metrics(options: argparse.Namespace, metrics: Metrics) -> None:
    for key in metrics.values:
        if f"{key}_low" in metrics.values:
            show(options, f"{key:<28} {metrics.shown(key)}")
    show(options, f"\n{metrics.main_split:<12} recall [95 %]            precision  F1     faces")
    for row in metrics.splits[metrics.main_split].labels.per_class:
        recall = f"{row.recall:.3f} [{row.recall_low:.3f}, {row.recall_high:.3f}]"
        show(options, f"{row.name:<12} {recall:<23}  {row.precision:.3f}      {row.f1:.3f}  {row.n}")


def _eval_units(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax import unit_regression

    run = unit_regression.reopen_unit_run(options.run, say)
    told = unit_regression.evaluate_run(run)
    for split, found in told["splits"].items():
        show(options, f"{split}: {found['pictures']:,} pictures of people never seen")
        for line in unit_regression.table(found):
            show(options, f"  {line}")
        show(options, "")
    show(options, f"metrics  {run.path / unit_regression.METRICS}\n"
                  f"next: expllm engine units PICTURE.jpg --run {run.path} --out units.jsonl")  # fmt: skip
    return told


def add(verbs: Any) -> None:
    """Adds the verb to the parser."""
    evaluate = add_verb(
        verbs, "eval", _eval, "score a run on people it never saw", "expllm eval --run runs/a --order all --constrained"
    )
    run_argument(evaluate)
    evaluate.add_argument(
        "--order", choices=("label-first", "reasoning-first", "label-only", "all"), default="label-first",
        help="what is asked first and decides: the label, as the paper does, or the reasoning (default: label-first)",
    )  # fmt: skip
    evaluate.add_argument(
        "--full", action="store_true",
        help="every order, free and constrained, and `expllm faithfulness`: all that the report can show",
    )  # fmt: skip
    evaluate.add_argument(
        "--constrained", action="store_true", help="let the model write only what parses; the free rate is then unknown"
    )
    evaluate.add_argument(
        "--samples", type=one_or_more, default=1, metavar="N",
        help="draw N answers a face, and take the label of most (self-consistency; default: 1)",
    )  # fmt: skip
    evaluate.add_argument(
        "--temperature", type=positive, metavar="T",
        help=f"of what is drawn (default: {SAMPLING_TEMPERATURE} with --samples, else the most probable token)",
    )  # fmt: skip
    evaluate.add_argument(
        "--records", nargs="+", default=(), metavar="FOLDER[:SPLIT]",
        help="ask about these records instead of the run's rendered people (default split: test)",
    )  # fmt: skip
    evaluate.add_argument(
        "--by", type=lambda text: text.split(","), metavar="ATTRIBUTE,…",
        help="score the groups of these attributes: gender, race, age_group (default: all that are known)",
    )  # fmt: skip
    evaluate.add_argument("--out", help="the folder to write (default: the run, or one below its evaluations/)")
    evaluate.add_argument("--again", action="store_true", help="ask anew what this checkpoint has answered already")
