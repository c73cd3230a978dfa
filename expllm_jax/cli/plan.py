"""`expllm data plan`: what rows records would be packed into."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from expllm_jax.cli.parsing import add_verb, natural, override_argument, show
from expllm_jax.errors import ExpllmError

PLANS = "plans"  # folder beside the first records folder's manifest


def _plan(options: argparse.Namespace) -> dict[str, Any]:
    import dataclasses

    from expllm_jax.config import PICTURE_SIZE, load_experiment
    from expllm_jax.records import MixedRows, MixtureEntry, choose, open_records, order_of, render_table
    from expllm_jax.train import with_row_costs

    experiment = load_experiment(options.experiment, options.set)
    entries = [MixtureEntry.parse(text) for text in options.records]
    sources = [open_records(entry.folder, entry.split) for entry in entries]
    mixed = MixedRows(sources, [entry.repeat for entry in entries], [entry.weight for entry in entries])
    train = experiment.train
    order = order_of(mixed, seed=train.seed)
    updates = options.updates or order.items_per_epoch * options.epochs // train.batch
    if not updates:
        raise ExpllmError(
            f"a batch of {train.batch} is more than the {order.items_per_epoch * options.epochs} records there are",
            "set train.batch lower, or --epochs higher",
        )
    config = dataclasses.replace(train.packing, on=True)
    config = with_row_costs(config, experiment.model, PICTURE_SIZE, encoded=experiment.cache_features)
    plan, table = choose(order, mixed.lengths, train.batch, updates, config, multiple=options.multiple)
    shape = plan.shape
    tokens, pictures = plan.fill(updates)
    show(
        options,
        f"{order.items_per_epoch:,} records an epoch; {updates:,} updates of exactly {train.batch} records\n"
        f"a picture costs as much as {config.picture_cost:g} tokens; attention as much as the rest at rows of "
        f"{config.attention_length:,.0f}\n\n{render_table(table, shape, lines=options.lines)}\n\n"
        f"an update is {shape.rows} rows of {shape.row_length:,} tokens with {shape.pictures} pictures and at most "
        f"{shape.supervised} supervised tokens; {tokens:.1%} of its tokens and {pictures:.1%} of its picture slots are "
        f"used\nplan    {plan.fingerprint}",
    )
    saved = None
    if options.save:
        saved = Path(entries[0].folder) / PLANS / f"{plan.fingerprint[:16]}.npz"
        plan.save(saved, updates)
        show(options, f"saved   {saved}")
    show(options, "next: expllm train EXPERIMENT --out RUN --set train.packing.on=true "
                  f"--set mixture={','.join(options.records)}")  # fmt: skip
    return {
        **shape._asdict(), "updates": updates, "records_per_update": train.batch, "token_fill": tokens,
        "picture_fill": pictures, "fingerprint": plan.fingerprint, "stream": plan.stream_fingerprint,
        "saved": str(saved) if saved else None, "table": [line._asdict() for line in table],
    }  # fmt: skip


def add(data: Any) -> None:
    """Adds the verb to `expllm data`."""
    plan = add_verb(
        data,
        "plan",
        _plan,
        "the rows that records would be packed into, and how full they are",
        "expllm data plan 'records/labels*3' records/texts --set train.batch=128",
    )
    plan.add_argument("records", nargs="+", metavar="FOLDER[:SPLIT][*REPEAT]", help="or FOLDER[:SPLIT]@WEIGHT")
    plan.add_argument("--experiment", default="laptop", help="whose model, batch and seed (default: laptop)")
    override_argument(plan)
    length = plan.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=natural, default=1, help="of the run that is planned (default: 1)")
    length.add_argument("--updates", type=natural, default=0, help="of the run that is planned, instead")
    plan.add_argument(
        "--multiple", type=natural, default=1, help="rows are a multiple of it: devices x train.accumulate (default: 1)"
    )
    plan.add_argument("--lines", type=natural, default=12, help="of the table (default: 12)")
    plan.add_argument("--save", action="store_true", help=f"write the plan into FOLDER/{PLANS} of the first records")
