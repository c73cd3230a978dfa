"""`expllm weights import | verify | diff`: what they do, and what they say of it.

All read one tensor at a time. An Orbax folder alone is read whole, because its fingerprint covers all of it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from expllm_jax.checkpoints import export_inference
from expllm_jax.errors import ExpllmError
from expllm_jax.infer import ModelFiles, write_model_files
from expllm_jax.models import ExpLLMConfig, count
from expllm_jax.records import ConversationTemplate, EncodeConfig, RecordEncoder, open_tokenizer
from expllm_jax.train import Progress
from expllm_jax.weight_sources import digest, open_weights, orbax_meta
from expllm_jax.weights import ForeignWeights
from expllm_jax.weights.naming import sources_of

_BIG = 1 << 28  # bytes from which progress is told


@dataclasses.dataclass(frozen=True)
class Imported:
    """What `import_weights` wrote."""

    folder: Path
    format: str
    part: str
    parameters: int
    nbytes: int
    dtypes: tuple[str, ...]
    sha256: str  # of the source
    left_out: str  # what partial loading left out; "" if nothing
    seconds: float


@dataclasses.dataclass(frozen=True)
class Speech:
    """What a whole model needs besides its weights to be asked about pictures."""

    tokenizer: Path  # tokenizer.model or tokenizer.json
    template: str = "face_v1"  # a shipped conversation template, or the path of one
    layout: str = "branched"  # of the rows it was trained on; "reference" for the released ExpLLM
    legacy: bool = True  # of layout "reference": see EncodeConfig

    def files(self, config: ExpLLMConfig, size: int = 224) -> ModelFiles:
        """With the model's configuration, everything but its parameters.

        Raises:
          ExpllmError: tokenizer or template cannot be read, or the model does not know the tokenizer's pieces.
        """
        encoding = EncodeConfig(
            image_tokens=config.image_tokens(size, size),
            layout=self.layout,
            legacy=self.legacy,
            resize="reference" if self.layout == "reference" else "antialiased",  # as the released code does
        )
        tokenizer = open_tokenizer(self.tokenizer, encoding)
        if tokenizer.vocab_size > config.decoder.vocab:
            raise ExpllmError(
                f"{self.tokenizer} has {tokenizer.vocab_size} pieces, the decoder {config.decoder.vocab} embeddings",
                "give the tokenizer that came with the weights",
            )
        encoder = RecordEncoder(ConversationTemplate.load(self.template), tokenizer, encoding)
        return ModelFiles(dataclasses.replace(config, image_token=tokenizer.image), encoder)


def import_weights(
    source: str | Path,
    folder: str | Path,
    *,
    part: str = "auto",
    dtype: str = "auto",
    partial: bool = False,
    speech: Speech | None = None,
) -> Imported:
    """Converts weights into an Orbax folder that the keys `weights.vision` and `weights.decoder` accept.

    Args:
      source: whatever `open_weights` opens.
      folder: must not exist.
      part: vision, decoder or model; auto: what the source holds. A whole model gives any of its parts.
      dtype: that the parameters are stored in, float32 or bfloat16; auto: bfloat16 if the source is.
      partial: leave out what does not fit instead of raising.
      speech: of a whole model: makes the folder one that `Predictor.open` and `expllm predict` open as well.

    Raises:
      ExpllmError: the folder exists or cannot be written; the source is damaged or does not fit; nothing is written.
    """
    start, folder = time.perf_counter(), Path(folder)
    if folder.exists():
        raise ExpllmError(f"{folder} exists already", "choose another folder with --to; nothing is overwritten")
    weights = open_weights(source)
    weights = (weights if part == "auto" else weights.part_of(part)).with_dtype(dtype)
    files = None
    if speech is not None:
        if weights.part != "model" or partial:
            raise ExpllmError(
                f"{source} gives {'a part of ' if partial else ''}the {weights.part}, which cannot answer by itself",
                "give --tokenizer with a whole model only",
            )
        files = speech.files(weights.config)
        weights = dataclasses.replace(weights, config=files.config)
    shapes = weights.shapes()
    host = jax.local_devices(backend="cpu")[0]
    on_host = dict.fromkeys(shapes, jax.sharding.SingleDeviceSharding(host))
    loaded = weights.load(shardings=on_host, partial=partial, progress=_progress("reading"))
    if not loaded.params:
        raise ExpllmError(f"nothing of {source} fits: {loaded.misfits}", "check that it is the right file")
    sha256 = digest(weights, _progress("SHA-256"))
    left_out = str(loaded.misfits)
    meta = orbax_meta(weights, source=str(source), format=weights.format, sha256=sha256, left_out=left_out)
    with jax.default_device(host):
        export_inference(folder, loaded.params, meta)
    if files is not None:
        write_model_files(folder, files)
    return Imported(
        folder,
        weights.format,
        weights.part,
        count(loaded.params),
        sum(leaf.nbytes for leaf in loaded.params.values()),
        tuple(sorted({str(leaf.dtype) for leaf in loaded.params.values()})),
        sha256,
        left_out,
        time.perf_counter() - start,
    )


@dataclasses.dataclass(frozen=True)
class Group:
    """The tensors of one group of parameters, such as decoder/blocks/attn."""

    name: str
    tensors: int
    parameters: int
    nbytes: int
    dtypes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Verified:
    """What `verify_weights` found."""

    path: str
    format: str
    part: str
    groups: tuple[Group, ...]
    sha256: str
    problems: tuple[str, ...]  # empty if all is well


def verify_weights(path: str | Path) -> Verified:
    """Checks header, names, shapes and dtypes, and reads every number once to see that it is finite.

    Raises ExpllmError if the file cannot be opened at all.
    """
    weights = open_weights(path)
    misfits = weights.examine()
    problems = [f"{len(names)} {what}: {', '.join(names)}" for what, names in misfits.listed()]
    groups: dict[str, list[str]] = collections.defaultdict(list)
    tell, done = _progress("reading"), 0
    total = sum(info.nbytes for info in weights.files.tensors.values())
    for name, info in weights.files.tensors.items():
        if name in weights.table:
            groups[_group(weights, sources_of(weights.table[name])[0].path)].append(name)
        else:
            groups["not wanted" if name in weights.ignored else "unexpected"].append(name)
        if jnp.issubdtype(info.dtype, jnp.floating):
            nan, infinite = _not_finite(weights.files.read(name))
            if nan or infinite:
                problems.append(f"{name}: {nan:,} NaN and {infinite:,} infinite of {info.size:,}")
        done += info.nbytes
        tell(done, total)
    infos = weights.files.tensors
    listed = tuple(
        Group(
            name,
            len(names),
            sum(infos[each].size for each in names),
            sum(infos[each].nbytes for each in names),
            tuple(sorted({str(infos[each].dtype) for each in names})),
        )
        for name, names in sorted(groups.items())
    )
    return Verified(
        str(path), weights.format, weights.part, listed, digest(weights, _progress("SHA-256")), tuple(problems)
    )


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one parameter is from the other's."""

    path: str
    largest: float  # greatest |a - b|; infinite if a NaN or infinity is on one side only
    relative: float  # that, over the greatest |b|
    differing: int  # how many numbers differ
    size: int


