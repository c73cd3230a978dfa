"""Faces to narrate, a model that narrates them well, and a configuration with short waits."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from expllm_jax.cot import movement_of
from expllm_jax.engine import NarratorConfig, narrate
from expllm_jax.engine.llm import LlmConfig
from expllm_jax.engine.task import FaceTask, face_task
from expllm_jax.faces import BASIC_7, FACS, PROTOTYPES, Annotation
from tests.engine.llm.endpoint import Sent, Served, completion

LABELS = ("Happiness", "Sadness", "Surprise", "Anger")


def faces(count: int) -> list[Annotation]:
    """Clear faces of four expressions, no two alike."""
    made = []
    for number in range(count):
        label = LABELS[number % len(LABELS)]
        units = {code: round(value + number % 10 / 100, 2) for code, value in PROTOTYPES[label].items()}
        made.append(Annotation(f"face{number}.png", label, {"facs": {**units, "AU38": 0.1 + number // 20 / 100}}))
    return made


def task(annotation: Annotation, **changes: Any) -> FaceTask:
    """The task of an annotation."""
    made = face_task(annotation, FACS, BASIC_7, run_seed=0, folder=None)
    return FaceTask(**{**vars(made), **changes})


def quick(url: str, **changes: Any) -> LlmConfig:
    """Retries after milliseconds. The time-out is for a busy computer; tests that reach it set their own."""
    settings: dict[str, Any] = {"base_url": url, "model": "scripted", "retries": 2, "backoff": 0.002, "timeout": 20.0}
    return LlmConfig(**(settings | changes))


def well(served: Served) -> Sent:
    """A model that does every step as it is asked."""
    return completion(_ANSWERS[served.step](served.user))


def units_of(user: str) -> dict[str, float]:
    """The units that a question lists."""
    return {code: float(value) for code, value in re.findall(r"^- .*?\((AU\d+)\): \w+, ([\d.]+)", user, re.MULTILINE)}


def _describe(user: str) -> str:
    names = [f"{movement_of(code, FACS).name} of {value:.0%}" for code, value in units_of(user).items()]
    before = len(re.findall(r"^Description \d", user, re.MULTILINE))  # each round has words of its own
    return f"{'On another look, the' if before else 'The'} face shows {', '.join(names)}{'!' * before}."


def _infer(user: str) -> str:
    fitting = [label for label in LABELS if _shows(user, label)]
    return json.dumps({"expression": fitting[0], "reason": "the movements fit it"})


def _shows(text: str, label: str) -> bool:
    return all(movement_of(code, FACS).name in text for code in PROTOTYPES[label])


def _refine(user: str) -> str:
    label = re.search(r"A face is labelled (\w+)\.", user)
    assert label is not None
    return narrate(label[1], units_of(user), NarratorConfig(), np.random.default_rng(0))


_ANSWERS = {
    "describe": _describe,
    "infer": _infer,
    "confirm": lambda _: '{"agrees": true, "reason": "they go together"}',
    "reflect": lambda _: "Give the mouth more weight.",
    "refine": _refine,
}


def scripted(step: str, *answers: Sent) -> Any:
    """Does well, but for the first calls of a step, which get these answers."""
    left = list(answers)

    def answer(served: Served) -> Sent:
        return left.pop(0) if served.step == step and left else well(served)

    return answer


def counted(items: Sequence[str]) -> dict[str, int]:
    """Each item and how often it is there."""
    return {item: items.count(item) for item in dict.fromkeys(items)}
