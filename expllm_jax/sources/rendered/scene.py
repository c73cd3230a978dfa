"""One picture of one person: pose, camera, light, background, blur and noise, and what the mesh says about it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from expllm_jax.sources.rendered import raster, shading
from expllm_jax.sources.rendered.head import HeadModel
from expllm_jax.sources.rendered.identity import Identity

SIZE = 224  # pixels; what the tower sees
_OVERSAMPLE = 2  # samples per pixel and axis
_FIELD_OF_VIEW = np.radians(18.0)  # a portrait lens
_HALF_HEIGHT = 1.06  # decimetres from the middle of the picture to its edge, at zoom 1: below the chin to the hair line
_CENTRE_Y = -0.22  # the picture's middle, relative to the eyes
_NOISE = shading.noise_table()


@dataclass(frozen=True)
class Scene:
    """Everything about a picture that is neither the person nor the expression. Angles in radians, colours
    display RGB 0–1.
    """

    yaw: float = 0.0  # positive: turns to the person's left
    pitch: float = 0.0  # positive: looks down
    roll: float = 0.0
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)  # decimetres
    gaze: tuple[float, float] = (0.0, 0.0)  # −1…1, to the person's left and up
    light: tuple[float, float, float] = (0.3, 0.5, 1.0)
    light_colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ambient: float = 0.35
    key: float = 0.85
    background: tuple[float, float, float] = (0.5, 0.5, 0.5)
    background_texture: float = 0.0
    blur: float = 0.0  # pixels, standard deviation
    noise: float = 0.012  # standard deviation in display values
    seed: int = 0


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draws the nuisance of one picture."""
    return Scene(
        yaw=float(np.clip(rng.normal(0, 0.16), -0.45, 0.45)),
        pitch=float(np.clip(rng.normal(0, 0.08), -0.25, 0.25)),
        roll=float(np.clip(rng.normal(0, 0.04), -0.15, 0.15)),
        zoom=float(rng.uniform(0.92, 1.10)),
        shift=(float(rng.normal(0, 0.03)), float(rng.normal(0, 0.03))),
        gaze=(float(np.clip(rng.normal(0, 0.25), -0.8, 0.8)), float(np.clip(rng.normal(0, 0.12), -0.5, 0.5))),
        light=(float(rng.normal(0, 0.5)), float(rng.uniform(0.1, 0.8)), 1.0),
        light_colour=tuple(float(x) for x in np.clip(1 + rng.normal(0, 0.05, 3), 0.85, 1.15)),
        ambient=float(rng.uniform(0.25, 0.45)),
        key=float(rng.uniform(0.7, 1.0)),
        background=tuple(float(x) for x in rng.uniform(0.1, 0.85, 3)),
        background_texture=float(rng.uniform(0, 0.35)),
        blur=float(max(0.0, rng.normal(0, 0.45))),
        noise=float(rng.uniform(0.004, 0.022)),
        seed=int(rng.integers(1 << 31)),
    )


@dataclass(frozen=True)
class Picture:
    """One rendered face, counted in pixels as `faces.Annotation` counts them."""

    pixels: np.ndarray  # uint8 (224, 224, 3), RGB
    landmarks_68_2: np.ndarray  # float32; the middle of the upper left pixel is (0, 0)
    face_box: tuple[float, float, float, float]  # x, y, width, height; (0, 0, 224, 224) is the whole picture


def render(head: HeadModel, person: Identity, coefficients: dict[str, float], scene: Scene) -> Picture:
    """Renders a person with ARKit `coefficients` (0–1) under a scene; the same arguments give the same picture."""
    side = SIZE * _OVERSAMPLE
    vertices = head.deform(person.shape_V3, coefficients | gaze_units(scene.gaze))
    normals = _vertex_normals(vertices, head.triangles_F3)
    scalp = _scalp(head, person)
    vertices = vertices + normals * (scalp * np.float32(person.hair_volume))[:, None]
    rotation = _rotation(scene)
    camera = ((vertices - camera_target(head, person.shape_V3)) @ rotation.T.astype(np.float32)).astype(np.float32)
    camera[:, 0] += np.float32(scene.shift[0])
    camera[:, 1] += np.float32(scene.shift[1])
    screen = projected(camera, side, scene.zoom)

    depth = np.zeros((side, side), np.float32)
    triangle = np.full((side, side), raster.EMPTY, np.int32)
    bary = np.zeros((side, side, 2), np.float32)
    raster.rasterise(screen, head.triangles_F3, depth, triangle, bary)

    rng = np.random.default_rng(scene.seed)
    samples = np.empty((side, side, 3), np.float32)
    shading.shade(
        triangle,
        bary,
        head.triangles_F3,
        head.uv_F32,
        head.part_F,
        head.rest_V3,
        (normals @ rotation.T.astype(np.float32)).astype(np.float32),
        scalp,
        rotation,
        head.lips,
        head.mouth_inside,
        _NOISE,
        shading.crease_vector(coefficients, depth=0.65 + 0.45 * person.age),
        np.stack([person.skin, person.hair, person.iris, person.shirt]),
        np.array([person.brow_thickness, person.stubble, float(person.noise_seed % 61)]),
        _lights(scene),
        samples,
    )
    picture = _background(scene, rng)
    raster.resolve(samples, triangle, picture)
    pixels = _develop(picture, scene, rng)
    points = screen[:, :2] / _OVERSAMPLE  # from the picture's edge; landmarks count from the middle of its first pixel
    face = points[head.face_vertices]
    (x0, y0), (x1, y1) = face.min(0), face.max(0)
    box = (float(x0), float(y0), float(x1 - x0), float(y1 - y0))
    return Picture(pixels, points[head.landmark_vertices] - np.float32(0.5), box)


