"""Conversations as LLaVA reads them: ``{id, image, conversations: [{from, value}, …]}``, a JSON list or JSON Lines.

"human" and "gpt" take turns; the first question holds the placeholder ``<image>``. A conversation is free text, so what
an answer is must be known from its question. Written here, a question is one of QUESTIONS; of files from elsewhere the
caller says what their answers are, in order ("caption" for LLaVA's own pre-training list, "cot" or "expression" for
instruction files such as EmoLA's).

Lost on the way in: the wording of questions that are not ours, which is why such files are refused unless `answers`
names what they hold; nothing else. Lost on the way out: all but expression, cot and caption; `id` is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.faces.expressions import expression_word
from expllm_jax.sources.dataset import Problems, raise_first
from expllm_jax.sources.interchange.json_objects import Entry, read_annotated, write_json_lines, write_json_list
from expllm_jax.sources.interchange.losses import check_loss

PLACEHOLDER = "<image>"
QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "caption": "Describe the picture.",
        "cot": "What in this face shows the expression? Go through it step by step and describe it.",
        "expression": "Which expression does the face of this person show? Answer with its name.",
    }
)
"""Field of an annotation -> the question that asks for it; in the order of the rounds."""

_KEYS = ("id", "image", "conversations")
_ID = "llava.id"


def read_llava(
    path: str | os.PathLike[str],
    *,
    pictures: str | os.PathLike[str] | None = None,
    split: str = "",
    answers: Sequence[str] = (),
    problems: Problems = raise_first,
) -> Iterator[Annotation]:
    """The annotations of a file of conversations, in its order.

    Args:
        path: the file.
        pictures: the folder of its pictures; every picture that is named must lie there. None checks nothing.
        split: which split the file is, for it does not say so itself.
        answers: what the answers of every conversation are, in order: keys of QUESTIONS. Empty takes it from the
            questions, which must then be ours.
        problems: is told of every entry that is left out, with its line or index.

    Raises:
        ExpllmError: `answers` names no such field, the file cannot be read; or, from `problems`, a conversation has no
            picture, does not take turns, has an unknown question or another number of answers, or an `id` comes twice.
    """
    unknown = [name for name in answers if name not in QUESTIONS]
    if unknown or len(set(answers)) != len(answers):
        raise ExpllmError(
            f"answers is {', '.join(answers)}.", f"Name each of {', '.join(QUESTIONS)} at most once, in their order."
        )
    return read_annotated(
        path,
        partial(_annotation, split=split, answers=tuple(answers)),
        pictures=pictures,
        problems=problems,
        name_of=lambda entry: entry.value.get("id"),
    )


def write_llava(path: str | os.PathLike[str], annotations: Iterable[Annotation], *, lossy: bool = False) -> int:
    """Writes a file of conversations, lines for a name in ".jsonl" and a list for any other; returns how many it has.

    Raises:
        ExpllmError: an annotation says more than expression, cot and caption (unless `lossy`) or none of them, one of
            its texts holds the placeholder, or the file cannot be written.
    """
    write = write_json_lines if Path(path).suffix == ".jsonl" else write_json_list
    return write(path, (_value(annotation, number, lossy) for number, annotation in enumerate(annotations)))


def _annotation(entry: Entry, split: str, answers: tuple[str, ...]) -> Annotation:
    entry.check_keys(_KEYS)
    rounds = _rounds(entry)
    fields = answers or tuple(map(partial(_field_of, entry), (question for question, _ in rounds)))
    if len(fields) != len(rounds):
        raise entry.error(f"there are {len(rounds)} answers and not {len(fields)}.", "Read such files on their own.")
    if len(set(fields)) != len(fields):
        raise entry.error("the same question comes twice.", "Remove one of the two rounds.")
    said: dict[str, str] = {name: answer for name, (_, answer) in zip(fields, rounds, strict=True)}
    if "expression" in said:
        said["expression"] = expression_word(said["expression"])
    provenance = {"dataset": "llava", **entry.provenance()}
    if "id" in entry.value:
        provenance[_ID] = str(entry.value["id"])
    return Annotation(
        entry.picture("image"),
        said.get("expression"),
        cot=said.get("cot"),
        caption=said.get("caption"),
        split=split,
        provenance=provenance,
    )


def _rounds(entry: Entry) -> list[tuple[str, str]]:
    """(question without the placeholder, answer) of every round."""
    turns = entry.value.get("conversations")
    if not (isinstance(turns, list) and turns and len(turns) % 2 == 0):
        raise entry.error("'conversations' holds no list of questions and answers.", "Mend the entry.")
    for turn, speaker in zip(turns, ("human", "gpt") * (len(turns) // 2), strict=True):
        if not (isinstance(turn, dict) and turn.get("from") == speaker and isinstance(turn.get("value"), str)):
            raise entry.error(
                "'conversations' does not take turns, 'human' first and then 'gpt', each with a 'value'.", "Mend it."
            )
    texts = [turn["value"] for turn in turns]
    if texts[0].count(PLACEHOLDER) != 1 or any(PLACEHOLDER in text for text in texts[1:]):
        raise entry.error(f"{PLACEHOLDER} does not stand once, in the first question.", "One picture a conversation.")
    questions = [text.replace(PLACEHOLDER, "").strip() for text in texts[::2]]
    return list(zip(questions, texts[1::2], strict=True))


def _field_of(entry: Entry, question: str) -> str:
    for name, known in QUESTIONS.items():
        if question == known:
            return name
    raise entry.error(
        f"the question {question[:60]!r} is not known here.",
        f"Say what the answers are, of {', '.join(QUESTIONS)}, in their order: llava:caption, say.",
    )


def _value(annotation: Annotation, number: int, lossy: bool) -> dict[str, Any]:
    check_loss(annotation, tuple(QUESTIONS), lossy=lossy, into="LLaVA's format")
    turns: list[dict[str, str]] = []
    for name, question in QUESTIONS.items():
        answer = getattr(annotation, name)
        if answer is None:
            continue
        if PLACEHOLDER in answer:
            raise ExpllmError(f"{annotation.picture}: its {name} holds {PLACEHOLDER}.", "Take it out of the text.")
        asked = question if turns else f"{PLACEHOLDER}\n{question}"
        turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {
        "id": annotation.provenance.get(_ID, str(number)),
        "image": annotation.picture,
        "conversations": turns,
    }
