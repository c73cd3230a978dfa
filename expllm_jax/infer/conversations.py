"""Each face's conversation: which questions are asked, in which order, how often, and what the replies come to.

A conversation is a generator: it yields the questions that may be answered side by side, gets their replies, and
returns the face's answer. Whoever runs many of them (`infer.predict`) may answer their questions in any order and in
any company.
"""

from __future__ import annotations

import dataclasses
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from expllm_jax.cot import EXPRESSION_WORDS, ParsedCot, UnparsableAnswer, parse_cot, parse_label, stated_units
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import vocabulary
from expllm_jax.infer.orders import ORDERS, Order
from expllm_jax.infer.requests import Reply, Request, Weighing
from expllm_jax.infer.run_files import ModelFiles
from expllm_jax.infer.sampling import GREEDY, SamplingConfig
from expllm_jax.records import Round

T = TypeVar("T")

RETRY_TEMPERATURE = 0.7
"""At which an answer is sampled after a greedy one did not parse."""

Questions = Sequence[Request | Weighing]
Talk = Generator[Questions, Sequence[Any], T]
"""Yields questions; is sent, for each, a Reply or (of a Weighing) log-likelihoods; returns a T."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model said about one picture, as generated and as parsed strictly."""

    picture: str  # path or name
    label_text: str | None  # answer to the label question, as generated; None: not asked
    label: str | None  # the label it is; None if it is none, or was not asked for
    label_failure: str | None  # why it is no label; None if it is one, or was not asked for
    cot_text: str | None  # the three-part text, as generated; None: not asked
    parsed: ParsedCot | None  # its parts and statements; None if it does not keep to the form, or was not asked for
    cot_failure: str | None  # why it does not; None if it does, or was not asked for
    stated_units: Mapping[str, str | None]  # action unit → intensity band (None: no word for it), denied ones left out
    tries: int = 1  # how often the hardest was asked; above 1 the first attempt did not parse
    order: Order = "label-first"
    predicted: str | None = None  # the label, by the rule of the order; None: there is none
    label_probabilities: Mapping[str, float] = dataclasses.field(default_factory=dict)  # allowed label → share of its
    # likelihood in that of all; empty unless asked for, or where there is no text whose conclusion could be another
    truncated: bool = False  # an answer was cut off for lack of room
    prompt_tokens: int = 0  # read by the model: of every different question once, its picture included
    new_tokens: int = 0  # generated, all tries and chains together
    votes: Mapping[str, int] = dataclasses.field(default_factory=dict)  # label → chains that end in it; empty for one

    @property
    def unparsable(self) -> str | None:
        """Why one of the answers that were asked for could not be parsed; None if all could."""
        return self.label_failure or self.cot_failure


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """How pictures are asked about."""

    batch: int = 32  # questions at a time; 1 or more
    label_tokens: int = 8  # room for the label, in tokens
    cot_tokens: int = 400  # room for the text, in tokens
    sampling: SamplingConfig = GREEDY
    retries: int = 3  # how often an answer that does not parse is asked for again, sampled; Answer.tries tells of it
    order: Order = "label-first"  # one of ORDERS
    constrained: bool = False  # only answers that parse can be written
    samples: int = 1  # chains per face, whose majority decides (self-consistency); above 1 they have to be sampled
    label_likelihood: bool = False  # also weigh the labels against each other: Answer.label_probabilities

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("label_tokens", 1), ("cot_tokens", 1), ("retries", 0), ("samples", 1)):
            if getattr(self, name) < least:
                raise ExpllmError(f"{name} is {getattr(self, name)}", f"use {least} or more")
        if self.order not in ORDERS:
            raise ExpllmError(f"order is {self.order!r}", f"use one of: {', '.join(ORDERS)}")
        if self.samples > 1 and not self.sampling.temperature:
            raise ExpllmError(
                f"{self.samples} samples of each face, and all would be the same", "set sampling.temperature above 0"
            )

    def room(self, task: str) -> int:
        """The most tokens of an answer to a task's question."""
        return self.label_tokens if task == "label" else self.cot_tokens


