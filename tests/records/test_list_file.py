"""List files and what their repeats mean."""

from __future__ import annotations

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.records import ListEntry, read_list_file


@pytest.fixture
def data(tmp_path):
    for name in ("labels", "texts"):
        (tmp_path / f"{name}.json").write_text("[]")
    (tmp_path / "pictures of faces").mkdir()
    return tmp_path


def written(data, text):
    path = data / "mix.txt"
    path.write_text(text)
    return path


def test_a_list_file(data):
    path = written(
        data,
        "texts.json,pictures of faces,1\n\n# three of four are labels\n"
        "labels.json, pictures of faces , 3\nlabels.json,pictures of faces\n",
    )
    texts, labels, pictures = data / "texts.json", data / "labels.json", data / "pictures of faces"
    entries = read_list_file(path, root=data)
    assert entries == (ListEntry(texts, pictures, 1), ListEntry(labels, pictures, 3), ListEntry(labels, pictures))
    (data / "absolute.txt").write_text(f"{texts},{pictures},.2")
    assert read_list_file(data / "absolute.txt", root="/nowhere") == (ListEntry(texts, pictures, 0.2),)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("labels.json", "two or three fields"),
        ("labels.json,pictures of faces,1,2", "two or three fields"),
        ("labels.json,,1", "two or three fields"),
        ("labels.json,pictures of faces,thrice", "thrice"),
        ("labels.json,pictures of faces,0", "repeat is 0"),
        ("labels.json,pictures of faces,-1", "repeat is -1"),
        ("labels.json,pictures of faces,nan", "repeat is nan"),
        ("nothing.json,pictures of faces,1", "nothing.json"),
        ("labels.json,texts.json,1", "no folder"),
    ],
)
def test_errors_name_file_and_line(data, line, named):
    with pytest.raises(ExpllmError, match=f"mix.txt, line 2: .*{named}"):
        read_list_file(written(data, f"texts.json,pictures of faces,1\n{line}\n"), root=data)


def test_a_list_that_is_not_there_or_is_empty(data):
    with pytest.raises(ExpllmError, match="absent.txt"):
        read_list_file(data / "absent.txt")
    with pytest.raises(ExpllmError, match="lists nothing"):
        read_list_file(written(data, "# nothing\n"))
