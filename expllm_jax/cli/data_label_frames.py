"""`expllm data label-frames`: faces of real pictures and videos with the units that a teacher sees in them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from expllm_jax.cli.parsing import add_verb, natural, show


def _label_frames(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.assets import asset_path
    from expllm_jax.sources.face_landmarker import FaceLandmarker
    from expllm_jax.sources.teacher import label_frames, videos_and_pictures
    from expllm_jax.train import Progress

    files = videos_and_pictures(options.places)
    landmarker = FaceLandmarker(asset_path("face-landmarker"))
    progress = Progress(None, "labelling", "pictures")
    done = label_frames(landmarker, files, Path(options.out), every=options.every, split=options.split,
                        progress=progress.update)  # fmt: skip
    progress.close()
    show(
        options,
        f"{done.faces:,} faces; left out: {done.without_face:,} pictures without a face, {done.with_several:,} with "
        f"several, {done.too_small:,} with one that is too small\n{done.annotations}\n"
        f"next: expllm train img2au --out runs/img2au-real --set 'mixture={done.annotations}@0.3'",
    )
    return {"annotations": str(done.annotations), "faces": done.faces, "without_face": done.without_face,
            "with_several": done.with_several, "too_small": done.too_small}  # fmt: skip


def add(data: Any) -> None:
    """Adds the verb to the group."""
    label = add_verb(
        data,
        "label-frames",
        _label_frames,
        "faces of real pictures and videos, with the units that a face landmarker sees in them",
        "expllm data label-frames interview.mp4 photographs --out frames",
    )
    label.add_argument(
        "places", nargs="+", metavar="VIDEO_OR_FOLDER",
        help="a video (of one person), a picture, or a folder of them (a folder of pictures: one person)",
    )  # fmt: skip
    label.add_argument("--out", required=True, help="the folder to write: pictures and annotations.jsonl")
    label.add_argument("--every", type=natural, default=5, help="take every so many frames of a video (default: 5)")
    label.add_argument("--split", default="train", help="split of the annotations (default: train)")
