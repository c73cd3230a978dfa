"""`expllm doctor`."""

from __future__ import annotations

import argparse
from typing import Any

from expllm_jax.cli.parsing import add_verb, show


def _doctor(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax import doctor

    report = doctor.run(verify=options.verify)
    show(options, doctor.render(report))
    return report.to_json()


def add(verbs: Any) -> None:
    """Adds the verbs to the parser."""
    doctor = add_verb(
        verbs, "doctor", _doctor, "versions, devices, memory, cache, and what is missing", "expllm doctor --verify"
    )
    doctor.add_argument("--verify", action="store_true", help="read every cached file again and compare its SHA-256")
