"""Many conversations answered together, with a fixed number of rows that are kept busy.

A row that has ended gets the next question at once, so that short answers do not wait for long ones. Pictures are read
once for all questions about them, and a question once for all chains drawn for it. Texts are asked for before labels,
so that no long answer is left over at the end. What is replied to a question depends on that question alone.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from expllm_jax.infer.conversations import Talk
from expllm_jax.infer.likelihood import WeighingRow, branch_likelihoods, weighing_row
from expllm_jax.infer.passes import passes, rounded
from expllm_jax.infer.picture_store import FeaturesOf, PictureStore
from expllm_jax.infer.reading import read_questions
from expllm_jax.infer.requests import Reply, Request, Weighing, begun_row
from expllm_jax.infer.row_pool import LoopModel, RowPool, Start
from expllm_jax.infer.sampling import SamplingConfig
from expllm_jax.parallel import LOGICAL_AXES
from expllm_jax.records import RecordEncoder, decode_answer

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is done at a time, and how long answers may be."""

    rows: int  # answers written side by side
    room: int  # most new tokens of any answer, and of those to requests that do not say


@dataclasses.dataclass
class _Job(Generic[T]):
    """A conversation that has begun."""

    number: int
    picture: int
    slot: int
    talk: Talk[T]
    replies: list[Any] = dataclasses.field(default_factory=list)
    waiting: int = 0


@dataclasses.dataclass(frozen=True)
class _Question:
    """A request of a job that waits for a row, or has one."""

    job: _Job[Any]
    place: int  # among the questions that the job asked together
    request: Request
    tokens: np.ndarray  # behind the prefix: question, and what was begun
    begun: list[int]
    room: int

    @property
    def prompt(self) -> tuple[int, bytes]:
        """The same for questions whose prompts are the same."""
        return self.job.slot, self.tokens.tobytes()


