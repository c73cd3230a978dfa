"""Writes experiments/NAME.txt: what every experiment in configs/ resolves to, one `key = value` line per leaf.

    python tests/golden/make_experiments.py

Run it after a change of configs/ or of a default that is meant, and read the difference before it is committed.
"""

from __future__ import annotations

from pathlib import Path

from expllm_jax.config import experiment_names, load_any_experiment, render

FOLDER = Path(__file__).parent / "experiments"


def main() -> None:
    """Makes the folder's files anew; those of experiments that are gone go, too."""
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.glob("*.txt"):
        stale.unlink()
    for name in experiment_names():
        (FOLDER / f"{name}.txt").write_text(render(load_any_experiment(name)), encoding="utf-8")


if __name__ == "__main__":
    main()
