"""Data sets that TensorFlow Datasets has prepared: celeb_a, wider_face, aflw2k3d, lfw.

The root is the data directory that ``tfds build NAME --file_format=array_record`` filled, or the folder of one version
in it. Nothing is downloaded, and neither TensorFlow nor the builder's code is loaded: the folder describes itself.
Records in another format than ArrayRecord cannot be read so; ``tfds convert_format`` converts them.

These records hold their pictures, and an annotation names a picture by its path. So reading writes the pictures out, as
they are encoded, to ``pictures/NAME/SPLIT/NUMBER.jpg`` below the root; those that are there already stay. `read_tfds`
writes them to any other folder.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.faces.attributes import CELEBA_40
from expllm_jax.sources.columns import LeftOut
from expllm_jax.sources.dataset import Dataset, Layout, Reading
from expllm_jax.sources.listing import first_of

PICTURES = "pictures"
"""The folder below the root that pictures are written to."""

Example = Mapping[str, Any]
"""One record: features by name, the picture as it is encoded."""

_OUR_SPLIT = {"validation": "val"}
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png"}
_POINTS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")


@dataclass(frozen=True)
class TfdsRecords:
    """One data set of TensorFlow Datasets, prepared as ArrayRecord."""

    name: str  # of the builder
    features: tuple[str, ...]  # what its records must have
    fields: Callable[[Example, tuple[int, int]], Mapping[str, Any]]  # (record, width and height) -> of an Annotation

    @property
    def splits(self) -> tuple[str, ...]:
        """None: the folder names them, "validation" as "val"."""
        return ()

    @property
    def looks_for(self) -> str:
        """The folder, in words."""
        return f"{self.name}/VERSION/dataset_info.json, or that file itself"

    def detect(self, root: Path) -> bool:
        """Whether the root is such a data directory, or the folder of a version in one."""
        return bool(_versions(root, self.name))

    def read(self, reading: Reading) -> Iterator[Annotation]:
        """Writes the pictures out below the root and yields their annotations; see :func:`read_tfds`."""
        for annotation in read_tfds(self, reading, reading.root / PICTURES):
            yield replace(annotation, picture=f"{PICTURES}/{annotation.picture}")


def read_tfds(records: TfdsRecords, reading: Reading, pictures: Path) -> Iterator[Annotation]:
    """The annotations of a prepared data set; their pictures are written to a folder and named relative to it.

    Args:
        records: which data set; one of those in TFDS_DATASETS has it as its engine.
        reading: where the data directory is, and what is asked for.
        pictures: the folder that the pictures go to.

    Raises:
        ExpllmError: there is no prepared data set or more than one version, its records are no ArrayRecord or have
            other features, the split is not there, or pictures cannot be written. Of single records `problems` is told.
    """
    folder, source_of = _opened(records, reading.root)
    splits = [split for split in sorted(source_of) if reading.wants(_OUR_SPLIT.get(split, split))]
    if not splits:
        raise ExpllmError(f"{folder} has no split {reading.split!r}.", f"It has {', '.join(sorted(source_of))}.")
    for split in splits:
        ours = _OUR_SPLIT.get(split, split)
        source = source_of[split]()
        for number in range(len(source)):
            place = f"{folder}, {split} record {number}"
            try:
                example = source[number]
                encoded, suffix, size = _picture(example["image"])
                fields = records.fields(example, size)
                picture = f"{records.name}/{ours}/{number:07}{suffix}"
                annotation = Annotation(
                    picture,
                    split=ours,
                    provenance={**reading.provenance, "label_file": folder.name, "record": f"{split} {number}"},
                    **fields,
                )
            except LeftOut as why:
                reading.left_out[str(why)] += 1
                continue
            except ExpllmError as error:
                reading.problems(ExpllmError(f"{place}: {error.problem}", error.remedy))
                continue
            _write(pictures / picture, encoded)
            yield annotation


def _versions(root: Path, name: str) -> list[Path]:
    if (root / "dataset_info.json").is_file():
        return [root] if name in (root.parent.name, root.parent.parent.name) else []
    return sorted(path.parent for path in (root / name).glob("*/dataset_info.json"))


def _opened(records: TfdsRecords, root: Path) -> tuple[Path, dict[str, Callable[[], Any]]]:
    """The folder of the version, and for every split what opens its records."""
    folders = _versions(root, records.name)
    if not folders:
        raise ExpllmError(
            f"{root} holds no prepared {records.name}.",
            f"Prepare it: tfds build {records.name} --file_format=array_record --data_dir={root}",
        )
    if len(folders) > 1:
        names = first_of([folder.name for folder in folders])
        raise ExpllmError(f"{root / records.name} holds several versions: {names}.", "Give the folder of one of them.")
    import tensorflow_datasets as tfds

    folder = folders[0]
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # a damaged description makes it raise anything
        raise ExpllmError(f"{folder} cannot be opened ({error}).", "Prepare the data set again.") from error
    missing = [name for name in records.features if name not in builder.info.features]
    if missing:
        raise ExpllmError(f"{folder} has no feature {missing[0]!r}.", f"Is it {records.name}, in a version known here?")
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise ExpllmError(
            f"{folder} holds {builder.info.file_format.value} files, which only TensorFlow reads.",
            "Convert them: tfds convert_format --out_file_format=array_record, or build with that --file_format.",
        )
    still_encoded = {"image": tfds.decode.SkipDecoding()}
    return folder, {
        split: partial(builder.as_data_source, split, decoders=still_encoded) for split in builder.info.splits
    }


def _picture(encoded: bytes) -> tuple[bytes, str, tuple[int, int]]:
    """The encoded picture, the suffix for its format, and width and height; nothing is decoded."""
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            kind, size = picture.format or "", picture.size
    except (UnidentifiedImageError, OSError) as error:
        raise ExpllmError("its picture cannot be read.", "Prepare the data set again.") from error
    if kind not in _SUFFIXES:
        raise ExpllmError(f"its picture is {kind}.", f"Pictures are {' or '.join(_SUFFIXES)}.")
    return encoded, _SUFFIXES[kind], size


def _write(path: Path, encoded: bytes) -> None:
    try:
        if path.is_file() and path.stat().st_size == len(encoded):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # Under its name only when complete: a reading that was stopped leaves no half picture behind.
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_bytes(encoded)
        os.replace(unfinished, path)
    except OSError as error:
        raise ExpllmError(f"Cannot write {path}: {error.strerror}.", "Choose a folder you may write to.") from error


def _celeb_a(example: Example, size: tuple[int, int]) -> Mapping[str, Any]:
    points, flags = example["landmarks"], example["attributes"]
    return {
        "identity": str(int(example["identity"]["Identity_No"])),
        "landmarks": tuple((float(points[f"{name}_x"]), float(points[f"{name}_y"])) for name in _POINTS),
        "attributes": {name: float(flags[name]) for name in CELEBA_40},
    }


def _wider_face(example: Example, size: tuple[int, int]) -> Mapping[str, Any]:
    boxes = example["faces"]["bbox"]
    if len(boxes) != 1:
        raise LeftOut("pictures with no face" if not len(boxes) else "pictures with several faces")
    if bool(example["faces"]["invalid"][0]):
        raise LeftOut("faces marked as invalid")
    top, left, bottom, right = (float(edge) for edge in boxes[0])  # fractions of the picture
    width, height = size
    return {"face_box": (left * width, top * height, (right - left) * width, (bottom - top) * height)}


def _aflw2k3d(example: Example, size: tuple[int, int]) -> Mapping[str, Any]:
    width, height = size
    points = [(float(x) * width, float(y) * height) for x, y in example["landmarks_68_3d_xy_normalized"]]
    xs, ys = zip(*points, strict=True)
    return {
        "landmarks": tuple(points),
        "face_box": (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)),
    }


def _lfw(example: Example, size: tuple[int, int]) -> Mapping[str, Any]:
    return {"identity": example["label"].decode()}


def _set(
    name: str, title: str, licence: str, features: str, fields: Callable[..., Mapping[str, Any]], notes: str = ""
) -> Dataset:
    records = TfdsRecords(name, tuple(features.split()), fields)
    return Dataset(f"tfds-{name}", title, licence, (Layout("data-dir", records, checked=False, notes=notes),))


TFDS_DATASETS: tuple[Dataset, ...] = (
    _set(
        "celeb_a",
        "CelebA, aligned, from TensorFlow Datasets",
        "Non-commercial research: mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        "image landmarks attributes identity",
        _celeb_a,
    ),
    _set(
        "wider_face",
        "WIDER FACE from TensorFlow Datasets",
        "CC BY-NC-ND 4.0: shuoyang1213.me/WIDERFACE",
        "image faces",
        _wider_face,
        notes="only pictures with one face, since an annotation has one; the others are counted",
    ),
    _set(
        "aflw2k3d",
        "AFLW2000-3D from TensorFlow Datasets",
        "Research: www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm",
        "image landmarks_68_3d_xy_normalized",
        _aflw2k3d,
        notes="without head poses, which its records do not hold",
    ),
    _set("lfw", "Labeled Faces in the Wild from TensorFlow Datasets", "Research: vis-www.cs.umass.edu/lfw",
         "image label", _lfw, notes="identities only"),
)  # fmt: skip
"""What this module knows."""
