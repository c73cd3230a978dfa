"""Answers about pictures, from a trained model: see `infer.orders` for what is asked."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.infer.answering import Answering, Limits
from expllm_jax.infer.constraint import compile_constraint
from expllm_jax.infer.conversations import (
    Answer,
    Conversations,
    PredictConfig,
    Talk,
    label_weighing,
    parsed_reply,
    shares,
)
from expllm_jax.infer.face_boxes import FaceBox
from expllm_jax.infer.picture_store import FeaturesOf
from expllm_jax.infer.requests import Reply, Request, Weighing
from expllm_jax.infer.row_pool import LoopModel
from expllm_jax.infer.run_files import ModelFiles, read_model_files, read_run_params
from expllm_jax.models import ModelDef, Params, abstract, merge, merged
from expllm_jax.parallel import make_mesh, shard_params
from expllm_jax.records import normalise, prepared_pixels, seen_picture

T = TypeVar("T")


class Predictor:
    """A model ready to answer.

    Adapters are folded into the kernels once, here.

    Args:
      files: configuration, encoder, labels.
      params: of the ExpLLM of `files.config`.
      config: see PredictConfig.
    """

    def __init__(self, files: ModelFiles, params: Params, config: PredictConfig | None = None) -> None:
        self.files, self.config = files, config or PredictConfig()
        plain, params = merged(files.config, params)
        self._graphdef = abstract(plain)[0]
        self._mesh = make_mesh() if jax.device_count() > 1 else None
        self._params = params if self._mesh is None else shard_params(params, self._mesh)
        tokenizer = files.encoder.tokenizer
        tasks = ("label", "cot") if self.config.constrained else ()
        with self._on_mesh():
            self._model = LoopModel(
                self._graphdef,
                self._params,
                eos=tokenizer.eos,
                pad=tokenizer.pad,
                constraints={task: compile_constraint(task, tokenizer, files.labels) for task in tasks},
            )
        self._conversations = Conversations(files, self.config)

    @classmethod
    def open(cls, run_dir: str | Path, config: PredictConfig | None = None, *, step: int | None = None) -> Predictor:
        """Opens a training run (at `step`, by default its latest checkpoint) or an export.

        Raises ExpllmError if the folder is neither, or is damaged.
        """
        files = read_model_files(run_dir)
        return cls(files, read_run_params(run_dir, files.config, step)[0], config)

    def answer(
        self,
        pictures: Sequence[str | Path],
        *,
        face_boxes: Sequence[FaceBox] = (),
        cropped: bool = False,
        report: Callable[[int], None] | None = None,
        done: Callable[[int, Answer], None] | None = None,
    ) -> list[Answer]:
        """Answers about picture files, in order, of which the model sees what it saw of such files in training. All are
        read before the first is asked about.

        Args:
          pictures: paths.
          face_boxes: (x, y, width, height) of the face in every picture, for a model that learnt from face crops.
          cropped: the pictures are such crops already.
          report: is told after every picture how many are done.
          done: is told the place and the answer of every picture as it is done, in whatever order that is.

        Raises:
          ExpllmError: a picture cannot be read, or where its face is has to be known and is not.
        """
        if face_boxes and len(face_boxes) != len(pictures):
            raise ExpllmError(
                f"{len(pictures)} pictures but {len(face_boxes)} face boxes", "give one face box per picture"
            )
        encoding, size = self.files.encoder.config, self.files.pictures.size
        pixels = [
            prepared_pixels(picture, encoding, size, face_box=face_box, cropped=cropped)
            for picture, face_box in zip(pictures, face_boxes or [()] * len(pictures), strict=True)
        ]
        return self._answer_pixels(pixels, [str(picture) for picture in pictures], report=report, done=done)

    def answer_stored(
        self,
        contents: Sequence[bytes],
        names: Sequence[str],
        *,
        report: Callable[[int], None] | None = None,
        done: Callable[[int, Answer], None] | None = None,
    ) -> list[Answer]:
        """Answers about the pictures of records that were encoded as those that the model learnt from.

        Args:
          contents: `Record.picture` of each.
          names: what `Answer.picture` says, one per picture.
          report, done: see `answer`.

        Raises:
          ExpllmError: a picture cannot be read.
        """
        encoding, size = self.files.encoder.config, self.files.pictures.size
        pixels = [
            seen_picture(content, size, encoding.resize, name=name)
            for content, name in zip(contents, names, strict=True)
        ]
        return self._answer_pixels(pixels, names, report=report, done=done)

    def answer_features(
        self,
        features_RND: np.ndarray,
        names: Sequence[str],
        *,
        report: Callable[[int], None] | None = None,
        done: Callable[[int, Answer], None] | None = None,
    ) -> list[Answer]:
        """Answers about pictures whose tower features are known already (`train.extract_features`).

        Args:
          features_RND: one block per picture.
          names: what `Answer.picture` says, one per picture.
          report, done: see `answer`.
        """
        if len(features_RND) != len(names):
            raise ExpllmError(f"{len(features_RND)} features but {len(names)} names", "give one name per picture")
        return self._answer_all(names, lambda pictures: features_RND[np.asarray(pictures)], report=report, done=done)

    def encode(self, pixels_BHWC: np.ndarray | jax.Array) -> jax.Array:
        """Normalised pixels -> the tower's features [B, N, D]."""
        with self._on_mesh():
            return _encode(self._graphdef, self._params, pixels_BHWC)

    def _answer_pixels(self, pixels: Sequence[np.ndarray], names: Sequence[str], **told: Any) -> list[Answer]:
        """`pixels` are uint8 [size, size, 3], one per name."""

        def features_of(pictures: Sequence[int]) -> jax.Array:
            chosen = np.stack([pixels[picture] for picture in pictures])
            return self.encode(normalise(chosen, self.files.pictures.normalisation))

        return self._answer_all(names, features_of, **told)

    def _answer_all(
        self,
        names: Sequence[str],
        features_of: FeaturesOf,
        *,
        report: Callable[[int], None] | None,
        done: Callable[[int, Answer], None] | None,
    ) -> list[Answer]:
        finished = itertools.count(1)

        def tell(number: int, answer: Answer) -> None:
            if done is not None:
                done(number, answer)
            if report is not None:
                report(next(finished))

        talks = [(picture, self._conversations.about(picture, name)) for picture, name in enumerate(names)]
        room = max(map(self.config.room, ("label",) if self.config.order == "label-only" else ("label", "cot")))
        return self._hold(talks, features_of, self.config.samples * len(names), room=room, done=tell)

    def generate(self, requests: Sequence[Request], features_PND: np.ndarray | jax.Array) -> list[Reply]:
        """One reply per request, in order. A reply does not depend on the other requests.

        Args:
          requests: what is asked.
          features_PND: tower features of the pictures that the requests number (`encode`).

        Raises:
          ExpllmError: a request names a picture or a task that is not there.
        """
        whole = [
            dataclasses.replace(
                request,
                room=request.room or self.config.room(request.task),
                stream=number if request.stream is None else request.stream,
            )
            for number, request in enumerate(requests)
        ]
        return self._replies(whole, features_PND)

    def label_likelihoods(
        self, requests: Sequence[Request], features_PND: np.ndarray | jax.Array
    ) -> list[Mapping[str, float]]:
        """For each request the allowed labels' shares of their likelihood.

        Args:
          requests: of the task "label": each label as the answer. Of the task "cot", with the whole text as `begun`:
            each label in the place of the one that the text concludes; {} if the text does not parse.
          features_PND: as in `generate`.
        """
        weighings = {}
        for number, request in enumerate(requests):
            value, _ = parsed_reply(self._conversations.parsers[request.task], Reply(request.begun, False, (), 0))
            found = label_weighing(
                request.picture, request.task, request.history, request.begun, value, self.files.labels
            )
            if found is not None:
                weighings[number] = found
        weighed = dict(zip(weighings, self._replies(list(weighings.values()), features_PND), strict=True))
        return [
            dict(zip(self.files.labels, shares(weighed[number]), strict=True)) if number in weighed else {}
            for number in range(len(requests))
        ]

    def _replies(self, questions: Sequence[Request | Weighing], features_PND: np.ndarray | jax.Array) -> list[Any]:
        """For each question its Reply or, of a Weighing, its log-likelihoods."""
        for question in questions:
            if not 0 <= question.picture < len(features_PND):
                raise ExpllmError(
                    f"a request names picture {question.picture}, and there are {len(features_PND)} features",
                    "give the features of every picture that is asked about",
                )
        if not questions:
            return []
        rooms = [0 if isinstance(question, Weighing) else question.room or 0 for question in questions]
        # Long answers first, so that none is left over at the end; of equal ones those of a picture together.
        order = sorted(range(len(questions)), key=lambda number: (-rooms[number], questions[number].picture))
        talks = [(questions[number].picture, _one(questions[number])) for number in order]

        def features_of(pictures: Sequence[int]) -> np.ndarray | jax.Array:
            return features_PND[np.asarray(pictures)]

        replies = dict(zip(order, self._hold(talks, features_of, len(talks), room=max(rooms)), strict=True))
        return [replies[number] for number in range(len(questions))]

    def _hold(
        self,
        talks: Sequence[tuple[int, Talk[T]]],
        features_of: FeaturesOf,
        answers: int,
        *,
        room: int,
        done: Callable[[int, T], None] | None = None,
    ) -> list[T]:
        """Holds conversations; `answers`: how many there are to write side by side at most, of up to `room` tokens."""
        if not talks:
            return []
        rows = min(self.config.batch, 1 << (answers - 1).bit_length())  # few shapes are compiled
        limits = Limits(rows, max(1, room))
        with self._on_mesh():
            return Answering(
                self._model, self.files.encoder, talks, features_of, limits=limits, sampling=self.config.sampling,
                done=done,
            ).results()  # fmt: skip

    def _on_mesh(self) -> contextlib.AbstractContextManager[Any]:
        """Enters the mesh that the parameters lie on, where there is more than one device."""
        return contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)


def _one(question: Request | Weighing) -> Talk[Any]:
    [reply] = yield [question]
    return reply


@functools.partial(jax.jit, static_argnums=0)
def _encode(graphdef: ModelDef, params: Params, pixels_BHWC: np.ndarray | jax.Array) -> jax.Array:
    return merge(graphdef, params).encode(pixels_BHWC)
