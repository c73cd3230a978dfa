"""A blendshape teacher: real pictures and video frames with the action units that Google's face landmarker sees.

Nobody has labelled these faces. What the teacher says is a machine's opinion, good for some movements and worthless
for others; a unit that rests on a worthless output is left out of the annotation as unknown, and never written as 0.

Outputs were judged on 1,827 real faces (frames of three videos, one person each, and the ORL photographs of 40 people)
by how far they ever move, and on 500 rendered faces, whose truth is known, by their correlation r with it. An output
that stays below 0.1 for 98 % of every person's real faces is dead, one that moves with r < 0.3 moves for other reasons:

| outputs | why they are left out |
|---|---|
| cheekPuff, cheekSquint*, noseSneer*, jawForward | never above 0.00, on real faces and on rendered ones |
| jawLeft, jawRight, mouthLeft, mouthRight | never above 0.06 |
| eyeWide*, mouthFrown*, mouthFunnel | never above 0.05 on real faces; r 0.5, 0.3 and 0.6 on rendered ones |
| mouthDimple* | r 0.0 |
| mouthLowerDown* | r 0.1: follows the jaw |
| mouthStretch* | r 0.3, never above 0.13 on real faces |
| eyeSquint* | r 0.2: follows the blink |
| eyeLookDown*, eyeLookUp* | r 0.1 |
| mouthClose, mouthShrugUpper | no rendered face shows them, so that nothing is known |

Kept are mouthSmile* (r 0.8), jawOpen (0.85), eyeBlink* (0.9), eyeLookIn* and eyeLookOut* (0.7), mouthRollLower (0.6),
mouthRollUpper, mouthPucker and mouthUpperUp* (0.5), mouthPress* and mouthShrugLower (0.35), browInnerUp and
browOuterUp* (0.3), browDown* (0.27: the brows of rendered faces are painted, which says little of real ones).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import (
    ARKIT_52,
    ARKIT_OF_FACS,
    ARKIT_OF_FEAFA,
    Annotation,
    facs_from_arkit,
    feafa_from_arkit,
    write_annotations,
)
from expllm_jax.files import write_whole
from expllm_jax.sources.face_landmarker import SeenFace

_SIDED = (
    "cheekSquint eyeLookDown eyeLookUp eyeSquint eyeWide mouthDimple mouthFrown mouthLowerDown mouthStretch noseSneer"
)
_SINGLE = "cheekPuff jawForward jawLeft jawRight mouthClose mouthFunnel mouthLeft mouthRight mouthShrugUpper"

UNRELIABLE: frozenset[str] = frozenset(
    (*_SINGLE.split(), *(f"{stem}{side}" for stem in _SIDED.split() for side in ("Left", "Right")))
)
"""Outputs that say nothing of the movement that they are called by; see the table above."""

ANNOTATIONS_FILE = "annotations.jsonl"
VIDEOS = (".mp4", ".webm", ".avi", ".mov", ".mkv", ".mpg", ".mpeg", ".m4v")
PICTURES = (".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".bmp", ".webp")
FACE_HEIGHT, FACE_MIDDLE = 0.846, 0.542
"""Where the landmarker's points lie in rendered faces (medians of 60): height of their box, and of its middle, as
shares of the picture. Crops are framed alike, so that a model sees real faces as large, and as high up, as rendered
ones."""

_PAD_COLOUR = (123, 117, 104)  # where a crop reaches beyond the picture; what `records.square` pads with
_SMALLEST_FACE = 40  # pixels from brow to chin; in smaller ones no unit can be told
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Labelled:
    """What became of a folder of pictures or of videos."""

    annotations: Path
    faces: int  # crops that were written
    without_face: int  # pictures and frames in which no face was seen
    with_several: int  # those with more than one, which are left out: whose units they are is not known
    too_small: int  # those whose face is smaller than 40 pixels


def known_units(blendshapes: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """An annotation's units out of the teacher's outputs: "arkit", "facs" and "feafa", unreliable ones left out.

    A FACS or FEAFA unit is known if all coefficients that it rests on are reliable. Absent units are there with 0.0.

    Raises:
        ExpllmError: a value is outside 0 to 1.
    """
    arkit = {
        code: round(blendshapes[code], 4) for code in ARKIT_52.codes if code in blendshapes and code not in UNRELIABLE
    }
    facs, feafa = facs_from_arkit(arkit), feafa_from_arkit(arkit)
    return {
        "arkit": arkit,
        "facs": {c: round(facs.get(c, 0.0), 4) for c, names in ARKIT_OF_FACS.items() if arkit.keys() >= set(names)},
        "feafa": {c: round(feafa[c], 4) for c, names in ARKIT_OF_FEAFA.items() if arkit.keys() >= set(names)},
    }


def framed(image: Image.Image, landmarks: np.ndarray) -> Image.Image:
    """The square around a face in which it is as large, and as high up, as rendered faces are.

    Args:
        image: RGB.
        landmarks: [N, 2] pixels, the landmarker's.
    """
    (left, top), (right, bottom) = landmarks.min(0), landmarks.max(0)
    side = max(1, round((bottom - top) / FACE_HEIGHT))
    x, y = round((left + right - side) / 2), round((top + bottom) / 2 - FACE_MIDDLE * side)
    margin = side + max(0, -x, -y, x + side - image.width, y + side - image.height)
    x, y = x + margin, y + margin
    return ImageOps.expand(image, margin, _PAD_COLOUR).crop((x, y, x + side, y + side))


def video_frames(video: Path, every: int) -> Iterator[tuple[int, Image.Image]]:
    """Every `every`-th frame of a video with its number from 0, as RGB.

    Raises:
        ExpllmError: PyAV cannot be imported, or the file is no video.
    """
    try:
        import av
    except ImportError as error:
        raise ExpllmError(
            f"videos are opened with PyAV, which cannot be imported ({error})",
            'run: python -m pip install "expllm_jax[teacher]"',
        ) from error
    try:
        with av.open(str(video)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number % every == 0:
                    yield number, frame.to_image()
    except (av.FFmpegError, IndexError) as error:
        raise ExpllmError(
            f"{video} cannot be read as a video ({error})", "give a file that a player can show"
        ) from error


def videos_and_pictures(places: Sequence[str | Path]) -> list[tuple[str, Path]]:
    """(identity, file) of every video and picture in `places`: files, or folders that are searched to their bottom.

    A video is one person, called by its file's name. A picture in a folder below the one that was named is of the
    person whom that folder is called by; the others are of the person whom the named folder is called by.

    Raises:
        ExpllmError: a place does not exist or holds neither, or two files would be called alike.
    """
    found: list[tuple[str, Path]] = []
    for place in map(Path, places):
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        kept = [file for file in files if file.suffix.lower() in (*VIDEOS, *PICTURES) and file.is_file()]
        if not kept:
            raise ExpllmError(
                f"{place} {'holds' if place.is_dir() else 'is'} no video and no picture" if place.exists()
                else f"{place} does not exist",
                f"give files or folders of {', '.join((*VIDEOS, *PICTURES))}",
            )  # fmt: skip
        for file in kept:
            found.append((file.stem if file.suffix.lower() in VIDEOS else file.absolute().parent.name, file))
    if len(names := {_crop_name(identity, file, 0) for identity, file in found}) != len(found):
        raise ExpllmError(
            f"of {len(found)} files only {len(names)} have a name of their own",
            "label them in several runs, or rename some",
        )
    return found


def label_frames(
    landmarker: Callable[[Image.Image], SeenFace | None],
    files: Iterable[tuple[str, Path]],
    folder: Path,
    *,
    every: int = 5,
    split: str = "train",
    progress: Callable[[int], None] | None = None,
) -> Labelled:
    """Writes the faces of pictures and videos into `folder` (which must not exist), with what the teacher says of them.

    Args:
        landmarker: a `FaceLandmarker`.
        files: (identity, file), see `videos_and_pictures`.
        folder: gets `pictures/IDENTITY/…jpg` and, last, annotations.jsonl.
        every: which frames of a video: every so many.
        split: of the annotations.
        progress: told how many pictures and frames have been looked at.

    Raises:
        ExpllmError: the folder exists or cannot be written, a file cannot be read, `every` is below 1, or not a single
            face was found.
    """
    if every < 1:
        raise ExpllmError(f"every {every}th frame was asked for", "use 1 or more")
    if folder.exists():
        raise ExpllmError(f"{folder} exists already", "delete it or name another folder; nothing is overwritten")
    annotations: list[Annotation] = []
    looked = without = several = small = 0
    for identity, file in files:
        for number, image in _images(file, every):
            looked += 1
            if progress:
                progress(looked)
            seen = landmarker(image)
            if seen is None:
                without += 1
            elif seen.faces > 1:
                several += 1
            elif np.ptp(seen.landmarks[:, 1]) < _SMALLEST_FACE:
                small += 1
            else:
                name = f"pictures/{_crop_name(identity, file, number)}"
                encoded = io.BytesIO()
                framed(image, seen.landmarks).save(encoded, "JPEG", quality=_JPEG_QUALITY)
                write_whole(folder / name, encoded.getvalue(), sync=False)
                annotations.append(
                    Annotation(
                        picture=name,
                        units=known_units(seen.blendshapes),
                        identity=identity,
                        split=split,
                        attributes={"frame": float(number)},
                        provenance={"source": file.name, "units": "teacher: face landmarker blendshapes"},
                    )
                )
    if not annotations:
        raise ExpllmError(
            f"not one of {looked} pictures and frames shows a single face that is large enough",
            "give pictures in which one face can be seen",
        )
    write_annotations(folder / ANNOTATIONS_FILE, annotations)
    return Labelled(folder / ANNOTATIONS_FILE, len(annotations), without, several, small)


def _crop_name(identity: str, file: Path, number: int) -> str:
    if file.suffix.lower() in VIDEOS:
        return f"{identity}/{number:06d}.jpg"
    return f"{identity}/{file.stem}.jpg"


def _images(file: Path, every: int) -> Iterator[tuple[int, Image.Image]]:
    if file.suffix.lower() in VIDEOS:
        yield from video_frames(file, every)
        return
    try:
        with Image.open(file) as image:
            yield 0, ImageOps.exif_transpose(image).convert("RGB")
    except OSError as error:
        raise ExpllmError(f"{file} cannot be read as a picture ({error})", "give a JPEG or PNG picture") from error
