"""An experiment: the rooms' configurations composed, named, overridden, checked and printed.

Each room owns its own frozen dataclass and checks its own ranges; this module only puts them together. Named
experiments are
Python files in `configs/` with a function `experiment() -> Experiment`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import json
import math
import os
import sysconfig
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from expllm_jax.engine import NarratorConfig
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import BASIC_7
from expllm_jax.models import ExpLLMConfig, abstract, select, smollm2_135m, vit_s14
from expllm_jax.parallel import preset
from expllm_jax.records import EncodeConfig, MixtureEntry
from expllm_jax.sources.rendered import UNEXPRESSIVE, RenderedConfig
from expllm_jax.train import TrainConfig
from expllm_jax.unit_experiment import UnitExperiment
from expllm_jax.weight_sources import described_config, is_path

_BESIDE_THE_PACKAGE = Path(__file__).resolve().parent.parent / "configs"
CONFIG_FOLDER = (
    _BESIDE_THE_PACKAGE
    if (_BESIDE_THE_PACKAGE / "laptop.py").is_file()
    else Path(sysconfig.get_path("data"), "share", "expllm_jax", "configs")  # where a wheel puts them
)
TOKENIZERS = ("sentencepiece", "smollm2")
TOWER_WEIGHTS = ("random", "dinov2-s")
DECODER_WEIGHTS = ("random", "smollm2")
# Pre-trained weights → the shape they have, and the fields that must agree with it.
_TOWERS = {"dinov2-s": vit_s14()}
_TOWER_SHAPE = ("width", "depth", "heads", "mlp_ratio", "patch", "native_grid", "family", "feed_forward", "registers",
                "layer_scale")  # fmt: skip
_DECODERS = {"smollm2": smollm2_135m()}
_DECODER_SHAPE = ("vocab", "width", "depth", "heads", "kv_heads", "head_dim", "mlp_width", "rope_theta", "norm_eps",
                  "tied", "qkv_bias")  # fmt: skip
_ADAPTER = ("/lora_a", "/lora_b")
PICTURE_SIZE = 224  # pixels a side; what the tower sees


@dataclass(frozen=True)
class TokenizerConfig:
    """Where the tokenizer comes from."""

    # "sentencepiece" is trained on the experiment's own texts; "smollm2" comes with that decoder; or the path of a
    # tokenizer.model or tokenizer.json, such as the one beside the decoder's weights.
    kind: str = "sentencepiece"
    pieces: int = 1024  # vocabulary of the trained one, 512 to 65536; byte fallback alone takes 256
    split_digits: bool = True  # of the trained one: every digit a piece of its own; without, "(AU12)," can be one piece
    cross_words: bool = False  # whether a piece of the trained one may span words: shorter rows, coarser pieces

    def __post_init__(self) -> None:
        _name_or_path("tokenizer.kind", self.kind, TOKENIZERS)
        _within("tokenizer.pieces", self.pieces, 512, 65536)


@dataclass(frozen=True)
class WeightsConfig:
    """Where training starts."""

    # "random"; an asset's name; or the path of weights that `expllm weights import` reads (a Hugging Face folder, GGUF,
    # ...), or of a folder that it wrote.
    vision: str = "dinov2-s"
    decoder: str = "random"  # "random", the asset "smollm2", or such a path
    # The path of a whole model, projector and adapters included: the released ExpLLM, an export, an import. The other
    # two keep their defaults then. Adapters that it lacks begin anew.
    model: str = ""
    # Folders of adapters that PEFT trained (adapter_config.json), to go on from; model.vision_lora and
    # model.decoder_lora must be theirs.
    vision_adapter: str = ""
    decoder_adapter: str = ""

    def __post_init__(self) -> None:
        if self.model and not is_path(self.model):
            raise ExpllmError(f"weights.model is '{self.model}'", "give the path of a file or folder, or nothing")
        if self.model and (self.vision, self.decoder) != ("dinov2-s", "random"):
            raise ExpllmError(
                f"weights.model is '{self.model}', which brings tower and decoder, and one of them is given as well",
                "leave weights.vision and weights.decoder as they are, or weights.model empty",
            )
        _name_or_path("weights.vision", self.vision, TOWER_WEIGHTS)
        _name_or_path("weights.decoder", self.decoder, DECODER_WEIGHTS)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is asked of the trained model."""

    splits: tuple[str, ...] = (
        "clean",
        "mild",
        "hard",
    )  # in the order of the report; each must be a test regime of `data`
    batch: int = 84  # pictures answered at once
    max_label_tokens: int = 8  # an answer that has not ended by then is unparsable
    max_cot_tokens: int = 200
    gallery: int = 24  # faces shown in the report

    def __post_init__(self) -> None:
        _within("evaluation.batch", self.batch, 1, 4096)
        _within("evaluation.max_label_tokens", self.max_label_tokens, 2, 64)
        _within("evaluation.max_cot_tokens", self.max_cot_tokens, 16, 2048)
        _within("evaluation.gallery", self.gallery, 0, 200)
        if not self.splits:
            raise ExpllmError("evaluation.splits is empty", "name at least one test regime of the data")
        _no_repeats("evaluation.splits", self.splits)


