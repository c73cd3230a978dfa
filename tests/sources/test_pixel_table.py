"""FER2013's pictures, out of its table and into files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from expllm_jax.errors import ExpllmError
from expllm_jax.sources import read_dataset, write_fer2013_pictures

USAGES = ("Training", "Training", "PublicTest", "PrivateTest")
LABELS = (0, 3, 6, 5)
VOTES = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def pixels(row: int) -> np.ndarray:
    return np.random.default_rng(row).integers(0, 256, (48, 48), np.uint8)


@pytest.fixture
def table(tmp_path):
    lines = ["emotion,pixels,Usage"]
    for row, (label, usage) in enumerate(zip(LABELS, USAGES, strict=True)):
        lines.append(f"{label},{' '.join(map(str, pixels(row).ravel()))},{usage}")
    path = tmp_path / "fer2013.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_table_itself_is_refused_with_the_way_out(table):
    with pytest.raises(ExpllmError, match=r"pictures as text.*expllm data unpack .*fer2013\.csv --out"):
        list(read_dataset("fer2013", table.parent))


def test_the_pictures_are_written_and_read_back(table, tmp_path):
    out = tmp_path / "pictures"
    assert write_fer2013_pictures(table, out) == 4
    faces = {face.picture: face for face in read_dataset("fer2013", out)}
    assert {picture: (face.split, face.expression) for picture, face in faces.items()} == {
        "train/anger/00000.png": ("train", "Anger"),
        "train/happiness/00001.png": ("train", "Happiness"),
        "val/neutral/00002.png": ("val", "Neutral"),
        "test/surprise/00003.png": ("test", "Surprise"),
    }
    for row, picture in enumerate(sorted(faces, key=lambda name: name[-9:])):
        np.testing.assert_array_equal(np.asarray(Image.open(out / picture)), pixels(row))


def test_with_ferplus_the_pictures_get_its_names(table, tmp_path):
    out = tmp_path / "ferplus"
    out.mkdir()
    votes = [f"Usage,Image name,{VOTES}"]
    for usage, name, counts in zip(
        USAGES,
        ("fer0000000.png", "", "fer0028638.png", "fer0032220.png"),
        ("9,1,0,0,0,0,0,0,0,0", "0,0,0,0,0,0,0,0,0,10", "0,9,0,0,0,0,0,0,1,0", "0,0,0,0,0,0,8,0,0,2"),
        strict=True,
    ):
        votes.append(f"{usage},{name},{counts}")
    (out / "fer2013new.csv").write_text("\n".join(votes) + "\n")
    assert write_fer2013_pictures(table, out, ferplus=out / "fer2013new.csv") == 3
    assert {face.picture: face.expression for face in read_dataset("ferplus", out)} == {
        "FER2013Train/fer0000000.png": "Neutral",
        "FER2013Valid/fer0028638.png": "Happiness",
        "FER2013Test/fer0032220.png": "Fear",
    }
    # A row fewer, and the tables do not belong together.
    (out / "fer2013new.csv").write_text("\n".join(votes[:-1]) + "\n")
    with pytest.raises(ExpllmError, match=r"fer2013\.csv, line 5 has no counterpart"):
        write_fer2013_pictures(table, tmp_path / "again", ferplus=out / "fer2013new.csv")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0,1 2 3,Training", "line 6: not 2,304 pixels"),
        (f"0,{'256 ' * 2304},Training", "line 6: not 2,304 pixels"),
        ("7,0,Training", "line 6: fer2013 has no expression with label 7"),
        ("sad,0,Training", "line 6: column 'emotion' holds 'sad'"),
        ("0,0,Test", "line 6: column 'Usage' holds 'Test'"),
    ],
)
def test_a_damaged_row_is_named(table, tmp_path, line, says):
    with table.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ExpllmError, match=says):
        write_fer2013_pictures(table, tmp_path / "out")
