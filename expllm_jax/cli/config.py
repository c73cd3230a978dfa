"""`expllm config …`: look at experiments."""

from __future__ import annotations

import argparse
from typing import Any

from expllm_jax.cli.parsing import add_group, add_verb, override_argument, show


def _show(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.config import load_experiment, render, to_json

    experiment = load_experiment(options.experiment, options.set)
    show(options, render(experiment).rstrip())
    return to_json(experiment)


def _list(options: argparse.Namespace) -> dict[str, str]:
    from expllm_jax.config import experiment_names, load_experiment

    found = {name: load_experiment(name).about for name in experiment_names()}
    show(options, "\n".join(f"{name:<10} {about}" for name, about in found.items()))
    return found


def add(verbs: Any) -> None:
    """Adds the verbs to the parser."""
    config = add_group(verbs, "config", "look at experiments")
    shown = add_verb(
        config, "show", _show, "every key with its value", "expllm config show laptop --set train.batch=16"
    )
    shown.add_argument("experiment", nargs="?", default="laptop", help="a name, or a .py file (default: laptop)")
    override_argument(shown)
    add_verb(config, "list", _list, "the shipped experiments", "expllm config list")
