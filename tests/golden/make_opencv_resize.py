"""Writes opencv_resize.npz: what cv2.resize makes of random square pictures; the file there is of OpenCV 4.6.0.

python -m venv V && V/bin/pip install opencv-python-headless
V/bin/python tests/golden/make_opencv_resize.py
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SIZE = 24
SIDES = (16, 23, 25, 40, 47, 48, 49, 100)  # enlarged, nearly equal, shrunk, and shrunk to exactly half


def main() -> None:
    """One array a side, uint8 [SIZE, SIZE, 3], of the picture that `default_rng(side)` gives."""
    resized = {}
    for side in SIDES:
        picture = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
        resized[str(side)] = cv2.resize(picture, (SIZE, SIZE))
    np.savez_compressed(Path(__file__).with_name("opencv_resize.npz"), **resized)


if __name__ == "__main__":
    main()
