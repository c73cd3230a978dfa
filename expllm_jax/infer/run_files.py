"""What a run folder (or an exported model) holds for whoever wants answers from it.

::

    RUN/model.json        model and picture configuration, labels, vocabulary, how prompts are encoded
    RUN/template.json     wording of the conversation
    RUN/tokenizer.model   (or tokenizer.json)
    RUN/frozen/           parameters that did not train          } a training run
    RUN/checkpoints/N/    state after N updates                  }
    RUN/state, _CHECKPOINT_METADATA, ...                           an export: RUN itself is one Orbax checkpoint
    RUN/metrics.jsonl, RUN/tensorboard/                            what was measured while training
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from expllm_jax.checkpoints import CHECKPOINTS, FROZEN, Checkpointer, export_inference, load_frozen, load_inference
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import BASIC_7, FACS, vocabulary
from expllm_jax.files import write_whole
from expllm_jax.models import ExpLLMConfig, Params, abstract, merged
from expllm_jax.records import STATISTICS, ConversationTemplate, EncodeConfig, RecordEncoder, open_tokenizer

MODEL, TEMPLATE = "model.json", "template.json"

FORMAT = 1
"""Version of model.json; a reader refuses another."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class PictureConfig:
    """What the tower takes, the same in training and in use. What part of a picture that is, and how it is resized, is
    the encoding's to say (`EncodeConfig`), which lies beside this in ModelFiles: see `records.prepared_pixels`."""

    size: int = 224  # pixels a side
    normalisation: str = "clip"  # a row of records.STATISTICS

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise ExpllmError(f"picture size is {self.size}", "use 1 to 4096 pixels")
        if self.normalisation not in STATISTICS:
            raise ExpllmError(f"normalisation is {self.normalisation!r}", f"use one of: {', '.join(STATISTICS)}")


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """Everything but the parameters that a model needs to answer."""

    config: ExpLLMConfig
    encoder: RecordEncoder
    pictures: PictureConfig = PictureConfig()
    labels: tuple[str, ...] = BASIC_7  # what the label question may be answered with
    vocabulary: str = FACS.name  # of the action units in its texts

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        vocabulary(self.vocabulary)
        fits = self.config.image_tokens(self.pictures.size, self.pictures.size)
        if fits != self.encoder.config.image_tokens:
            raise ExpllmError(
                f"a picture of {self.pictures.size} pixels gives {fits} image tokens, "
                f"the rows have room for {self.encoder.config.image_tokens}",
                f"encode the records with image_tokens={fits}",
            )
        if self.config.image_token != self.encoder.tokenizer.image:
            raise ExpllmError(
                f"the model's image token is {self.config.image_token}, "
                f"the tokenizer's is {self.encoder.tokenizer.image}",
                "build the model with the tokenizer's image token",
            )


def write_model_files(run_dir: str | Path, files: ModelFiles) -> None:
    """Writes model.json, template.json and the tokenizer into `run_dir`, replacing what is there.

    Raises ExpllmError if the folder cannot be written.
    """
    run_dir, encoder = Path(run_dir), files.encoder
    described = {
        "format": FORMAT,
        "model": dataclasses.asdict(files.config),
        "pictures": dataclasses.asdict(files.pictures),
        "encoding": dataclasses.asdict(encoder.config),
        "labels": files.labels,
        "vocabulary": files.vocabulary,
        "tokenizer_file": encoder.tokenizer.file_name,
        "tokenizer": encoder.tokenizer.fingerprint,
        "template": encoder.template.fingerprint,
    }
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        encoder.tokenizer.save(run_dir)
        _write_json(run_dir / TEMPLATE, encoder.template.to_json())
        _write_json(run_dir / MODEL, described)  # last: where it is, the others are
    except OSError as error:
        raise ExpllmError(
            f"the model's description cannot be written to {run_dir} ({error.strerror})",
            "choose a folder that can be written",
        ) from error


