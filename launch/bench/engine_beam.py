"""Takes the same annotations through `run_engine` and through Beam's DirectRunner, and compares what comes out as sets.

    python launch/bench/engine_beam.py --faces 100000

in the environment of launch/lock/beam.txt, from the checkout. The faces have labels and units as rendered faces have
them (regimes clean, mild and hard), but no pictures; the offline narrator writes in brief style. Prints one JSON
object; exits 1 if the sets differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from expllm_jax.engine.beam import run_engine_with_beam
from expllm_jax.engine.loop import EngineConfig, ExpCotLoop
from expllm_jax.engine.narrator import NarratorConfig
from expllm_jax.engine.offline_narrator import OfflineNarrator
from expllm_jax.engine.run import run_engine
from expllm_jax.faces import BASIC_7, Annotation, iter_annotations, write_annotations
from expllm_jax.sources.rendered.regimes import REGIMES, sample_units


def _faces(count: int) -> Iterator[Annotation]:
    rng = np.random.default_rng(0)
    for number in range(count):
        label, regime = BASIC_7[number % 7], list(REGIMES)[number // 7 % len(REGIMES)]
        units = {"facs": sample_units(label, regime, rng)}
        yield Annotation(f"{number:07d}.png", label, units, split=regime, provenance={"source": "sampled units"})


def _lines(folder: Path, pattern: str) -> tuple[int, set[str]]:
    lines = [line for path in sorted(folder.glob(pattern)) for line in path.open(encoding="utf-8")]
    return len(lines), set(lines)


def main() -> int:
    """Runs both and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faces", type=int, default=100_000)
    options = parser.parse_args()
    make_narrator, config = partial(OfflineNarrator, NarratorConfig(style="brief")), EngineConfig()
    with tempfile.TemporaryDirectory() as work:
        source, plain, beamed = (Path(work) / name for name in ("faces.jsonl", "plain", "beam"))
        write_annotations(source, _faces(options.faces))
        started = time.perf_counter()
        run = run_engine(source, plain, ExpCotLoop(make_narrator(), config))
        plain_seconds = time.perf_counter() - started
        regimes = Counter(annotation.split for _, annotation in iter_annotations(run.texts))
        given = Counter(annotation.split for _, annotation in iter_annotations(source))
        started = time.perf_counter()
        local = PipelineOptions(["--runner=DirectRunner"])
        run_engine_with_beam(source, beamed, make_narrator, config, options=local)
        beam_seconds = time.perf_counter() - started
        same = all(
            _lines(plain, f"{name}.jsonl") == _lines(beamed, f"{name}-*.jsonl")
            for name in ("annotations", "dead_letters")
        )
    told: dict[str, object] = {key: run.summary[key] for key in ("accepted", "rejected", "accepted_by_round")}
    told |= {"faces": options.faces, "same_sets": same}
    told |= {"accepted_share": {regime: round(regimes[regime] / given[regime], 4) for regime in REGIMES}}
    told |= {"plain_seconds": round(plain_seconds, 1), "beam_seconds": round(beam_seconds, 1)}
    print(json.dumps(told))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
