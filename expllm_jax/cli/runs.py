"""The verbs of a run: `expllm demo | train | eval | predict | export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from expllm_jax.cli.parsing import (
    DEFAULT_RUN,
    accelerator_argument,
    add_verb,
    experiment_argument,
    placed_arguments,
    run_argument,
    say,
    show,
)


def _demo(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.config import load_experiment
    from expllm_jax.demo import run_demo, summary

    result = run_demo(load_experiment(options.experiment, options.set), Path(options.out), say, command=options.typed)
    show(options, summary(result))
    return {"folder": str(result.folder), "seconds": round(result.seconds, 1), "metrics": dict(result.metrics.values)}


def _train(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax import stages
    from expllm_jax.config import load_experiment

    given = [*options.set, *([f"on_error={options.on_error}"] if options.on_error else [])]
    experiment = load_experiment(options.experiment, given, accelerator=options.accelerator)
    run = stages.open_folder(options.out, experiment, say, command=options.typed)
    stages.render_faces(run)
    stages.build_records(run)
    result = stages.train_model(run)
    loss = "" if result.loss is None else f", loss {result.loss:.4f}"
    show(
        options,
        f"trained     {result.steps:,} steps{loss}\ncheckpoint  {run.path / 'checkpoints'}\n"
        f"next: expllm {'predict PICTURE.jpg' if run.experiment.mixture else 'eval'} --run {run.path}",
    )
    return {"run": str(run.path), "steps": result.steps, "loss": result.loss, "skipped": result.skipped}


def _eval(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax import assessment, stages

    run = stages.reopen_folder(options.run, say)
    metrics = assessment.evaluate_run(run, overwrite=True)
    report = assessment.report_run(run, metrics)
    for key in metrics.values:
        if f"{key}_low" in metrics.values:
            show(options, f"{key:<28} {assessment.shown(metrics, key)}")
    show(options, f"\n{metrics.main_split:<12} recall  precision  F1     faces")
    for row in metrics.splits[metrics.main_split].labels.per_class:
        show(options, f"{row.name:<12} {row.recall:.3f}   {row.precision:.3f}      {row.f1:.3f}  {row.n}")
    show(options, f"\nreport   {report}\nmetrics  {run.path / assessment.METRICS}\nplots    {run.path / 'plots'}")
    return dict(metrics.values)


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

    evaluate = add_verb(verbs, "eval", _eval, "score a run on people it never saw", "expllm eval --run runs/a")
    run_argument(evaluate)

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
