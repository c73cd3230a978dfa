"""Which label an answer gives, as several published protocols read it: each with its faults, and beside it a reading
without them.

A number that a paper reports depends on how its evaluator reads. To compare with it, ours have to be read the same way,
misreadings included; to know how good a model is, they must not be. So each protocol here is two readers. Where a
published evaluator would have stopped with an exception, the answer counts as unparsable.

==========  =============================================================  ==========================================
protocol    as published                                                   misreads
==========  =============================================================  ==========================================
strict      ours: the label word alone, or three parts whose conclusion    nothing: what is not well formed is
            names one label                                                unparsable
expllm      the stripped answer is one of the eight label words, to the    "happiness" and "Happiness." are wrong
            letter (utils/eval_metrics.py)
faba        sentences with a denial are dropped, denials found as          "The nose is wrinkled in disgust." is
            substrings; the first keyword of the first sentence that is    dropped for the "no" in "nose"; no keyword
            left, else the label with most keywords (eval_FABA.py)         at all is happiness, and so is "sad"
unifer      the first candidate, in the data set's order, that is a        "unhappy, sad" is happy; "not fear but
            substring of the <answer>, else of the whole text, else a      anger" is fear; a text cut off after "no
            table of other words (eval_unifer.py)                          surprise here; anger" is surprise
facial-r1   the first word of the <answer>; without one, the first word    "Happiness is absent, so this is anger"
            of the whole text (src/eval)                                   is happiness
==========  =============================================================  ==========================================

The words are in `protocol_words`. "unifer" is RAF-DB's table; "unifer-affectnet", "unifer-ferplus" and "unifer-sfew"
are the other three.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from expllm_jax.cot.grammar import (
    EXPRESSION_WORDS,
    UnparsableAnswer,
    concluded_expression,
    parse_label,
    split_parts,
)
from expllm_jax.cot.label_words import namings
from expllm_jax.cot.protocol_words import FABA_DENIALS, FABA_WORDS, FERBENCH_WORDS, CandidateWords
from expllm_jax.cot.words import is_denied
from expllm_jax.faces import EXPRESSIONS

Reader = Callable[[str, Sequence[str]], str]
"""(answer, allowed labels) -> label, or UnparsableAnswer."""

_EXPRESSION_OF = {word: label for label, words in EXPRESSION_WORDS.items() for word in words}
_SHOWN = 40  # characters of an answer that a reason quotes


@dataclass(frozen=True)
class Protocol:
    """How one project reads answers."""

    name: str
    source: str  # whose evaluator it is
    published: Reader  # bug for bug
    corrected: Reader  # the same idea without the faults
    unit_codes: bool = False  # it also reads the codes of units from texts, those of denied units included


def read_label(text: str, protocol: str, allowed: Sequence[str], *, corrected: bool = False) -> str:
    """The label that an answer gives, by the published reading of a protocol or the corrected one.

    Args:
        text: the answer, whatever it holds.
        protocol: a name in PROTOCOLS.
        allowed: the data set's labels.

    Raises:
        UnparsableAnswer: it gives none, or one that is not allowed; the reason says which.
        KeyError: there is no such protocol.
    """
    chosen = PROTOCOLS[protocol]
    label = (chosen.corrected if corrected else chosen.published)(text, allowed)
    if label not in allowed:
        raise UnparsableAnswer(f"{label} is none of this data set's labels")
    return label


# --- strict and ExpLLM ------------------------------------------------------------------------------------------------


def _strict(text: str, allowed: Sequence[str]) -> str:
    """A label word alone, or a text of three parts whose conclusion names exactly one."""
    try:
        return parse_label(text, allowed)
    except UnparsableAnswer:
        return concluded_expression(split_parts(text).conclusion, allowed)


def _exact_word(text: str, allowed: Sequence[str]) -> str:
    return parse_label(text, EXPRESSIONS)


def _any_case(text: str, allowed: Sequence[str]) -> str:
    """A noun or adjective alone, in any case, whatever marks stand around it."""
    label = _EXPRESSION_OF.get(text.strip(" \t\r\n.!,:;\"'`*_()").lower())
    if label is None:
        raise UnparsableAnswer(f"{_short(text)} is none of the labels")
    return label


# --- FABA-Bench -------------------------------------------------------------------------------------------------------

# A blank after "." or "?", but not after an abbreviation such as "e.g." or "Dr.".
_FABA_SENTENCE_GAP = re.compile(r"(?<=[.?])(?<!\w\.\w.)(?<![A-Z][a-z]\.)\s")
_SENTENCE_END = re.compile(r"[.!?]")
_WORD = re.compile(r"\w+")


def _faba(text: str, allowed: Sequence[str]) -> str:
    sentences = _FABA_SENTENCE_GAP.split(text)
    kept = " ".join(s for s in sentences if not any(denial in s.lower() for denial in FABA_DENIALS)) or text
    end = _SENTENCE_END.search(kept)
    if end is None or "\n" in kept[: end.start()]:
        raise UnparsableAnswer("the first line has no end of a sentence, at which the published evaluator stops")
    for word in _WORD.findall(kept[: end.start()].lower()):
        for label, words in FABA_WORDS.items():
            if word in words:
                return label
    rest = Counter(_WORD.findall(kept[end.end() :].lower()))
    # Where none has a word, `max` names the first label: happiness.
    return max(FABA_WORDS, key=lambda label: sum(rest[word] for word in FABA_WORDS[label]))


_FABA_CLEAR = {
    word: label
    for label, words in FABA_WORDS.items()
    for word in {*words, *EXPRESSION_WORDS[label]}
    if sum(word in others for others in FABA_WORDS.values()) <= 1
}
"""Word -> its label, without the words that stand for two; "sad", "angry" and their like added."""


def _faba_corrected(text: str, allowed: Sequence[str]) -> str:
    """The only label of the first sentence that names any, else the one that is named most; denied words name none."""
    named = [
        (match.start(), _FABA_CLEAR[match[0].lower()])
        for match in _WORD.finditer(text)
        if match[0].lower() in _FABA_CLEAR and not is_denied(text, match.start())
    ]
    if not named:
        raise UnparsableAnswer("the answer names no label")
    end = next((gap.start() for gap in _SENTENCE_END.finditer(text, named[0][0])), len(text))
    first = {label for start, label in named if start < end}
    if len(first) == 1:
        return first.pop()
    counted = Counter(label for _, label in named).most_common()
    if len(counted) > 1 and counted[0][1] == counted[1][1]:
        raise UnparsableAnswer(f"the answer names {counted[0][0]} and {counted[1][0]} equally often")
    return counted[0][0]


# --- FERBench (UniFER) and Facial-R1: tagged answers ------------------------------------------------------------------

_OPENING, _CLOSING = re.compile("<answer>", re.IGNORECASE), re.compile("</answer>", re.IGNORECASE)


def _tagged(text: str, *, lines: bool, exact_tag: bool = False, last: bool = False) -> str | None:
    """What stands between the first <answer> that has an end and the next </answer>, stripped; None if there is none.

    Searched tag by tag: one pattern for all of it takes hours on a tag and thousands of blanks.

    Args:
        lines: whether what stands between may be several lines.
        exact_tag: whether the tags must be in lower case.
        last: the last such tag instead of the first.
    """
    closings = [tag for tag in _CLOSING.finditer(text) if not exact_tag or tag[0] == "</answer>"]
    starts = [tag.start() for tag in closings]
    openings = [tag for tag in _OPENING.finditer(text) if not exact_tag or tag[0] == "<answer>"]
    for opening in reversed(openings) if last else openings:
        following = bisect_left(starts, opening.end())
        if following < len(starts):
            inner = text[opening.end() : starts[following]].strip()
            if lines or "\n" not in inner:
                return inner
    return None


def _unifer(text: str, allowed: Sequence[str], *, words: CandidateWords) -> str:
    lowered = text.lower()
    for searched in ((_tagged(text, lines=False) or "").lower(), lowered):
        for candidate in words.candidates:
            if candidate in searched:
                return _EXPRESSION_OF[candidate]
    for candidate, others in words.alternatives.items():
        if any(other in lowered for other in others):
            return _EXPRESSION_OF[candidate]
    raise UnparsableAnswer("the answer holds no candidate and no other word for one")


_BETWEEN_WORDS = re.compile(r"[,;，；\s]+")  # noqa: RUF001  # the published separators, those of Chinese among them


def _facial_r1(text: str, allowed: Sequence[str]) -> str:
    answer = _tagged(text, lines=True, exact_tag=True)
    words = [word for word in _BETWEEN_WORDS.split(text if answer is None else answer) if word]
    if not words:
        raise UnparsableAnswer("the answer is empty, at which the published evaluator stops")
    # Compared with the data set's own word, noun or adjective, as it spells it; which one that is differs.
    label = _EXPRESSION_OF.get(words[0].lower())
    if label is None:
        raise UnparsableAnswer(f"the first word {_short(words[0])} is none of the labels")
    return label


def _last_answer(text: str, allowed: Sequence[str]) -> str:
    """The one label that the last <answer> names as a whole word and does not deny."""
    answer = _tagged(text, lines=True, last=True)
    if answer is None:
        raise UnparsableAnswer("there is no <answer> with an end")
    named = {naming.label for naming in namings(answer, 0, len(answer), EXPRESSIONS, loose=True) if not naming.denied}
    if len(named) != 1:
        raise UnparsableAnswer(f"the <answer> names {' and '.join(sorted(named)) or 'no label'}")
    return named.pop()


def _short(text: str) -> str:
    return repr(text.strip()[:_SHOWN])


_ALL = (
    Protocol("strict", "this project", _strict, _strict),
    Protocol("expllm", "ExpLLM, utils/eval_metrics.py", _exact_word, _any_case),
    Protocol("faba", "FABA-Bench (EmoLA), eval_FABA.py", _faba, _faba_corrected, unit_codes=True),
    *(
        Protocol(
            "unifer" if dataset == "raf-db" else f"unifer-{dataset}",
            f"FERBench (UniFER), eval_unifer.py for {dataset}",
            partial(_unifer, words=words),
            _last_answer,
        )
        for dataset, words in FERBENCH_WORDS.items()
    ),
    Protocol("facial-r1", "Facial-R1, src/eval", _facial_r1, _last_answer, unit_codes=True),
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({protocol.name: protocol for protocol in _ALL})
"""All of them by name."""
