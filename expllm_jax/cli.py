"""`expllm VERB`: parses, calls one function, prints. Status 0 done, 1 failed, 2 bad input."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from expllm_jax import __version__
from expllm_jax.errors import ExpllmError

DEFAULT_RUN = "runs/demo"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(typed)
    options.typed = ["expllm", *typed]
    try:
        outcome = options.do(options)
    except ExpllmError as error:
        print(f"expllm: error: {error.problem}", file=sys.stderr)
        if error.remedy:
            print(f"  to mend it: {error.remedy}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("\nexpllm: stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a file that may not be read: no verb can foresee them all
        where = f"{error.filename}: " if error.filename else ""
        print(f"expllm: error: {where}{error.strerror or error}", file=sys.stderr)
        return ExpllmError.exit_status
    if options.json:
        print(json.dumps(outcome, ensure_ascii=False))
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show(options: argparse.Namespace, text: str) -> None:
    """Text for people, unless the caller asked for JSON."""
    if not options.json:
        print(text)


# ---- verbs: each imports what it needs, so that `expllm --help` answers at once


def _demo(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.config import load_experiment
    from expllm_jax.demo import run_demo, summary

    result = run_demo(load_experiment(options.experiment, options.set), Path(options.out), _say, command=options.typed)
    _show(options, summary(result))
    return {"folder": str(result.folder), "seconds": round(result.seconds, 1), "metrics": dict(result.metrics.values)}


def _doctor(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax import doctor

    report = doctor.run(verify=options.verify)
    _show(options, doctor.render(report))
    return report.to_json()


def _data_build(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax import stages
    from expllm_jax.config import load_experiment

    run = stages.open_folder(options.out, load_experiment(options.experiment, options.set), _say, command=options.typed)
    stages.render_faces(run)
    stages.build_records(run)
    overrides = "".join(f" --set {shlex.quote(assignment)}" for assignment in options.set)
    _show(options, f"records   {run.records}\nnext: expllm train {options.experiment} --out {run.path}{overrides}")
    return {"faces": str(run.faces), "records": str(run.records)}


def _data_inspect(options: argparse.Namespace) -> dict[str, Any]:
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
    _show(options, "\n".join(lines))
    return {"id": record.id, "annotation": record.annotation.to_json(), "tokens": len(record.row)}


def _engine_narrate(options: argparse.Namespace) -> dict[str, Any]:
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
    _show(options, f"{len(written):,} texts in {target}")
    return {"annotations": str(target), "texts": len(written)}


def _train(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax import stages
    from expllm_jax.config import load_experiment

    run = stages.open_folder(options.out, load_experiment(options.experiment, options.set), _say, command=options.typed)
    stages.render_faces(run)
    stages.build_records(run)
    result = stages.train_model(run)
    loss = "" if result.loss is None else f", loss {result.loss:.4f}"
    _show(
        options,
        f"trained     {result.steps:,} steps{loss}\ncheckpoint  {run.path / 'checkpoints'}\n"
        f"next: expllm eval --run {run.path}",
    )
    return {"run": str(run.path), "steps": result.steps, "loss": result.loss}


def _eval(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax import assessment, stages

    run = stages.reopen_folder(options.run, _say)
    metrics = assessment.evaluate_run(run, overwrite=True)
    report = assessment.report_run(run, metrics)
    for key in metrics.values:
        if f"{key}_low" in metrics.values:
            _show(options, f"{key:<28} {assessment.shown(metrics, key)}")
    _show(options, f"\n{metrics.main_split:<12} recall  precision  F1     faces")
    for row in metrics.splits[metrics.main_split].labels.per_class:
        _show(options, f"{row.name:<12} {row.recall:.3f}   {row.precision:.3f}      {row.f1:.3f}  {row.n}")
    _show(options, f"\nreport   {report}\nmetrics  {run.path / assessment.METRICS}\nplots    {run.path / 'plots'}")
    return dict(metrics.values)


def _predict(options: argparse.Namespace) -> list[dict[str, Any]]:
    from expllm_jax.infer import Predictor

    answers = Predictor.open(options.run).answer(options.pictures)
    for answer in answers:
        note = f"\n(not in the strict form: {answer.unparsable})" if answer.unparsable else ""
        _show(options, f"{answer.picture}: {answer.label_text}\n\n{answer.cot_text}{note}\n")
    return [
        {"picture": a.picture, "label": a.label, "label_text": a.label_text, "cot": a.cot_text,
         "units": dict(a.stated_units), "unparsable": a.unparsable}
        for a in answers
    ]  # fmt: skip


def _export(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.infer import export_run

    folder = Path(options.to or Path(options.run) / "export")
    export_run(options.run, folder, overwrite=options.overwrite)
    _show(
        options,
        f"export   {folder}\nopens with: orbax.checkpoint.v1.load('{folder.resolve()}')\n"
        f"next: expllm predict PICTURE.jpg --run {folder}",
    )
    return {"export": str(folder)}


def _weights_export(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.assessment import export_weights

    folder = export_weights(
        options.run,
        options.to,
        adapters=options.adapters,
        image_size=options.image_size,
        shard_bytes=int(options.shard_gb * 10**9),
    )
    parts = {part: str(folder / part) for part in ("vision", "projector", "decoder")}
    adapters = {path.name: str(path) for path in sorted(folder.glob("*_adapter"))}
    opens = "transformers.AutoModel, AutoModelForCausalLM" + (", peft.PeftModel" if adapters else "")
    written = "  ".join([*parts.values(), *adapters.values()])
    _show(options, f"safetensors  {written}\nopens with: {opens} .from_pretrained")
    return {"weights": str(folder), **parts, **adapters}


def _weights_import(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.weights_commands import Speech, import_weights

    speech = None
    if options.tokenizer:
        speech = Speech(Path(options.tokenizer), options.template, options.layout, not options.not_legacy)
    done = import_weights(
        options.source, options.to, part=options.part, dtype=options.dtype, partial=options.partial, speech=speech
    )
    if done.left_out:
        _say(f"left out: {done.left_out}")
    after = f"expllm train EXPERIMENT --out runs/a --set weights.{done.part}={done.folder}"
    if speech is not None:
        after = f"expllm predict PICTURE.jpg --run {done.folder}"
    _show(
        options,
        f"{done.format}, part {done.part}: {done.parameters:,} parameters, {', '.join(done.dtypes)}, "
        f"{done.nbytes / 1e6:,.1f} MB in {done.seconds:.1f} s\nsource   SHA-256 {done.sha256}\nweights  {done.folder}\n"
        f"next: {after}",
    )
    return {**vars(done), "folder": str(done.folder), "seconds": round(done.seconds, 2)}


def _weights_verify(options: argparse.Namespace) -> dict[str, Any]:
    import dataclasses

    from expllm_jax.weights_commands import verify_weights

    found = verify_weights(options.path)
    rows = [f"{'group':<28} tensors     parameters          bytes  dtype"]
    for group in found.groups:
        dtypes = ", ".join(group.dtypes)
        rows.append(f"{group.name:<28} {group.tensors:>7,} {group.parameters:>14,} {group.nbytes:>14,}  {dtypes}")
    _show(options, "\n".join([f"{found.format}, part {found.part}", *rows, f"SHA-256  {found.sha256}"]))
    if found.problems:
        raise ExpllmError(f"{found.path} is not sound: {'; '.join(found.problems)}", "copy or convert it again")
    _show(options, "sound: names, shapes and dtypes are as expected, and every number is finite")
    return dataclasses.asdict(found)


def _weights_diff(options: argparse.Namespace) -> dict[str, Any]:
    import dataclasses

    from expllm_jax.weights_commands import diff_weights

    found = diff_weights(options.first, options.second)
    lines = [f"missing in {options.second}: {path}" for path in found.missing]
    lines += [f"missing in {options.first}: {path}" for path in found.extra]
    lines += [f"of another shape: {text}" for text in found.shapes]
    if found.differences:
        lines.append(f"{'parameter':<44} largest    relative   differing")
    for each in found.differences:
        lines.append(
            f"{each.path:<44} {each.largest:<10.3g} {each.relative:<10.3g} {each.differing:,} of {each.size:,}"
        )
    if found.identical:
        lines.append(f"identical: all {found.equal} parameters are the same, number for number")
    else:
        lines.append(f"{found.equal} parameters are the same, {len(found.differences)} differ")
    _show(options, "\n".join(lines))
    # JSON knows no infinity
    rows = [
        {key: None if value in (float("inf"), float("-inf")) else value for key, value in vars(each).items()}
        for each in found.differences
    ]
    return {**dataclasses.asdict(found), "differences": rows, "identical": found.identical}


def _config_show(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.config import load_experiment, render, to_json

    experiment = load_experiment(options.experiment, options.set)
    _show(options, render(experiment).rstrip())
    return to_json(experiment)


def _config_list(options: argparse.Namespace) -> dict[str, str]:
    from expllm_jax.config import experiment_names, load_experiment

    found = {name: load_experiment(name).about for name in experiment_names()}
    _show(options, "\n".join(f"{name:<10} {about}" for name, about in found.items()))
    return found


# ---- the parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="expllm", description="Facial expression recognition that explains itself.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    demo = _verb(
        verbs, "demo", _demo, "the main job from nothing to a report, in minutes", "expllm demo --out runs/demo"
    )
    demo.add_argument(
        "--experiment", default="laptop", help="a name from `expllm config list`, or a .py file (default: laptop)"
    )
    _placed(demo, DEFAULT_RUN)

    doctor = _verb(
        verbs, "doctor", _doctor, "versions, devices, memory, cache, and what is missing", "expllm doctor --verify"
    )
    doctor.add_argument("--verify", action="store_true", help="read every cached file again and compare its SHA-256")

    data = _group(verbs, "data", "make and look at records")
    build = _verb(
        data, "build", _data_build, "render faces, write their texts, tokenise", "expllm data build laptop --out runs/a"
    )
    _experiment(build)
    inspect = _verb(
        data,
        "inspect",
        _data_inspect,
        "one record, as a person would see it",
        "expllm data inspect --run runs/a --index 3",
    )
    _run(inspect)
    inspect.add_argument("--split", default="train", help="train, clean, mild, hard (default: train)")
    inspect.add_argument("--index", type=_natural, default=0, help="which record (default: 0)")

    engine = _group(verbs, "engine", "write chain-of-thought texts")
    tell = _verb(engine, "narrate", _engine_narrate, "three-part texts from labels and action units, offline",
                 "expllm engine narrate faces/annotations.jsonl --style full --out told.jsonl")  # fmt: skip
    tell.add_argument("annotations", help="JSONL of annotations with expression and units")
    tell.add_argument("--out", required=True, help="the file to write")
    tell.add_argument(
        "--style", choices=("full", "brief"), default="full", help="84-146 or 30-60 words (default: full)"
    )
    tell.add_argument(
        "--vocabulary", choices=("facs", "feafa"), default="facs", help="which units are named (default: facs)"
    )
    tell.add_argument("--seed", type=_natural, default=0, help="of the wording (default: 0)")

    train = _verb(
        verbs,
        "train",
        _train,
        "train an experiment, or go on where it was",
        "expllm train laptop --out runs/a --set train.steps=50",
    )
    _experiment(train)

    evaluate = _verb(verbs, "eval", _eval, "score a run on people it never saw", "expllm eval --run runs/a")
    _run(evaluate)

    predict = _verb(
        verbs, "predict", _predict, "label and explanation of pictures", "expllm predict face.jpg --run runs/demo"
    )
    predict.add_argument("pictures", nargs="+", metavar="PICTURE", help="JPEG, PNG, PGM, … files")
    _run(predict)

    export = _verb(
        verbs, "export", _export, "an Orbax inference checkpoint", "expllm export --run runs/demo --to exported"
    )
    _run(export)
    export.add_argument("--to", help="the folder to write (default: RUN/export)")
    export.add_argument("--overwrite", action="store_true", help="replace an export that is there")

    weights = _group(verbs, "weights", "exchange weights with other tools")
    out = _verb(
        weights,
        "export",
        _weights_export,
        "safetensors that transformers opens",
        "expllm weights export --run runs/demo --to out",
    )
    _run(out)
    out.add_argument("--to", required=True, help="the folder to write; it must not exist")
    out.add_argument(
        "--adapters",
        choices=("merged", "peft"),
        default="merged",
        help="fold LoRA adapters into the weights, or write them beside the plain weights for PEFT (default: merged)",
    )
    out.add_argument(
        "--image-size",
        type=_image_size,
        default="run",
        metavar="PIXELS|run|stored",
        help="the picture size that the tower's position table is fitted to, because transformers fits it otherwise; "
        "'run' is the size of the run's own pictures, 'stored' leaves the table as it is (default: run, usually 224)",
    )
    out.add_argument(
        "--shard-gb",
        type=_positive,
        default=5.0,
        metavar="GB",
        help="largest weight file, in 10^9 bytes; larger parts are numbered files and an index (default: 5)",
    )

    into = _verb(
        weights,
        "import",
        _weights_import,
        "an Orbax folder out of safetensors, GGUF or ONNX, for the keys weights.vision, .decoder and .model",
        "expllm weights import ~/models/vicuna-7b-v1.5 --to weights/vicuna",
    )
    into.add_argument("source", help="a Hugging Face folder, a GGUF or ONNX file, or a folder of `weights export`")
    into.add_argument("--to", required=True, help="the folder to write; it must not exist")
    into.add_argument(
        "--part", choices=("auto", "vision", "decoder", "model"), default="auto",
        help="what is wanted of it (default: auto, all it holds)",
    )  # fmt: skip
    into.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
        help="that parameters are stored in; float32 is rounded to bfloat16 (default: auto, bfloat16 if the source is)",
    )  # fmt: skip
    into.add_argument("--partial", action="store_true", help="import what fits and list what does not")
    into.add_argument(
        "--tokenizer", help="tokenizer.model or tokenizer.json of a whole model: `expllm predict` opens the folder then"
    )
    into.add_argument(
        "--template", default="face_v1", help="its conversation template, shipped or a .json file (default: face_v1)"
    )
    into.add_argument(
        "--layout", choices=("branched", "chained", "reference"), default="branched",
        help="of the rows it was trained on; reference for the released ExpLLM (default: branched)",
    )  # fmt: skip
    into.add_argument(
        "--not-legacy", action="store_true", help="with reference: its tokenizer_config.json says legacy: false"
    )
    verify = _verb(
        weights,
        "verify",
        _weights_verify,
        "check header, names, shapes and that every number is finite",
        "expllm weights verify ~/models/vicuna-7b-v1.5",
    )
    verify.add_argument("path", help="anything that `weights import` reads, or a folder that it or `export` wrote")
    diff = _verb(
        weights,
        "diff",
        _weights_diff,
        "how far two sets of weights are apart, parameter by parameter",
        "expllm weights diff weights/a weights/b",
    )
    diff.add_argument("first", help="anything that `weights verify` reads")
    diff.add_argument("second", help="another; the formats may differ")

    config = _group(verbs, "config", "look at experiments")
    show = _verb(
        config, "show", _config_show, "every key with its value", "expllm config show laptop --set train.batch=16"
    )
    show.add_argument("experiment", nargs="?", default="laptop", help="a name, or a .py file (default: laptop)")
    _overrides(show)
    _verb(config, "list", _config_list, "the shipped experiments", "expllm config list")
    return parser


def _verb(
    verbs: Any, name: str, do: Callable[[argparse.Namespace], Any], what: str, example: str
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=f"example: {example}")
    verb.add_argument("--json", action="store_true", help="print one JSON value instead of text")
    verb.set_defaults(do=do)
    return verb


def _group(verbs: Any, name: str, what: str) -> Any:
    group = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    return group.add_subparsers(metavar="VERB", required=True)


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 0 or more")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number greater than 0")
    return value


def _image_size(text: str) -> int | str:
    if text in ("run", "stored"):
        return text
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number of pixels nor 'run' nor 'stored'")
    return int(text)


def _experiment(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("experiment", help="a name from `expllm config list`, or a .py file")
    _placed(verb, None)


def _placed(verb: argparse.ArgumentParser, default: str | None) -> None:
    verb.add_argument(
        "--out",
        default=default,
        required=default is None,
        help="the run's folder" + (f" (default: {default})" if default else ""),
    )
    _overrides(verb)


def _overrides(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the experiment; may be repeated",
    )


def _run(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--run", default=DEFAULT_RUN, help=f"the run's folder (default: {DEFAULT_RUN})")


if __name__ == "__main__":
    sys.exit(main())
