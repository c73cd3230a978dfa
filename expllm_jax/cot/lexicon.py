"""The words for movements of the face: one table that texts are written with and read by.

A movement has nouns ("brow lowering") and states, pairs of a part and what happened to it ("brows", "lowered"). Reading
derives the usual forms from them: "lowered brows", "the brows are slightly lowered", and singular, plural, "eyebrow"
and "eyelid" for the parts. So a phrase added here is at once understood, and round trips between writer and reader
hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import FACS, FEAFA_24, Vocabulary


@dataclass(frozen=True)
class Movement:
    """The phrases of one movement."""

    nouns: tuple[str, ...]  # take an adjective before them; the first is the name, and takes "left" or "right" too
    states: tuple[tuple[str, str], ...] = ()  # (part, participle), written as "the {part} are {participle}"
    read_only: tuple[str, ...] = ()  # further phrases that are understood, but never written

    @property
    def name(self) -> str:
        return self.nouns[0]


def _movement(nouns: str, states: str = "", read_only: str = "") -> Movement:
    split = [tuple(entry.strip() for entry in text.split(",") if entry.strip()) for text in (nouns, states, read_only)]
    return Movement(split[0], tuple(tuple(entry.split(": ")) for entry in split[1]), split[2])  # type: ignore[misc]


MOVEMENTS: Mapping[str, Movement] = MappingProxyType(
    {
        movement.name: movement
        for movement in (
            _movement(
                "inner brow raise, raising of the inner brows, lifting of the inner brows",
                "inner brows: raised, inner brows: lifted, inner brows: drawn up",
            ),
            _movement(
                "outer brow raise, raising of the outer brows, lifting of the outer brows",
                "outer brows: raised, outer brows: lifted, outer brows: drawn up",
            ),
            _movement(
                "brow raise, raising of the brows, lifting of the brows, elevation of the brows, upward pull of the "
                "brows",
                "brows: raised, brows: lifted, brows: elevated, brows: drawn up",
                "raised brow",
            ),
            _movement(
                "brow lowering, lowering of the brows, furrowing of the brows, knitting of the brows, brow furrowing, "
                "drawing down of the brows",
                "brows: lowered, brows: furrowed, brows: drawn down, brows: knitted",
                "frown",
            ),
            _movement(
                "lid raise, raising of the upper lids, widening of the eyes, upper lid raise, eye widening, "
                "lifting of the upper lids",
                "upper lids: raised, upper lids: lifted, eyes: widened, lids: raised, lids: lifted",
                "wide eyes, wide open eyes",
            ),
            _movement(
                "lid tightening, tightening of the lids, narrowing of the eyes, eye narrowing, tensing of the lids",
                "lids: tightened, lids: tensed, eyes: narrowed",
                "squint",
            ),
            _movement(
                "eye closure, closing of the eyes, closure of the eyes, shutting of the eyes, eye closing",
                "eyes: closed, eyes: shut, lids: closed",
            ),
            _movement(
                "nose wrinkling, wrinkling of the nose, nose wrinkle, crinkling of the nose, scrunching of the nose",
                "nose: wrinkled, nose: scrunched, nose: crinkled",
            ),
            _movement(
                "cheek raise, raising of the cheeks, lifting of the cheeks, upward push of the cheeks",
                "cheeks: raised, cheeks: lifted, cheeks: pushed up",
            ),
            _movement("cheek blow, blowing out of the cheeks, cheek blowing", "cheeks: blown out"),
            _movement(
                "cheek puff, puffing of the cheeks, cheek puffing, inflation of the cheeks, puffing out of the cheeks",
                "cheeks: puffed out, cheeks: puffed, cheeks: inflated",
            ),
            _movement(
                "upper lip raise, raising of the upper lip, lifting of the upper lip, upward pull of the upper lip",
                "upper lip: raised, upper lip: lifted, upper lip: drawn up",
            ),
            _movement(
                "lip corner pull, upward pull of the lip corners, lifting of the lip corners, raising of the lip "
                "corners, "
                "pull of the lip corners",
                "lip corners: pulled up, lip corners: lifted, lip corners: raised, lip corners: drawn up",
                "smile, upturned lip corners",
            ),
            _movement(
                "lip dimpling, dimpling of the lip corners, tucking in of the lip corners",
                "lip corners: dimpled, lip corners: tucked in",
            ),
            _movement(
                "lip corner depression, downward pull of the lip corners, lowering of the lip corners, "
                "turning down of the lip corners, drawing down of the lip corners",
                "lip corners: pulled down, lip corners: turned down, lip corners: lowered, lip corners: drawn down",
                "downturned lip corners",
            ),
            _movement(
                "lower lip depression, downward pull of the lower lip, lowering of the lower lip, "
                "drawing down of the lower lip",
                "lower lip: pulled down, lower lip: lowered, lower lip: depressed, lower lip: drawn down",
            ),
            _movement(
                "lip pucker, puckering of the lips, pursing of the lips, lip puckering, lip pursing",
                "lips: puckered, lips: pursed",
            ),
            _movement(
                "lip stretch, sideways stretching of the lips, lip stretching, sideways pull of the lips",
                "lips: stretched, lips: stretched sideways",
            ),
            _movement(
                "lip corner stretch, stretching of the lip corners, sideways pull of the lip corners",
                "lip corners: stretched, lip corners: pulled sideways",
            ),
            _movement("lip funnel, funneling of the lips, lip funneling", "lips: funneled"),
            _movement("lip tightening, tightening of the lips, tensing of the lips", "lips: tightened, lips: tensed"),
            _movement(
                "lip press, pressing of the lips, lip pressing, pressing together of the lips",
                "lips: pressed together, lips: pressed",
            ),
            _movement("lip parting, parting of the lips, separation of the lips", "lips: parted, lips: separated"),
            _movement(
                "lip suck, sucking in of the lips, lip sucking, rolling in of the lips",
                "lips: sucked in, lips: rolled in",
            ),
            _movement(
                "upper lip suck, sucking in of the upper lip, rolling in of the upper lip",
                "upper lip: sucked in, upper lip: rolled in",
            ),
            _movement(
                "lower lip suck, sucking in of the lower lip, rolling in of the lower lip",
                "lower lip: sucked in, lower lip: rolled in",
            ),
            _movement(
                "chin raise, raising of the chin, pushing up of the chin, upward push of the chin",
                "chin: raised, chin: pushed up",
            ),
            _movement(
                "jaw drop, dropping of the jaw, lowering of the jaw, opening of the jaw",
                "jaw: dropped, jaw: lowered, jaw: opened",
            ),
            _movement(
                "mouth stretch, stretching of the mouth, wide opening of the mouth",
                "mouth: stretched open, mouth: stretched",
            ),
            _movement("jaw slide, sideways slide of the jaw, jaw shift"),
            _movement(
                "jaw thrust, forward thrust of the jaw, pushing forward of the jaw",
                "jaw: thrust forward, jaw: pushed forward",
            ),
            _movement("nasolabial deepening, deepening of the nasolabial fold", "nasolabial fold: deepened"),
            _movement("sharp lip pull, sharp upward pull of the lips", "lips: pulled up sharply"),
            _movement("tongue show, showing of the tongue", "tongue: shown, tongue: stuck out"),
            _movement("lip bite, biting of the lips, lip biting", "lips: bitten"),
            _movement(
                "nostril dilation, flaring of the nostrils, dilation of the nostrils, nostril flare",
                "nostrils: flared, nostrils: dilated",
            ),
            _movement(
                "nostril compression, narrowing of the nostrils, compression of the nostrils",
                "nostrils: narrowed, nostrils: compressed",
            ),
        )
    }
)
"""Name -> movement."""

# Per vocabulary: movement -> the codes it stands for. Two codes of different sides are the left and the right of one
# movement; two without sides are a movement that the vocabulary splits, which is understood but never written.
_CODES: dict[str, dict[str, tuple[str, ...]]] = {
    FACS.name: {
        "inner brow raise": ("AU1",),
        "outer brow raise": ("AU2",),
        "brow raise": ("AU1", "AU2"),
        "brow lowering": ("AU4",),
        "lid raise": ("AU5",),
        "lid tightening": ("AU7",),
        "eye closure": ("AU43",),
        "nose wrinkling": ("AU9",),
        "cheek raise": ("AU6",),
        "cheek blow": ("AU33",),
        "cheek puff": ("AU34",),
        "upper lip raise": ("AU10",),
        "lip corner pull": ("AU12",),
        "lip dimpling": ("AU14",),
        "lip corner depression": ("AU15",),
        "lower lip depression": ("AU16",),
        "lip pucker": ("AU18",),
        "lip stretch": ("AU20",),
        "lip corner stretch": ("AU20",),
        "lip funnel": ("AU22",),
        "lip tightening": ("AU23",),
        "lip press": ("AU24",),
        "lip parting": ("AU25",),
        "lip suck": ("AU28",),
        "chin raise": ("AU17",),
        "jaw drop": ("AU26",),
        "mouth stretch": ("AU27",),
        "jaw thrust": ("AU29",),
        "jaw slide": ("AU30",),
        "nasolabial deepening": ("AU11",),
        "sharp lip pull": ("AU13",),
        "tongue show": ("AU19",),
        "lip bite": ("AU32",),
        "nostril dilation": ("AU38",),
        "nostril compression": ("AU39",),
    },
    FEAFA_24.name: {
        "brow raise": ("FEAFA7", "FEAFA8"),
        "brow lowering": ("FEAFA5", "FEAFA6"),
        "lid raise": ("FEAFA3", "FEAFA4"),
        "eye closure": ("FEAFA1", "FEAFA2"),
        "nose wrinkling": ("FEAFA24",),
        "cheek puff": ("FEAFA23",),
        "upper lip raise": ("FEAFA19",),
        "lip corner pull": ("FEAFA12", "FEAFA13"),
        "lip corner stretch": ("FEAFA14", "FEAFA15"),
        "lower lip depression": ("FEAFA20",),
        "lip pucker": ("FEAFA22",),
        "upper lip suck": ("FEAFA16",),
        "lower lip suck": ("FEAFA17",),
        "chin raise": ("FEAFA21",),
        "jaw drop": ("FEAFA9",),
        "jaw slide": ("FEAFA10", "FEAFA11"),
        "jaw thrust": ("FEAFA18",),
    },
}


def codes_of_movements(vocabulary: Vocabulary) -> Mapping[str, tuple[str, ...]]:
    """Movement name -> its codes in a vocabulary, from the top of the face down.

    Raises:
        ExpllmError: the vocabulary has no words (ARKit's coefficients are for machines).
    """
    try:
        return MappingProxyType(_CODES[vocabulary.name])
    except KeyError:
        raise ExpllmError(
            f"The vocabulary {vocabulary.name!r} has no words for its units.", f"Use one of {', '.join(_CODES)}."
        ) from None


@cache
def movement_of(code: str, vocabulary: Vocabulary) -> Movement:
    """The movement that texts call a unit by.

    Raises:
        ExpllmError: the vocabulary has no words, or no such unit.
    """
    vocabulary.index(code)
    for name, codes in codes_of_movements(vocabulary).items():
        if codes == (code,) or (code in codes and vocabulary.unit(code).side != "both"):
            return MOVEMENTS[name]
    raise ExpllmError(f"There are no words for {code}.", "Add a movement for it to the lexicon.")


_PARTS = {
    "brow": "(?:eye)?brows?",
    "lid": "(?:eye)?lids?",
    "eye": "eyes?",
    "cheek": "cheeks?",
    "lip": r"lips?(?!\s+corners?\b)",  # "tightened lip corners" are not tightened lips
    "corner": "corners?",
}
_LIP_OF_CORNER = r"(?:lips?|mouth)"
_LINKS = "(?:(?:is|are|was|were)(?:n['’]t)?|appears?|looks?|remains?|stays?|seems?)"


def _words(phrase: str) -> str:
    """A regular expression for a phrase, with the other number and names of the parts it mentions."""
    singular = _singular(phrase)
    patterns = [_PARTS.get(word, re.escape(word)) for word in singular]
    for position in range(len(singular) - 1):
        if singular[position : position + 2] == ["lip", "corner"]:
            patterns[position] = _LIP_OF_CORNER
    # A side may be told inside: "closing of the left eye".
    return r"[\s-]+".join(r"the(?:\s+(?:left|right))?" if word == "the" else word for word in patterns)


def _singular(phrase: str) -> list[str]:
    return [word[:-1] if word.endswith("s") and word[:-1] in _PARTS else word for word in phrase.split()]


def _openings(phrase: str) -> tuple[str, ...]:
    """The words, in lower case, that a text may begin the phrase with."""
    first = _singular(phrase)[0]
    forms = [first, f"{first}s", f"eye{first}", f"eye{first}s"] if first in _PARTS else [first]
    return (*forms, "mouth", "mouths") if first == "lip" else tuple(forms)


_OPENING = re.compile(r"\b[^\W\d_]+")


@cache
def _phrases_by_opening(vocabulary: Vocabulary) -> Mapping[str, tuple[re.Pattern[str], tuple[tuple[str, ...], ...]]]:
    """First word -> what recognises the phrases that begin with it, longest phrase first, and the codes of each.

    The group ``m<i>`` of a pattern matched for the i-th codes. The words between a part and its participle ("are
    *slightly* lowered") are inside the match.
    """
    phrases: list[tuple[int, tuple[str, ...], str, tuple[str, ...]]] = []  # length, first words, pattern, codes
    for name, codes in codes_of_movements(vocabulary).items():
        movement = MOVEMENTS[name]
        for phrase in (*movement.nouns, *movement.read_only):
            phrases.append((len(phrase), _openings(phrase), _words(phrase), codes))
        for part, participle in movement.states:
            length = len(part) + len(participle)
            phrases.append((length, _openings(participle), f"{_words(participle)}\\s+{_words(part)}", codes))
            between = rf"\s+{_LINKS}\s+(?:(?!and\b|but\b)[\w-]+\s+){{0,3}}?"
            phrases.append((length, _openings(part), f"{_words(part)}{between}{_words(participle)}", codes))
    phrases.sort(key=lambda phrase: -phrase[0])
    compiled = {}
    for opening in {word for _, openings, _, _ in phrases for word in openings}:
        fitting = [(pattern, codes) for _, openings, pattern, codes in phrases if opening in openings]
        alternatives = "|".join(f"(?P<m{position}>{pattern})" for position, (pattern, _) in enumerate(fitting))
        pattern = re.compile(rf"(?:{alternatives})\b", re.IGNORECASE)
        compiled[opening] = (pattern, tuple(codes for _, codes in fitting))
    return compiled


def phrases_in(text: str, vocabulary: Vocabulary, start: int = 0) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """The phrases of a vocabulary in ``text[start:]``, leftmost and longest first: (codes of the movement, from, to).

    Raises:
        ExpllmError: the vocabulary has no words.
    """
    phrases = _phrases_by_opening(vocabulary)
    reached = start
    for word in _OPENING.finditer(text, start):  # one word picks the few patterns worth trying: all at once are slow
        known = phrases.get(word[0].lower())
        if known is None or word.start() < reached:
            continue
        match = known[0].match(text, word.start())
        if match is not None:
            reached = match.end()
            yield known[1][int((match.lastgroup or "")[1:])], match.start(), reached
