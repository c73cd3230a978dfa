"""What people see of an evaluation: the report page, its plots, and the model card."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from expllm_jax.assessment import METRICS, Evaluation
from expllm_jax.assets import ASSETS
from expllm_jax.checkpoints import Checkpointer, params_fingerprint
from expllm_jax.evaluate import (
    EvaluatedFace,
    FaceView,
    Interval,
    Metrics,
    ModelCard,
    ReportInput,
    choose_faces,
    plot_confusion,
    plot_curves,
    plot_units,
    read_history,
    write_model_card,
    write_report,
)
from expllm_jax.evaluate.fairness import NOTE
from expllm_jax.evaluate.markup import percent
from expllm_jax.evaluate.report import INTENDED, LIMITS, PROHIBITED
from expllm_jax.faithfulness import read_faithfulness
from expllm_jax.files import write_whole
from expllm_jax.infer import read_model_files, read_run_params
from expllm_jax.records import Record, RecordSource, open_records
from expllm_jax.sources import DATASETS
from expllm_jax.stages import RunFolder, training_entries

REPORT, CARD = "report.html", "model_card.md"
BARS: Mapping[str, float] = {"accuracy_clean": 0.88, "accuracy_mild": 0.75, "added_gap": 0.2, "dropped_gap": 0.2}
"""What the laptop experiment is to reach (the gaps as goals)."""


def report_evaluation(
    evaluation: Evaluation, metrics: Metrics, *, commands: Sequence[str] = (), seconds: float | None = None
) -> Path:
    """Writes report.html, model_card.md and the plots from what the evaluation's folder holds; returns the report."""
    run, folder = evaluation.run, evaluation.folder
    faces = evaluation.answers()[metrics.main_split]
    bars = dict(BARS) if run.experiment.name == "laptop" and folder == run.path else {}
    oracle = metrics.values.get("unit_f1_label_only")
    if bars and isinstance(oracle, float):
        bars["unit_f1"] = oracle
    took = f" All of it took {seconds / 60:.0f} minutes on this computer." if seconds else ""
    about = run.experiment.about
    report = ReportInput(
        title=f"ExpLLM, experiment {run.experiment.name}",
        summary=f"{about[0].upper()}{about[1:]}. {_learnt_and_asked(evaluation, metrics)}{took}",
        trained_on=_trained_on(evaluation, metrics),
        metrics=metrics,
        faces=faces,
        views=_views(evaluation, metrics, choose_faces(faces, run.experiment.evaluation.gallery)),
        others=dict(_other_evaluations(run, folder)),
        faithfulness=read_faithfulness(run),
        history=read_history(run.path / "metrics.jsonl"),
        bars=bars,
        commands=commands,
        gallery_size=run.experiment.evaluation.gallery,
    )
    write_report(folder / REPORT, report)
    write_model_card(folder / CARD, _card(evaluation, metrics))
    _plots(run, folder, metrics)
    return folder / REPORT


def orders_in_words(told: Mapping[str, Metrics]) -> Iterator[str]:
    """A table, line by line, of the numbers of several ways of asking."""
    yield f"{'asked':<28} {'accuracy [95 %]':<22} {'text agrees':>11} {'not there':>9} {'unparsable':>10} {'tokens':>7}"
    for name, metrics in told.items():
        main = metrics.splits[metrics.main_split]
        agreement = main.intervals.get("conclusion_agreement")
        yield (
            f"{name:<28} {metrics.shown(f'accuracy_{main.split}').replace('  ', ' '):<22} "
            f"{percent(agreement and agreement.value):>11} {percent(main.units.hallucinated):>9} "
            f"{metrics.values['unparsable']:>10} {main.new_tokens:>7.0f}"
        )


def _learnt_and_asked(evaluation: Evaluation, metrics: Metrics) -> str:
    run, data = evaluation.run, evaluation.run.experiment.data
    if run.experiment.mixture:
        learnt = f"It learnt from {', '.join(run.experiment.mixture)}"
    else:
        pictures = len(open_records(run.records, "train"))
        learnt = f"It learnt from {pictures:,} rendered pictures of {data.train_identities} people"
    main = metrics.splits[metrics.main_split]
    asked = f"{', '.join(evaluation.sets)}" if evaluation.sets else f"{main.identities} others"
    return f"{learnt} and was asked about {asked}, {evaluation.asking.name.replace('-', ' ')}."


