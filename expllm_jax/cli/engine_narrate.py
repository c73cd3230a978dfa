"""`expllm engine narrate`: texts from labels and action units, offline."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from expllm_jax.cli.parsing import add_verb, natural, show
from expllm_jax.errors import ExpllmError


def _narrate(options: argparse.Namespace) -> dict[str, Any]:
    import dataclasses

    import numpy as np

    from expllm_jax.engine import NarratorConfig, narrate
    from expllm_jax.faces import read_annotations, write_annotations

    config = NarratorConfig(vocabulary=options.vocabulary, style=options.style)
    source, target = Path(options.annotations), Path(options.out)
    if target.exists():
        raise ExpllmError(f"{target} exists already", "name another file with --out; nothing is overwritten")

    def told() -> Any:
        for number, face in enumerate(read_annotations(source)):
            if face.expression is None or options.vocabulary not in face.units:
                raise ExpllmError(
                    f"{source}, line {number + 1}: {face.picture} has no expression or no {options.vocabulary} units",
                    "the narrator needs both; leave such faces out, or choose the other --vocabulary",
                )
            rng = np.random.default_rng([options.seed, number])
            yield dataclasses.replace(face, cot=narrate(face.expression, face.units[options.vocabulary], config, rng))

    written = list(told())
    write_annotations(target, written)
    show(options, f"{len(written):,} texts in {target}")
    return {"annotations": str(target), "texts": len(written)}


def add(engine: Any) -> None:
    """Adds the verb to the group."""
    tell = add_verb(engine, "narrate", _narrate, "three-part texts from labels and action units, offline",
                 "expllm engine narrate faces/annotations.jsonl --style full --out told.jsonl")  # fmt: skip
    tell.add_argument("annotations", help="JSONL of annotations with expression and units")
    tell.add_argument("--out", required=True, help="the file to write")
    tell.add_argument(
        "--style", choices=("full", "brief"), default="full", help="84-146 or 30-60 words (default: full)"
    )
    tell.add_argument(
        "--vocabulary", choices=("facs", "feafa"), default="facs", help="which units are named (default: facs)"
    )
    tell.add_argument("--seed", type=natural, default=0, help="of the wording (default: 0)")
