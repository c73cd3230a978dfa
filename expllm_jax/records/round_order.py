"""Which rounds a record has and in which order, as the released code's `--question_index` chooses them.

The released code walks a fixed table of tasks, perhaps shuffled, and asks what the record has an answer for
(`datasets/facetask.py`, `random_question_index`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from expllm_jax.errors import ExpllmError

REFERENCE_KEYS: Mapping[str, str] = {
    "bbox": "bbox",
    "attr": "attr",
    "landmark": "landmark",
    "age_gender_race": "age_gender_race",
    "headpose": "headpose",
    "cot": "description",
    "label": "emo",
}
"""Task -> its key in the released annotation files, in the released code's order. What a record has no answer for is
passed over."""

ALONE = "caption"
"""The task that is not in the table: a record of an image-caption pair asks for nothing else."""

QUESTION_INDEX: Mapping[str, int] = {"all": -1, "box": 0, "box_first": 1, "shuffled": 2}
"""Our name of each `--question_index`: all tasks in the table's order (its RAF-DB recipe); the face box alone (its face
detection); the face box first and the others shuffled (its AffectNet recipe); all shuffled."""


def choose_rounds(available: Collection[str], question_index: int, rng: np.random.Generator) -> tuple[str, ...]:
    """The tasks to ask about, in order.

    Args:
      available: the tasks that the record has an answer for, in any order.
      question_index: -1, 0, 1 or 2; see QUESTION_INDEX.
      rng: draws the order for 1 and 2. As much is drawn for every record, whatever it has answers for; nothing for a
        caption, which stands alone under every index.

    Raises:
      ExpllmError: for an unknown index or task, a caption among others, or if nothing is left to ask.
    """
    if question_index not in QUESTION_INDEX.values():
        names = ", ".join(f"{index} ({name})" for name, index in QUESTION_INDEX.items())
        raise ExpllmError(f"question_index is {question_index}", f"use one of: {names}")
    table = list(REFERENCE_KEYS)
    if unknown := sorted(set(available) - {*table, ALONE}):
        raise ExpllmError(f"unknown task {unknown[0]!r}", f"use some of: {', '.join([*table, ALONE])}")
    if ALONE in available:
        if len(available) > 1:
            raise ExpllmError(
                f"a record has a caption and answers to {', '.join(sorted(set(available) - {ALONE}))}, which the "
                "released code never asks for together",
                'leave some of them out of the tasks, or use order="tasks"',
            )
        return (ALONE,)
    if question_index == 0:
        chosen = table[:1]
    elif question_index == 1:
        chosen = [*table[:1], *rng.permutation(table[1:]).tolist()]
    elif question_index == 2:
        chosen = rng.permutation(table).tolist()
    else:
        chosen = table
    chosen = tuple(task for task in chosen if task in available)
    if not chosen:
        raise ExpllmError(
            f"question_index {question_index} asks nothing of a record that has {', '.join(sorted(available)) or 'no'} "
            "answers",
            "use -1, which asks about all that a record has, or leave the record out",
        )
    return chosen
