"""Engine for pictures with a MATLAB file beside each: 68 landmarks and a head pose (300W-LP, AFLW2000-3D).

Only the named variables are read, with `scipy.io.loadmat`, which makes arrays of numbers and runs no code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from posixpath import basename, splitext

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.faces.attributes import head_pose
from expllm_jax.sources.dataset import Reading
from expllm_jax.sources.listing import Listing
from expllm_jax.sources.partners import with_partner

POSE = "Pose_Para"
"""The variable with pitch, yaw and roll in radians in front."""


def _nobody(stem: str) -> str:
    return ""


@dataclass(frozen=True)
class PoseFiles:
    """Folders of pictures, each with a file of the same name that ends in ".mat".

    The face box is the smallest that holds all landmarks, since these sets have no other.
    """

    folders: tuple[str, ...]  # relative to the root; "" is the root itself
    points: str  # the variable with the landmarks: [2 or more, 68], x first and then y
    identity: Callable[[str], str] = _nobody  # of a picture's name without its suffix

    @property
    def splits(self) -> tuple[str, ...]:
        """None: who trains on these sets tests on others."""
        return ()

    @property
    def looks_for(self) -> str:
        """The folders, in words."""
        return f"pictures with .mat files beside them in {', '.join(folder or 'the folder' for folder in self.folders)}"

    def detect(self, root: Path) -> bool:
        """Whether the first of the folders holds a .mat file."""
        return any(name.endswith(".mat") for name in Listing(root).files(self.folders[0]))

    def read(self, reading: Reading) -> Iterator[Annotation]:
        """The pictures, folder by folder and by name. Folders that are not there are reported, each as one problem."""
        listing = Listing(reading.root)
        for folder in self.folders:
            if not listing.files(folder):
                reading.problems(
                    ExpllmError(f"There are no files in {reading.root / folder}.", "Unpack the whole data set.")
                )
            for picture, label_file in with_partner(listing, folder, ".mat", reading.problems):
                try:
                    annotation = self._annotation(picture, label_file, reading)
                except ExpllmError as error:
                    reading.problems(error)
                    continue
                yield annotation

    def _annotation(self, picture: str, label_file: str, reading: Reading) -> Annotation:
        path = reading.root / label_file
        variables = _variables(path, self.points, POSE)
        points = variables[self.points]
        if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] != 68 or not np.isfinite(points).all():
            raise ExpllmError(
                f"{path}: {self.points} has the shape {points.shape}, or numbers that are not finite.",
                "It holds x and y of 68 points, [2 or 3, 68].",
            )
        x, y = points[0], points[1]
        try:
            return Annotation(
                picture,
                identity=self.identity(splitext(basename(picture))[0]),
                attributes=_checked_pose(variables[POSE].ravel().tolist()),
                landmarks=tuple(zip(x.tolist(), y.tolist(), strict=True)),
                face_box=(float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))),
                provenance={**reading.provenance, "label_file": label_file},
            )
        except ExpllmError as error:
            raise ExpllmError(f"{path}: {error.problem}", error.remedy) from error


def _checked_pose(pose: list[float]) -> dict[str, float]:
    attributes = head_pose(pose)
    if any(abs(angle) > 180 for angle in attributes.values()):
        raise ExpllmError(
            f"{POSE} gives angles of {', '.join(f'{angle:.0f}' for angle in attributes.values())} degrees.",
            f"It holds radians, up to {math.pi:.2f}; degrees in it are a mistake.",
        )
    return attributes


def _variables(path: Path, *names: str) -> dict[str, np.ndarray]:
    from scipy.io import loadmat

    try:
        contents = loadmat(path, variable_names=names)
    except Exception as error:  # scipy raises whatever a broken file makes it trip over
        raise ExpllmError(f"{path} is no MATLAB file that can be read ({error}).", "Restore the file.") from error
    found = {}
    for name in names:
        value = contents.get(name)
        if value is None or value.dtype.kind not in "fiu":
            raise ExpllmError(f"{path} has no numbers called {name!r}.", "Is it a file of this data set?")
        found[name] = value.astype(np.float64)
    return found
