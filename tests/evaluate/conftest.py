"""A face with every field filled in, of which a test changes what it is about."""

from __future__ import annotations

import itertools

import pytest

from expllm_jax.evaluate import EvaluatedFace


@pytest.fixture(scope="session")
def make_face():
    number = itertools.count()

    def make(**changes) -> EvaluatedFace:
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
        fields.setdefault("concluded", None if fields["cot_failure"] else fields["expression"])
        return EvaluatedFace(**fields)

    return make
