"""Answers about pictures, from a trained model: see `infer.orders` for what is asked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.infer.conversations import (
    Answer,
    Conversations,
    PredictConfig,
    label_weighing,
    parsed_reply,
    shares,
    side_by_side,
)
from expllm_jax.infer.face_boxes import FaceBox
from expllm_jax.infer.generate import Generator, Prompts
from expllm_jax.infer.likelihood import log_likelihoods, weighing_row
from expllm_jax.infer.requests import Reply, Request, Weighing, begun_row
from expllm_jax.infer.run_files import ModelFiles, read_model_files, read_run_params
from expllm_jax.models import ModelDef, Params, abstract, merge, merged
from expllm_jax.records import decode_answer, normalise, prepared_pixels, seen_picture


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
        plain, self._params = merged(files.config, params)
        self._graphdef = abstract(plain)[0]
        self._generate = Generator(self._graphdef, self._params)
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
    ) -> list[Answer]:
        """Answers about picture files, in order, of which the model sees what it saw of such files in training. All are
        read before the first is asked about.

        Args:
          pictures: paths.
          face_boxes: (x, y, width, height) of the face in every picture, for a model that learnt from face crops.
          cropped: the pictures are such crops already.
          report: is told after every batch how many pictures are done.

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
        return self._answer_pixels(pixels, [str(picture) for picture in pictures], report)

    def answer_stored(
        self, contents: Sequence[bytes], names: Sequence[str], *, report: Callable[[int], None] | None = None
    ) -> list[Answer]:
        """Answers about the pictures of records that were encoded as those that the model learnt from.

        Args:
          contents: `Record.picture` of each.
          names: what `Answer.picture` says, one per picture.
          report: see `answer`.

        Raises:
          ExpllmError: a picture cannot be read.
        """
        encoding, size = self.files.encoder.config, self.files.pictures.size
        pixels = [
            seen_picture(content, size, encoding.resize, name=name)
            for content, name in zip(contents, names, strict=True)
        ]
        return self._answer_pixels(pixels, names, report)

    def answer_features(
        self, features_RND: np.ndarray, names: Sequence[str], *, report: Callable[[int], None] | None = None
    ) -> list[Answer]:
        """Answers about pictures whose tower features are known already (`train.extract_features`).

        Args:
          features_RND: one block per picture.
          names: what `Answer.picture` says, one per picture.
          report: see `answer`.
        """
        if len(features_RND) != len(names):
            raise ExpllmError(f"{len(features_RND)} features but {len(names)} names", "give one name per picture")
        batch = self.config.batch
        chunks = (_filled(features_RND[start : start + batch], batch) for start in range(0, len(names), batch))
        return self._answer_all(list(names), chunks, report)

    def encode(self, pixels_BHWC: np.ndarray | jax.Array) -> jax.Array:
        """Normalised pixels -> the tower's features [B, N, D]."""
        return _encode(self._graphdef, self._params, pixels_BHWC)

    def _answer_pixels(
        self, pixels: Sequence[np.ndarray], names: Sequence[str], report: Callable[[int], None] | None
    ) -> list[Answer]:
        """`pixels` are uint8 [size, size, 3], one per name."""

        def features() -> Iterator[jax.Array]:
            for start in range(0, len(pixels), self.config.batch):
                chunk = np.stack(pixels[start : start + self.config.batch])
                yield self.encode(normalise(_filled(chunk, self.config.batch), self.files.pictures.normalisation))

        return self._answer_all(list(names), features(), report)

    def _answer_all(
        self, names: list[str], features: Iterable[np.ndarray | jax.Array], report: Callable[[int], None] | None
    ) -> list[Answer]:
        answers: list[Answer] = []
        for features_BND in features:
            chunk = names[len(answers) : len(answers) + self.config.batch]
            answers += self._answer_batch(chunk, features_BND)
            if report is not None:
                report(len(answers))
        return answers

    def _answer_batch(self, names: list[str], features_BND: np.ndarray | jax.Array) -> list[Answer]:
        """`names` may be fewer than the rows of the features, which are filled up to a size compiled before."""
        talk = side_by_side([self._conversations.about(picture, name) for picture, name in enumerate(names)])
        replies = None
        while True:
            try:
                questions = talk.send(replies)
            except StopIteration as end:
                return end.value
            replies = self._replies(questions, features_BND)

    def generate(self, requests: Sequence[Request], features_PND: np.ndarray | jax.Array) -> list[Reply]:
        """One reply per request, in order. A reply does not depend on the other requests.

        Args:
          requests: what is asked.
          features_PND: tower features of the pictures that the requests number (`encode`).

        Raises:
          ExpllmError: a request names a picture or a task that is not there.
        """
        return self._replies(requests, features_PND)

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
        found: dict[int, Any] = {}
        groups: dict[Any, list[int]] = {}
        for number, question in enumerate(questions):
            key = None if isinstance(question, Weighing) else (self._room(question), question.sampling)
            groups.setdefault(key, []).append(number)
        for key, numbers in groups.items():
            for start in range(0, len(numbers), self.config.batch):
                chunk = numbers[start : start + self.config.batch]
                filled = _filled(np.asarray(chunk), self.config.batch)
                asked = [questions[number] for number in filled]
                features = np.asarray(features_PND)[[question.picture for question in asked]]
                replies = self._weighed(asked, features) if key is None else self._generated(asked, features)
                found |= dict(zip(chunk, replies, strict=False))
        return [found[number] for number in range(len(questions))]

    def _room(self, request: Request) -> int:
        return request.room or {"label": self.config.label_tokens}.get(request.task, self.config.cot_tokens)

    def _weighed(self, weighings: Sequence[Weighing], features: np.ndarray) -> list[tuple[float, ...]]:
        encoder = self.files.encoder
        rows = [weighing_row(encoder, weighing) for weighing in weighings]
        return log_likelihoods(self._graphdef, self._params, rows, features, encoder.tokenizer.pad)

    def _generated(self, requests: Sequence[Request], features: np.ndarray) -> list[Reply]:
        tokenizer = self.files.encoder.tokenizer
        rows, begun = zip(*(begun_row(self.files.encoder, request) for request in requests), strict=True)
        generated = self._generate(
            Prompts.of(list(rows), tokenizer.pad),
            features,
            max_new_tokens=self._room(requests[0]),
            eos=tokenizer.eos,
            pad=tokenizer.pad,
            sampling=requests[0].sampling or self.config.sampling,
        )
        return [
            Reply(
                decode_answer([*start, *tokens[:length]], tokenizer),
                bool(cut),
                tuple(map(int, tokens[:length])),
                len(row),
            )
            for row, start, tokens, length, cut in zip(
                rows, begun, generated.tokens, generated.lengths, generated.truncated, strict=True
            )
        ]


def _filled(rows: np.ndarray, batch: int) -> np.ndarray:
    """`rows` filled up to the next power of two, at most `batch`, so that few shapes are ever compiled.

    The last row is repeated: an empty picture might never find its end token, and all would wait for it.
    """
    count = min(batch, 1 << (len(rows) - 1).bit_length())
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])


@functools.partial(jax.jit, static_argnums=0)
def _encode(graphdef: ModelDef, params: Params, pixels_BHWC: np.ndarray | jax.Array) -> jax.Array:
    return merge(graphdef, params).encode(pixels_BHWC)
