"""`expllm weights …`: exchange weights with other tools."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from expllm_jax.cli.parsing import add_group, add_verb, image_size, positive, run_argument, say, show
from expllm_jax.errors import ExpllmError


def _export(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.run_exports import export_weights

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
    show(options, f"safetensors  {written}\nopens with: {opens} .from_pretrained")
    return {"weights": str(folder), **parts, **adapters}


def _import(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.weights_commands import Speech, import_weights

    speech = None
    if options.tokenizer:
        speech = Speech(Path(options.tokenizer), options.template, options.layout, not options.not_legacy)
    done = import_weights(
        options.source, options.to, part=options.part, dtype=options.dtype, partial=options.partial, speech=speech
    )
    if done.left_out:
        say(f"left out: {done.left_out}")
    after = f"expllm train EXPERIMENT --out runs/a --set weights.{done.part}={done.folder}"
    if speech is not None:
        after = f"expllm predict PICTURE.jpg --run {done.folder}"
    show(
        options,
        f"{done.format}, part {done.part}: {done.parameters:,} parameters, {', '.join(done.dtypes)}, "
        f"{done.nbytes / 1e6:,.1f} MB in {done.seconds:.1f} s\nsource   SHA-256 {done.sha256}\nweights  {done.folder}\n"
        f"next: {after}",
    )
    return {**vars(done), "folder": str(done.folder), "seconds": round(done.seconds, 2)}


def _verify(options: argparse.Namespace) -> dict[str, Any]:
    import dataclasses

    from expllm_jax.weights_commands import verify_weights

    found = verify_weights(options.path)
    rows = [f"{'group':<28} tensors     parameters          bytes  dtype"]
    for group in found.groups:
        dtypes = ", ".join(group.dtypes)
        rows.append(f"{group.name:<28} {group.tensors:>7,} {group.parameters:>14,} {group.nbytes:>14,}  {dtypes}")
    show(options, "\n".join([f"{found.format}, part {found.part}", *rows, f"SHA-256  {found.sha256}"]))
    if found.problems:
        raise ExpllmError(f"{found.path} is not sound: {'; '.join(found.problems)}", "copy or convert it again")
    show(options, "sound: names, shapes and dtypes are as expected, and every number is finite")
    return dataclasses.asdict(found)


def _diff(options: argparse.Namespace) -> dict[str, Any]:
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
    show(options, "\n".join(lines))
    # JSON knows no infinity
    rows = [
        {key: None if value in (float("inf"), float("-inf")) else value for key, value in vars(each).items()}
        for each in found.differences
    ]
    return {**dataclasses.asdict(found), "differences": rows, "identical": found.identical}


def add(verbs: Any) -> None:
    """Adds the verbs to the parser."""
    weights = add_group(verbs, "weights", "exchange weights with other tools")
    out = add_verb(
        weights,
        "export",
        _export,
        "safetensors that transformers opens",
        "expllm weights export --run runs/demo --to out",
    )
    run_argument(out)
    out.add_argument("--to", required=True, help="the folder to write; it must not exist")
    out.add_argument(
        "--adapters",
        choices=("merged", "peft"),
        default="merged",
        help="fold LoRA adapters into the weights, or write them beside the plain weights for PEFT (default: merged)",
    )
    out.add_argument(
        "--image-size",
        type=image_size,
        default="run",
        metavar="PIXELS|run|stored",
        help="the picture size that the tower's position table is fitted to, because transformers fits it otherwise; "
        "'run' is the size of the run's own pictures, 'stored' leaves the table as it is (default: run, usually 224)",
    )
    out.add_argument(
        "--shard-gb",
        type=positive,
        default=5.0,
        metavar="GB",
        help="largest weight file, in 10^9 bytes; larger parts are numbered files and an index (default: 5)",
    )

    into = add_verb(
        weights,
        "import",
        _import,
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
    verify = add_verb(
        weights,
        "verify",
        _verify,
        "check header, names, shapes and that every number is finite",
        "expllm weights verify ~/models/vicuna-7b-v1.5",
    )
    verify.add_argument("path", help="anything that `weights import` reads, or a folder that it or `export` wrote")
    diff = add_verb(
        weights,
        "diff",
        _diff,
        "how far two sets of weights are apart, parameter by parameter",
        "expllm weights diff weights/a weights/b",
    )
    diff.add_argument("first", help="anything that `weights verify` reads")
    diff.add_argument("second", help="another; the formats may differ")