class Conversations:
    """Makes the conversation of every face.

    Args:
      files: of the model: layout, labels, vocabulary.
      config: how it is asked.
    """

    def __init__(self, files: ModelFiles, config: PredictConfig) -> None:
        self._config, self._labels = config, files.labels
        self._units = vocabulary(files.vocabulary)
        self._chained = files.encoder.config.layout != "branched"
        self.parsers: Mapping[str, Callable[[str], Any]] = {
            "label": lambda text: parse_label(text, self._labels),
            "cot": lambda text: parse_cot(text, self._units, self._labels),
        }

    def about(self, picture: int, name: str) -> Talk[Answer]:
        """The conversation about one picture: its place among the features, and what `Answer.picture` says.

        What is drawn for it depends on the name, and not on which others are asked about.
        """
        talks = [self._chain(_Ask(picture, name, chain)) for chain in range(self._config.samples)]
        chains: list[_Chain] = yield from side_by_side(talks)
        shown = self._majority(chains)
        cot, label = shown.cot, shown.label
        asked = [part for chain in chains for part in (chain.label, chain.cot) if part is not None]
        if self._config.order == "label-first":
            cot = yield from self._ask(_Ask(picture, name, 0), "cot", self._after("label", label))
            asked.append(cot)
        votes = Counter(chain.predicted for chain in chains if chain.predicted is not None)
        return Answer(
            picture=name,
            label_text=label and label.text,
            label=label and label.value,
            label_failure=label and label.failure,
            cot_text=cot and cot.text,
            parsed=cot and cot.value,
            cot_failure=cot and cot.failure,
            stated_units=stated_units(cot.text, self._units) if cot else {},
            tries=max(part.tries for part in asked),
            order=self._config.order,
            predicted=shown.predicted,
            label_probabilities=_mean([chain.probabilities for chain in chains if chain.probabilities]),
            truncated=any(part.truncated for part in (label, cot) if part is not None),
            prompt_tokens=sum({part.question: part.prompt_tokens for part in asked}.values()),
            new_tokens=sum(part.new_tokens for part in asked),
            votes=dict(votes) if len(chains) > 1 else {},
        )

    def _chain(self, ask: _Ask) -> Talk[_Chain]:
        """One way to a label."""
        cot: _Parsed[ParsedCot] | None = None
        if self._config.order == "reasoning-first":
            cot = yield from self._ask(ask, "cot", ())
            if not self._chained:
                probabilities = yield from self._weigh(ask, "cot", (), cot)
                return _Chain(None, cot, cot.value and cot.value.expression, probabilities)
        history = self._after("cot", cot)
        label = yield from self._ask(ask, "label", history)
        probabilities = yield from self._weigh(ask, "label", history, label)
        return _Chain(label, cot, label.value, probabilities)

    def _after(self, task: str, parsed: _Parsed[Any] | None) -> tuple[Round, ...]:
        """What stands before the next question. Only a model trained on chains has ever seen a round before another."""
        if not self._chained or parsed is None or not parsed.text.strip():
            return ()
        return (Round(task, parsed.text),)

    def _ask(self, ask: _Ask, task: str, history: tuple[Round, ...]) -> Talk[_Parsed[Any]]:
        """Asks until the answer parses, at most `retries` times more.

        Sampling, and not a looser parser, mends what greedy decoding got wrong; what never parses keeps its first text.
        """
        first, spent = None, 0
        sampling = self._config.sampling
        for attempt in range(self._config.retries + 1):
            if attempt:
                sampling = SamplingConfig(RETRY_TEMPERATURE, 1.0, self._config.sampling.seed + attempt)
            [reply] = yield [
                Request(
                    ask.picture, task, history, room=self._config.room(task), sampling=sampling, stream=ask.stream(task)
                )
            ]
            value, failure = parsed_reply(self.parsers[task], reply)
            spent += reply.new_tokens
            first = first or _Parsed(reply.text, value, failure, reply.truncated, 1, reply.prompt_tokens, spent,
                                     (task, history))  # fmt: skip
            if failure is None:
                return dataclasses.replace(
                    first, text=reply.text, value=value, failure=None, truncated=False, tries=attempt + 1,
                    new_tokens=spent,
                )  # fmt: skip
        return dataclasses.replace(first, tries=self._config.retries + 1, new_tokens=spent)

    def _weigh(
        self, ask: _Ask, task: str, history: tuple[Round, ...], given: _Parsed[Any]
    ) -> Talk[Mapping[str, float]]:
        """The labels' probabilities in the place of the given answer's, if they are asked for."""
        if not self._config.label_likelihood:
            return {}
        weighing = label_weighing(ask.picture, task, history, given.text, given.value, self._labels)
        if weighing is None:
            return {}
        [likelihoods] = yield [weighing]
        return dict(zip(self._labels, shares(likelihoods), strict=True))

    def _majority(self, chains: Sequence[_Chain]) -> _Chain:
        """The first chain that ends in the label that most end in; of equals, the one of the greater summed
        probability, and then the one that stands first among the labels."""
        predicted = [chain.predicted for chain in chains]

        def weight(label: str) -> tuple[int, float, int]:
            likelihood = math.fsum(chain.probabilities.get(label, 0.0) for chain in chains)
            return predicted.count(label), likelihood, -self._labels.index(label)

        found = {label for label in predicted if label is not None}
        return chains[predicted.index(max(found, key=weight))] if found else chains[0]


