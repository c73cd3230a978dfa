"""The verbs of a run: `expllm demo | train | predict | export`."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expllm_jax.cli.parsing import (
    DEFAULT_RUN,
    Outcome,
    accelerator_argument,
    add_verb,
    experiment_argument,
    placed_arguments,
    process_arguments,
    run_argument,
    say,
    show,
)

if TYPE_CHECKING:
    from expllm_jax.checkpoints import Preempted
    from expllm_jax.unit_experiment import UnitExperiment


def _demo(options: argparse.Namespace) -> dict[str, Any] | Outcome:
    from expllm_jax.checkpoints import Preempted
    from expllm_jax.config import load_experiment
    from expllm_jax.demo import run_demo, summary

    experiment = load_experiment(options.experiment, options.set)
    try:
        result = run_demo(experiment, Path(options.out), say, command=options.typed)
    except Preempted as stopped:
        return _stopped(options, stopped)
    show(options, summary(result))
    return {"folder": str(result.folder), "seconds": round(result.seconds, 1), "metrics": dict(result.metrics.values)}


def _train(options: argparse.Namespace) -> dict[str, Any] | Outcome:
    from expllm_jax import stages
    from expllm_jax.checkpoints import Preempted
    from expllm_jax.config import load_any_experiment
    from expllm_jax.parallel import DistributedConfig, is_first, start_distributed, together
    from expllm_jax.unit_experiment import UnitExperiment

    start_distributed(
        DistributedConfig(options.coordinator, options.processes, options.process_id, options.start_timeout), say
    )
    options.quiet = not is_first()
    with together():
        given = [*options.set, *([f"on_error={options.on_error}"] if options.on_error else [])]
        experiment = load_any_experiment(options.experiment, given, accelerator=options.accelerator)
        if isinstance(experiment, UnitExperiment):
            return _train_units(options, experiment)
        run = stages.open_folder(options.out, experiment, say if is_first() else _unsaid, command=options.typed)
        stages.render_faces(run)
        stages.build_records(run)
        try:
            result = stages.train_model(run)
        except Preempted as stopped:
            return _stopped(options, stopped)
    loss = "" if result.loss is None else f", loss {result.loss:.4f}"
    show(
        options,
        f"trained     {result.steps:,} steps{loss}\ncheckpoint  {run.path / 'checkpoints'}\n"
        f"next: expllm {'predict PICTURE.jpg' if run.experiment.mixture else 'eval'} --run {run.path}",
    )
    return {"run": str(run.path), "steps": result.steps, "loss": result.loss, "skipped": result.skipped}


def _train_units(options: argparse.Namespace, experiment: UnitExperiment) -> dict[str, Any] | Outcome:
    from expllm_jax import unit_regression
    from expllm_jax.checkpoints import Preempted

    run = unit_regression.open_unit_run(options.out, experiment, say, command=options.typed)
    try:
        loss = unit_regression.train_run(run)
    except Preempted as stopped:
        return _stopped(options, stopped)
    show(
        options,
        f"trained     {experiment.train.steps:,} steps{'' if loss is None else f', loss {loss:.4f}'}\n"
        f"model       {run.path}\n"
        f"next: expllm eval --run {run.path}, or expllm engine units PICTURE.jpg --run {run.path} --out units.jsonl",
    )
    return {"run": str(run.path), "steps": experiment.train.steps, "loss": loss}


def _stopped(options: argparse.Namespace, stopped: Preempted) -> Outcome:
    """Of a run that was told to stop and has saved everything."""
    say(f"expllm: {stopped}")
    told = {"run": options.out, "steps": stopped.step, "stopped": stopped.reason}
    return Outcome(told, 128 + signal.SIGTERM)  # as a shell says it of a process that SIGTERM ended


def _unsaid(text: str) -> None:
    """Said by the first process already."""


def _predict(options: argparse.Namespace) -> list[dict[str, Any]]:
    from expllm_jax.infer import Predictor, annotated_face_boxes

    boxes = annotated_face_boxes(options.pictures, options.annotations) if options.annotations else ()
    answers = Predictor.open(options.run).answer(options.pictures, face_boxes=boxes, cropped=options.crop)
    for answer in answers:
        note = f"\n(not in the strict form: {answer.unparsable})" if answer.unparsable else ""
        show(options, f"{answer.picture}: {answer.label_text}\n\n{answer.cot_text}{note}\n")
    return [
        {"picture": a.picture, "label": a.label, "label_text": a.label_text, "cot": a.cot_text,
         "units": dict(a.stated_units), "unparsable": a.unparsable}
        for a in answers
    ]  # fmt: skip


def _export(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.infer import export_run

    folder = Path(options.to or Path(options.run) / "export")
    export_run(options.run, folder, overwrite=options.overwrite)
    show(
        options,
        f"export   {folder}\nopens with: orbax.checkpoint.v1.load('{folder.resolve()}')\n"
        f"next: expllm predict PICTURE.jpg --run {folder}",
    )
    return {"export": str(folder)}


def add(verbs: Any) -> None:
    """Adds the verbs to the parser."""
    demo = add_verb(
        verbs, "demo", _demo, "the main job from nothing to a report, in minutes", "expllm demo --out runs/demo"
    )
    demo.add_argument(
        "--experiment", default="laptop", help="a name from `expllm config list`, or a .py file (default: laptop)"
    )
    placed_arguments(demo, DEFAULT_RUN)

    train = add_verb(
        verbs,
        "train",
        _train,
        "train an experiment, or go on where it was",
        "expllm train laptop --out runs/a --set train.steps=50",
    )
    experiment_argument(train)
    accelerator_argument(train)
    train.add_argument(
        "--on-error", choices=("raise", "skip"),
        help="what a damaged record does: raise ends the run, skip goes on without it and lists it (default: raise)",
    )  # fmt: skip

    process_arguments(train)

    predict = add_verb(
        verbs, "predict", _predict, "label and explanation of pictures", "expllm predict face.jpg --run runs/demo"
    )
    predict.add_argument("pictures", nargs="+", metavar="PICTURE", help="JPEG, PNG, PGM, … files")
    face = predict.add_mutually_exclusive_group()
    face.add_argument("--crop", action="store_true", help="the pictures are cut to the face already")
    face.add_argument(
        "--annotations", metavar="FILE", help="annotations.jsonl with the face box of every picture, to cut it by"
    )
    run_argument(predict)

    export = add_verb(
        verbs, "export", _export, "an Orbax inference checkpoint", "expllm export --run runs/demo --to exported"
    )
    run_argument(export)
    export.add_argument("--to", help="the folder to write (default: RUN/export)")
    export.add_argument("--overwrite", action="store_true", help="replace an export that is there")
