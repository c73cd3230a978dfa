"""What a set of reasoning texts is like: how long and how varied they are, what they state, and how truly.

Variety is counted the usual two ways. *Distinct-n* (Li et al., NAACL 2016) is the number of different runs of n words
over the number of all of them in the whole set; it falls as a set grows, so only sets of one size compare. *Self-BLEU*
(Zhu et al., SIGIR 2018) is the mean BLEU-4 (Papineni et al., ACL 2002) of a text with the others as its references:
high where all texts are alike.
"""

from __future__ import annotations

import math
import random
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from expllm_jax.cot import (
    BANDS,
    FINDING_CODES,
    STATED_FROM,
    Finding,
    UnparsableAnswer,
    VerifierRules,
    band_of,
    named_expressions,
    split_parts,
    stated_units,
    verify,
)
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import EXPRESSIONS, Annotation, Vocabulary

SAMPLE = 200
"""How many texts self-BLEU compares with each other; it grows with their number."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_LONGEST_RUN = 4  # of words, in BLEU

BAND_NAMES: tuple[str, ...] = tuple(band.name for band in BANDS)
NO_WORD = "no word"
"""Stands for a unit that a text states without saying how strong it is."""


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation: "lip-corner" and "don't" are one word each."""
    return _WORD.findall(text.lower())


def runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """All runs of that many words; none of a text that is shorter."""
    return list(zip(*(words[start:] for start in range(length)), strict=False))


def distinct(texts: Iterable[Sequence[str]], length: int) -> float:
    """Different runs of ``length`` words over all such runs in a set of texts, given as words; NaN if there is none."""
    every = 0
    different: set[tuple[str, ...]] = set()
    for words in texts:
        found = runs(words, length)
        every += len(found)
        different.update(found)
    return len(different) / every if every else math.nan


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """The mean BLEU-4 of each text, given as words, with all others as its references; NaN for fewer than two texts.

    Not smoothed: a text that shares no run of four words with any other has a BLEU of 0.
    """
    if len(texts) < 2:
        return math.nan
    orders = [[Counter(runs(words, length)) for words in texts] for length in range(1, _LONGEST_RUN + 1)]
    ceilings = [_ceilings(counts) for counts in orders]
    return statistics.fmean(_bleu(number, texts, orders, ceilings) for number in range(len(texts)))


# Run of words -> how often the text that has it most often has it, which text that is, and how often the next one does.
_Ceilings = Mapping[tuple[str, ...], tuple[int, int, int]]


def _ceilings(counts: Sequence[Counter[tuple[str, ...]]]) -> _Ceilings:
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for owner, counted in enumerate(counts):
        for run, count in counted.items():
            most, whose, next_most = found.get(run, (0, -1, 0))
            if count > most:
                found[run] = (count, owner, most)
            elif count > next_most:
                found[run] = (most, whose, count)
    return found


def _bleu(
    number: int,
    texts: Sequence[Sequence[str]],
    orders: Sequence[Sequence[Counter[tuple[str, ...]]]],
    ceilings: Sequence[_Ceilings],
) -> float:
    logs = []
    for counts, limits in zip(orders, ceilings, strict=True):
        matched = 0
        for run, count in counts[number].items():
            most, whose, next_most = limits[run]
            matched += min(count, next_most if whose == number else most)
        total = sum(counts[number].values())
        if not matched:
            return 0.0
        logs.append(math.log(matched / total))
    length = len(texts[number])
    others = (len(words) for other, words in enumerate(texts) if other != number)
    closest = min(others, key=lambda other: (abs(other - length), other))
    brevity = min(0.0, 1 - closest / length)
    return math.exp(brevity + statistics.fmean(logs))


@dataclass(frozen=True)
class UnitCount:
    """One unit over a set of faces."""

    code: str
    present: int  # faces in which it is at least cot.STATED_FROM
    stated: int  # texts that state it
    stated_where_present: int


@dataclass(frozen=True)
class LabelCount:
    """One expression over a set of faces."""

    expression: str
    texts: int
    in_conclusion: int  # conclusions that name it
    alone: int  # conclusions that name it and no other


@dataclass(frozen=True)
class TextStatistics:
    """What is counted over a set of texts."""

    texts: int
    vocabulary: str  # whose units they are read in
    words: tuple[int, ...]  # of each text, counted as runs of characters without a space
    three_parts: int
    distinct: Mapping[int, float]  # 1, 2, 3 -> see above
    self_bleu: float
    self_bleu_texts: int  # how many were drawn for it
    units: tuple[UnitCount, ...]  # in the vocabulary's order; empty if no values are known
    bands: Mapping[str, Mapping[str, int]]  # band of the value -> band of the word, or NO_WORD -> statements
    labels: tuple[LabelCount, ...]
    findings: Mapping[str, int]  # cot.verify's codes, most frequent first -> texts that have them
    flagged: tuple[str, ...]  # the pictures of texts with a finding
    checked_values: int  # texts whose face's units are known

    @property
    def clean(self) -> int:
        """How many texts have no finding."""
        return self.texts - len(self.flagged)

    @property
    def median_words(self) -> float:
        return statistics.median(self.words)

    @property
    def fitting_words(self) -> float:
        """Share of the intensity words that name the band their value lies in; NaN if there are none."""
        told = sum(count for row in self.bands.values() for word, count in row.items() if word != NO_WORD)
        return sum(row.get(band, 0) for band, row in self.bands.items()) / told if told else math.nan

    def to_json(self) -> dict[str, object]:
        """Plain JSON values; what is undefined is null."""
        return {
            "texts": self.texts,
            "vocabulary": self.vocabulary,
            "words": {"mean": statistics.fmean(self.words), "median": self.median_words,
                      "min": min(self.words), "max": max(self.words)},
            "three_parts": self.three_parts,
            **{f"distinct_{length}": _plain(value) for length, value in self.distinct.items()},
            "self_bleu": _plain(self.self_bleu),
            "self_bleu_texts": self.self_bleu_texts,
            "units": {unit.code: {"present": unit.present, "stated": unit.stated,
                                  "stated_where_present": unit.stated_where_present} for unit in self.units},
            "intensity_words": {band: dict(row) for band, row in self.bands.items()},
            "intensity_words_fitting": _plain(self.fitting_words),
            "labels": {label.expression: {"texts": label.texts, "in_conclusion": label.in_conclusion,
                                          "alone": label.alone} for label in self.labels},
            "findings": dict(self.findings),
            "without_findings": self.clean,
            "checked_against_values": self.checked_values,
        }  # fmt: skip


