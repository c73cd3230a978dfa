"""What is done with a trained run: ask it about people it never saw, score the answers, write the report, export it.

The bridge between rooms that do not know each other: `infer` answers, `evaluate` scores, and here each answer meets
the truth
of its record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from expllm_jax.checkpoints import Checkpointer
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import (
    EvaluatedFace,
    Metrics,
    ReportInput,
    plot_confusion,
    plot_curves,
    plot_units,
    read_history,
    summarise,
    write_metrics,
    write_report,
)
from expllm_jax.files import write_whole
from expllm_jax.infer import Answer, Predictor, export_run, read_model_files, read_run_params
from expllm_jax.records import Record, open_records
from expllm_jax.stages import RunFolder, predictor
from expllm_jax.train import Progress
from expllm_jax.weights import SHARD_BYTES, AdapterForm, export_safetensors

ANSWERS, METRICS, REPORT = "answers.jsonl", "metrics.json", "report.html"
MAIN_SPLIT = "mild"
BARS: Mapping[str, float] = {"accuracy_clean": 0.88, "accuracy_mild": 0.75, "added_gap": 0.2, "dropped_gap": 0.2}
"""What the laptop experiment is to reach (the gaps as goals)."""


def evaluate_run(run: RunFolder, *, overwrite: bool = False) -> Metrics:
    """Asks the run's latest checkpoint about every face of the test splits; writes answers, metrics and plots.

    Raises ExpllmError for a run on records of its own, which has no rendered test faces.
    """
    if run.experiment.mixture:
        raise ExpllmError(
            f"{run.path} learnt from {', '.join(run.experiment.mixture)} and has no test faces of its own",
            "ask it about pictures with `expllm predict`; scoring on a split of records is not there yet",
        )
    with Checkpointer(run.path, create=False) as checkpointer:
        step = checkpointer.latest_step
    faces = None if overwrite else _read_answers(run, step)
    if faces is not None:
        run.say(f"evaluation: {run.path / ANSWERS} is there already")
    else:
        faces = {}
        model = predictor(run)
        total = sum(len(open_records(run.records, split)) for split in run.experiment.evaluation.splits)
        run.say(f"evaluation: asking about {total:,} faces of people never seen in training")
        progress = Progress(total, "answering", "faces")
        for split in run.experiment.evaluation.splits:
            done = sum(map(len, faces.values()))
            faces[split] = _answer_split(run, model, split, lambda n, done=done: progress.update(done + n))
        progress.close()
        lines = [json.dumps(_plain(face, step), ensure_ascii=False) for split in faces.values() for face in split]
        write_whole(run.path / ANSWERS, "\n".join(lines) + "\n")
    main = MAIN_SPLIT if MAIN_SPLIT in faces else next(iter(faces))
    metrics = summarise(faces, classes=run.experiment.data.expressions, main_split=main, seed=run.experiment.train.seed)
    write_metrics(run.path / METRICS, metrics)
    _plots(run, metrics)
    return metrics


def report_run(run: RunFolder, metrics: Metrics, *, commands: Sequence[str] = (), seconds: float | None = None) -> Path:
    """Writes report.html from what the run's folder holds."""
    faces = _read_answers(run)
    if faces is None:
        raise ExpllmError(f"{run.path} holds no answers yet", f"run `expllm eval --run {run.path}` first")
    about, data, model = run.experiment.about, run.experiment.data, run.experiment.model
    trained = open_records(run.records, "train")
    took = f" All of it took {seconds / 60:.0f} minutes on this computer." if seconds else ""
    bars = dict(BARS) if run.experiment.name == "laptop" else {}
    oracle = metrics.values.get("unit_f1_label_only")
    if bars and isinstance(oracle, float):
        bars["unit_f1"] = oracle
    blocks = " and ".join(str(layer % model.vision.depth + 1) for layer in model.vision_layers)
    tower = f"DINOv2, {model.vision.width} wide" + (
        f", block {blocks} of {model.vision.depth}" if model.vision_layers else ""
    )
    report = ReportInput(
        title=f"ExpLLM, experiment {run.experiment.name}",
        summary=f"{about[0].upper()}{about[1:]}. It learnt from {len(trained):,} rendered pictures of "
        f"{data.train_identities} people and was asked about {data.test_identities} others.{took}",
        trained_on=(
            (
                "training pictures",
                f"{len(trained):,} renders of {data.train_identities} people, regimes {', '.join(data.train_regimes)}",
            ),
            (
                "test people",
                f"{data.test_identities}, none of them in training; {len(data.expressions)} expressions, "
                f"chance {1 / len(data.expressions):.0%}",
            ),
            (
                "vision tower",
                f"{tower}; {'frozen' if not model.vision_lora.rank else f'LoRA r={model.vision_lora.rank}'}",
            ),
            (
                "decoder",
                f"{model.decoder.depth} layers, {model.decoder.width} wide, {run.experiment.weights.decoder} start",
            ),
            ("updates", f"{run.experiment.train.total_steps(len(trained)):,} of {run.experiment.train.batch} records"),
            ("records", f"manifest {trained.manifest.sha256[:16]}"),
            ("seeds", f"training {run.experiment.train.seed}, faces {data.seed}"),
        ),
        metrics=metrics,
        faces=faces[metrics.main_split],
        history=read_history(run.path / "metrics.jsonl"),
        bars=bars,
        commands=commands,
        gallery_size=run.experiment.evaluation.gallery,
    )
    write_report(run.path / REPORT, report)
    return run.path / REPORT


