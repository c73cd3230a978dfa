"""Img2AU in use: what a run's folder says, and what annotations get."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from expllm_jax.engine.img2au import Img2Au, UnitModelFiles, annotated, read_unit_model, write_unit_model
from expllm_jax.engine.unit_calibration import UnitCalibration
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.models import UnitRegressorConfig, ViTConfig, abstract, merge
from expllm_jax.records import normalise, read_picture, square
from tests.train.tiny import tiny_model

OUTPUTS = (("facs", "AU12"), ("feafa", "FEAFA12"), ("feafa", "FEAFA13"))
FILES = UnitModelFiles(
    OUTPUTS,
    ViTConfig(width=8, depth=1, heads=2, native_grid=2),
    (0,),
    UnitRegressorConfig(units=3, width=8, tokens=4, heads=1, head_width=4, hidden=4),
    UnitCalibration((1.0, 0.5, 2.0), (0.3, 0.4, 0.5), (1.0, 1.0, 2.0)),
    picture_size=28,
)


@pytest.fixture(scope="module")
def model():
    return Img2Au(FILES, tiny_model(FILES.vision)[1], tiny_model(FILES.head)[1], "img2au test at update 7")


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(18)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(path)
    return paths


def test_units_json_and_back(tmp_path):
    write_unit_model(tmp_path, FILES)
    assert read_unit_model(tmp_path) == FILES
    (tmp_path / "units.json").write_text(json.dumps({"format": 9}))
    with pytest.raises(ExpllmError, match="format 9"):
        read_unit_model(tmp_path)
    (tmp_path / "units.json").write_text("{")
    with pytest.raises(ExpllmError, match="damaged"):
        read_unit_model(tmp_path)
    with pytest.raises(ExpllmError, match=r"no units.json|does not exist"):
        read_unit_model(tmp_path / "absent")


def test_pictures_and_cached_features_give_the_same_units(model, pictures):
    """18 pictures: one batch that is full, one that is filled up."""
    told = []
    of_pictures = model.regress(pictures, report=told.append)
    pixels = np.stack([normalise(square(read_picture(path), 28)) for path in pictures])
    tower = merge(abstract(FILES.vision)[0], tiny_model(FILES.vision)[1])
    of_features = model.from_features(np.asarray(tower(pixels, layers=(0,)).astype(jnp.float16)))
    assert told == [16, 18] and of_pictures.value_PU.shape == of_pictures.deviation_PU.shape == (18, 3)
    np.testing.assert_allclose(of_pictures.value_PU, of_features.value_PU, atol=2e-3)
    assert np.ptp(of_pictures.value_PU[:, 0]) > 0 and (of_pictures.deviation_PU > 0).all()


def test_annotations_keep_what_they_had_and_say_where_units_come_from(model, pictures):
    faces = [Annotation("a.png", expression="Fear", units={"facs": {"AU1": 1.0}, "arkit": {"jawOpen": 0.2}},
                        attributes={"age": 30.0}, provenance={"source": "mine"})]  # fmt: skip
    (face,) = annotated(faces, model.regress(pictures[:1]), model.origin)
    assert face.expression == "Fear" and face.units["arkit"] == {"jawOpen": 0.2}
    assert set(face.units["facs"]) == {"AU12"} and set(face.units["feafa"]) == {"FEAFA12", "FEAFA13"}
    assert set(face.attributes) == {"age", "facs.AU12.sd", "feafa.FEAFA12.sd", "feafa.FEAFA13.sd"}
    assert face.provenance == {"source": "mine", "units": "img2au test at update 7"}
    assert Annotation.from_json(json.loads(json.dumps(face.to_json()))) == face


def test_no_pictures_is_an_error(model):
    with pytest.raises(ExpllmError, match="no pictures"):
        model.regress([])
