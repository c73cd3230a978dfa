"""Answers about pictures: the label in one word, and the three-part text, each asked for on its own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from expllm_jax.cot import ParsedCot, UnparsableAnswer, parse_cot, parse_label, stated_units
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import vocabulary
from expllm_jax.infer.generate import GREEDY, Generated, Prompts, SamplingConfig, decoding_def, generate
from expllm_jax.infer.run_files import ModelFiles, read_model_files, read_run_params
from expllm_jax.models import ModelDef, Params, abstract, merge, merged
from expllm_jax.records import Round, decode_answer, normalise, read_picture, square

T = TypeVar("T")


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

    def __post_init__(self) -> None:
        for name in ("batch", "label_tokens", "cot_tokens"):
            if getattr(self, name) < 1:
                raise ExpllmError(f"{name} is {getattr(self, name)}", "use 1 or more")


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
        self._tower, self._decoder = abstract(plain)[0], decoding_def(plain)
        self._prompt = {task: files.encoder.prompt(task) for task in ("label", "cot")}

    @classmethod
    def open(cls, run_dir: str | Path, config: PredictConfig | None = None, *, step: int | None = None) -> Predictor:
        """Opens a training run (at `step`, by default its latest checkpoint) or an export.

        Raises ExpllmError if the folder is neither, or is damaged.
        """
        files = read_model_files(run_dir)
        return cls(files, read_run_params(run_dir, files.config, step)[0], config)

    def answer(self, pictures: Sequence[str | Path], *, report: Callable[[int], None] | None = None) -> list[Answer]:
        """Answers about picture files, in order. All are read before the first is asked about.

        Args:
          pictures: paths.
          report: is told after every batch how many pictures are done.

        Raises:
          ExpllmError: a picture cannot be read.
        """
        settings = self.files.pictures
        pixels = [square(read_picture(picture), settings.size) for picture in pictures]
        names = [str(picture) for picture in pictures]

        def features() -> Iterator[jax.Array]:
            for start in range(0, len(pixels), self.config.batch):
                chunk = np.stack(pixels[start : start + self.config.batch])
                yield self.encode(normalise(_filled(chunk, self.config.batch), settings.normalisation))

        return self._answer_all(names, features(), report)

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
        return _encode(self._tower, self._params, pixels_BHWC)

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
        labels = self._ask([self._prompt["label"]] * rows, features_BND, self.config.label_tokens)
        prompts = [self._prompt["cot"]] * rows
        if self.files.encoder.config.layout == "chained":
            # Trained on chains, the model has only seen the text asked for after the label.
            texts = [text for text, _ in labels]
            prompts = [
                self.files.encoder.prompt("cot", history=[Round("label", text)] if text.strip() else [])
                for text in texts
            ]
        cots = self._ask(prompts, features_BND, self.config.cot_tokens)
        return [self._parse(name, label, cot) for name, label, cot in zip(names, labels, cots, strict=False)]

    def _ask(self, prompts: list, features_BND: np.ndarray | jax.Array, room: int) -> list[tuple[str, bool]]:
        """(text, whether it was cut off for lack of room) of every row."""
        tokenizer = self.files.encoder.tokenizer
        generated: Generated = generate(
            self._decoder, self._params, Prompts.of(prompts, tokenizer.pad), features_BND, max_new_tokens=room,
            eos=tokenizer.eos, pad=tokenizer.pad, sampling=self.config.sampling,
        )  # fmt: skip
        return [
            (decode_answer(tokens[:length], tokenizer), bool(cut))
            for tokens, length, cut in zip(generated.tokens, generated.lengths, generated.truncated, strict=True)
        ]

    def _parse(self, name: str, label: tuple[str, bool], cot: tuple[str, bool]) -> Answer:
        units, labels = vocabulary(self.files.vocabulary), self.files.labels
        label_value, label_failure = _parsed(lambda text: parse_label(text, labels), *label)
        parsed, cot_failure = _parsed(lambda text: parse_cot(text, units, labels), *cot)
        return Answer(
            picture=name,
            label_text=label[0],
            label=label_value,
            label_failure=label_failure,
            cot_text=cot[0],
            parsed=parsed,
            cot_failure=cot_failure,
            stated_units=stated_units(cot[0], units),
        )


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