def projected(camera_V3: np.ndarray, side: int, zoom: float = 1.0) -> np.ndarray:
    """Points before the camera -> float32 (V, 3): x and y in samples of a picture of `side` samples a side, counted
    from its upper left corner, and the inverse depth.
    """
    distance = _HALF_HEIGHT / np.tan(_FIELD_OF_VIEW / 2)
    inverse_depth = 1 / (distance - camera_V3[:, 2])
    scale = side / 2 / np.tan(_FIELD_OF_VIEW / 2) * zoom
    return np.stack(
        [
            side / 2 + scale * camera_V3[:, 0] * inverse_depth,
            side / 2 - scale * camera_V3[:, 1] * inverse_depth,
            inverse_depth,
        ],
        1,
    ).astype(np.float32)


def frontal(scene: Scene) -> Scene:
    """The same light and background seen straight on: for figures and for single-unit comparisons."""
    return replace(
        scene, yaw=0.0, pitch=0.0, roll=0.0, zoom=1.0, shift=(0.0, 0.0), gaze=(0.0, 0.0), blur=0.0, noise=0.0
    )


def pose_300w(scene: Scene) -> tuple[float, float, float]:
    """Pitch, yaw and roll of the head in radians as 300W-LP's `Pose_Para` gives them; see `faces.attributes`.

    300W-LP counts each angle the other way round than a `Scene` and turns the head in another order: roll, yaw, pitch,
    where a `Scene` has yaw, pitch, roll. So its angles are read off the matrix, R = Rx(pitch) Ry(yaw) Rz(roll) (3DDFA).
    """
    r = _rotation(scene)
    return float(np.arctan2(r[1, 2], r[2, 2])), float(np.arcsin(-r[0, 2])), float(np.arctan2(r[0, 1], r[0, 0]))


def gaze_units(gaze: tuple[float, float]) -> dict[str, float]:
    """The ARKit coefficients of a `Scene`'s gaze, 0–1."""
    left, up = gaze
    toward = (
        {"eyeLookOutLeft": left, "eyeLookInRight": left}
        if left > 0
        else {"eyeLookInLeft": -left, "eyeLookOutRight": -left}
    )
    lift = {"eyeLookUpLeft": up, "eyeLookUpRight": up} if up > 0 else {"eyeLookDownLeft": -up, "eyeLookDownRight": -up}
    return toward | lift


def _vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    faces = np.cross(b - a, c - a)
    normals = np.empty_like(vertices)
    corner = triangles.T.reshape(-1)
    for k in range(3):
        normals[:, k] = np.bincount(corner, np.tile(faces[:, k], 3), minlength=len(vertices))
    return normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)


def _scalp(head: HeadModel, person: Identity) -> np.ndarray:
    """1 where hair grows, 0 on the face and ears, by rest position and the person's hair line."""
    x, y, z = head.rest_V3.T
    line = 7.86 + person.hair_line - 1.1 * np.clip(0.95 - z, 0, 0.75) + 0.18 * np.abs(x)
    skin = np.zeros(len(head.rest_V3), bool)
    skin[head.triangles_F3[head.part_F == 0]] = True
    ear = (np.abs(x) > 0.66) & (y > 6.75) & (y < 7.5)
    return (np.clip((y - line) / 0.12, 0, 1) * (skin & ~ear)).astype(np.float32)


def camera_target(head: HeadModel, shape_V3: np.ndarray) -> np.ndarray:
    """Where the camera looks: fixed to the undeformed eyes, so that no expression moves the whole head."""
    eyes = np.unique(head.triangles_F3[head.part_F == 1])
    return (shape_V3[eyes].mean(0) + [0, _CENTRE_Y, -0.6]).astype(np.float32)


def _rotation(scene: Scene) -> np.ndarray:
    (cy, cp, cr), (sy, sp, sr) = (f([scene.yaw, scene.pitch, scene.roll]) for f in (np.cos, np.sin))
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return roll @ pitch @ yaw


def _lights(scene: Scene) -> np.ndarray:
    key = np.array(scene.light) / np.linalg.norm(scene.light)
    fill = np.array([-0.8 * key[0], 0.1, 0.5])
    return np.stack([key, fill / np.linalg.norm(fill), [scene.ambient, scene.key, 0.22], scene.light_colour])


def _background(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A vertical gradient with soft blobs, linear light, float32 (SIZE, SIZE, 3); it is smooth, so it needs no
    oversampling.
    """
    gradient = np.linspace(1.1, 0.8, SIZE, dtype=np.float32)[:, None, None]
    blobs = rng.random((7, 7, 3), dtype=np.float32) - np.float32(0.5)
    soft = np.stack(
        [np.asarray(Image.fromarray(blobs[:, :, k]).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for k in range(3)],
        -1,
    )
    colour = np.asarray(scene.background, np.float32) + np.float32(scene.background_texture) * soft
    return shading.to_linear(np.clip(colour, 0.02, 1)) * gradient


def _develop(linear: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Tone-maps, blurs and adds sensor noise; uint8."""
    display = shading.tone_map(linear)
    if scene.blur > 0.3:
        sharp = Image.fromarray((display * 255 + np.float32(0.5)).astype(np.uint8))
        display = np.asarray(sharp.filter(ImageFilter.GaussianBlur(scene.blur)), np.float32) / 255
    display = display + np.float32(scene.noise) * rng.standard_normal(display.shape, dtype=np.float32)
    return (np.clip(display, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
