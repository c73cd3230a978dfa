"""Reading texts that do not keep to the lexicon's phrases: a part of the face and what it does, within one clause."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from expllm_jax.cot.free_english import (
    BANDS_OF_WORDS,
    CLAUSE_WORDS,
    EXAMPLES,
    GLUE,
    MOTIONS,
    MOVEMENT_OF,
    NEGATORS,
    PARTS,
    REPORTING,
    SEEN,
    TOKEN,
)
from expllm_jax.cot.lexicon import codes_of_movements
from expllm_jax.cot.statements import Statement
from expllm_jax.faces import Side, Vocabulary

_REACH = 7  # words between a part and what it does
_BAND_REACH = 3  # words from there to a word of intensity
_DENIAL_REACH = 12  # words
_COMPARING = frozenset({"more", "most", "less", "least"})
_FIXED = frozenset(
    {("marked", "by"), ("close", "to"), ("pulls", "in"), ("pulls", "elsewhere")}
)  # tell no intensity and no motion
_ARTICLES = frozenset({"the", "a", "an"})


class _Word(NamedTuple):
    kind: str  # "part", "motion", "band", "side", "no", "and", "of", "glue" or "other"
    value: str
    start: int
    end: int
    adverb: bool = False


def find_free_statements(text: str, vocabulary: Vocabulary, start: int, end: int) -> tuple[Statement, ...]:
    """What ``text[start:end]`` says of units, like :func:`find_statements` but of words in any order.

    It reads only what it is sure of: a part and a motion that go together, with nothing but small words between. What a
    clause says *by* them ("…, suggesting a smile") is no statement about the face.

    Raises:
        ExpllmError: the vocabulary has no words.
    """
    codes_of = codes_of_movements(vocabulary)
    movements = MOVEMENT_OF[vocabulary.name]
    statements: list[Statement] = []
    for clause in _clauses(text, start, end):
        kinds = {word.kind for word in clause}
        if "part" not in kinds or "motion" not in kinds:
            continue
        told: set[tuple[str, bool]] = set()  # "pulled upward" says it twice
        for first, last, movement in _pairs(clause, movements):
            side, band, negated = _side(clause, first, last), _band(clause, first, last), _negated(clause, first, last)
            for code in codes_of.get(movement, ()):
                if (code, negated) not in told and (side == "both" or vocabulary.unit(code).side in ("both", side)):
                    told.add((code, negated))
                    statements.append(Statement(code, side, band, negated, clause[first].start, clause[last].end))
    return tuple(sorted(statements, key=lambda statement: (statement.start, statement.end)))


def _clauses(text: str, start: int, end: int) -> Iterator[list[_Word]]:
    """The clauses as words, each up to where it turns from the face to its meaning."""
    clause: list[_Word] = []
    depth, told, silent, missing = 0, False, False, False
    for match in TOKEN.finditer(text, start, end):
        token = match[0].lower()
        if token in "()":
            depth = max(0, depth + (1 if token == "(" else -1))
        elif depth:
            continue
        elif token in ".,;:!?\n—–" or token in CLAUSE_WORDS:
            yield _joined(clause)
            missing = missing and token not in ".!?\n"  # "Missing: lid raise, jaw drop."
            clause, told, silent = [], False, missing
        elif not silent:
            word = _classified(token, match.start(), match.end())
            if clause and (text[clause[-1].start : clause[-1].end].lower(), token) in _FIXED:
                clause[-1] = clause[-1]._replace(kind="other", value="")
            if token in EXAMPLES or token == "missing":
                silent, missing = True, missing or token == "missing"
            elif token in REPORTING and (told or not clause):
                silent = True
                if clause and clause[-1].kind == "band":
                    clause.pop()  # "raised brows strongly suggest" tells the strength of the suggestion
            else:
                told = told or word.kind in ("part", "motion")
                clause.append(word)
    yield _joined(clause)


def _classified(token: str, start: int, end: int) -> _Word:
    if token in PARTS:
        return _Word("part", PARTS[token], start, end)
    if token in MOTIONS:
        return _Word("motion", MOTIONS[token], start, end)
    if token in BANDS_OF_WORDS:
        return _Word("band", BANDS_OF_WORDS[token], start, end, token.endswith("ly"))
    if token in ("left", "right"):
        return _Word("side", token, start, end)
    if token in NEGATORS:
        return _Word("no", token, start, end)
    if token in ("and", "of"):
        return _Word(token, token, start, end)
    return _Word("glue" if token in GLUE or token.endswith("ly") else "other", token, start, end)


def _joined(clause: Sequence[_Word]) -> list[_Word]:
    """Words that make one part of the face together become one word: "upper lip", "corners of the mouth"."""
    joined: list[_Word] = []
    position = 0
    while position < len(clause):
        word = clause[position]
        if word.kind == "part":
            before = joined[-1] if joined else None
            if word.value == "corner":
                if before and before.value in ("lip", "mouth"):
                    word = word._replace(start=joined.pop().start)
                ahead = position + 1
                while ahead < len(clause) and ahead <= position + 3 and clause[ahead].kind in ("of", "glue"):
                    ahead += 1
                if ahead < len(clause) and ahead > position + 1 and clause[ahead].value in ("lip", "mouth"):
                    word = word._replace(end=clause[ahead].end)
                    position = ahead
            elif before and before.value in ("upper", "lower") and word.value == "lip":
                word = _Word("part", f"{before.value} lip", joined.pop().start, word.end)
            elif before and before.value in ("inner", "outer") and word.value == "brow":
                word = _Word("part", f"{before.value} brow", joined.pop().start, word.end)
            elif before and before.value in ("upper", "lower") and word.value == "lid":
                word = word._replace(start=joined.pop().start, kind="part" if before.value == "upper" else "other")
        joined.append(word)
        position += 1
    return joined


def _pairs(clause: Sequence[_Word], movements: Mapping[tuple[str, str], str]) -> Iterator[tuple[int, int, str]]:
    """(first word, last word, movement) of every part and motion in a clause that go together."""
    for position, word in enumerate(clause):
        if word.kind != "motion" or _is_overruled(clause, position):
            continue
        for found in _parts_of_motion(clause, position):
            movement = movements.get((clause[found].value, word.value))
            if movement is not None:
                yield min(position, found), max(position, found), movement


def _is_overruled(clause: Sequence[_Word], position: int) -> bool:
    """Whether a motion only colours another: "pulled downward" and "pulled sideways" are no pull of a
    smile, "upward stretch" is no raise."""
    value = clause[position].value
    if value == "pull":
        return any(word.value in ("down", "slide") for word in clause[max(0, position - 2) : position + 3])
    return value == "up" and any(word.value == "stretch" for word in clause[position + 1 : position + 2])


def _parts_of_motion(clause: Sequence[_Word], position: int) -> list[int]:
    """Where the parts stand that a motion belongs to: before it ("brows are raised") or after ("raised brows")."""
    before, after = _reached(clause, position, -1), _reached(clause, position, 1)
    if after is not None and (
        before is None or after == position + 1 or any(word.kind == "of" for word in clause[position:after])
    ):
        return _coordinated(clause, after, 1)
    return [] if before is None else _coordinated(clause, before, -1)


def _reached(clause: Sequence[_Word], position: int, step: int) -> int | None:
    """The nearest part in one direction with only small words, or another motion of the same part, between."""
    for distance in range(1, _REACH + 1):
        place = position + step * distance
        if not 0 <= place < len(clause):
            return None
        kind = clause[place].kind
        if kind == "part":
            return place
        if kind not in ("glue", "of", "side", "band", "no", "motion") or (step > 0 and kind == "no"):
            return None
    return None


def _coordinated(clause: Sequence[_Word], found: int, step: int) -> list[int]:
    """A part and those it is listed with, read away from the motion: "eyelids and the brows are raised"."""
    places = [found]
    while True:
        place, linked = places[-1] + step, False
        while 0 <= place < len(clause) and clause[place].kind in ("and", "side", "glue"):
            linked = linked or clause[place].kind == "and"
            place += step
        if not (linked and 0 <= place < len(clause) and clause[place].kind == "part"):
            return places
        beyond = place + step
        while 0 <= beyond < len(clause) and clause[beyond].kind in ("side", "glue"):
            beyond += step
        if 0 <= beyond < len(clause) and clause[beyond].kind in ("motion", "of"):
            return places  # that part has a motion of its own
        places.append(place)


def _side(clause: Sequence[_Word], first: int, last: int) -> Side:
    sides = {word.value for word in clause[first : last + 1] if word.kind == "side"}
    for place in range(first - 1, max(-1, first - 5), -1):
        if clause[place].kind not in ("side", "glue", "and", "of", "band"):
            break
        if clause[place].kind == "side":
            sides.add(clause[place].value)
    for word in clause[last + 1 : last + 5]:
        if word.kind not in ("side", "glue"):
            break
        if word.kind == "side":
            sides.add(word.value)
    return "left" if sides == {"left"} else "right" if sides == {"right"} else "both"


def _band(clause: Sequence[_Word], first: int, last: int) -> str | None:
    """The band that a word between part and motion names, else one just before, else one just after."""
    if any(word.value in _COMPARING for word in clause[max(0, first - _BAND_REACH) : last + 1]):
        return None  # a comparison tells no intensity
    inside = {word.value for word in clause[first : last + 1] if word.kind == "band"}
    if inside:
        return inside.pop() if len(inside) == 1 else None
    for place in range(first - 1, max(-1, first - 1 - _BAND_REACH), -1):
        if clause[place].kind == "band":
            # "notably the closed eyes" tells no intensity
            sets_off = clause[place].adverb and any(word.value in _ARTICLES for word in clause[place + 1 : first])
            return None if sets_off else clause[place].value
        if clause[place].kind not in ("glue", "side", "of"):
            break
    for place in range(last + 1, min(len(clause), last + 1 + _BAND_REACH)):
        if clause[place].kind == "band":
            return None if _belongs_to_others(clause, place) else clause[place].value
        if clause[place].kind != "glue":
            break
    return None


def _belongs_to_others(clause: Sequence[_Word], place: int) -> bool:
    """Whether a word of intensity after a unit is about what follows it, or only compares."""
    if clause[place - 1].value in _COMPARING:
        return True
    if not clause[place].adverb and any(word.kind == "other" for word in clause[place + 1 : place + 2]):
        return True  # "is a strong sign"
    for word in clause[place + 1 : place + 1 + _REACH]:
        if word.kind in ("part", "motion"):
            return True
        if word.kind not in ("glue", "of", "side"):
            return False
    return False


def _negated(clause: Sequence[_Word], first: int, last: int) -> bool:
    for place in range(max(0, first - _DENIAL_REACH), min(len(clause), last + 4)):
        word = clause[place]
        if word.kind != "no" or (place + 1 < len(clause) and clause[place + 1].value in ("only", "just", "solely")):
            continue
        if place <= last:
            # "no jaw drop and raised brows" denies the first only; "the lack of tension is clear in raised brows" none.
            if not any(between.value in ("and", "is", "are") for between in clause[place:first]):
                return True
        elif all(between.kind == "glue" for between in clause[last + 1 : place]):
            if word.value in ("absent", "lacking") or any(
                after.value in SEEN for after in clause[place + 1 : place + 2]
            ):
                return True
    return False
