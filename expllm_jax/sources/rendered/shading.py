"""The colour of a visible point of the head: procedural skin, brows, lips, eyes, hair, and the creases that units fold.

Everything is painted by *rest* position (see head.py), so paint moves with the skin. The geometry targets move skin by
millimetres and hold no fine folds; the creases below add what FACS coders look for besides motion (FACS manual,
appearance changes): forehead lines (AU1, AU2), glabella (AU4), crow's feet and infraorbital furrow (AU6), lid line
(AU7), nose-root wrinkles (AU9), nasolabial furrow (AU10, AU12), dimple (AU14), marionette line (AU15), dimpled chin
(AU17), narrowed lips (AU24, AU28).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from expllm_jax.sources.rendered.raster import EMPTY

# Index of each crease in the crease vector; paired creases have the person's left at +0 and right at +1.
CREASES = {
    "forehead_inner": 0, "forehead_outer": 1, "glabella": 3, "crows_feet": 5, "lid_line": 7, "nose_root": 9,
    "nasolabial": 11, "dimple": 13, "marionette": 15, "chin": 17, "lip_narrow": 18, "lip_pucker": 19,
}  # fmt: skip
CREASE_COUNT = 20
_NOISE_SIDE = 64
_GAMMA = 1.6  # soft: the albedos were chosen by eye with it


def noise_table() -> np.ndarray:
    """float32 (64, 64, 64) uniform in [−0.5, 0.5], the same in every process."""
    return (np.random.default_rng(20240904).random((_NOISE_SIDE,) * 3, dtype=np.float32) - np.float32(0.5)).copy()


def crease_vector(units: dict[str, float], depth: float) -> np.ndarray:
    """Crease strengths from ARKit coefficients (0–1); `depth` scales them for the person's age."""
    creases = np.zeros(CREASE_COUNT, np.float32)

    def pair(name: str, left: float, right: float) -> None:
        creases[CREASES[name]], creases[CREASES[name] + 1] = left, right

    def both(unit: str) -> tuple[float, float]:
        return units.get(unit + "Left", 0.0), units.get(unit + "Right", 0.0)

    creases[CREASES["forehead_inner"]] = units.get("browInnerUp", 0.0)
    pair("forehead_outer", *both("browOuterUp"))
    pair("glabella", *both("browDown"))
    pair("crows_feet", *both("cheekSquint"))
    pair("lid_line", *both("eyeSquint"))
    pair("nose_root", *both("noseSneer"))
    smile, upper, sneer = both("mouthSmile"), both("mouthUpperUp"), both("noseSneer")
    pair("nasolabial", *(min(1.0, 0.7 * smile[i] + 0.9 * upper[i] + 0.4 * sneer[i]) for i in (0, 1)))
    pair("dimple", *both("mouthDimple"))
    pair("marionette", *both("mouthFrown"))
    creases *= depth
    creases[CREASES["chin"]] = depth * units.get("mouthShrugLower", 0.0)
    press = max(both("mouthPress"))
    creases[CREASES["lip_narrow"]] = min(0.95, max(0.65 * press, 0.95 * units.get("mouthRollLower", 0.0)))
    creases[CREASES["lip_pucker"]] = max(units.get("mouthPucker", 0.0), 0.5 * units.get("mouthFunnel", 0.0))
    return creases


@njit(cache=True, nogil=True, inline="always")
def _noise(table: np.ndarray, x: float, y: float, z: float) -> float:
    """Trilinear value noise in [−0.5, 0.5]; periodic with 64 cells."""
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    u, v, w = x - fx, y - fy, z - fz
    i, j, k = int(fx) & 63, int(fy) & 63, int(fz) & 63
    i1, j1, k1 = (i + 1) & 63, (j + 1) & 63, (k + 1) & 63
    a = table[i, j, k] * (1 - w) + table[i, j, k1] * w
    b = table[i, j1, k] * (1 - w) + table[i, j1, k1] * w
    c = table[i1, j, k] * (1 - w) + table[i1, j, k1] * w
    d = table[i1, j1, k] * (1 - w) + table[i1, j1, k1] * w
    return (a * (1 - v) + b * v) * (1 - u) + (c * (1 - v) + d * v) * u