def read_model_files(run_dir: str | Path) -> ModelFiles:
    """Reads what `write_model_files` wrote.

    Raises ExpllmError if the folder is no run, or a file is missing, damaged, or not what the model was trained with.
    """
    run_dir = Path(run_dir)
    path = run_dir / MODEL
    if not path.is_file():
        what = f"holds no {MODEL}" if run_dir.is_dir() else "does not exist"
        raise ExpllmError(f"the run {run_dir} {what}", "give the folder of a training run or of an export")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise ExpllmError(f"{path} is of format {described['format']}, not {FORMAT}", "export the model again")
        config = dataclass_from_json(ExpLLMConfig, described["model"])
        pictures = dataclass_from_json(PictureConfig, described["pictures"])
        encoding = dataclass_from_json(EncodeConfig, described["encoding"])
        labels, name = tuple(described["labels"]), described["vocabulary"]
        tokenizer_file = described["tokenizer_file"]
        expected = {"template": described["template"], "tokenizer": described["tokenizer"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExpllmError(f"{path} is damaged ({error!r})", "copy it again from where the model was trained") from error
    template = ConversationTemplate.load(run_dir / TEMPLATE)
    tokenizer = open_tokenizer(run_dir / tokenizer_file, encoding)
    for kind, found in (("template", template.fingerprint), ("tokenizer", tokenizer.fingerprint)):
        if found != expected[kind]:
            raise ExpllmError(f"the {kind} in {run_dir} is not the one its model was trained with", "copy it again")
    return ModelFiles(config, RecordEncoder(template, tokenizer, encoding), pictures, labels, name)


def read_run_params(run_dir: str | Path, config: ExpLLMConfig, step: int | None = None) -> tuple[Params, int | None]:
    """(parameters, the step they are from) of a training run, or of an export (then the step is None).

    Args:
      run_dir: the folder.
      config: the model they must fit.
      step: which checkpoint; None: the latest.

    Raises:
      ExpllmError: there are none, they are damaged, or they do not fit.
    """
    run_dir = Path(run_dir)
    if not (run_dir / CHECKPOINTS).is_dir() and (run_dir / "_CHECKPOINT_METADATA").is_file():
        params, step = load_inference(run_dir)[0], None
    else:
        with Checkpointer(run_dir, create=False) as checkpointer:
            step = checkpointer.latest_step if step is None else step
            params = checkpointer.load_params(step)
        if (run_dir / FROZEN).is_dir():
            params = {**load_frozen(run_dir), **params}
    shapes = abstract(config)[1]
    wrong = [path for path in sorted(shapes.keys() | params.keys())
             if path not in shapes or path not in params or shapes[path].shape != params[path].shape]  # fmt: skip
    if wrong:
        raise ExpllmError(
            f"the parameters in {run_dir} do not fit its {MODEL}: {', '.join(wrong)}", "the folder mixes two runs"
        )
    return params, step


def export_run(run_dir: str | Path, folder: str | Path, *, step: int | None = None, overwrite: bool = False) -> None:
    """Writes a run's model into `folder`: adapters folded in, one Orbax checkpoint, ready for `Predictor.open`.

    ``orbax.checkpoint.v1.load(folder)`` opens it without this package.

    Raises ExpllmError as `read_model_files`, `read_run_params` and `checkpoints.export_inference` do.
    """
    files, folder = read_model_files(run_dir), Path(os.path.abspath(folder))
    params, step = read_run_params(run_dir, files.config, step)
    config, params = merged(files.config, params)
    meta = {"model": dataclasses.asdict(config), "step": step}
    export_inference(folder, params, json.loads(json.dumps(meta)), overwrite=overwrite)
    try:
        write_model_files(folder, dataclasses.replace(files, config=config))
    except ExpllmError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False))


def dataclass_from_json(kind: type[T], value: Any) -> T:
    """Builds the dataclass `kind` from JSON: nested dataclasses from objects, tuples from lists."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{name: dataclass_from_json(hints[name], field) for name, field in value.items()})
    return tuple(value) if typing.get_origin(kind) is tuple else value