def _trained_on(evaluation: Evaluation, metrics: Metrics) -> Sequence[tuple[str, str]]:
    run = evaluation.run
    data, model, train = run.experiment.data, run.experiment.model, run.experiment.train
    blocks = " and ".join(str(layer % model.vision.depth + 1) for layer in model.vision_layers)
    tower = f"DINOv2, {model.vision.width} wide" + (
        f", block {blocks} of {model.vision.depth}" if model.vision_layers else ""
    )
    main = metrics.splits[metrics.main_split]
    rows = [
        ("training pictures", f"{sum(len(source) for _, source in _training_sets(run)):,} of {_names(run)}"),
        (
            "asked about",
            f"{main.n:,} pictures of {main.identities} people in {metrics.main_split}, none of them in training; "
            f"{len(data.expressions)} expressions, chance {1 / len(data.expressions):.0%}"
            if not evaluation.sets
            else f"{main.n:,} pictures of {main.identities} people in {', '.join(evaluation.sets)}",
        ),
        ("vision tower", f"{tower}; {'frozen' if not model.vision_lora.rank else f'LoRA r={model.vision_lora.rank}'}"),
        (
            "decoder",
            f"{model.decoder.depth} layers, {model.decoder.width} wide, {run.experiment.weights.decoder} start",
        ),
        ("batch", f"{train.batch} records an update"),
        ("records", ", ".join(f"manifest {source.manifest.sha256[:16]}" for _, source in _training_sets(run))),
        ("seeds", f"training {train.seed}, faces {data.seed}"),
    ]
    return rows


def _names(run: RunFolder) -> str:
    data = run.experiment.data
    if run.experiment.mixture:
        return ", ".join(run.experiment.mixture)
    return f"{data.train_identities} rendered people, regimes {', '.join(data.train_regimes)}"


def _training_sets(run: RunFolder) -> Iterator[tuple[str, RecordSource]]:
    for entry in training_entries(run):
        name = "of the run" if Path(entry.folder) == run.records else entry.folder
        yield name, open_records(entry.folder, entry.split)


def _views(evaluation: Evaluation, metrics: Metrics, chosen: Sequence[EvaluatedFace]) -> Mapping[str, FaceView]:
    """Pictures and landmarks of the faces that are shown, out of their records."""
    entry = next(entry for entry in evaluation.entries if entry.split == metrics.main_split)
    source = open_records(entry.folder, entry.split)
    wanted, views = {face.record for face in chosen}, {}
    for index in range(len(source)):
        if source.id(index) in wanted and (record := source[index]) is not None:
            views[record.id] = FaceView(record.picture, record.annotation.landmarks)
    return views


