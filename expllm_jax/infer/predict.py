"""Answers about pictures: the label in one word, and the three-part text, each asked for on its own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import jax
import numpy as np

from expllm_jax.cot import ParsedCot, UnparsableAnswer, parse_cot, parse_label, stated_units
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import vocabulary
from expllm_jax.infer.face_boxes import FaceBox
from expllm_jax.infer.generate import GREEDY, Generated, Generator, Prompts, SamplingConfig
from expllm_jax.infer.run_files import ModelFiles, read_model_files, read_run_params
from expllm_jax.models import ModelDef, Params, abstract, merge, merged
from expllm_jax.records import EncodedRow, Round, decode_answer, normalise, prepared_pixels, seen_picture

T = TypeVar("T")

RETRY_TEMPERATURE = 0.7
"""At which an answer is sampled after a greedy one did not parse."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model said about one picture, as generated and as parsed strictly."""

    picture: str  # path or name
    label_text: str  # answer to the label question, as generated
    label: str | None  # the label it is; None if it is none
    label_failure: str | None  # why it is no label; None if it is one
    cot_text: str  # the three-part text, as generated
    parsed: ParsedCot | None  # its parts and statements; None if it does not keep to the form
    cot_failure: str | None  # why it does not; None if it does
    stated_units: Mapping[str, str | None]  # action unit → intensity band (None: no word for it), denied ones left out
    tries: int = 1  # how often the harder of the two was asked; above 1 the first attempt did not parse

    @property
    def unparsable(self) -> str | None:
        """Why one of the two answers could not be parsed; None if both could."""
        return self.label_failure or self.cot_failure


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """How pictures are asked about."""

    batch: int = 32  # pictures at a time; 1 or more
    label_tokens: int = 8  # room for the label, in tokens
    cot_tokens: int = 400  # room for the text, in tokens
    sampling: SamplingConfig = GREEDY
    retries: int = 3  # how often an answer that does not parse is asked for again, sampled; Answer.tries tells of it

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("label_tokens", 1), ("cot_tokens", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ExpllmError(f"{name} is {getattr(self, name)}", f"use {least} or more")


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
        self._prompt = {task: files.encoder.prompt(task) for task in ("label", "cot")}

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
        rows = len(features_BND)
        units, allowed = vocabulary(self.files.vocabulary), self.files.labels
        labels = self._ask_strictly(
            [self._prompt["label"]] * rows,
            features_BND,
            self.config.label_tokens,
            lambda text: parse_label(text, allowed),
            len(names),
        )
        prompts = [self._prompt["cot"]] * rows
        if self.files.encoder.config.layout in ("chained", "reference"):
            # Trained on chains, the model has only seen the text asked for after the label.
            prompts = [
                self.files.encoder.prompt("cot", history=[Round("label", reply.text)] if reply.text.strip() else [])
                for reply in labels
            ]
        cots = self._ask_strictly(
            prompts, features_BND, self.config.cot_tokens, lambda text: parse_cot(text, units, allowed), len(names)
        )
        return [
            Answer(
                picture=name,
                label_text=label.text,
                label=label.value,
                label_failure=label.failure,
                cot_text=cot.text,
                parsed=cot.value,
                cot_failure=cot.failure,
                stated_units=stated_units(cot.text, units),
                tries=max(label.tries, cot.tries),
            )
            for name, label, cot in zip(names, labels, cots, strict=False)
        ]

    def _ask_strictly(
        self,
        prompts: list[EncodedRow],
        features_BND: np.ndarray | jax.Array,
        room: int,
        parse: Callable[[str], T],
        asked: int,
    ) -> list[_Reply[T]]:
        """One reply per row. Of the first `asked` rows (the rest is filling), those that do not parse are asked again.

        Sampling, and not a looser parser, mends what greedy decoding got wrong; a row that never parses keeps its
        first text.
        """
        replies = [
            _Reply(text, *_parsed(parse, text, cut), tries=1)
            for text, cut in self._ask(prompts, features_BND, room, self.config.sampling)
        ]
        for attempt in range(1, self.config.retries + 1):
            failed = [row for row in range(asked) if replies[row].failure is not None]
            if not failed:
                break
            filled = _filled(np.asarray(features_BND)[failed], self.config.batch)
            again = [prompts[row] for row in failed]
            again += again[-1:] * (len(filled) - len(failed))
            sampling = SamplingConfig(RETRY_TEMPERATURE, 1.0, self.config.sampling.seed + attempt)
            for row, (text, cut) in zip(failed, self._ask(again, filled, room, sampling), strict=False):
                value, failure = _parsed(parse, text, cut)
                first = replies[row]
                replies[row] = (
                    _Reply(text, value, None, attempt + 1)
                    if failure is None
                    else _Reply(first.text, None, first.failure, attempt + 1)
                )
        return replies

    def _ask(
        self, prompts: list[EncodedRow], features_BND: np.ndarray | jax.Array, room: int, sampling: SamplingConfig
    ) -> list[tuple[str, bool]]:
        """(text, whether it was cut off for lack of room) of every row."""
        tokenizer = self.files.encoder.tokenizer
        generated: Generated = self._generate(
            Prompts.of(prompts, tokenizer.pad),
            features_BND,
            max_new_tokens=room,
            eos=tokenizer.eos,
            pad=tokenizer.pad,
            sampling=sampling,
        )
        return [
            (decode_answer(tokens[:length], tokenizer), bool(cut))
            for tokens, length, cut in zip(generated.tokens, generated.lengths, generated.truncated, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class _Reply(Generic[T]):
    """A text, what it parses to, why it does not, and how often it was asked for."""

    text: str
    value: T | None
    failure: str | None
    tries: int


def _parsed(parse: Callable[[str], T], text: str, truncated: bool) -> tuple[T | None, str | None]:
    """(value, None) or (None, why not). A text that was cut off is not an answer, even if what there is would parse."""
    if truncated:
        return None, "cut off before its end"
    try:
        return parse(text), None
    except UnparsableAnswer as error:
        return None, error.reason


def _filled(rows: np.ndarray, batch: int) -> np.ndarray:
    """`rows` filled up to the next power of two, at most `batch`, so that few shapes are ever compiled.

    The last row is repeated: an empty picture might never find its end token, and all would wait for it.
    """
    count = min(batch, 1 << (len(rows) - 1).bit_length())
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])


@functools.partial(jax.jit, static_argnums=0)
def _encode(graphdef: ModelDef, params: Params, pixels_BHWC: np.ndarray | jax.Array) -> jax.Array:
    return merge(graphdef, params).encode(pixels_BHWC)
