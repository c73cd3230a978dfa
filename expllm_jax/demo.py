"""The main job from nothing to a report, as a sequence of public calls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expllm_jax import assessment, reporting, run_exports, stages
from expllm_jax.assets import asset_folder, asset_path
from expllm_jax.config import Experiment
from expllm_jax.evaluate import Metrics
from expllm_jax.infer import Answer
from expllm_jax.stages import RunFolder, Say


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves behind."""

    folder: Path
    metrics: Metrics
    report: Path
    checkpoint: Path
    export: Path
    photograph: Answer | None  # the model's answer about a photograph of a real person
    seconds: float


def run_demo(experiment: Experiment, folder: Path, say: Say, *, command: Sequence[str] = ()) -> DemoResult:
    """Renders faces, builds records, trains, evaluates, answers about a photograph, exports and reports.

    What a former call finished in `folder` is reused. Raises ExpllmError for whatever cannot be done.
    """
    began = time.monotonic()
    run = stages.open_folder(folder, experiment, say, command=command)
    for name in ("anny", "dinov2-s", *(["smollm2"] if experiment.weights.decoder == "smollm2" else []), "orl-faces"):
        asset_path(name)
    fresh = not run.annotations.is_file()  # else the time is not that of the whole
    stages.render_faces(run)
    stages.build_records(run)
    stages.train_model(run)
    evaluation = assessment.Evaluation(run)
    metrics = assessment.evaluate_run(evaluation)
    photograph = ask_about_a_photograph(run)
    export = run_exports.export_model(run)
    seconds = time.monotonic() - began
    report = reporting.report_evaluation(
        evaluation,
        metrics,
        commands=(
            f"expllm predict PICTURE.jpg --run {run.path}",
            f"expllm export --run {run.path}",
            f"expllm weights export --run {run.path} --to safetensors",
        ),
        seconds=seconds if fresh else None,
    )
    return DemoResult(folder, metrics, report, folder / "checkpoints", export, photograph, seconds)


def ask_about_a_photograph(run: RunFolder) -> Answer:
    """The model's answer about the first ORL photograph: a real face, which a model trained on renders knows
    little of.
    """
    photograph = asset_folder("orl-faces") / "s1" / "1.pgm"
    return assessment.open_predictor(run).answer([photograph], cropped=True)[0]


def summary(result: DemoResult) -> str:
    """The demo's last words: numbers, places, and what to try next."""
    values = result.metrics.values
    lines = ["", f"on people never seen in training (95 % intervals; chance {values['chance']:.3f}):"]
    for key in (
        "accuracy_clean",
        "accuracy_mild",
        "accuracy_hard",
        "macro_f1",
        "unit_f1",
        "unit_f1_label_only",
        "added_gap",
        "dropped_gap",
    ):
        if key in values:
            lines.append(f"  {key:<19} {result.metrics.shown(key)}")
    lines.append(f"  {'unparsable':<19} {values['unparsable']}  (asked again: {values['retried']} faces)")
    if result.photograph is not None:
        lines += ["", f"about a photograph ({result.photograph.picture}):", f"  {result.photograph.label_text}"]
        lines += [f"  {line}" for line in result.photograph.cot_text.splitlines() if line]
        lines.append("  (it has only ever seen renders: do not trust it on real people; see README)")
    lines += [
        "",
        f"report      {result.report}",
        f"model card  {result.folder / reporting.CARD}",
        f"metrics     {result.folder / assessment.METRICS}",
        f"checkpoint  {result.checkpoint}",
        f"export      {result.export}",
        "",
        "next:",
        f"  expllm predict YOUR_PICTURE.jpg --run {result.folder}",
        f"  expllm eval --run {result.folder} --full    # every order, interventions: ten minutes",
        f"  expllm weights export --run {result.folder} --to {result.folder}-safetensors",
        "  expllm config show small    # real DINOv2-S + SmolLM2-135M: expllm demo --experiment small --out runs/small",
    ]
    return "\n".join(lines)