@njit(cache=True, nogil=True, inline="always")
def _bell(x: float) -> float:
    """A Gaussian-like bump: 1 at 0, exactly 0 beyond ±2, cheap."""
    t = 1.0 - 0.25 * x * x
    return t * t * t if t > 0.0 else 0.0


@njit(cache=True, nogil=True, inline="always")
def _clip01(x: float) -> float:
    return 0.0 if x < 0.0 else 1.0 if x > 1.0 else x


@njit(cache=True, nogil=True)
def _creases(x: float, y: float, creases: np.ndarray, table: np.ndarray) -> tuple[float, float, float]:
    """Darkening in [0, 1] and the normal's tilt (gx, gy) of all folds at rest position (x, y) of the front of
    the face.
    """
    dark, gx, gy = 0.0, 0.0, 0.0
    side = 0 if x > 0 else 1
    sign = 1.0 if x > 0 else -1.0
    ax = abs(x)
    if y > 7.52 and y < 7.9:  # forehead lines
        amount = creases[0] * _bell(x / 0.22) + creases[1 + side] * _bell((ax - 0.40) / 0.16)
        if amount > 0.0:
            phase = 6.2832 * (y - 0.12 * x * x) / 0.072
            envelope = amount * _bell((y - 7.70) / 0.09)
            dark += envelope * (0.5 + 0.5 * np.cos(phase))
            gy += envelope * np.sin(phase)
    amount = creases[3 + side]
    if amount > 0.0 and ax < 0.16 and y > 7.26 and y < 7.66:  # glabella
        offset = (ax - 0.062) / 0.017
        envelope = amount * _bell((y - 7.455) / 0.085)
        dark += 1.1 * envelope * _bell(offset)
        gx += sign * envelope * offset * _bell(offset)
    amount = creases[5 + side]
    if amount > 0.0 and y > 6.95 and y < 7.6:
        dx, dy = ax - 0.47, y - 7.27  # crow's feet fan out from the outer corner of the eye
        radius = np.sqrt(dx * dx + dy * dy)
        if dx > 0.0 and radius < 0.30:
            envelope = amount * _bell((radius - 0.13) / 0.07) * _bell(dy / (0.55 * dx + 0.02))
            phase = 11.0 * np.arctan2(dy, dx)
            dark += envelope * (0.5 + 0.5 * np.cos(phase))
            gy += envelope * np.sin(phase)
        offset = (y - (7.11 - 0.5 * (ax - 0.33) ** 2)) / 0.022  # infraorbital furrow
        envelope = amount * _bell((ax - 0.34) / 0.12)
        dark += 0.9 * envelope * _bell(offset)
        gy -= envelope * offset * _bell(offset)
    amount = creases[7 + side]
    if amount > 0.0 and y > 7.08 and y < 7.24:  # lower lid line
        offset = (y - (7.165 + 0.35 * (ax - 0.33) ** 2)) / 0.014
        envelope = amount * _bell((ax - 0.33) / 0.10)
        dark += 0.8 * envelope * _bell(offset)
        gy -= 0.8 * envelope * offset * _bell(offset)
    amount = creases[9 + side]
    if amount > 0.0 and ax < 0.24 and y > 7.0 and y < 7.46:  # nose root
        phase = 6.2832 * (y - 0.55 * ax) / 0.062
        envelope = amount * _bell(ax / 0.11) * _bell((y - 7.26) / 0.10)
        dark += envelope * (0.5 + 0.5 * np.cos(phase))
        gy += envelope * np.sin(phase)
    amount = creases[11 + side]
    if amount > 0.0 and y > 6.52 and y < 6.98:  # nasolabial furrow, from the wing of the nose past the mouth corner
        t = (6.95 - y) / 0.36
        offset = (ax - (0.165 + 0.18 * t**0.8 if t > 0.0 else ax - 0.165)) / 0.022
        envelope = amount * _bell((t - 0.48) / 0.32)
        dark += 0.9 * envelope * _bell(offset)
        gx += sign * envelope * offset * _bell(offset)
    amount = creases[13 + side]
    if amount > 0.0 and y > 6.52 and y < 6.74:  # dimple
        offset = (ax - 0.325) / 0.016
        envelope = amount * _bell((y - 6.63) / 0.045)
        dark += 1.1 * envelope * _bell(offset)
        gx += sign * envelope * offset * _bell(offset)
    amount = creases[15 + side]
    if amount > 0.0 and y > 6.36 and y < 6.64:  # marionette line
        offset = (ax - (0.275 + 0.25 * (6.60 - y))) / 0.018
        envelope = amount * _bell((y - 6.50) / 0.06)
        dark += 1.0 * envelope * _bell(offset)
        gx += sign * envelope * offset * _bell(offset)
    if creases[17] > 0.0 and y > 6.2 and y < 6.5 and ax < 0.24:  # dimpled chin
        envelope = creases[17] * _bell(x / 0.10) * _bell((y - 6.355) / 0.06)
        bump = _noise(table, x * 34.0, y * 34.0, 3.0)
        dark += envelope * (0.35 + 1.1 * bump)
        gy += envelope * 1.6 * _noise(table, x * 34.0, y * 34.0 + 11.0, 9.0)
        gx += envelope * 1.6 * _noise(table, x * 34.0 + 17.0, y * 34.0, 5.0)
    return dark, gx, gy