def export_model(run: RunFolder) -> Path:
    """The inference checkpoint in the run's `export/`; one that is there already is written anew."""
    export_run(run.path, run.export, overwrite=run.export.exists())
    return run.export


def export_weights(
    run_dir: str | Path,
    folder: str | Path,
    *,
    adapters: AdapterForm = "merged",
    image_size: int | Literal["run", "stored"] = "run",
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Safetensors of a run or an export: vision, projector and decoder in the layouts that other tools open.

    Args:
      run_dir: the run or export.
      folder: must not exist yet.
      adapters: "merged" into the kernels, or "peft" for adapters beside the plain parts.
      image_size: pixels a side that the tower's position table is fitted to; "run": those of the run's own pictures;
        "stored": the table stays as it is.
      shard_bytes: largest weight file.

    Raises:
      ExpllmError: as `weights.export_safetensors` and `infer.read_run_params` do, or the folder cannot be written.
    """
    files = read_model_files(run_dir)
    params = read_run_params(run_dir, files.config)[0]
    pixels = {"run": files.pictures.size, "stored": None}.get(image_size, image_size)
    try:
        return export_safetensors(
            params, files.config, folder, adapters=adapters, image_size=pixels, shard_bytes=shard_bytes
        )
    except OSError as error:
        raise ExpllmError(
            f"the weights cannot be written to {folder} ({error.strerror or error})",
            "choose a folder on a disk that has room and that you may write to",
        ) from error


def shown(metrics: Metrics, key: str) -> str:
    """A number of `metrics` with its interval, for people."""
    value, low, high = (metrics.values.get(key + suffix) for suffix in ("", "_low", "_high"))
    if value is None or isinstance(value, str):
        return "undefined" if value is None else value
    number = str(value) if isinstance(value, int) else f"{value:.3f}"
    return number if low is None or high is None else f"{number}  [{float(low):.3f}, {float(high):.3f}]"


def _answer_split(run: RunFolder, model: Predictor, split: str, report: Callable[[int], None]) -> list[EvaluatedFace]:
    source = open_records(run.records, split)
    records = [source[index] for index in range(len(source))]
    # The pictures of the records, and not the files they were made of: cut and resized as those learnt from.
    answers = model.answer_stored([record.picture for record in records], [record.id for record in records],
                                  report=report)  # fmt: skip
    return [_evaluated(run, split, record, answer) for record, answer in zip(records, answers, strict=True)]


def _evaluated(run: RunFolder, split: str, record: Record, answer: Answer) -> EvaluatedFace:
    truth = record.annotation
    return EvaluatedFace(
        record=record.id,
        identity=truth.identity,
        split=split,
        expression=truth.expression or "",
        units=dict(truth.units.get(run.experiment.narrator.vocabulary, {})),
        label_text=answer.label_text,
        predicted=answer.label,
        cot=answer.cot_text,
        cot_failure=answer.cot_failure,
        stated=dict(answer.stated_units),
        concluded=None if answer.parsed is None else answer.parsed.expression,
        tries=answer.tries,
        picture=run.faces / truth.picture,
    )


def _plain(face: EvaluatedFace, step: int | None) -> dict[str, object]:
    return {**asdict(face), "picture": str(face.picture.name) if face.picture else None, "step": step}


def _read_answers(run: RunFolder, step: int | None = None) -> dict[str, list[EvaluatedFace]] | None:
    """The answers of an earlier evaluation, or None if there is none, or none of the checkpoint of `step`."""
    path = run.path / ANSWERS
    if not path.is_file():
        return None
    faces: dict[str, list[EvaluatedFace]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            fields = json.loads(line)
            if fields.pop("step") != step is not None:
                return None  # the run was trained further since
            fields["picture"] = run.faces / "pictures" / fields["split"] / fields["picture"]
            face = EvaluatedFace(**fields)
            faces.setdefault(face.split, []).append(face)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExpllmError(
            f"{path} is damaged: {error}", f"run `expllm eval --run {run.path}` to write it anew"
        ) from error
    return faces


def _plots(run: RunFolder, metrics: Metrics) -> None:
    folder = run.path / "plots"
    folder.mkdir(exist_ok=True)
    for split, summary in metrics.splits.items():
        write_whole(folder / f"confusion_{split}.png", plot_confusion(summary.labels, title=split))
    main = metrics.splits[metrics.main_split]
    write_whole(folder / f"units_{main.split}.png", plot_units(main.units.rows, title=main.split))
    history = run.path / "metrics.jsonl"
    if history.is_file():
        write_whole(folder / "training.png", plot_curves(read_history(history)))
