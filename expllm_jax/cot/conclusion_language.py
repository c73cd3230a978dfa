"""Which conclusions name exactly one expression and do not deny it, letter by letter.

A conclusion may

* hold printable ASCII characters and the typographic marks of TYPOGRAPHY, so that it is clear where a word ends;
* name one of the allowed expressions, once or several times, and no other of them;
* name it only where no negator stands before it in its clause.

What counts as a negator here is a little more than what `words.is_denied` goes by, and what ends a clause a little
less, so `concluded_expression` reads every such conclusion: "not" counts in "not only" too, a word that ends like a
negator counts as one ("minor" ends in "nor": `words.clause_before` cuts long clauses anywhere, also inside a word), and
a clause is ended by a mark alone, not by "but" or "while".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from expllm_jax.cot.grammar import EXPRESSION_WORDS
from expllm_jax.cot.words import NEGATORS

TYPOGRAPHY = "‘’“”–—…"
ALPHABET = "".join(map(chr, range(32, 127))) + TYPOGRAPHY
"""The characters of a conclusion."""

CLAUSE_MARKS = ";:!?,—"
"""These end a clause, and so does a full stop that no digit stands before."""


_OpenWords = frozenset[tuple[str, int]]


class Reading(NamedTuple):
    """What there is to know of a beginning of a conclusion."""

    named: str = ""  # the expression that it has named so far
    denying: bool = False  # a negator stands in the clause
    open_words: _OpenWords = frozenset()  # a name or negator, and how many of its letters were read
    in_word: bool = False  # the last character belongs to a word
    behind_digit: bool = False
    behind_space: bool = True  # nothing, or a space, stands last


class ConclusionLanguage:
    """The conclusions for a set of allowed expressions."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._expression_of = {word: name for name in allowed for word in EXPRESSION_WORDS[name]}
        self._negators = {negator.lower() for negator in NEGATORS}
        self._names_with, self._negators_with = _by_first(self._expression_of), _by_first(self._negators)

    def steps(self, reading: Reading, classes: Mapping[str, str]) -> Iterator[tuple[str, Reading]]:
        """(characters, what is read after any of them), leaving out those that cannot follow."""
        ended = self._word_ended(reading)
        for one, alike in classes.items():
            if one == " " and reading == Reading():
                continue  # a part does not begin with a space
            before = reading if _in_word(one) else ended
            if before is not None:
                yield alike, self._after(before, one)

    def accepts(self, reading: Reading) -> bool:
        """Whether the conclusion may end here."""
        ended = self._word_ended(reading)
        return not reading.behind_space and ended is not None and bool(ended.named)

    def character_classes(self) -> dict[str, str]:
        """The alphabet, in groups that are read alike: one of the group -> all of it."""
        letters = {letter for word in (*self._expression_of, *self._negators) for letter in word}
        groups: dict[tuple[object, ...], str] = {}
        for character in ALPHABET:
            kind = (
                character.lower() if character.lower() in letters else "",
                _in_word(character),
                character.isdigit(),
                character == " ",
                character in CLAUSE_MARKS,
                character == ".",
            )
            groups[kind] = groups.get(kind, "") + character
        return {alike[0]: alike for alike in groups.values()}

    def _after(self, reading: Reading, character: str) -> Reading:
        denying = reading.denying
        if character in CLAUSE_MARKS or (character == "." and not reading.behind_digit):
            denying = False
        letter = character.lower()
        open_words = {
            (word, count + 1)
            for word, count in reading.open_words
            if word[count : count + 1] == letter and (word in self._expression_of or not denying)
        }
        if not reading.in_word:
            open_words |= self._names_with.get(letter, frozenset())
        if not denying:  # a second negator in a clause changes nothing
            open_words |= self._negators_with.get(letter, frozenset())
        return Reading(
            reading.named,
            denying,
            frozenset(open_words),
            in_word=_in_word(character),
            behind_digit=character.isdigit(),
            behind_space=character == " ",
        )

    def _word_ended(self, reading: Reading) -> Reading | None:
        """What is read once the word that stands last is known to be over; None if it is one that must not stand."""
        named, denying = reading.named, reading.denying
        for word, count in reading.open_words:
            if count < len(word):
                continue
            expression = self._expression_of.get(word)
            if expression is None:
                denying = True
            elif reading.denying or named not in ("", expression):
                return None
            else:
                named = expression
        return reading._replace(named=named, denying=denying)


def _by_first(words: Collection[str]) -> dict[str, _OpenWords]:
    """First letter -> the words that open with it, with that letter read."""
    letters = {word[0] for word in words}
    return {letter: frozenset((word, 1) for word in words if word[0] == letter) for letter in letters}


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"
