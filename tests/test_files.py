"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.files import put_in_place, text_file, unfinished, write_whole


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize(("content", "stored"), [(b"\x00\xff", b"\x00\xff"), ("Grün\n", "Grün\n".encode())])
def test_content_is_written_into_new_folders(tmp_path, content, stored):
    path = write_whole(tmp_path / "new" / "deep" / "a.txt", content)
    assert path.read_bytes() == stored
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("sync", [True, False])
def test_an_old_file_is_replaced(tmp_path, sync):
    path = tmp_path / "a.txt"
    path.write_text("old and longer")
    write_whole(str(path), "new", sync=sync)
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_who_may_read_is_for_the_umask_to_say(tmp_path):
    command = "import os, sys; from expllm_jax.files import write_whole; os.umask(0o027); write_whole(sys.argv[1], 'a')"
    subprocess.run([sys.executable, "-c", command, tmp_path / "a.txt"], check=True)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_text_appears_when_all_of_it_is_written(tmp_path):
    path = tmp_path / "a.txt"
    with text_file(path) as file:
        file.write("one\n")
        file.flush()
        assert not path.exists()
        file.write("two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("stopped", [ValueError, KeyboardInterrupt, ExpllmError])
def test_a_writer_that_is_stopped_leaves_the_old_file_and_nothing_else(tmp_path, stopped):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(stopped), text_file(path) as file:
        file.write("half")
        raise stopped("no more")
    with pytest.raises(stopped), unfinished(path) as partial:
        partial.write_text("half")
        raise stopped("no more")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / "a.txt"
    with text_file(path) as one, text_file(path) as two:
        one.write("one")
        two.write("two")
    assert path.read_text() == "one"  # the block that ended last
    assert names(tmp_path) == ["a.txt"]


def test_what_cannot_be_written_is_told_with_its_path(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.txt", tmp_path / "folder"):
        with pytest.raises(ExpllmError, match=f"{path} cannot be written [(].*(irectory|exists)"):
            write_whole(path, "a")
        with (
            pytest.raises(ExpllmError, match=f"{path} cannot be written [(].*(irectory|exists)"),
            text_file(path) as file,
        ):
            file.write("a")
    assert names(tmp_path) == ["file", "folder"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExpllmError, match="No space left on device"):
        write_whole(tmp_path / "a.txt", "a")
    assert names(tmp_path) == []


def test_a_writer_that_made_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), unfinished(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


def test_a_folder_takes_the_place_of_another(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text("")
    put_in_place(tmp_path / "new", tmp_path / "old")
    assert names(tmp_path) == ["old"]
    assert names(tmp_path / "old") == ["new.txt"]


def test_a_folder_that_cannot_move_leaves_the_old_one_in_place(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "kept.txt").write_text("")
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "missing", tmp_path / "old")
    assert names(tmp_path) == ["old"]
    assert names(tmp_path / "old") == ["kept.txt"]
