"""The engine on Apache Beam. It runs in an environment of its own, see launch/lock/beam.txt."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from expllm_jax.engine.loop import EngineConfig, ExpCotLoop
from expllm_jax.engine.narrator import NarratorConfig
from expllm_jax.engine.offline_narrator import OfflineNarrator
from expllm_jax.engine.run import run_engine
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import BASIC_7, Annotation, write_annotations
from expllm_jax.sources.rendered.regimes import sample_units

pytest.importorskip("apache_beam")
from apache_beam.options.pipeline_options import PipelineOptions

from expllm_jax.engine.beam import run_engine_with_beam

LOCAL = ["--runner=DirectRunner"]
make_narrator = partial(OfflineNarrator, NarratorConfig(style="brief"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("faces") / "faces.jsonl"
    faces = [
        Annotation(f"ü{i}.png", BASIC_7[i % 7], {"facs": sample_units(BASIC_7[i % 7], "hard", rng)}) for i in range(200)
    ]
    write_annotations(path, [*faces, Annotation("unlabelled.png", None, {"facs": {"AU12": 0.9}})])
    return path


def lines(folder, pattern):
    return sorted(line for path in folder.glob(pattern) for line in path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(("processes", "concurrency"), [(1, 1), (2, 8)])
def test_beam_tells_what_the_plain_run_tells(source, tmp_path, processes, concurrency):
    options = PipelineOptions(
        [*LOCAL, f"--direct_num_workers={processes}"] + ["--direct_running_mode=multi_processing"] * (processes > 1)
    )
    config, beamed, plain = EngineConfig(), tmp_path / "beam", tmp_path / "plain"
    run_engine_with_beam(source, beamed, make_narrator, config, concurrency=concurrency, options=options)
    run = run_engine(source, plain, ExpCotLoop(make_narrator(), config))
    assert run.summary["rejected"] > 0
    for name in ("annotations", "dead_letters"):
        assert lines(beamed, f"{name}-*.jsonl") == lines(plain, f"{name}.jsonl")
    summary = json.loads((beamed / "summary.json").read_text())
    assert summary == {key: run.summary[key] for key in summary}
    with pytest.raises(ExpllmError, match="is not empty"):
        run_engine_with_beam(source, beamed, make_narrator, config)


def test_a_bad_line_is_told(tmp_path):
    path = tmp_path / "faces.jsonl"
    path.write_text('{"picture": ""}\n')
    with pytest.raises(ExpllmError, match="names no picture"):
        run_engine_with_beam(path, tmp_path / "out", make_narrator, EngineConfig(), options=PipelineOptions(LOCAL))
