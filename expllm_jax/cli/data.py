"""`expllm data …`: make and look at records."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from expllm_jax.cli.parsing import add_group, add_verb, experiment_argument, natural, run_argument, say, show
from expllm_jax.errors import ExpllmError


def _build(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax import stages
    from expllm_jax.config import load_experiment

    run = stages.open_folder(options.out, load_experiment(options.experiment, options.set), say, command=options.typed)
    stages.render_faces(run)
    stages.build_records(run)
    overrides = "".join(f" --set {shlex.quote(assignment)}" for assignment in options.set)
    show(options, f"records   {run.records}\nnext: expllm train {options.experiment} --out {run.path}{overrides}")
    return {"faces": str(run.faces), "records": str(run.records)}


def _inspect(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.records import open_encoder, open_records

    folder = Path(options.run) / "records" if (Path(options.run) / "records").is_dir() else Path(options.run)
    source = open_records(folder, options.split)
    if not 0 <= options.index < len(source):
        raise ExpllmError(f"{folder} has no record {options.index} in '{options.split}'", f"use 0 to {len(source) - 1}")
    record, tokenizer = source[options.index], open_encoder(folder).tokenizer
    row = record.row
    learnt = [int(token) for token, weight in zip(row.tokens, row.loss_weights, strict=True) if weight > 0]
    units = record.annotation.units.get("facs", {})
    lines = [
        f"record      {record.id}",
        f"expression  {record.annotation.expression}",
        "units       " + ", ".join(f"{code} {value:.2f}" for code, value in units.items()),
        f"row         {len(row)} tokens; {len(learnt)} are learnt, their weights sum to {row.loss_weights.sum():.3f}",
        "",
        str(record.annotation.cot or ""),
        "",
        "learnt: " + tokenizer.decode(learnt).strip(),
    ]
    show(options, "\n".join(lines))
    return {"id": record.id, "annotation": record.annotation.to_json(), "tokens": len(record.row)}


def add(verbs: Any) -> None:
    """Adds the verbs to the parser."""
    data = add_group(verbs, "data", "make and look at records")
    build = add_verb(
        data, "build", _build, "render faces, write their texts, tokenise", "expllm data build laptop --out runs/a"
    )
    experiment_argument(build)
    inspect = add_verb(
        data,
        "inspect",
        _inspect,
        "one record, as a person would see it",
        "expllm data inspect --run runs/a --index 3",
    )
    run_argument(inspect)
    inspect.add_argument("--split", default="train", help="train, clean, mild, hard (default: train)")
    inspect.add_argument("--index", type=natural, default=0, help="which record (default: 0)")
