"""`expllm engine …`: write chain-of-thought texts and check them; a module for each verb."""

from __future__ import annotations

from typing import Any

from expllm_jax.cli import engine_check, engine_narrate, engine_report, engine_run, engine_units
from expllm_jax.cli.parsing import add_group


def add(verbs: Any) -> None:
    """Adds the verbs to the parser."""
    engine = add_group(verbs, "engine", "write chain-of-thought texts and check them")
    for verb in (engine_units, engine_narrate, engine_run, engine_check, engine_report):
        verb.add(engine)
