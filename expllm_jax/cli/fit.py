"""`expllm fit`: whether a run fits a TPU slice, asked of the TPU compiler on a computer without a TPU."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from expllm_jax.cli.parsing import (
    Outcome,
    accelerator_argument,
    add_verb,
    natural,
    override_argument,
    positive,
    say,
    show,
)
from expllm_jax.errors import ExpllmError
from expllm_jax.files import write_whole

if TYPE_CHECKING:
    from expllm_jax.fit.compiling import TpuCompiler
    from expllm_jax.fit.request import Answer, FitRequest
    from expllm_jax.parallel import MeshConfig


def _fit(options: argparse.Namespace) -> Outcome:
    from expllm_jax.fit.compiling import TpuCompiler
    from expllm_jax.fit.report import as_json, as_text
    from expllm_jax.fit.search import most_rows
    from expllm_jax.fit.suggestions import suggestions

    if options.table:
        return _table(options)
    request = _request(options)
    with TpuCompiler(time_limit=options.time_limit, say=say) as compiler:
        found = None
        if options.find_batch:
            found = most_rows(lambda rows: _compiled(compiler, dataclasses.replace(request, rows=rows)))
            answer = found.best
        else:
            answer = _compiled(compiler, request)
        suggested = []
        if not answer.fits and not options.no_suggestions:
            say("it does not fit; compiling what could be changed")
            suggested = list(suggestions(answer, lambda changed: _compiled(compiler, changed)))
    show(options, as_text(answer, found, suggested))
    return Outcome(as_json(answer, found, suggested), 0 if answer.fits else 1)


def _table(options: argparse.Namespace) -> Outcome:
    from pathlib import Path

    from expllm_jax.fit.compiling import TpuCompiler
    from expllm_jax.fit.table import Answers, fill_table, render_table

    path = Path(options.out)
    answers = path.with_suffix(".json")
    found = {}
    with TpuCompiler(time_limit=options.time_limit, say=say) as compiler:
        for cell, what in fill_table(compiler, Answers(answers), say):
            found[cell.name, cell.mode] = what
            write_whole(path, render_table(found))
    show(options, f"{path.read_text()}\ntable    {path}\nanswers  {answers}")
    return Outcome({"table": str(path), "answers": str(answers)}, 0)


def _compiled(compiler: TpuCompiler, request: FitRequest) -> Answer:
    from expllm_jax.fit.checks import check

    check(request)
    what = f"{request.rows} rows a device" if request.task == "train" else f"{request.batch} prompts"
    say(f"compiling {what} for {request.topology}, mesh {','.join(map(str, request.mesh))}")
    return compiler.compile(request)


def _request(options: argparse.Namespace) -> FitRequest:
    from expllm_jax.config import PICTURE_SIZE, load_experiment
    from expllm_jax.fit.asking import RowShape, decode_request, train_request
    from expllm_jax.fit.topology import parse_topology

    if not options.experiment or not options.topology:
        raise ExpllmError("no experiment or no --topology is given", "expllm fit EXPERIMENT --topology v5e:2x4")
    topology = parse_topology(options.topology, options.slices)
    experiment = load_experiment(options.experiment, options.set, accelerator=options.accelerator)
    # As the run itself decides it, by the layout of its records.
    model = dataclasses.replace(experiment.model, chained=experiment.records.chained)
    mesh = _mesh(options.mesh) if options.mesh else None
    if options.decode:
        if options.find_batch:
            raise ExpllmError("--find-batch counts rows of an update, and --decode makes none", "leave one of them out")
        return decode_request(
            model, topology, mesh=mesh, batch=options.batch, prompt_tokens=options.prompt_tokens,
            new_tokens=options.new_tokens, picture_size=PICTURE_SIZE,
        )  # fmt: skip
    return train_request(
        model,
        experiment.train,
        topology,
        mesh=mesh,
        rows=options.rows,
        row=RowShape(options.row_length, options.pictures, options.supervised),
        picture_size=PICTURE_SIZE,
        normalisation=experiment.normalisation,
        features=experiment.cache_features,
    )


def _mesh(text: str) -> MeshConfig:
    from expllm_jax.parallel import MeshConfig

    try:
        data, fsdp, tensor = map(int, text.split(","))
    except ValueError:
        raise ExpllmError(f"--mesh is '{text}'", "give the sizes of data,fsdp,tensor, such as 1,-1,1") from None
    return MeshConfig(data, fsdp, tensor)


def add(verbs: Any) -> None:
    """Adds the verb to the parser."""
    fit = add_verb(
        verbs,
        "fit",
        _fit,
        "whether a run fits a TPU slice, by its compiler, without a TPU; status 1 if not",
        "expllm fit small --topology v5e:2x4 --find-batch",
    )
    fit.add_argument("experiment", nargs="?", help="a name from `expllm config list`, or a .py file")
    fit.add_argument("--topology", metavar="NAME", help="such as v5e:2x4, v5e-8, v5p-64 or 2xv5e-256")
    fit.add_argument("--slices", type=natural, default=1, help="so many of them, with data across (default: 1)")
    fit.add_argument("--mesh", metavar="DATA,FSDP,TENSOR", help="devices of each axis, -1: the rest")
    accelerator_argument(fit)
    override_argument(fit)
    rows = fit.add_argument_group("an update")
    size = rows.add_mutually_exclusive_group()
    size.add_argument("--rows", type=natural, default=0, help="that a device computes at a time (default: its share)")
    size.add_argument("--find-batch", action="store_true", help="search the most rows that fit")
    rows.add_argument("--row-length", type=natural, default=0, metavar="TOKENS", help="of a row (default: 2048)")
    rows.add_argument("--pictures", type=natural, default=0, help="slots of a row (default: as many as usually fit)")
    rows.add_argument("--supervised", type=natural, default=0, metavar="TOKENS", help="of a row, at most")
    decode = fit.add_argument_group("generation")
    decode.add_argument("--decode", action="store_true", help="compile answering instead of an update")
    decode.add_argument("--batch", type=natural, default=64, help="prompts at once (default: 64)")
    decode.add_argument("--prompt-tokens", type=natural, default=0, metavar="TOKENS", help="(default: picture + 128)")
    decode.add_argument("--new-tokens", type=natural, default=256, metavar="TOKENS", help="at most (default: 256)")
    fit.add_argument("--table", action="store_true", help="instead, the README's table of the paper's model; hours")
    fit.add_argument(
        "--out", default="fit_table.md", help="of --table; answers are kept beside it, and it goes on there"
    )
    fit.add_argument("--no-suggestions", action="store_true", help="do not compile what could be changed")
    fit.add_argument(
        "--time-limit", type=positive, default=900.0, metavar="SECONDS", help="for one program (default: 900)"
    )