def text_statistics(
    annotations: Sequence[Annotation],
    vocabulary: Vocabulary,
    *,
    rules: VerifierRules,
    allowed: Sequence[str] = EXPRESSIONS,
    sample: int = SAMPLE,
    seed: int = 0,
) -> TextStatistics:
    """Counts over all annotations that have a text; those without one do not count.

    Args:
        vocabulary: which of an annotation's units the texts are about.
        rules: of the verifier.
        allowed: the labels that a conclusion may name.
        sample: how many texts self-BLEU is taken over; ``seed`` says which.

    Raises:
        ExpllmError: no annotation has a text, or the vocabulary has no words.
    """
    told = [annotation for annotation in annotations if annotation.cot is not None]
    if not told:
        raise ExpllmError(
            "There is no reasoning text among the annotations.",
            "Give a file that `expllm engine` has written texts into.",
        )
    words = [words_of(annotation.cot or "") for annotation in told]
    drawn = random.Random(seed).sample(words, min(sample, len(words)))
    units, bands = _count_units(told, vocabulary)
    findings: Counter[str] = Counter()
    flagged = []
    for annotation in told:
        found = {finding.code for finding in findings_of(annotation, vocabulary, allowed, rules)}
        findings.update(found)
        if found:
            flagged.append(annotation.picture)
    return TextStatistics(
        texts=len(told),
        vocabulary=vocabulary.name,
        words=tuple(len((annotation.cot or "").split()) for annotation in told),
        three_parts=sum(_conclusion(annotation) is not None for annotation in told),
        distinct={length: distinct(words, length) for length in (1, 2, 3)},
        self_bleu=self_bleu(drawn),
        self_bleu_texts=len(drawn),
        units=units,
        bands=bands,
        labels=_count_labels(told, allowed),
        findings=dict(sorted(findings.items(), key=lambda item: (-item[1], list(FINDING_CODES).index(item[0])))),
        flagged=tuple(flagged),
        checked_values=sum(vocabulary.name in annotation.units for annotation in told),
    )


def findings_of(
    annotation: Annotation, vocabulary: Vocabulary, allowed: Sequence[str], rules: VerifierRules
) -> tuple[Finding, ...]:
    """What the verifier finds in the text of an annotation, "" if it has none."""
    return verify(
        annotation.cot or "",
        units=annotation.units.get(vocabulary.name),
        vocabulary=vocabulary,
        expression=annotation.expression,
        allowed=allowed,
        rules=rules,
    )


def _count_units(
    annotations: Sequence[Annotation], vocabulary: Vocabulary
) -> tuple[tuple[UnitCount, ...], dict[str, dict[str, int]]]:
    present: Counter[str] = Counter()
    stated: Counter[str] = Counter()
    both: Counter[str] = Counter()
    bands: dict[str, Counter[str]] = {name: Counter() for name in BAND_NAMES}
    for annotation in annotations:
        if vocabulary.name not in annotation.units:
            continue
        values = annotation.units[vocabulary.name]
        told = stated_units(annotation.cot or "", vocabulary)
        there = {code for code, value in values.items() if value >= STATED_FROM}
        present.update(there)
        stated.update(told.keys())
        both.update(there & told.keys())
        for code, word in told.items():
            bands[band_of(values.get(code, 0.0))][word or NO_WORD] += 1
    counts = tuple(
        UnitCount(code, present[code], stated[code], both[code])
        for code in vocabulary.codes
        if present[code] or stated[code]
    )
    ordered = {name: {word: row[word] for word in (*BAND_NAMES, NO_WORD) if row[word]} for name, row in bands.items()}
    return counts, ordered


def _count_labels(annotations: Sequence[Annotation], allowed: Sequence[str]) -> tuple[LabelCount, ...]:
    rows: dict[str, list[int]] = {}
    for annotation in annotations:
        if annotation.expression is None:
            continue
        row = rows.setdefault(annotation.expression, [0, 0, 0])
        named = named_expressions(_conclusion(annotation) or "", allowed)
        row[0] += 1
        row[1] += annotation.expression in named
        row[2] += named == (annotation.expression,)
    return tuple(LabelCount(name, *rows[name]) for name in EXPRESSIONS if name in rows)


def _conclusion(annotation: Annotation) -> str | None:
    try:
        return split_parts(annotation.cot or "").conclusion
    except UnparsableAnswer:
        return None


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
