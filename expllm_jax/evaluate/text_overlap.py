"""How much of a reference a text repeats: ROUGE, and REGE, which adds it to the accuracy.

*ROUGE* (Lin, ACL 2004 workshop "Text Summarization Branches Out") in two forms:

- `rouge_l` and `rouge_n` are those of the package rouge-score: words are runs of a-z and 0-9 in lower case, stemmed if
  asked for; ROUGE-L is the longest common subsequence of two whole texts.
- `published_rouge_l` is that of the package rouge 1.0, which EmoLA's evaluator calls: texts are cut at every full stop,
  also inside numbers, words at blanks, and only *different* words of the sentences' common subsequences count. It fails
  for texts without a sentence, and for sentences so long that its recursion ends; the evaluator drops those pairs.

*REGE* (FABA-Bench, Li et al., ECCV 2024) is accuracy in percent (or mean F1 of units) plus mean ROUGE-L times 100. The
sum has no meaning of its own: reciting what is usual for a label raises it. The corrected form therefore leaves no pair
out, and gives beside it what the same texts score against the references of *other* faces of the same expression.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.porter import stem

_TOKEN = re.compile(r"[a-z0-9]+")
_STEMMED_FROM = 4  # letters
_DEEPEST = 900  # words of two sentences together that rouge 1.0 can trace back before Python ends its recursion


def tokens(text: str, *, stemmed: bool = False) -> list[str]:
    """The words of a text as rouge-score takes them."""
    words = _TOKEN.findall(text.lower())
    return [stem(word) if len(word) >= _STEMMED_FROM else word for word in words] if stemmed else words


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest sequence that is in both, in order but with gaps.

    A row of the usual table is one whole number here, a bit for each word of `first` (Hyyrö, "Bit-parallel LCS-length
    computation revisited", 2004), so that texts of 10,000 words take moments.
    """
    places: dict[str, int] = {}
    for position, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << position
    every = (1 << len(first)) - 1
    row = every
    for word in second:
        both = row & places.get(word, 0)
        row = ((row + both) | (row - both)) & every
    return len(first) - row.bit_count()


def rouge_l(reference: str, text: str, *, stemmed: bool = False) -> float:
    """ROUGE-L's F measure, 0 to 1; 0 where either has no words."""
    wanted, said = tokens(reference, stemmed=stemmed), tokens(text, stemmed=stemmed)
    return _f_measure(common_subsequence(wanted, said), len(wanted), len(said))


def rouge_n(reference: str, text: str, length: int, *, stemmed: bool = False) -> float:
    """ROUGE-N's F measure over runs of `length` words, 0 to 1; 0 where either has none."""
    counts = []
    for side in (reference, text):
        words = tokens(side, stemmed=stemmed)
        counts.append(Counter(tuple(words[start : start + length]) for start in range(len(words) - length + 1)))
    wanted, said = counts
    return _f_measure((wanted & said).total(), wanted.total(), said.total())


def _f_measure(common: int, wanted: int, said: int) -> float:
    return 2 * common / (wanted + said) if common else 0.0


def published_rouge_l(reference: str, text: str) -> float | None:
    """ROUGE-L's F measure as rouge 1.0 computes it; None where it fails and the evaluator drops the pair."""
    wanted, said = _sentences(reference), _sentences(text)
    if not wanted or not said:
        return None
    shared: set[str] = set()
    for sentence in wanted:
        for other in said:
            if len(sentence) + len(other) > _DEEPEST:
                return None
            shared |= _words_in_common(sentence, other)
    recall = len(shared) / len({word for sentence in wanted for word in sentence})
    precision = len(shared) / len({word for sentence in said for word in sentence})
    return 2 * precision * recall / (precision + recall + 1e-8)


def _sentences(text: str) -> list[list[str]]:
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _words_in_common(first: Sequence[str], second: Sequence[str]) -> set[str]:
    """The words of one longest common subsequence: that which rouge 1.0 finds when it traces its table back."""
    table = [[0] * (len(second) + 1)]
    for word in first:
        row = [0]
        for position, other in enumerate(second):
            row.append(table[-1][position] + 1 if word == other else max(table[-1][position + 1], row[-1]))
        table.append(row)
    words: set[str] = set()
    i, j = len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            words.add(first[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words


@dataclass(frozen=True)
class Told:
    """One face for REGE: what was to be said and what was said."""

    expression: str  # the true one
    reference: str  # the annotation's text
    text: str  # the model's; "" if there is none
    as_published: str | None  # the label as the published evaluator reads it; None: none
    as_corrected: str | None  # and as it should be read


@dataclass(frozen=True)
class Rege:
    """REGE's two parts, in percent; the score is their sum."""

    recognition: float
    generation: float  # mean ROUGE-L
    left_out: int  # pairs that the published evaluator drops from the mean
    recited: float | None  # what the same texts score against other faces of the same expression; None: not asked

    @property
    def total(self) -> float:
        return self.recognition + self.generation


def published_rege(told: Sequence[Told]) -> Rege:
    """REGE as FABA-Bench's evaluator computes it; generation is nan if it fails for every pair."""
    _check(told)
    overlaps = [published_rouge_l(face.reference, face.text) for face in told]
    kept = [overlap for overlap in overlaps if overlap is not None]
    right = sum(face.as_published == face.expression for face in told)
    generation = 100 * sum(kept) / len(kept) if kept else math.nan
    return Rege(100 * right / len(told), generation, len(overlaps) - len(kept), None)


def corrected_rege(told: Sequence[Told]) -> Rege:
    """REGE with labels read as they are meant, every face in both means, and the score of reciting beside it."""
    _check(told)
    overlaps = [rouge_l(face.reference, face.text) for face in told]
    others = [rouge_l(reference, face.text) for face, reference in zip(told, _other_references(told), strict=True)]
    right = sum(face.as_corrected == face.expression for face in told)
    return Rege(100 * right / len(told), 100 * sum(overlaps) / len(told), 0, 100 * sum(others) / len(told))


def _other_references(told: Sequence[Told]) -> list[str]:
    """For each face the reference of the next one of its expression, or of the next one at all where it is alone."""
    members: dict[str, list[int]] = {}
    for number, face in enumerate(told):
        members.setdefault(face.expression, []).append(number)
    others = [0] * len(told)
    for numbers in members.values():
        for position, number in enumerate(numbers):
            alone = len(numbers) == 1
            others[number] = (number + 1) % len(told) if alone else numbers[(position + 1) % len(numbers)]
    return [told[other].reference for other in others]


def _check(told: Sequence[Told]) -> None:
    if not told:
        raise ExpllmError("there is no face with a reference text", "give annotations that have a `cot`")