@dataclasses.dataclass(frozen=True)
class Diff:
    """What `diff_weights` found; `differences` has only parameters that differ, the farthest first."""

    differences: tuple[Difference, ...]
    equal: int  # parameters that are the same number for number
    missing: tuple[str, ...]  # parameters of the first that the second lacks
    extra: tuple[str, ...]  # and the other way round
    shapes: tuple[str, ...]  # parameters of different shapes

    @property
    def identical(self) -> bool:
        """Whether there is no difference of any kind (dtypes may differ where every number is the same)."""
        return not (self.differences or self.missing or self.extra or self.shapes)


def diff_weights(first: str | Path, second: str | Path) -> Diff:
    """Compares two sets of weights parameter by parameter, whatever formats they are in.

    Parameters go by our paths, so a GGUF file can be compared with a Hugging Face folder, and a decoder with the one
    inside a whole model.

    Raises:
      ExpllmError: either cannot be opened, or is not sound by itself.
    """
    sides = [_sound(open_weights(path)) for path in (first, second)]
    shapes = [{_full(side, path): leaf.shape for path, leaf in side.shapes().items()} for side in sides]
    readers = [side.reader() for side in sides]
    common = sorted(shapes[0].keys() & shapes[1].keys())
    wrong = [path for path in common if shapes[0][path] != shapes[1][path]]
    tell = _progress("comparing")
    sizes = [math.prod(shapes[0][path]) * 4 for path in common]
    found, equal = [], 0
    for number, path in enumerate(common):
        if path not in wrong:
            layers = range(shapes[0][path][0]) if "blocks/" in path else [None]
            local = [path if side.part == "model" else path.split("/", 1)[1] for side in sides]
            parts = [
                _difference(*(reader.read(name, layer) for reader, name in zip(readers, local, strict=True)))
                for layer in layers
            ]
            largest, scale, differing = max(p[0] for p in parts), max(p[1] for p in parts), sum(p[2] for p in parts)
            if differing:
                size = math.prod(shapes[0][path])
                found.append(Difference(path, largest, largest / scale if scale else math.inf, differing, size))
            else:
                equal += 1
        tell(sum(sizes[: number + 1]), sum(sizes))
    return Diff(
        tuple(sorted(found, key=lambda each: (-each.largest, each.path))),
        equal,
        tuple(sorted(shapes[0].keys() - shapes[1].keys())),
        tuple(sorted(shapes[1].keys() - shapes[0].keys())),
        tuple(f"{path} {shapes[0][path]} and {shapes[1][path]}" for path in wrong),
    )


