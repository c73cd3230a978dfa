"""A face with every field filled in, of which a test changes what it is about. All its units are known."""

from __future__ import annotations

import itertools

import pytest

from expllm_jax.evaluate import EvaluatedFace
from expllm_jax.faces import FACS


@pytest.fixture(scope="session")
def make_face():
    number = itertools.count()

    def make(*, unknown=(), **changes) -> EvaluatedFace:
        """`units` that are not given are absent, but for those in `unknown`."""
        record = f"r{next(number)}"
        fields = {
            "record": record,
            "identity": record,
            "split": "mild",
            "expression": "Happiness",
            "units": {},
            "label_text": "Happiness",
            "predicted": "Happiness",
            "cot": "**Key Observations:** none.\n\n**Conclusion:** happy.",
            "cot_failure": None,
            "stated": {},
        } | changes
        absent = {code: 0.0 for code in FACS.codes if code not in unknown}
        fields["units"] = absent | fields["units"]
        fields.setdefault("concluded", None if fields["cot_failure"] else fields["expression"])
        return EvaluatedFace(**fields)

    return make
