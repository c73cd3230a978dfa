"""A run ends with the same files, however often it is killed on the way, and asks about no finished face again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expllm_jax.cli import main
from expllm_jax.engine.annotation_streams import stream_annotations, write_annotation_stream
from expllm_jax.engine.journal import Journal
from expllm_jax.engine.loop import EngineConfig, ExpCotLoop
from expllm_jax.engine.narration import BudgetSpent, Inference, NarratorFailed
from expllm_jax.engine.run import run_engine
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import BASIC_7, Annotation, read_annotations, write_annotations
from expllm_jax.sources.rendered.regimes import sample_units
from tests.engine.scripted import ScriptedNarrator

FACES = 40
RESULTS = ("annotations.jsonl", "dead_letters.jsonl", "summary.json")
ROOT = Path(__file__).parents[2]


def faces() -> list[Annotation]:
    rng = np.random.default_rng(0)
    labels = [None if number % 9 == 8 else BASIC_7[number % 7] for number in range(FACES)]
    return [
        Annotation(f"{number}.png", label, {"facs": sample_units(label or "Fear", "hard", rng)})
        for number, label in enumerate(labels)
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("faces") / "faces.jsonl"
    write_annotations(path, faces())
    return path


def run(source, folder, narrator=None, *, config=None, **options):
    loop = ExpCotLoop(narrator or ScriptedNarrator(), config or EngineConfig())
    return run_engine(source, folder, loop, **options)


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(source, folder).complete
    return folder


def assert_same_results(folder: Path, other: Path) -> None:
    for name in RESULTS:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_every_face_is_in_one_of_the_two_files_in_the_order_of_the_input(source, undisturbed):
    told = [annotation.picture for annotation in read_annotations(undisturbed / "annotations.jsonl")]
    letters = [json.loads(line) for line in lines_of(undisturbed / "dead_letters.jsonl")]
    dead = [letter["annotation"]["picture"] for letter in letters]
    order = [annotation.picture for annotation in faces()]
    assert told == [name for name in order if name in told] and dead == [name for name in order if name in dead]
    assert sorted(told + dead) == sorted(order) and dead
    assert all(letter["status"] == "rejected" and letter["reason"] and letter["history"] for letter in letters)
    summary = json.loads((undisturbed / "summary.json").read_text())
    assert (summary["accepted"], summary["rejected"]) == (len(told), len(dead))
    assert sum(summary["accepted_by_round"].values()) == len(told)
    assert sum(sum(ended.values()) for ended in summary["by_class"].values()) == FACES
    assert summary["by_class"]["unlabelled"]


@pytest.mark.parametrize("finished", [0, 9, 30])
def test_killed_and_started_again_is_as_if_undisturbed(source, undisturbed, tmp_path, finished):
    folder, log = tmp_path / "run", tmp_path / "narrated"
    journal = folder / "journal.jsonl"
    command = [sys.executable, "-m", "tests.engine.scripted", str(source), str(folder), str(log)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    while not (journal.exists() and journal.read_bytes().count(b"\n") > finished):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "annotations.jsonl").exists()
    entries = [json.loads(line) for line in journal.read_bytes().split(b"\n")[1:-1]]
    done = {f"{entry['index']}.png" for entry in entries}
    assert finished <= len(done) < FACES

    again = tmp_path / "narrated again"
    assert run(source, folder, ScriptedNarrator(log=again)).complete
    assert set(lines_of(again)) == {annotation.picture for annotation in faces()} - done
    assert_same_results(folder, undisturbed)


def test_a_finished_run_asks_nobody(source, undisturbed):
    narrator = ScriptedNarrator()
    before = [(undisturbed / name).read_bytes() for name in RESULTS]
    assert run(source, undisturbed, narrator).complete
    assert narrator.calls == [] and [(undisturbed / name).read_bytes() for name in RESULTS] == before


@pytest.mark.parametrize("concurrency", [1, 5])
def test_no_more_faces_are_under_way_than_asked_for(source, undisturbed, tmp_path, concurrency):
    narrator = ScriptedNarrator(delay=0.001)
    run(source, tmp_path / "run", narrator, concurrency=concurrency)
    assert narrator.most_at_once == concurrency and narrator.closed
    assert_same_results(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("torn", [b'{"index": 7, "status": "acc', b"\xff\x00", b'{"index": 7}'])
def test_what_a_kill_tore_off_is_dropped(source, undisturbed, tmp_path, torn):
    folder = tmp_path / "run"
    folder.mkdir()
    whole = (undisturbed / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(whole[:6]) + torn)
    narrator = ScriptedNarrator()
    run(source, folder, narrator)
    assert len({name for name, _, _ in narrator.calls}) == FACES - 5
    assert_same_results(folder, undisturbed)
    assert len(lines_of(folder / "journal.jsonl")) == FACES + 1


def test_a_torn_header_is_an_empty_journal(source, undisturbed, tmp_path):
    (tmp_path / "journal.jsonl").write_bytes(b'{"engine": 1, "inp')
    run(source, tmp_path)
    assert_same_results(tmp_path, undisturbed)


@pytest.mark.parametrize("damage", [b"damaged\n", b'{"index": 100000, "status": "accepted"}\n', b"[]\n"])
def test_a_damaged_line_in_the_middle_is_named(source, undisturbed, tmp_path, damage):
    whole = (undisturbed / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_bytes(b"".join([*whole[:3], damage, *whole[3:]]))
    with pytest.raises(ExpllmError, match="line 4: not a line of an engine's journal"):
        run(source, tmp_path)


def test_another_run_in_the_same_folder_is_refused(source, undisturbed, tmp_path):
    with pytest.raises(ExpllmError, match=r"config\.rounds was 3, is 2"):
        run(source, undisturbed, config=EngineConfig(rounds=2))
    other = ScriptedNarrator()
    other.fingerprint = "v2"
    with pytest.raises(ExpllmError, match=r"narrator\.fingerprint was scripted, is v2"):
        run(source, undisturbed, other)
    write_annotations(tmp_path / "fewer.jsonl", faces()[:-1])
    with pytest.raises(ExpllmError, match=r"input\.sha256 was .*input\.annotations was 40, is 39"):
        run(tmp_path / "fewer.jsonl", undisturbed)


def test_files_of_others_are_not_overwritten(source, tmp_path):
    (tmp_path / "annotations.jsonl").write_text("mine")
    with pytest.raises(ExpllmError, match="no run of the engine"):
        run(source, tmp_path)
    assert (tmp_path / "annotations.jsonl").read_text() == "mine"


def test_a_journal_is_held_by_one_process(source, undisturbed, tmp_path):
    held = Journal(tmp_path / "journal.jsonl", {}, FACES)
    with pytest.raises(ExpllmError, match="in use by another process"):
        run(source, tmp_path)
    held.close()


def test_failed_faces_are_tried_again_and_rejected_ones_if_asked(source, undisturbed, tmp_path):
    wrong, gone = Inference("Surprise"), NarratorFailed("time-out")
    script = {("3.png", "describe"): [gone], ("4.png", "infer"): [wrong] * 3}
    first = run(source, tmp_path, ScriptedNarrator(script))
    rejected = json.loads((undisturbed / "summary.json").read_text())["rejected"]
    assert not first.complete and (first.summary["failed"], first.summary["rejected"]) == (1, rejected + 1)
    letters = {letter["annotation"]["picture"]: letter for letter in map(json.loads, lines_of(first.dead_letters))}
    assert letters["3.png"]["reason"] == "time-out" and letters["4.png"]["status"] == "rejected"

    second = ScriptedNarrator()
    assert run(source, tmp_path, second).complete
    assert {name for name, _, _ in second.calls} == {"3.png"}
    third = ScriptedNarrator()
    run(source, tmp_path, third, retry_rejected=True)
    assert "4.png" in {name for name, _, _ in third.calls} and len({name for name, _, _ in third.calls}) == rejected + 1
    assert_same_results(tmp_path, undisturbed)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_spent_budget_stops_the_run_and_the_next_goes_on(source, undisturbed, tmp_path, concurrency):
    script = {("20.png", "confirm"): [BudgetSpent("5.00 of 5.00 dollars spent")]}
    stopped = run(source, tmp_path, ScriptedNarrator(script, delay=0.001), concurrency=concurrency)
    assert stopped.stopped == "5.00 of 5.00 dollars spent" and not stopped.complete
    finished = stopped.summary["accepted"] + stopped.summary["rejected"]
    assert 0 < finished < FACES and stopped.summary["pending"] == FACES - finished
    rest = ScriptedNarrator()
    assert run(source, tmp_path, rest).complete
    assert len({name for name, _, _ in rest.calls}) == FACES - finished
    assert_same_results(tmp_path, undisturbed)


def test_what_a_narrator_cannot_go_on_with_ends_the_run_and_keeps_what_is_finished(source, tmp_path):
    narrator = ScriptedNarrator({("20.png", "describe"): [ExpllmError("no such model", "name another")]})
    with pytest.raises(ExpllmError, match="no such model"):
        run(source, tmp_path, narrator, concurrency=2)
    assert narrator.closed and len(lines_of(tmp_path / "journal.jsonl")) > 15


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 3: not JSON"),
        ('{"picture": "x", "expression": "Joy"}', "line 3: .*'Joy'"),
        ('{"picture": "x", "expression": "Fear"}', "line 3: x has no facs units"),
        ('{"picture": "x", "expression": "Contempt", "units": {"facs": {}}}', "line 3: x has the expression Contempt"),
    ],
)
def test_bad_input_is_named_before_anybody_is_asked(tmp_path, line, problem):
    path = tmp_path / "faces.jsonl"
    write_annotations(path, faces()[:2])
    path.write_text(path.read_text() + line + "\n")
    narrator = ScriptedNarrator()
    with pytest.raises(ExpllmError, match=problem):
        run(path, tmp_path / "run", narrator)
    assert narrator.calls == [] and not (tmp_path / "run").exists()
    path.write_text("\n")
    with pytest.raises(ExpllmError, match="holds no annotations"):
        run(path, tmp_path / "run")


FULL = Annotation(
    "ü/1.png", "Fear", {"facs": {"AU5": 0.5}, "feafa": {"FEAFA3": 0.25}}, cot="text\n\nmore", caption="a face",
    identity="p1", split="train", attributes={"gender": "female", "yaw": -3.5}, landmarks=((1.5, 2),) * 5,
    face_box=(0, 1, 2, 3.5), provenance={"source": "here"},
)  # fmt: skip


def test_parquet_holds_all_of_an_annotation(tmp_path):
    written = [FULL, Annotation("2.png"), *faces()]
    assert write_annotation_stream(tmp_path / "faces.parquet", written) == len(written)
    read = list(stream_annotations(tmp_path / "faces.parquet"))
    assert [annotation for _, annotation in read] == written and read[1][0] == "row 2"


def test_parquet_of_other_makers_may_have_structs_or_json(tmp_path):
    rows = [
        {
            "picture": "a",
            "expression": "Fear",
            "units": {"facs": {"AU1": 0.5, "AU2": None}},
            "provenance": '{"k": "v"}',
        },
        {"picture": "b", "expression": None, "units": {"facs": {"AU1": None, "AU2": 0.25}}, "provenance": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    first, second = (annotation for _, annotation in stream_annotations(tmp_path / "x.parquet"))
    assert first == Annotation("a", "Fear", {"facs": {"AU1": 0.5}}, provenance={"k": "v"})
    assert second == Annotation("b", None, {"facs": {"AU2": 0.25}})


def test_a_bad_row_or_file_is_named(tmp_path):
    rows = [{"picture": "a", "attributes": "{}"}, {"picture": "b", "attributes": "{"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    with pytest.raises(ExpllmError, match=r"x\.parquet, row 2"):
        list(stream_annotations(tmp_path / "x.parquet"))
    (tmp_path / "y.parquet").write_text("no parquet")
    with pytest.raises(ExpllmError, match=r"y\.parquet cannot be read"):
        list(stream_annotations(tmp_path / "y.parquet"))


def test_a_run_from_parquet_to_parquet_tells_the_same(source, undisturbed, tmp_path):
    write_annotation_stream(tmp_path / "faces.parquet", faces())
    ended = run(tmp_path / "faces.parquet", tmp_path / "run")
    told = [annotation for _, annotation in stream_annotations(ended.texts)]
    assert ended.texts.name == "annotations.parquet"
    assert told == read_annotations(undisturbed / "annotations.jsonl")
    assert (tmp_path / "run/dead_letters.jsonl").read_bytes() == (undisturbed / "dead_letters.jsonl").read_bytes()


def test_the_command(source, tmp_path, capsys):
    arguments = ["engine", "run", str(source), "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "Surprise" in shown.out and "in round 1" in shown.out and "expllm engine report" in shown.out
    assert "40/40" in shown.err
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["accepted"] + told["rejected"] == FACES and told["folder"] == str(tmp_path / "run")
    assert main([*arguments, "--rounds", "1"]) == 2
    assert "config.rounds was 3, is 1" in capsys.readouterr().err
    assert main(["engine", "run", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "other")]) == 2