def _sound(weights: ForeignWeights) -> ForeignWeights:
    if misfits := weights.examine():
        raise ExpllmError(
            f"{weights.files.origin} does not hold the expected weights: {misfits}",
            f"see `expllm weights verify {weights.files.origin}`",
        )
    return weights


def _difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float, int]:
    """(greatest distance, greatest |b|, how many differ) of two arrays of one shape."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    differ = (a != b) & ~(np.isnan(a) & np.isnan(b))
    differing = int(differ.sum())
    scale = float(np.max(np.abs(b), initial=0, where=np.isfinite(b)))
    if not differing:
        return 0.0, scale, 0
    distance = np.abs(a[differ].astype(np.float64) - b[differ])
    return float(np.where(np.isnan(distance), np.inf, distance).max()), scale, differing


def _not_finite(array: np.ndarray) -> tuple[int, int]:
    """How many are NaN, and how many infinite."""
    array = array.astype(np.float32) if array.dtype.itemsize < 4 else array
    return int(np.isnan(array).sum()), int(np.isinf(array).sum())


def _full(weights: ForeignWeights, path: str) -> str:
    """A path as in a whole model."""
    return path if weights.part == "model" else f"{weights.part}/{path}"


def _group(weights: ForeignWeights, path: str) -> str:
    """decoder/blocks/attn, vision/norm, projector/layers, ..."""
    names = _full(weights, path).split("/")
    return "/".join(names[: 3 if names[1] == "blocks" else 2])


def _progress(label: str) -> Callable[[int, int], None]:
    """Tells on stderr how far a long job is, in megabytes; says nothing of a short one."""
    lines: list[Progress] = []

    def tell(done: int, total: int) -> None:
        if total < _BIG:
            return
        whole = total // 1_000_000
        if not lines:
            lines.append(Progress(whole, label, "MB"))
        lines[0].update(whole if done >= total else min(done // 1_000_000, whole - 1))
        if done >= total:
            lines[0].close()

    return tell