class Answering(Generic[T]):
    """One lot of conversations.

    Args:
      model: see LoopModel.
      encoder: writes the prompts.
      talks: the picture that each conversation is about, by its number, and the conversation. They begin in this order.
      features_of: gives the features of pictures, each when its first question comes up.
      limits: see Limits.
      sampling: of requests that bring none of their own.
      done: is told the place of every conversation that has ended, and what it came to.
    """

    def __init__(
        self,
        model: LoopModel,
        encoder: RecordEncoder,
        talks: Sequence[tuple[int, Talk[T]]],
        features_of: FeaturesOf,
        *,
        limits: Limits,
        sampling: SamplingConfig,
        done: Callable[[int, T], None] | None = None,
    ) -> None:
        self._model, self._encoder, self._limits, self._sampling = model, encoder, limits, sampling
        self._todo, self._done = deque(enumerate(talks)), done
        self._unit = _shards()
        rows = -(-limits.rows // self._unit) * self._unit
        self._rows = RowPool(model, rows=rows, ring=limits.room, unit=self._unit)
        self._store = PictureStore(
            model.graphdef,
            model.params,
            encoder.prompt(next(iter(encoder.template.tasks))),
            image=encoder.tokenizer.image,
            slots=rows,
            unit=self._unit,
            features_of=features_of,
        )
        self._pending: list[_Question] = []
        self._weighings: list[tuple[_Job[T], int, WeighingRow]] = []
        self._writing: dict[int, _Question] = {}
        self._results: dict[int, T] = {}

    def results(self) -> list[T]:
        """Brings every conversation to its end and returns what each came to, in their order.

        Raises ExpllmError if something begun cannot be continued in the form or room that it is held to.
        """
        total = len(self._todo)
        while len(self._results) < total:
            self._begin_jobs()
            self._store.read()
            self._weigh()
            self._begin_answers()
            if self._writing:
                for row, written in self._rows.advance().items():
                    self._finish(self._writing.pop(row), written.tokens, written.ended)
        return [self._results[number] for number in range(total)]

    def _begin_jobs(self) -> None:
        """Begins conversations until there are questions for all idle rows."""
        wanted = len(self._rows.idle)
        while self._todo and len(self._pending) + len(self._weighings) < max(wanted, 1):
            number, (picture, talk) = self._todo[0]
            if not self._store.has_room(picture):
                break
            self._todo.popleft()
            self._go_on(_Job(number, picture, self._store.take(picture), talk), None)

    def _go_on(self, job: _Job[T], replies: Sequence[Any] | None) -> None:
        """Takes what a conversation asks next, or its end."""
        try:
            questions = job.talk.send(replies)
        except StopIteration as end:
            self._store.give_back(job.picture)
            self._results[job.number] = end.value
            if self._done is not None:
                self._done(job.number, end.value)
            return
        job.replies, job.waiting = [None] * len(questions), len(questions)
        for place, question in enumerate(questions):
            if isinstance(question, Weighing):
                self._weighings.append((job, place, weighing_row(self._encoder, question)))
            else:
                row, begun = begun_row(self._encoder, question)
                room = question.room or self._limits.room
                self._pending.append(_Question(job, place, question, self._store.behind_prefix(row), begun, room))

    def _replied(self, job: _Job[T], place: int, reply: Any) -> None:
        job.replies[place] = reply
        job.waiting -= 1
        if not job.waiting:
            self._go_on(job, job.replies)

    def _weigh(self) -> None:
        """Weighs what is to be weighed, as soon as there is enough for a good pass or nothing else to do."""
        if len(self._weighings) < max(1, self._rows.rows // 4) and (self._writing or self._pending):
            return
        found, self._weighings = self._weighings, []
        for some, size in passes(found, self._unit):
            filled = [*some, *some[-1:] * (size - len(some))]
            likelihoods = branch_likelihoods(
                self._model.graphdef,
                self._model.params,
                self._store.caches,
                [job.slot for job, _, _ in filled],
                [row for _, _, row in filled],
                self._store.length,
                self._model.pad,
            )
            for (job, place, _), values in zip(some, likelihoods, strict=False):
                self._replied(job, place, values)

    def _begin_answers(self) -> None:
        """Gives idle rows the questions that wait, those with the longest answers first."""
        self._pending.sort(key=lambda question: -question.room)  # stable: of equals, the one that came first
        idle = len(self._rows.idle)
        chosen, self._pending = self._pending[:idle], self._pending[idle:]
        by_length: dict[int, dict[tuple[int, bytes], list[_Question]]] = {}
        for question in chosen:
            same = by_length.setdefault(rounded(len(question.tokens)), {})
            same.setdefault(question.prompt, []).append(question)
        for length, prompts in by_length.items():
            for some, size in passes(list(prompts.values()), self._unit):
                self._begin_some(some, size, length)

    def _begin_some(self, prompts: Sequence[list[_Question]], size: int, length: int) -> None:
        """Reads prompts, in a pass of `size` rows of `length` tokens, and begins all the answers to each."""
        firsts = [same[0] for same in prompts]
        firsts += firsts[-1:] * (size - len(firsts))
        tokens_BQ = np.full((size, length), self._model.pad, np.int32)
        for row, question in zip(tokens_BQ, firsts, strict=True):
            row[: len(question.tokens)] = question.tokens
        lengths = np.asarray([len(question.tokens) for question in firsts], np.int32)
        slots = np.asarray([question.job.slot for question in firsts], np.int32)
        found, logits_BV = read_questions(
            self._model.graphdef, self._model.params, self._store.caches, slots, tokens_BQ, lengths
        )
        asked = [(source, question) for source, same in enumerate(prompts) for question in same]
        starts = [
            Start(
                source,
                question.request.task,
                question.begun,
                question.room,
                question.request.sampling or self._sampling,
                question.request.stream or 0,
            )
            for source, question in asked
        ]
        rows = self._rows.begin(found, logits_BV, (lengths + self._store.length).tolist(), starts)
        self._writing |= {row: question for row, (_, question) in zip(rows, asked, strict=True)}

    def _finish(self, question: _Question, tokens: tuple[int, ...], ended: bool) -> None:
        text = decode_answer([*question.begun, *tokens], self._encoder.tokenizer)
        read = self._store.length + len(question.tokens)
        self._replied(question.job, question.place, Reply(text, not ended, tokens, read))


def _shards() -> int:
    """Over how many devices of the entered mesh rows are shared out."""
    mesh = jax.sharding.get_abstract_mesh()
    sizes = dict(mesh.shape) if not mesh.empty else {}
    return int(np.prod([sizes.get(axis, 1) for axis in LOGICAL_AXES["batch"]]))