@dataclasses.dataclass(frozen=True)
class _Ask:
    """Whom a question is about, and in which chain."""

    picture: int
    name: str
    chain: int

    def stream(self, task: str) -> int:
        return zlib.crc32(f"{self.name}\n{task}\n{self.chain}".encode())


@dataclasses.dataclass(frozen=True)
class _Parsed(Generic[T]):
    """A text, what it parses to or why it does not, and what it cost."""

    text: str
    value: T | None
    failure: str | None
    truncated: bool
    tries: int
    prompt_tokens: int
    new_tokens: int
    question: tuple[str, tuple[Round, ...]]


@dataclasses.dataclass(frozen=True)
class _Chain:
    label: _Parsed[str] | None
    cot: _Parsed[ParsedCot] | None
    predicted: str | None
    probabilities: Mapping[str, float]


def side_by_side(talks: Sequence[Talk[T]]) -> Talk[list[T]]:
    """Several conversations as one, whose questions are asked together."""
    results: dict[int, T] = {}
    sent: list[Sequence[Any] | None] = [None] * len(talks)
    while True:
        waiting: list[tuple[int, Questions]] = []
        for number, talk in enumerate(talks):
            if number in results:
                continue
            try:
                waiting.append((number, talk.send(sent[number])))
            except StopIteration as end:
                results[number] = end.value
        if not waiting:
            return [results[number] for number in range(len(talks))]
        replies = iter((yield [question for _, questions in waiting for question in questions]))
        for number, questions in waiting:
            sent[number] = [next(replies) for _ in questions]


def parsed_reply(parse: Callable[[str], T], reply: Reply) -> tuple[T | None, str | None]:
    """(value, None) or (None, why not). A text that was cut off is not an answer, even if what there is would parse."""
    if reply.truncated:
        return None, "cut off before its end"
    try:
        return parse(reply.text), None
    except UnparsableAnswer as error:
        return None, error.reason


def label_weighing(
    picture: int,
    task: str,
    history: tuple[Round, ...],
    text: str,
    parsed: ParsedCot | str | None,
    labels: Sequence[str],
) -> Weighing | None:
    """What to weigh for the labels' probabilities: the labels as answers; of a text, itself with each label concluded
    instead of its own. None for a text that concludes nothing."""
    if task == "label":
        return Weighing(picture, task, tuple(labels), history)
    if not isinstance(parsed, ParsedCot):
        return None
    body = text.rstrip()
    before = body[: len(body) - len(parsed.conclusion)]
    answers = (before + renamed(parsed.conclusion, parsed.expression, label) for label in labels)
    return Weighing(picture, task, tuple(answers), history)


def renamed(conclusion: str, old: str, new: str) -> str:
    """A conclusion about `old` that says the same of `new`: nouns for nouns, adjectives for adjectives, and their
    articles with them."""
    if old == new:
        return conclusion
    words = dict(zip(EXPRESSION_WORDS[old], EXPRESSION_WORDS[new], strict=True))

    def replacement(match: re.Match[str]) -> str:
        article, space, word = match.groups()
        other = words[word.lower()]
        other = other.capitalize() if word[0].isupper() else other
        if article is None:
            return other
        fitting = "an" if other[0].lower() in "aeiou" else "a"
        return (fitting.capitalize() if article[0].isupper() else fitting) + space + other

    return re.sub(rf"\b(?:(an?)(\s+))?({'|'.join(words)})\b", replacement, conclusion, flags=re.IGNORECASE)


def shares(log_likelihoods: Sequence[float]) -> list[float]:
    """Probabilities that sum to 1 out of log-likelihoods."""
    most = max(log_likelihoods)
    weights = [math.exp(value - most) for value in log_likelihoods]
    return [weight / math.fsum(weights) for weight in weights]


def _mean(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {label: math.fsum(each[label] for each in found) / len(found) for label in found[0]} if found else {}
