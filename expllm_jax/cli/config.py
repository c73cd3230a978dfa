"""`expllm config …`: look at experiments."""

from __future__ import annotations

import argparse
from typing import Any

from expllm_jax.cli.parsing import accelerator_argument, add_group, add_verb, override_argument, show


def _show(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.config import load_any_experiment, render, to_json

    experiment = load_any_experiment(options.experiment, options.set, accelerator=options.accelerator)
    show(options, render(experiment).rstrip())
    return to_json(experiment)


def _list(options: argparse.Namespace) -> dict[str, str]:
    from expllm_jax.config import experiment_names, load_any_experiment

    found = {name: load_any_experiment(name).about for name in experiment_names()}
    show(options, "\n".join(f"{name:<10} {about}" for name, about in found.items()))
    return found


def _accelerators(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.config import to_json
    from expllm_jax.parallel import PRESETS

    for preset in PRESETS.values():
        known = preset.accelerator
        what = f"{known.peak_flops / 1e12:g} TFLOP/s, {known.memory / 2**30:.1f} GiB" if known else "this computer"
        rows = f"{preset.rows_per_device} rows a device at a time" if preset.rows_per_device else "all rows at a time"
        show(options, f"{preset.name:<6} {what}")
        show(options, f"       {preset.dtype}; {rows}; mesh {preset.mesh}; attention {preset.attention}; "
                      f"remat {preset.decoder_remat} (decoder), {preset.vision_remat} (tower)")  # fmt: skip
        for option in preset.compiler_options:
            show(options, f"       {option}")
    return {name: to_json(preset) for name, preset in PRESETS.items()}


def add(verbs: Any) -> None:
    """Adds the verbs to the parser."""
    config = add_group(verbs, "config", "look at experiments")
    shown = add_verb(
        config, "show", _show, "every key with its value", "expllm config show laptop --set train.batch=16"
    )
    shown.add_argument("experiment", nargs="?", default="laptop", help="a name, or a .py file (default: laptop)")
    override_argument(shown)
    accelerator_argument(shown)
    add_verb(config, "list", _list, "the shipped experiments", "expllm config list")
    add_verb(
        config,
        "accelerators",
        _accelerators,
        "kinds of devices, and what --accelerator sets for them",
        "expllm config accelerators",
    )
