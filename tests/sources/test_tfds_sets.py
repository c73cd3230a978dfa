"""Data sets of TensorFlow Datasets, written by hand with the features of the real builders, and read without it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import dataset_info, sequential_writer

from expllm_jax.errors import ExpllmError
from expllm_jax.faces.attributes import CELEBA_40
from expllm_jax.sources.dataset import Reading
from expllm_jax.sources.tfds_sets import TFDS_DATASETS, read_tfds

DATASETS = {dataset.name: dataset for dataset in TFDS_DATASETS}


def picture(width: int, height: int, kind: str = "JPEG") -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 100, 50)).save(file, kind)
    file.seek(0)
    return file


def face(top: float, left: float, bottom: float, right: float, *, invalid: bool = False) -> dict[str, Any]:
    box = tfds.features.BBox(ymin=top, xmin=left, ymax=bottom, xmax=right)
    flags = {"blur": 0, "expression": False, "illumination": False, "occlusion": 0, "pose": False}
    return {"bbox": box, "invalid": invalid, **flags}


POINTS = {f"{name}_{axis}": n for n, (name, axis) in enumerate(
    (name, axis) for name in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
)}  # fmt: skip
EXAMPLES: dict[str, tuple[dict[str, Any], ...]] = {
    "celeb_a": (
        {
            "attributes": {name: name == "Smiling" for name in CELEBA_40},
            "identity": {"Identity_No": 2880},
            "landmarks": POINTS,
        },
    ),
    "wider_face": (
        {"image/filename": "a.jpg", "faces": [face(0.25, 0.5, 0.75, 1.0)]},
        {"image/filename": "b.jpg", "faces": [face(0.0, 0.0, 0.5, 0.5), face(0.5, 0.5, 1.0, 1.0)]},
        {"image/filename": "c.jpg", "faces": []},
        {"image/filename": "d.jpg", "faces": [face(0.0, 0.0, 1.0, 1.0, invalid=True)]},
    ),
    "aflw2k3d": (
        {
            "landmarks_68_3d_xy_normalized": [[n / 100, n / 200] for n in range(68)],
            "landmarks_68_3d_z": [[0.0]] * 68,
        },
    ),
    "lfw": ({"label": "Ada_Lovelace"},),
}
SIZES = {"celeb_a": (178, 218), "wider_face": (40, 20), "aflw2k3d": (450, 450), "lfw": (250, 250)}
VERSIONS = {"celeb_a": "2.1.0", "wider_face": "0.1.0", "aflw2k3d": "1.0.0", "lfw": "0.1.1"}


def prepare(root: Path, name: str, *, version: str = "", splits: tuple[str, ...] = ("train", "validation")) -> Path:
    """A data directory with a data set as its builder would prepare it, features and all."""
    version = version or VERSIONS[name]
    folder = root / name / version
    folder.mkdir(parents=True)
    info = tfds.core.DatasetInfo(
        builder=dataset_info.DatasetIdentity(name=name, version=version, data_dir=str(folder), module_name=""),
        features=tfds.builder_cls(name)(data_dir=root).info.features,
    )
    writer = sequential_writer.SequentialWriter(info, max_examples_per_shard=10, file_format="array_record")
    writer.initialize_splits(list(splits))
    for split in splits:
        writer.add_examples({split: [{**example, "image": picture(*SIZES[name])} for example in EXAMPLES[name]]})
    writer.close_all()
    return root


@pytest.mark.parametrize("name", EXAMPLES)
def test_prepared_records_are_read(tmp_path, name):
    root = prepare(tmp_path / "é x", name)
    dataset = DATASETS[f"tfds-{name}"]
    engine = dataset.layouts[0].engine
    assert engine.detect(root) and engine.detect(root / name / VERSIONS[name]) and not engine.detect(tmp_path)
    reading = Reading(root, provenance={"dataset": dataset.name})
    train, val = engine.read(reading)
    assert (train.split, val.split) == ("train", "val")
    assert val.picture == f"pictures/{name}/val/0000000.jpg"
    assert val.provenance == {"dataset": dataset.name, "label_file": VERSIONS[name], "record": "validation 0"}
    with Image.open(root / val.picture) as written:
        assert written.size == SIZES[name]
    assert (root / val.picture).read_bytes() == picture(*SIZES[name]).getvalue()  # as it was encoded
    assert [annotation.split for annotation in engine.read(Reading(root, "val"))] == ["val"]
    if name == "celeb_a":
        assert train.landmarks == ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9)) and train.identity == "2880"
        assert train.attributes == {attribute: float(attribute == "Smiling") for attribute in CELEBA_40}
    elif name == "wider_face":
        assert train.face_box == (20, 5, 20, 10)
        assert reading.left_out == {
            "pictures with several faces": 2,
            "pictures with no face": 2,
            "faces marked as invalid": 2,
        }
        assert len(list((root / "pictures").rglob("*.jpg"))) == 2
    elif name == "aflw2k3d":
        assert train.landmarks[67] == pytest.approx((301.5, 150.75), abs=1e-3)
        assert train.face_box == pytest.approx((0, 0, 301.5, 150.75), abs=1e-3)
    else:
        assert train.identity == "Ada_Lovelace"


def test_pictures_go_where_one_wants_and_are_not_written_twice(tmp_path):
    root = prepare(tmp_path / "data", "lfw", splits=("train",))
    engine = DATASETS["tfds-lfw"].layouts[0].engine
    (annotation,) = read_tfds(engine, Reading(root), tmp_path / "out")
    written = tmp_path / "out" / annotation.picture
    before = written.stat().st_mtime_ns
    assert written.is_file() and not (root / "pictures").exists()
    list(read_tfds(engine, Reading(root), tmp_path / "out"))
    assert written.stat().st_mtime_ns == before
    written.write_bytes(b"half")
    list(read_tfds(engine, Reading(root), tmp_path / "out"))
    assert written.stat().st_size > 4
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ExpllmError, match="cannot be written"):
        list(read_tfds(engine, Reading(root), tmp_path / "file"))


def test_what_cannot_be_read_is_told(tmp_path):
    engine = DATASETS["tfds-lfw"].layouts[0].engine
    with pytest.raises(ExpllmError, match="no prepared lfw") as raised:
        list(engine.read(Reading(tmp_path)))
    assert "array_record" in raised.value.remedy
    root = prepare(tmp_path / "data", "lfw", splits=("train",))
    with pytest.raises(ExpllmError, match="no split 'val'"):
        list(engine.read(Reading(root, "val")))
    folder = root / "lfw" / VERSIONS["lfw"]
    described = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**described, "fileFormat": "tfrecord"}))
    with pytest.raises(ExpllmError, match="tfrecord") as raised:
        list(engine.read(Reading(root)))
    assert "convert_format" in raised.value.remedy
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(ExpllmError, match="cannot be opened"):
        list(engine.read(Reading(root)))
    (folder / "dataset_info.json").write_text(json.dumps(described))
    (tmp_path / "data" / "lfw" / "0.2.0").mkdir()
    (tmp_path / "data" / "lfw" / "0.2.0" / "dataset_info.json").write_text("{}")
    with pytest.raises(ExpllmError, match="several versions: 0.1.1, 0.2.0"):
        list(engine.read(Reading(root)))
    assert len(list(engine.read(Reading(folder)))) == 1


def test_another_data_set_under_the_name_is_refused(tmp_path):
    root = prepare(tmp_path / "data", "lfw", splits=("train",))
    (root / "lfw").rename(root / "celeb_a")
    with pytest.raises(ExpllmError, match="no feature 'landmarks'"):
        list(DATASETS["tfds-celeb_a"].layouts[0].engine.read(Reading(root)))


def test_pictures_that_are_none_are_told_with_their_record(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "picture", lambda *size: io.BytesIO(b"\xff\xd8\xff nothing"))
    root = prepare(tmp_path / "data", "lfw", splits=("train",))
    problems: list[ExpllmError] = []
    engine = DATASETS["tfds-lfw"].layouts[0].engine
    assert list(engine.read(Reading(root, problems=problems.append))) == []
    assert "train record 0: its picture cannot be read" in problems[0].problem


def test_tensorflow_is_not_loaded(tmp_path):
    root = prepare(tmp_path, "wider_face", splits=("train",))
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from expllm_jax.sources.dataset import Reading\nfrom expllm_jax.sources.tfds_sets import TFDS_DATASETS\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        "engine = TFDS_DATASETS[1].layouts[0].engine\n"
        "assert len(list(engine.read(Reading(Path(sys.argv[1]))))) == 1\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, root], check=True)