def _other_evaluations(run: RunFolder, folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name -> numbers of every way that the run was asked in, this one first."""
    places = [run.path, *sorted(path.parent for path in run.path.glob(f"evaluations/*/{METRICS}"))]
    for place in sorted(places, key=lambda place: place != folder):
        file = place / METRICS
        if file.is_file():
            yield "label-first" if place == run.path else place.name, json.loads(file.read_text(encoding="utf-8"))


def _plots(run: RunFolder, folder: Path, metrics: Metrics) -> None:
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    for split, summary in metrics.splits.items():
        write_whole(plots / f"confusion_{split}.png", plot_confusion(summary.labels, title=split))
    main = metrics.splits[metrics.main_split]
    if any(row.present for row in main.units.rows):
        write_whole(plots / f"units_{main.split}.png", plot_units(main.units.rows, title=main.split))
    history = run.path / "metrics.jsonl"
    if history.is_file():
        write_whole(plots / "training.png", plot_curves(read_history(history)))


_CARD_SCORES: Mapping[str, str] = {
    "accuracy": "accuracy (WAR)",
    "uar": "unweighted average recall (UAR)",
    "macro_f1": "macro-F1",
    "unit_f1": "F1 of the stated action units",
    "unit_f1_label_only": "... of reciting the true label's units without looking",
    "conclusion_agreement": "text concludes what is answered",
    "hallucinated": "stated units that are not there",
    "omitted": "clearly present units left out",
    "unparsable_label_rate": "labels that do not parse",
    "unparsable_cot_rate": "texts that do not parse",
    "truncated_rate": "faces with an answer that was cut off",
}
"""Numbers of each split in the model card -> what they are called there."""


def _card(evaluation: Evaluation, metrics: Metrics) -> ModelCard:
    run, values = evaluation.run, metrics.values
    with Checkpointer(run.path, create=False) as checkpointer:
        step = checkpointer.latest_step
    params = read_run_params(run.path, read_model_files(run.path).config)[0]
    main = metrics.splits[metrics.main_split]
    agreement = main.intervals.get("conclusion_agreement")
    return ModelCard(
        title=f"ExpLLM, experiment {run.experiment.name}",
        summary=f"{run.experiment.about}. {_learnt_and_asked(evaluation, metrics)}",
        intended=INTENDED,
        prohibited=PROHIBITED,
        model=[row for row in _trained_on(evaluation, metrics) if row[0] not in ("asked about", "training pictures")],
        labels=run.experiment.data.expressions,
        data=list(_data_terms(run)),
        scores=[
            (f"{what}, {split}", *_value_and_ends(summary.intervals[key]))
            for split, summary in metrics.splits.items()
            for key, what in _CARD_SCORES.items()
            if key in summary.intervals and summary.intervals[key].defined
        ],
        protocol=f"Asked {evaluation.asking.name.replace('-', ' ')}, about people who are not in training. Intervals "
        f"are 95 %, over the people shown: bootstraps of {values['bootstrap_resamples']} resamples, and Wilson's for "
        "shares of few. They say nothing about how much another training run would differ.",
        per_class=[
            (row.name, *_value_and_ends(Interval(row.recall, row.recall_low, row.recall_high)), f"{row.n:,}")
            for row in main.labels.per_class
        ],
        strata=[
            (stratum.name, *_value_and_ends(stratum.labels["accuracy"]), f"{stratum.n:,}") for stratum in main.strata
        ],
        groups=[
            (
                found.attribute,
                group.group,
                *_value_and_ends(group.accuracy),
                f"{group.n:,}{', few' if group.small else ''}",
            )
            for found in main.fairness
            for group in found.groups
        ],
        **({"groups_note": NOTE} if main.fairness else {}),
        failures=(
            ("answers that do not parse, all splits", f"{values['unparsable']} of {values['answers']}"),
            ("faces asked about again, because a first answer did not parse", str(values["retried"])),
            (f"stated units that are not there, {main.split}", percent(main.units.hallucinated)),
            (f"clearly present units left out, {main.split}", percent(main.units.omitted)),
            (
                f"text concludes another expression than the answer, {main.split}",
                percent(None if agreement is None else 1 - agreement.value),
            ),
        ),
        limits=LIMITS,
        hashes={
            **{f"records {name}": source.manifest.sha256 for name, source in _training_sets(run)},
            **{
                f"asked about {entry.split}": open_records(entry.folder, entry.split).manifest.sha256
                for entry in evaluation.entries
            },
            f"parameters of step {step}": params_fingerprint(params),
        },
        compute=list(_compute(run)),
    )


def _value_and_ends(interval: Interval) -> tuple[str, str]:
    ends = "" if math.isnan(interval.low) else f"{interval.low:.3f} to {interval.high:.3f}"
    return f"{interval.value:.3f}", ends


_LOOKED_AT = 5000
"""Records of a set whose origin is looked up, evenly over it."""


def _data_terms(run: RunFolder) -> Iterator[tuple[str, str, str]]:
    """Every dataset that the run learnt from, how much of it, and its terms."""
    for name, source in _training_sets(run):
        looked_at = range(0, len(source), -(-len(source) // _LOOKED_AT))
        origins = Counter(map(_origin, filter(None, (source[index] for index in looked_at))))
        for origin, count in origins.items():
            share = f"{count / sum(origins.values()):.0%} of the {len(source):,} records {name}"
            yield origin, share, _terms(origin)
    for weights in sorted({run.experiment.weights.vision, run.experiment.weights.decoder} - {"random"}):
        yield f"weights {weights}", "start of training", _terms(weights)


def _origin(record: Record) -> str:
    provenance = record.annotation.provenance
    return provenance.get("dataset") or provenance.get("source") or "not recorded"


def _terms(origin: str) -> str:
    if origin in DATASETS:
        return DATASETS[origin].licence
    asset = ASSETS.get("anny" if origin == "rendered" else origin)
    return asset.licence if asset else "not known here: ask whoever made them"


def _compute(run: RunFolder) -> Iterator[tuple[str, str]]:
    file = run.path / "environment.json"
    if not file.is_file():
        return
    told = json.loads(file.read_text(encoding="utf-8"))
    history = read_history(run.path / "metrics.jsonl")
    if history and history[-1].get("seconds"):
        yield "training", f"{history[-1]['seconds'] / 60:.1f} minutes, {len(history):,} logged updates"
    yield "devices", ", ".join(told.get("devices", []))
    yield "energy", "not measured"
    for package in ("expllm_jax", "jax", "flax", "optax"):
        if package in told:
            yield package, str(told[package])
