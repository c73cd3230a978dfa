"""Google's face landmarker (MediaPipe, Apache-2.0) on LiteRT: what `face_landmarker.task` sees in a picture of a face.

Three networks, one after the other: BlazeFace finds the face, a second one places 478 landmarks in a crop that is
turned upright, a third reads 52 blendshapes off 146 of them. Crops are made as MediaPipe's graphs make them.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import ARKIT_52

BLENDSHAPES = ("_neutral", *sorted(set(ARKIT_52.codes) - {"tongueOut"}))
"""Outputs of the third network, in order."""

# The landmarks that it looks at, in its order (MediaPipe, face_blendshapes_graph.cc).
_BLENDSHAPE_LANDMARKS = [int(number) for number in """
0 1 4 5 6 7 8 10 13 14 17 21 33 37 39 40 46 52 53 54 55 58 61 63 65 66 67 70 78 80 81 82 84 87 88 91 93 95 103 105 107
109 127 132 133 136 144 145 146 148 149 150 152 153 154 155 157 158 159 160 161 162 163 168 172 173 176 178 181 185 191
195 197 234 246 249 251 263 267 269 270 276 282 283 284 285 288 291 293 295 296 297 300 308 310 311 312 314 317 318 321
323 324 332 334 336 338 356 361 362 365 373 374 375 377 378 379 380 381 382 384 385 386 387 388 389 390 397 398 400 402
405 409 415 454 466 468 469 470 471 472 473 474 475 476 477""".split()]  # fmt: skip

_NETWORKS = ("face_detector", "face_landmarks_detector", "face_blendshapes")
_DETECTOR_SIDE, _CROP_SIDE = 128, 256  # pixels
_ANCHOR_GRIDS = ((16, 2), (8, 6))  # BlazeFace: cells a side, anchors a cell
_MARGIN = 1.5  # a crop's side, in sides of the face
_RIGHT_EYE, _LEFT_EYE = 33, 263  # outer corners; the person's right
_OVERLAP = 0.3  # two boxes that share more than this of their union are of one face


@dataclass(frozen=True)
class SeenFace:
    """What the landmarker sees in a picture."""

    landmarks: np.ndarray  # float64 [478, 2], pixels
    blendshapes: dict[str, float]  # name -> 0 to 1, of BLENDSHAPES
    faces: int  # how many faces the detector found; the clearest one is described


class FaceLandmarker:
    """Ready for pictures of one face.

    Args:
      task: path of `face_landmarker.task`.

    Raises:
      ExpllmError: ai-edge-litert cannot be imported.
    """

    def __init__(self, task: Path) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ExpllmError(
                f"the face landmarker runs on ai-edge-litert, which cannot be imported ({error})",
                'run: python -m pip install "expllm_jax[teacher]"',
            ) from error
        with zipfile.ZipFile(task) as bundle:
            self._networks = [Interpreter(model_content=bundle.read(f"{name}.tflite")) for name in _NETWORKS]
        for network in self._networks:
            network.allocate_tensors()
        cells = [(side, x, y, each) for side, each in _ANCHOR_GRIDS for y in range(side) for x in range(side)]
        self._anchors = np.array([((x + 0.5) / side, (y + 0.5) / side) for side, x, y, n in cells for _ in range(n)])

    def __call__(self, image: Image.Image) -> SeenFace | None:
        """The clearest face of an RGB image, if there is any."""
        found = self._detect(image)
        if found is None:
            return None
        centre, size, axis, faces = found
        for _ in range(2):  # the second look is framed by the first one's landmarks, as in a video
            step = _rotation(axis) * size / _CROP_SIDE  # pixels of the image that one pixel of the crop goes on by
            start = centre - step @ np.full(2, _CROP_SIDE / 2)
            affine = (*step[0], start[0], *step[1], start[1])
            side = (_CROP_SIDE, _CROP_SIDE)
            crop = image.transform(side, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
            outputs = self._run(1, np.asarray(crop, np.float32)[None] / 255)
            landmarks = max(outputs, key=np.size).reshape(478, 3)[:, :2] @ step.T + start
            axis = landmarks[_LEFT_EYE] - landmarks[_RIGHT_EYE]
            turn = _rotation(axis)
            low, high = (landmarks @ turn).min(0), (landmarks @ turn).max(0)
            centre, size = turn @ (low + high) / 2, _MARGIN * (high - low).max()
        (values,) = self._run(2, landmarks[None, _BLENDSHAPE_LANDMARKS].astype(np.float32))
        return SeenFace(landmarks, dict(zip(BLENDSHAPES, values.ravel().tolist(), strict=True)), faces)

    def _detect(self, image: Image.Image) -> tuple[np.ndarray, float, np.ndarray, int] | None:
        """Centre and side of the first crop in pixels, the direction from the right eye to the left, and how many faces
        there are."""
        side = max(image.size)
        corner = np.array([(side - image.width) // 2, (side - image.height) // 2])
        canvas = Image.new("RGB", (side, side))
        canvas.paste(image, tuple(corner.tolist()))
        small = canvas.resize((_DETECTOR_SIDE, _DETECTOR_SIDE), Image.Resampling.BILINEAR)
        outputs = self._run(0, np.asarray(small, np.float32)[None] / 127.5 - 1)
        logits, faces = sorted((output[0] for output in outputs), key=lambda output: output.shape[-1])
        best = int(logits[:, 0].argmax())
        if logits[best, 0] <= 0:  # less likely a face than not
            return None
        # x, y, width, height, then six points; places relative to the anchor
        face = faces[best] / _DETECTOR_SIDE * side
        centre = face[:2] + self._anchors[best] * side - corner
        likely = logits[:, 0] > 0
        boxes = np.concatenate(
            [faces[likely, :2] / _DETECTOR_SIDE + self._anchors[likely], faces[likely, 2:4] / _DETECTOR_SIDE], 1
        )
        count = _distinct(boxes[np.argsort(-logits[likely, 0])])
        return centre, _MARGIN * float(face[2:4].max()), face[6:8] - face[4:6], count

    def _run(self, which: int, values: np.ndarray) -> list[np.ndarray]:
        network = self._networks[which]
        network.set_tensor(network.get_input_details()[0]["index"], values)
        network.invoke()
        return [network.get_tensor(output["index"]) for output in network.get_output_details()]


def _distinct(boxes: np.ndarray) -> int:
    """How many of the boxes (centre x, y, width, height; the likeliest first) overlap no likelier one."""
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    kept: list[int] = []
    for index in range(len(boxes)):
        shared = (np.minimum(high[index], high[kept]) - np.maximum(low[index], low[kept])).clip(0).prod(-1)
        union = boxes[index, 2:].prod() + boxes[kept, 2:].prod(-1) - shared
        if not (shared > _OVERLAP * union).any():
            kept.append(index)
    return len(kept)


def _rotation(axis: np.ndarray) -> np.ndarray:
    """The 2x2 matrix that turns the x axis to `axis`."""
    angle = math.atan2(axis[1], axis[0])
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