@dataclass(frozen=True)
class Experiment:
    """Everything that decides the outcome of a run.

    `train.seed` sets parameters, order, dropout and the wording of texts, `data.seed` the faces.
    """

    name: str
    about: str  # one sentence for lists and reports
    model: ExpLLMConfig
    train: TrainConfig
    # Records folders to train on instead of the rendered faces of `data`, each FOLDER[:SPLIT][*REPEAT] or
    # FOLDER[:SPLIT]@WEIGHT; template, tokenizer and `records` are then theirs.
    mixture: tuple[str, ...] = ()
    # Records folders whose loss is measured every train.validate_every updates, each FOLDER[:SPLIT].
    validation: tuple[str, ...] = ()
    on_error: str = "raise"  # what a damaged record does to training: "raise" ends it, "skip" goes on without it
    cache_features: bool = False  # compute the frozen tower once per picture instead of in every step
    data: RenderedConfig = field(default_factory=RenderedConfig)
    narrator: NarratorConfig = field(default_factory=NarratorConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    template: str = "face_v1"  # a shipped conversation template, or the path of one
    records: EncodeConfig = field(default_factory=EncodeConfig)
    normalisation: str = "clip"  # "clip" as the released code, or "imagenet", DINOv2's own
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        _one_of("normalisation", self.normalisation, ("clip", "imagenet"))
        _one_of("on_error", self.on_error, ("raise", "skip"))
        for entry in self.mixture:
            MixtureEntry.parse(entry)
        for text in self.validation:
            entry = MixtureEntry.parse(text)
            if entry != MixtureEntry(entry.folder, entry.split):
                raise ExpllmError(
                    f"validation has {text!r}, but every record of it counts once", "give FOLDER or FOLDER:SPLIT alone"
                )
        if self.cache_features and self.train.augment != "off":
            raise ExpllmError(
                f"cache_features is on, but train.augment is '{self.train.augment}', so features change every epoch",
                "set train.augment=off, or cache_features=false",
            )
        tower_trains = self.model.vision_lora.rank > 0
        if self.cache_features and tower_trains:
            raise ExpllmError(
                "cache_features is on, but the tower has adapters that train, so its features change every step",
                "set model.vision_lora.rank=0, or cache_features=false",
            )
        if bool(self.train.validate_every) != bool(self.validation):
            raise ExpllmError(
                f"train.validate_every is {self.train.validate_every}, and validation "
                + (f"is {', '.join(self.validation)}" if self.validation else "names no records"),
                "set both: how often, and records folders such as validation=records/rafdb:validation; or neither",
            )
        wanted = self.model.image_tokens(PICTURE_SIZE, PICTURE_SIZE)
        if self.records.image_tokens != wanted:
            raise ExpllmError(
                f"records.image_tokens is {self.records.image_tokens}, but the tower and projector give {wanted}",
                f"set records.image_tokens={wanted}",
            )
        if self.records.layout == "reference" and self.tokenizer.kind == "smollm2":
            raise ExpllmError(
                'records.layout is "reference", which a byte BPE tokenizer such as smollm2 cannot be used with',
                "set records.layout=chained, or tokenizer.kind=sentencepiece",
            )
        self._check_data()
        vision, decoder = self.weights.model or self.weights.vision, self.weights.model or self.weights.decoder
        _same_shape("model.vision", self.model.vision, vision, _TOWERS, _TOWER_SHAPE)
        _same_shape("model.decoder", self.model.decoder, decoder, _DECODERS, _DECODER_SHAPE)

    def _check_data(self) -> None:
        data = self.data
        if data.seed < 0:
            raise ExpllmError(f"data.seed is {data.seed}", "use 0 or more")
        if data.test_identities < 1:
            raise ExpllmError("data.test_identities is 0, so nobody is left to be asked about", "use 1 or more")
        if not data.expressions or not set(data.expressions) <= set(BASIC_7):
            raise ExpllmError(
                f"data.expressions is {', '.join(data.expressions) or 'empty'}", f"use some of: {', '.join(BASIC_7)}"
            )
        for name in ("expressions", "test_regimes"):
            _no_repeats(f"data.{name}", getattr(data, name))
        for name in ("train_regimes", "test_regimes"):
            for regime in set(getattr(data, name)) & set(UNEXPRESSIVE):
                raise ExpllmError(
                    f"data.{name} names '{regime}', whose faces have no expression to ask about",
                    f"use clean, mild and hard; {regime} faces are for regressors",
                )
        unknown = [split for split in self.evaluation.splits if split not in data.test_regimes]
        if unknown:
            raise ExpllmError(
                f"evaluation.splits names '{unknown[0]}', which data.test_regimes does not render",
                f"use some of: {', '.join(data.test_regimes)}",
            )


AnyExperiment = Experiment | UnitExperiment
"""An ExpLLM, or a regressor of action units."""

Kind = TypeVar("Kind", Experiment, UnitExperiment)


def load_experiment(name_or_path: str, overrides: Sequence[str] = (), *, accelerator: str = "") -> Experiment:
    """The experiment of a file in `configs/` (by name or path), with the preset of an accelerator, if one is named, and
    `key=value` overrides applied, which win.

    Raises ExpllmError for an unknown name (listing the nearest), a file that does not define `experiment()`, one of a
    regressor of units, and bad overrides.
    """
    made = load_any_experiment(name_or_path, overrides, accelerator=accelerator)
    if isinstance(made, UnitExperiment):
        raise ExpllmError(
            f"the experiment '{name_or_path}' trains a regressor of action units, not an ExpLLM",
            "use it with `expllm train`, `expllm eval` and `expllm engine units`",
        )
    return made


def load_any_experiment(name_or_path: str, overrides: Sequence[str] = (), *, accelerator: str = "") -> AnyExperiment:
    """The same for experiments of either kind. Presets are for ExpLLMs: raises ExpllmError for one of a regressor."""
    path = Path(name_or_path)
    if path.suffix != ".py":
        path = CONFIG_FOLDER / f"{name_or_path}.py"
    if not _is_file(path):
        known = experiment_names()
        nearest = difflib.get_close_matches(path.stem, known, 1)
        hint = f"did you mean '{nearest[0]}'? " if nearest else ""
        raise ExpllmError(
            f"there is no experiment '{name_or_path}'", f"{hint}shipped: {', '.join(known)}; or give a .py file"
        )
    spec = importlib.util.spec_from_file_location(f"_experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ExpllmError(f"{path} is no Python file", "give a .py file that defines experiment()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = module.experiment()
    except ExpllmError:
        raise
    except (Exception, SystemExit) as error:
        raise ExpllmError(
            f"{path} cannot be used: {type(error).__name__}: {error}",
            "it must define experiment() -> Experiment; see configs/",
        ) from error
    if isinstance(made, UnitExperiment):
        if accelerator:
            raise ExpllmError(f"{path} trains a regressor of units, which has no presets", "leave --accelerator out")
        return override(made, overrides)
    if not isinstance(made, Experiment):
        raise ExpllmError(
            f"{path}: experiment() returned {type(made).__name__}", "return an expllm_jax.config.Experiment"
        )
    if accelerator:  # what trains decides about dtypes, so that the preset sees the overrides, too
        made = with_preset(override(made, overrides), accelerator)
    return override(made, overrides)


def with_preset(experiment: Experiment, name: str) -> Experiment:
    """The experiment with the settings of `parallel.PRESETS[name]`: mesh, rematerialisation, attention, rows that a
    device computes at a time, options of the compiler, and dtypes.

    A tower or decoder whose own weights are frozen is stored in the dtype it computes in. One that trains is stored in
    float32, as adapters and the projector always are, because an update is often smaller than bfloat16 can tell.

    Raises ExpllmError for an unknown name.
    """
    settings, model, train = preset(name), experiment.model, experiment.train
    trained = [path for path in select(abstract(model)[1], train.trainable)[0] if not path.endswith(_ADAPTER)]

    def dtypes(part: str) -> dict[str, str]:
        trains = any(path.startswith(f"{part}/") for path in trained)
        return {"dtype": settings.dtype, "param_dtype": "float32" if trains else settings.dtype}

    vision = dataclasses.replace(model.vision, remat=settings.vision_remat, **dtypes("vision"))
    decoder = dataclasses.replace(
        model.decoder, remat=settings.decoder_remat, attention=settings.attention, **dtypes("decoder")
    )
    projector = dataclasses.replace(model.projector, dtype=settings.dtype)
    return dataclasses.replace(
        experiment,
        model=dataclasses.replace(model, vision=vision, decoder=decoder, projector=projector),
        train=dataclasses.replace(
            train,
            mesh=settings.mesh,
            rows_per_device=settings.rows_per_device,
            accumulate=1 if settings.rows_per_device else train.accumulate,
            compiler_options=settings.compiler_options,
        ),
    )


def experiment_names() -> list[str]:
    """The shipped experiments."""
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*.py") if not path.stem.startswith("_"))


def override(experiment: Kind, assignments: Iterable[str]) -> Kind:
    """Applies `a.b=value` strings, all at once, so that keys which depend on each other can be changed together; of
    a key that is given twice the last value counts. Every value is read as the type its field has.

    Raises ExpllmError naming the key and the nearest valid one, or the value and what the field takes.
    """
    changes: dict[str, tuple[Any, str]] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key, text = key.strip(), text.strip()
        if not equals:
            raise ExpllmError(f"'{assignment}' is no override", "write it as key=value, for example train.batch=16")
        changes[key] = _parse(text, _leaf_type(experiment, key), key), text
    return _replaced(experiment, "", changes)


def _leaf_type(root: AnyExperiment, key: str) -> Any:
    """The type of the field that `key` names."""
    node: Any = root
    kind: Any = type(root)
    for name in key.split("."):
        if not is_dataclass(node) or name not in {f.name for f in fields(node)}:
            nearest = difflib.get_close_matches(key, sorted(flatten(root)), 1, cutoff=0.4)
            hint = f"did you mean '{nearest[0]}'?" if nearest else "see `expllm config show` for all keys"
            raise ExpllmError(f"there is no key '{key}'", hint)
        kind, node = typing.get_type_hints(type(node))[name], getattr(node, name)
    if is_dataclass(node):
        inside = ", ".join(f"{key}.{f.name}" for f in fields(node))
        raise ExpllmError(f"'{key}' is a group of keys and takes no value", f"set one of: {inside}")
    return kind


def _replaced(node: Any, prefix: str, changes: Mapping[str, tuple[Any, str]]) -> Any:
    """`node`, whose keys begin with `prefix`, with the changes (key → value, what was typed) that lie in it."""
    own: dict[str, Any] = {}
    for f in fields(node):
        key, value = prefix + f.name, getattr(node, f.name)
        if key in changes:
            own[f.name] = changes[key][0]
        elif is_dataclass(value) and any(changed.startswith(f"{key}.") for changed in changes):
            own[f.name] = _replaced(value, f"{key}.", changes)
    try:
        return dataclasses.replace(node, **own) if own else node
    except (ExpllmError, ValueError, TypeError, OverflowError) as error:
        # A group calls its fields by their last name; what the user typed says which one it is.
        problem = error.problem if isinstance(error, ExpllmError) else str(error)
        typed = [f"{key}={text}" for key, (_, text) in changes.items() if key.removeprefix(prefix) in own]
        if typed and not any(prefix + name in problem for name in own):
            problem = f"{', '.join(typed)}: {problem}"
        raise ExpllmError(problem, error.remedy if isinstance(error, ExpllmError) else "") from error


def _parse(text: str, kind: Any, key: str) -> Any:
    """`text` as a value of type `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if text.lower() == "none":
            return None
        return _parse(text, next(a for a in arguments if a is not type(None)), key)
    if origin is tuple:
        return tuple(_parse(part, arguments[0], key) for part in _items(text))
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if kind is int:
            return int(text.replace("_", ""))
        if kind is float:
            return _finite(text)
    except (KeyError, ValueError) as error:
        wanted = {bool: "true or false", int: "a whole number", float: "a finite number"}[kind]
        raise ExpllmError(f"{key}={text}: '{text}' is not {wanted}", f"give {key} {wanted}") from error
    return text


def _items(text: str) -> list[str]:
    """The parts of `a, b`, `(a, b)` or `["a", "b"]`. Brackets inside a part, as regular expressions have them, stay,
    and so do commas inside those.
    """
    try:
        listed = json.loads(text)
    except ValueError:
        listed = None
    if isinstance(listed, list):
        return [str(item) for item in listed]
    parts, depth, closed_at = [""], 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        closed_at = closed_at or (at if letter in ")]}" and depth == 0 else 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if text[:1] in ("(", "[") and closed_at == len(text) - 1:
        return _items(text[1:-1].strip())
    return [part.strip().strip("'\"") for part in parts if part.strip()]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # NaN would not even equal itself when a run is taken up again
        raise ValueError(text)
    return value


def to_json(value: Any) -> Any:
    """A configuration as plain JSON values; tuples become lists."""
    if is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    return value


def experiment_from_json(value: Mapping[str, Any], kind: type[Kind] = Experiment) -> Kind:
    """The experiment that `to_json` wrote. Raises KeyError, TypeError or ExpllmError if it is none of this kind."""
    return _from_json(kind, value)


def _from_json(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise TypeError(f"{kind.__name__} is {value!r}")
        hints = typing.get_type_hints(kind)
        if unknown := sorted(value.keys() - hints.keys()):
            raise ExpllmError(
                f"{kind.__name__} has no key {', '.join(unknown)} in this version of expllm_jax",
                "use the version that wrote it",
            )
        return kind(**{name: _from_json(hints[name], inner) for name, inner in value.items()})
    if typing.get_origin(kind) is tuple:
        return tuple(value)
    return value


def flatten_json(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → value of every leaf of nested JSON objects."""
    if not isinstance(value, Mapping):
        return {prefix.removesuffix("."): value}
    return {key: leaf for name, inner in value.items() for key, leaf in flatten_json(inner, f"{prefix}{name}.").items()}


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → value of every leaf of a configuration."""
    leaves: dict[str, Any] = {}
    for f in fields(value):
        inner = getattr(value, f.name)
        if is_dataclass(inner):
            leaves |= flatten(inner, f"{prefix}{f.name}.")
        else:
            leaves[prefix + f.name] = inner
    return leaves


def render(experiment: AnyExperiment) -> str:
    """One `key = value` line per leaf, for people and for golden copies."""
    return "".join(
        f"{key} = {json.dumps(to_json(value), ensure_ascii=False)}\n" for key, value in flatten(experiment).items()
    )


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ExpllmError(f"{key} is '{value}'", f"use one of: {', '.join(allowed)}")


def _name_or_path(key: str, value: str, names: tuple[str, ...]) -> None:
    if value not in names and not is_path(value):
        raise ExpllmError(f"{key} is '{value}'", f"use one of: {', '.join(names)}; or the path of a file or folder")


def _within(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ExpllmError(f"{key} is {value}", f"use a value from {low} to {high}")


def _no_repeats(key: str, values: tuple[str, ...]) -> None:
    repeated = [value for value in values if values.count(value) > 1]
    if repeated:
        raise ExpllmError(f"{key} names '{repeated[0]}' twice", "name each once")


def _same_shape(key: str, config: Any, weights: str, known: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raises ExpllmError if `config` is not of the shape that the pre-trained `weights` have.

    Weights at a path say it themselves. A path that is not there (yet, or on this computer) is not an error of the
    experiment; the stages tell before they begin.
    """
    if weights in known:
        shape = known[weights]
    elif is_path(weights) and Path(weights).exists():
        shape = described_config(os.path.abspath(weights), key.removeprefix("model."))
    else:
        return
    for name in names:
        found, wanted = getattr(config, name), getattr(shape, name)
        if found != wanted:
            raise ExpllmError(
                f"{key}.{name} is {found}, but the weights '{weights}' have {wanted}", f"set {key}.{name}={wanted}"
            )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be entered
        return False