@njit(cache=True, nogil=True)
def shade(
    triangle_YX: np.ndarray,
    bary_YX2: np.ndarray,
    triangles_F3: np.ndarray,
    uv_F32: np.ndarray,
    part_F: np.ndarray,
    rest_V3: np.ndarray,
    normal_V3: np.ndarray,
    scalp_V: np.ndarray,
    rotation: np.ndarray,
    lips: np.ndarray,
    mouth_inside: np.ndarray,
    table: np.ndarray,
    creases: np.ndarray,
    colours: np.ndarray,
    person: np.ndarray,
    light: np.ndarray,
    out_YX3: np.ndarray,
) -> None:
    """Writes the tone-mapped colour (0–1) of every covered sample into `out_YX3`; uncovered samples are left alone.

    colours: rows skin, hair, iris, shirt. person: brow thickness, stubble, noise offset. light: rows key direction,
    fill
    direction, (ambient, key strength, fill strength), key colour. normal_V3 is in camera space, `rotation` takes rest
    directions there.
    """
    height, width = triangle_YX.shape
    skin, hair, iris, shirt = colours[0], colours[1], colours[2], colours[3]
    offset = person[2]
    colour = np.empty(3)
    for py in range(height):
        for px in range(width):
            t = triangle_YX[py, px]
            if t == EMPTY:
                continue
            w0, w1 = bary_YX2[py, px, 0], bary_YX2[py, px, 1]
            w2 = 1.0 - w0 - w1
            a, b, c = triangles_F3[t, 0], triangles_F3[t, 1], triangles_F3[t, 2]
            x = w0 * rest_V3[a, 0] + w1 * rest_V3[b, 0] + w2 * rest_V3[c, 0]
            y = w0 * rest_V3[a, 1] + w1 * rest_V3[b, 1] + w2 * rest_V3[c, 1]
            z = w0 * rest_V3[a, 2] + w1 * rest_V3[b, 2] + w2 * rest_V3[c, 2]
            nx = w0 * normal_V3[a, 0] + w1 * normal_V3[b, 0] + w2 * normal_V3[c, 0]
            ny = w0 * normal_V3[a, 1] + w1 * normal_V3[b, 1] + w2 * normal_V3[c, 1]
            nz = w0 * normal_V3[a, 2] + w1 * normal_V3[b, 2] + w2 * normal_V3[c, 2]
            ax = abs(x)
            part = part_F[t]
            gloss, power, occlusion = 0.10, 22.0, 1.0
            if part == 0:
                tu = w0 * uv_F32[t, 0, 0] + w1 * uv_F32[t, 1, 0] + w2 * uv_F32[t, 2, 0]
                tv = w0 * uv_F32[t, 0, 1] + w1 * uv_F32[t, 1, 1] + w2 * uv_F32[t, 2, 1]
                row = min(lips.shape[0] - 1, max(0, int((1.0 - tv) * lips.shape[0])))
                column = min(lips.shape[1] - 1, max(0, int(tu * lips.shape[1])))
                mottle = 1.0 + 0.10 * _noise(table, x * 9 + offset, y * 9, z * 9)
                mottle += 0.12 * _noise(table, x * 40, y * 40 + offset, z * 40)
                mottle += 0.10 * _noise(table, x * 90, y * 90, z * 90 + offset)
                blush = _bell(np.sqrt((ax - 0.48) ** 2 + (y - 6.95) ** 2) / 0.16)
                colour[0] = skin[0] * mottle * (1.0 + 0.06 * blush)
                colour[1] = skin[1] * mottle * (1.0 - 0.05 * blush)
                colour[2] = skin[2] * mottle * (1.0 - 0.04 * blush)
                front = z > 0.9
                if front:
                    dark, gx, gy = _creases(x, y, creases, table)
                    if dark != 0.0 or gx != 0.0 or gy != 0.0:
                        fold = 1.0 - 0.42 * _clip01(dark)
                        colour[0] *= fold
                        colour[1] *= fold * (1.0 - 0.06 * _clip01(dark))
                        colour[2] *= fold * (1.0 - 0.06 * _clip01(dark))
                        nx += 0.45 * (rotation[0, 0] * gx + rotation[0, 1] * gy)
                        ny += 0.45 * (rotation[1, 0] * gx + rotation[1, 1] * gy)
                        nz += 0.45 * (rotation[2, 0] * gx + rotation[2, 1] * gy)
                    if y < 6.95 and y > 6.3 and ax < 0.45:
                        lip = lips[row, column] * (1.0 - creases[18])
                        if lip > 0.0:
                            ridges = 1.0 - creases[19] * 0.35 * (0.5 + 0.5 * np.cos(x * 150.0))
                            colour[0] = colour[0] * (1 - lip) + lip * (skin[0] * 0.86 + 0.05) * ridges
                            colour[1] = colour[1] * (1 - lip) + lip * skin[1] * 0.55 * ridges
                            colour[2] = colour[2] * (1 - lip) + lip * (skin[2] * 0.55 + 0.01) * ridges
                    if y > 7.36 and y < 7.60:
                        along = (ax - 0.10) / 0.46
                        thickness = 0.036 * person[0] * min(1.2, max(0.2, 1.15 - 0.75 * along))
                        line = 7.468 + 0.042 * np.sin(2.89 * _clip01(along))
                        brow = _clip01(1.3 - abs(y - line) / thickness)
                        brow *= _clip01((along + 0.06) * 10.0) * _clip01((1.04 - along) * 10.0)
                        if brow > 0.0:
                            brow = _clip01(brow * (0.8 + 0.5 * _noise(table, x * 120, y * 42, z * 120)))
                            for k in range(3):
                                colour[k] = colour[k] * (1 - brow) + brow * hair[k] * 1.1
                if person[1] > 0.0 and y < 6.75:
                    beard = _clip01((6.75 - y) * 4.0) * _clip01((z - 0.5) * 2.5) * min(0.6, person[1])
                    beard *= 0.7 + 0.8 * _noise(table, x * 130, y * 130, z * 130)
                    for k in range(3):
                        colour[k] = colour[k] * (1 - beard) + beard * hair[k]
                inside = mouth_inside[row, column]
                if inside > 0.0:
                    colour[0] = colour[0] * (1 - inside) + inside * 0.30
                    colour[1] = colour[1] * (1 - inside) + inside * 0.09
                    colour[2] = colour[2] * (1 - inside) + inside * 0.08
                scalp = w0 * scalp_V[a] + w1 * scalp_V[b] + w2 * scalp_V[c]
                if scalp > 0.0:
                    strand = _noise(table, x * 60, y * 15, z * 24 + offset)
                    cover = _clip01(scalp * 1.6 - 0.2 + 0.5 * strand)
                    shine = 1.0 + 0.8 * _noise(table, x * 70, y * 10.5, z * 21)
                    for k in range(3):
                        colour[k] = colour[k] * (1 - cover) + cover * hair[k] * shine
                    gloss *= 1.0 - cover
                collar = 5.95 + (0.25 * _bell(ax / 0.35) if z < 0.4 else 0.25 * _bell(ax / 0.35) - 0.1)
                if y < collar:
                    weave = 1.0 + 0.3 * _noise(table, x * 50, y * 50, z * 50)
                    for k in range(3):
                        colour[k] = shirt[k] * weave
            elif part == 1:
                # Angle from the eyeball's forward axis; the ball's rest centre is (±0.308, 7.284, 1.245).
                dx, dy, dz = ax - 0.308, y - 7.284, z - 1.245
                angle = np.arccos(min(1.0, max(-1.0, dz / (np.sqrt(dx * dx + dy * dy + dz * dz) + 1e-9))))
                in_iris, in_pupil = _clip01((0.50 - angle) * 20.0), _clip01((0.20 - angle) * 20.0)
                rim = 1.0 - 0.6 * _bell((angle - 0.48) / 0.05)
                fibre = 1.0 + 0.5 * _noise(table, x * 60, y * 60, z * 60)
                colour[0] = (0.88 * (1 - in_iris) + in_iris * iris[0] * fibre) * rim * (1 - in_pupil) + 0.02 * in_pupil
                colour[1] = (0.86 * (1 - in_iris) + in_iris * iris[1] * fibre) * rim * (1 - in_pupil) + 0.02 * in_pupil
                colour[2] = (0.84 * (1 - in_iris) + in_iris * iris[2] * fibre) * rim * (1 - in_pupil) + 0.02 * in_pupil
                gloss, power, occlusion = 0.9, 120.0, 0.85
            elif part == 2:
                for k in range(3):
                    colour[k] = hair[k] * 0.5
            elif part == 3:
                colour[0], colour[1], colour[2] = 0.88, 0.85, 0.78
                gloss, occlusion = 0.25, 0.6
            else:
                colour[0], colour[1], colour[2] = 0.62, 0.28, 0.27
                occlusion = 0.55
            length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
            nx, ny, nz = nx / length, ny / length, nz / length
            if nz < -0.2:
                nx, ny, nz = -nx, -ny, -nz
            key = max(0.0, (nx * light[0, 0] + ny * light[0, 1] + nz * light[0, 2] + 0.25) / 1.25)
            fill = max(0.0, nx * light[1, 0] + ny * light[1, 1] + nz * light[1, 2])
            hx, hy, hz = light[0, 0], light[0, 1], light[0, 2] + 1.0
            half = np.sqrt(hx * hx + hy * hy + hz * hz)
            shine = max(0.0, (nx * hx + ny * hy + nz * hz) / half) ** power * gloss
            ambient = light[2, 0] * (0.8 + 0.2 * ny)
            for k in range(3):
                received = (ambient + light[2, 1] * key * light[3, k] + light[2, 2] * fill) * occlusion
                value = max(0.0, colour[k]) ** _GAMMA * received + shine
                out_YX3[py, px, k] = min(1.0, value)


def tone_map(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] to display values in [0, 1]."""
    return np.clip(linear, 0, 1) ** linear.dtype.type(1 / _GAMMA)


def to_linear(display: np.ndarray) -> np.ndarray:
    """The inverse of `tone_map`."""
    return display ** display.dtype.type(_GAMMA)
