"""The blendshape teacher: what is kept of its outputs, which frames are left out, and, with its packages, itself."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from expllm_jax.assets import asset_folder, asset_path
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import read_annotations
from expllm_jax.sources.face_landmarker import BLENDSHAPES, FaceLandmarker, SeenFace
from expllm_jax.sources.teacher import (
    FACE_HEIGHT,
    FACE_MIDDLE,
    UNRELIABLE,
    framed,
    known_units,
    label_frames,
    video_frames,
    videos_and_pictures,
)

OUTPUTS = dict.fromkeys(BLENDSHAPES, 0.0) | {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.4, "jawOpen": 0.9,
                                             "cheekSquintLeft": 0.7, "noseSneerLeft": 0.6}  # fmt: skip
BOX = np.array([[30.0, 20.0], [90.0, 100.0]])  # landmarks, 80 pixels high


def seen(faces: int = 1, landmarks: np.ndarray = BOX) -> SeenFace:
    return SeenFace(landmarks, OUTPUTS, faces)


def save(path, colour=(9, 9, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (120, 120), colour).save(path)
    return path


def test_what_rests_on_a_worthless_output_is_unknown_and_not_0():
    units = known_units(OUTPUTS)
    assert units["facs"]["AU12"] == 0.8 and units["feafa"]["FEAFA13"] == 0.4 and units["facs"]["AU26"] == 0.0
    assert units["facs"]["AU27"] == pytest.approx((0.9 - 0.45) / 0.55, abs=1e-4)
    assert units["facs"]["AU43"] == 0.0  # seen to be absent
    assert not {"AU5", "AU6", "AU7", "AU9", "AU33"} & set(units["facs"])
    assert not {"FEAFA3", "FEAFA10", "FEAFA18", "FEAFA23", "FEAFA24"} & set(units["feafa"])
    assert not UNRELIABLE & set(units["arkit"]) and "_neutral" not in units["arkit"]


def test_every_unreliable_output_is_one_of_the_landmarkers():
    assert set(BLENDSHAPES) >= UNRELIABLE


def test_a_crop_has_the_face_where_rendered_ones_have_it():
    """Also where it reaches beyond the picture: that part is padded."""
    canvas = Image.new("RGB", (120, 120), (0, 0, 0))
    canvas.paste((255, 255, 255), (30, 20, 90, 100))
    crop = np.asarray(framed(canvas, BOX))[..., 0] == 255
    rows, side = np.nonzero(crop.any(1))[0], len(crop)
    assert crop.shape == (side, side) and len(rows) / side == pytest.approx(FACE_HEIGHT, abs=0.02)
    assert (rows[0] + rows[-1] + 1) / 2 / side == pytest.approx(FACE_MIDDLE, abs=0.02)
    moved = framed(canvas.crop((26, 16, 96, 106)), BOX - [26, 16])
    assert np.array_equal(np.asarray(moved)[..., 0] == 255, crop)


def test_frames_that_are_left_out_are_counted(tmp_path):
    """A red picture shows nobody, a green one two people, a blue one a face that is too small."""
    answers = {(200, 0, 0): None, (0, 200, 0): seen(2), (0, 0, 200): seen(1, BOX / 4), (9, 9, 9): seen()}
    for number, colour in enumerate(answers):
        save(tmp_path / "in" / "ann" / f"{number}.png", colour)
    files = videos_and_pictures([tmp_path / "in"])
    done = label_frames(lambda image: answers[image.getpixel((0, 0))], files, tmp_path / "out")
    assert (done.faces, done.without_face, done.with_several, done.too_small) == (1, 1, 1, 1)
    (face,) = read_annotations(done.annotations)
    assert face.identity == "ann" and face.split == "train" and face.picture == "pictures/ann/3.jpg"
    assert Image.open(tmp_path / "out" / face.picture).size == (95, 95)
    with pytest.raises(ExpllmError, match="exists already"):
        label_frames(lambda image: seen(), files, tmp_path / "out")
    with pytest.raises(ExpllmError, match="not one of 4"):
        label_frames(lambda image: None, files, tmp_path / "none")


def test_places_without_pictures_and_files_called_alike_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExpllmError, match="holds no video and no picture"):
        videos_and_pictures([tmp_path / "empty"])
    with pytest.raises(ExpllmError, match="does not exist"):
        videos_and_pictures([tmp_path / "absent"])
    save(tmp_path / "a" / "x" / "1.png"), save(tmp_path / "b" / "x" / "1.png")
    with pytest.raises(ExpllmError, match="of 2 files only 1"):
        videos_and_pictures([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parity
def test_the_teacher_itself_on_a_video_of_photographs(tmp_path):
    """Frames of three people, each shown twice."""
    import av

    landmarker = FaceLandmarker(asset_path("face-landmarker"))
    photographs = [
        Image.open(asset_folder("orl-faces") / f"s{person}" / "1.pgm").convert("RGB") for person in (1, 2, 3)
    ]
    with av.open(str(tmp_path / "faces.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 276, 336, "yuv420p"
        for photograph in photographs:
            for _ in range(2):
                frame = av.VideoFrame.from_image(photograph.resize((276, 336)))
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert [number for number, _ in video_frames(tmp_path / "faces.mp4", 2)] == [0, 2, 4]
    done = label_frames(landmarker, videos_and_pictures([tmp_path / "faces.mp4"]), tmp_path / "out", every=2)
    faces = read_annotations(done.annotations)
    assert done.faces == 3 and {face.identity for face in faces} == {"faces"}
    # Cut out, a face is seen again, and says nearly the same.
    again = landmarker(Image.open(tmp_path / "out" / faces[0].picture).resize((336, 336)))
    assert again is not None and again.faces == 1
    assert again.blendshapes["mouthSmileLeft"] == pytest.approx(faces[0].units["arkit"]["mouthSmileLeft"], abs=0.25)


@pytest.mark.parity
def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(ExpllmError, match=r"x\.mp4 cannot be read as a video"):
        list(video_frames(tmp_path / "x.mp4", 1))
