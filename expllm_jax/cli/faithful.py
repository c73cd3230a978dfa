"""`expllm faithfulness`: does an answer follow what it claims to rest on?"""

from __future__ import annotations

import argparse
from typing import Any

from expllm_jax.cli.parsing import add_verb, natural, run_argument, say, show


def _faithfulness(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax import faithfulness, stages
    from expllm_jax.evaluate.interventions import KINDS, faithfulness_lines

    run = stages.reopen_folder(options.run, say)
    config = faithfulness.FaithfulnessConfig(
        kinds=tuple(options.interventions or KINDS),
        split=options.split,
        faces=options.faces,
        renders=options.renders,
        fill=options.fill,
        seed=options.seed,
    )
    metrics = faithfulness.measure_faithfulness(run, config, again=options.again)
    for line in faithfulness_lines(metrics):
        show(options, line)
    folder = run.path / faithfulness.FOLDER
    show(options, f"\nanswers  {folder / faithfulness.ANSWERS}\nmetrics  {folder / faithfulness.METRICS}\n"
                  f"next: expllm eval --run {run.path}, whose report shows them too")  # fmt: skip
    return metrics


def add(verbs: Any) -> None:
    """Adds the verb to the parser."""
    verb = add_verb(
        verbs, "faithfulness", _faithfulness, "change what answers claim to rest on, and see whether they follow",
        "expllm faithfulness --run runs/demo --faces 84 --renders 12",
    )  # fmt: skip
    run_argument(verb)
    verb.add_argument(
        "--interventions", nargs="+", metavar="KIND", choices=("mask", "text", "counterfactual"),
        help="mask: cover the region of a stated unit; text: edit an observation; counterfactual: render the face with "
        "one unit changed (default: all three)",
    )  # fmt: skip
    verb.add_argument(
        "--split", default="", help="of the test faces (default: hard, where reciting a label pays least)"
    )
    verb.add_argument(
        "--faces", type=natural, default=84, metavar="N",
        help="whose regions are covered and whose texts are edited; 0: all (default: 84)",
    )  # fmt: skip
    verb.add_argument(
        "--renders", type=natural, default=12, metavar="N",
        help="counterfactual renders of every unit and direction; 0: as many as there are people (default: 12)",
    )  # fmt: skip
    verb.add_argument(
        "--fill", default="mean", choices=("mean", "blur"),
        help="what covers a region: the tower's mean colour, or itself blurred (default: mean)",
    )  # fmt: skip
    verb.add_argument("--seed", type=natural, default=0, help="of what is drawn (default: 0)")
    verb.add_argument("--again", action="store_true", help="ask again what was answered before")
