"""Texts with one mistake each, made from texts with the values of their faces.

What this makes is what the verifier is judged by, so it knows nothing of the verifier, the narrator or the lexicon: it
imports only the standard library and carries its own few words. It is a pure function of its input and a seed.

    python tests/golden/corrupt_texts.py rafdb_val_cot_half.json --seed 0 --count 300 > corrupted.json

Input: the released JSON (`file_name`, `emo`, `au` with the 24 FEAFA values, `description`). A mistake is made only
where it makes the text false: sides are exchanged where one side moves and the other does not, an intensity word is
replaced by one from the far end of the scale, a denied unit is one of at least 0.3, an invented one is below 0.005.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

KINDS = (
    "wrong-side",
    "wrong-intensity",
    "wrong-label",
    "invented-unit",
    "missing-part",
    "swapped-order",
    "negation",
)


@dataclass(frozen=True)
class Corruption:
    """One corrupted text, and where it differs from the original."""

    file_name: str
    kind: str  # one of KINDS
    text: str
    start: int  # text[start:end] is what was put in; empty where something was taken out
    end: int
    was: str  # what stood there


# Part of the face and what it does -> numbers of the FEAFA units, left and right where it tells them apart.
_UNITS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    (r"eyes?", r"clos(?:ed|ure|ing)|shut", (1, 2)),
    (r"(?:upper )?(?:eye)?lids?", r"rais(?:ed|ing|e)|elevat(?:ed|ion|ing)|lift(?:ed|ing)?", (3, 4)),
    (r"(?:eye)?brows?", r"lower(?:ed|ing)|furrow(?:ed|ing)", (5, 6)),
    (r"(?:eye)?brows?", r"rais(?:ed|ing|e)|elevat(?:ed|ion|ing)|lift(?:ed|ing)?|arch(?:ed|ing)", (7, 8)),
    (r"jaw", r"drop(?:ped|s)?", (9,)),
    (
        r"(?:lip|mouth) corners?|corners? of the (?:mouth|lips?)",
        r"pull(?:ed|ing|s)?(?: up\w*)?|lift(?:ed|ing)?|rais(?:ed|ing)|elevat(?:ed|ion)|upward (?:movement|pull|curve)",
        (12, 13),
    ),
    (r"jaw", r"thrust(?:s|ing)?", (18,)),
    (r"upper lip", r"rais(?:ed|ing|e)|elevat(?:ed|ion)|lift(?:ed|ing)?", (19,)),
    (r"lower lip", r"depress(?:ed|ion)|lower(?:ed|ing)|downward (?:movement|pull)", (20,)),
    (r"chin", r"rais(?:ed|ing|e)|elevat(?:ed|ion)", (21,)),
    (r"lips?", r"pucker(?:ed|ing)?|purs(?:ed|ing)", (22,)),
    (r"cheeks?", r"puff(?:ed|ing)?", (23,)),
    (r"nose", r"wrinkl(?:ed|ing|e)", (24,)),
)

_WEAK = "minimal slight subtle mild minor minimally slightly subtly mildly".split()
_FIRM = (
    "moderate significant notable pronounced strong intense marked moderately significantly notably strongly intensely"
    " markedly".split()
)
_BETWEEN = r"(?:(?!left\b|right\b|not\b|no\b|and\b|lack\w*|without)[\w'’]+ ){0,4}?"  # small words between the two

_LABELS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # nouns, adjectives
    "Neutral": (("neutrality",), ("neutral",)),
    "Happiness": (("happiness", "joy", "joyfulness"), ("happy", "joyful", "joyous")),
    "Sadness": (("sadness", "sorrow"), ("sad", "sorrowful")),
    "Surprise": (("surprise", "astonishment"), ("surprised", "astonished")),
    "Fear": (("fear",), ("fearful",)),
    "Disgust": (("disgust",), ("disgusted",)),
    "Anger": (("anger",), ("angry",)),
}

_INVENTED: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("The cheeks are strongly puffed out.", (23,)),
    ("In addition, there is pronounced puffing of the cheeks.", (23,)),
    ("A marked wrinkling of the nose is visible as well.", (24,)),
    ("The nose is noticeably wrinkled.", (24,)),
    ("The jaw is thrust forward.", (18,)),
    ("The lips are firmly puckered.", (22,)),
    ("There is also a clear lip pucker.", (22,)),
    ("Both eyebrows are strongly raised.", (7, 8)),
    ("A significant elevation of the eyebrows can be seen.", (7, 8)),
    ("The brows are deeply furrowed.", (5, 6)),
    ("Moderate lowering of both brows accompanies this.", (5, 6)),
    ("The upper eyelids are markedly raised.", (3, 4)),
    ("The chin is notably raised.", (21,)),
    ("The mouth shows a pronounced jaw drop.", (9,)),
    ("The upper lip is sucked in.", (16,)),
    ("The corners of the lips are stretched to the sides.", (14, 15)),
)


def corrupted(entries: Sequence[dict], seed: int, count: int) -> list[Corruption]:
    """``count`` corruptions of different texts, every kind as often as every other (but for the remainder).

    Raises:
        ValueError: there are too few texts of a kind.
    """
    rng = random.Random(seed)
    order = rng.sample(list(entries), len(entries))
    wanted = [KINDS[number % len(KINDS)] for number in range(count)]
    made: list[Corruption] = []
    # Mistakes that few texts allow choose first.
    for kind in sorted(KINDS, key=lambda kind: _RARITY.index(kind)):
        for _ in range(wanted.count(kind)):
            for position, entry in enumerate(order):
                options = list(_MAKERS[kind](entry, rng))
                if options:
                    made.append(rng.choice(options))
                    del order[position]
                    break
            else:
                raise ValueError(f"there are too few texts for {kind}")
    return made


def _edit(entry: dict, kind: str, start: int, end: int, new: str) -> Corruption:
    text = entry["description"]
    changed = text[:start] + new + text[end:]
    return Corruption(entry["file_name"], kind, changed, start, start + len(new), text[start:end])


def _paragraphs(text: str) -> list[tuple[int, int]]:
    bounds, start = [], 0
    for gap in re.finditer(r"\n\s*\n", text):
        bounds.append((start, gap.start()))
        start = gap.end()
    return [*bounds, (start, len(text))]


def _mentions(entry: dict) -> Iterator[tuple[re.Match[str], tuple[int, ...]]]:
    """Where the observations tell of a unit, and its numbers; ``part`` and ``motion`` are the groups of a match."""
    start, end = _paragraphs(entry["description"])[0]
    for part, motion, numbers in _UNITS:
        # "eyebrows are slightly raised", "raised eyebrows", "elevation of the eyebrows"
        for pattern in (
            rf"\b(?P<part>{part})(?:['’]s)? {_BETWEEN}(?P<motion>{motion})\b",
            rf"\b(?P<motion>{motion}) (?:(?:of|in|at) )?(?:(?:the|both) )?(?:(?:left|right) )?(?P<part>{part})\b",
        ):
            for match in re.compile(pattern, re.IGNORECASE).finditer(entry["description"], start, end):
                yield match, numbers


def _values(entry: dict, numbers: Sequence[int]) -> list[float]:
    return [entry["au"][number - 1] for number in numbers]


def _wrong_side(entry: dict, rng: random.Random) -> Iterator[Corruption]:
    text = entry["description"]
    for match, numbers in _mentions(entry):
        if len(numbers) != 2:
            continue
        left, right = _values(entry, numbers)
        before = re.search(r"\b(?:(and|or) )?(left|right) ((?:upper )?)$", text[: match.start()], re.IGNORECASE)
        inside = re.search(r"\b(left|right)\b", match[0], re.IGNORECASE)
        if before and before[1] is None:
            start, side = before.start(2), before[2]
        elif inside and not before:
            start, side = match.start() + inside.start(), inside[0]
        else:
            continue
        said, other = (left, right) if side.lower() == "left" else (right, left)
        if said >= 0.08 and other <= 0.02:
            yield _edit(entry, "wrong-side", start, start + len(side), _other_side(side))
    for match in _NUMBERED_SIDES.finditer(text):
        first, second = (float(number) for number in re.findall(r"[\d.]*\d", match[0]))
        if abs(first - second) >= 0.03:
            new = re.sub(r"\b(?:left|right)\b", lambda side: _other_side(side[0]), match[0])
            yield _edit(entry, "wrong-side", match.start(), match.end(), new)


# "(left: 0.35, right: 0.2)", "(0.35 left, 0.2 right)", "left at 0.35 and the right at 0.2"
_NUMBER, _PART = r"[01]?\.\d+", r"(?: (?:eye|brow|eyebrow|eyelid))?(?::| at| is)?"
_NUMBERED_SIDES = re.compile(
    rf"\bleft{_PART} {_NUMBER},? (?:and )?(?:the )?right{_PART} {_NUMBER}"
    rf"|{_NUMBER} (?:for the |on the |\()?left\)?,? (?:and )?{_NUMBER} (?:for the |on the |\()?right\b"
)


def _other_side(side: str) -> str:
    other = {"left": "right", "right": "left"}[side.lower()]
    return other.capitalize() if side[0].isupper() else other


def _wrong_intensity(entry: dict, rng: random.Random) -> Iterator[Corruption]:
    text = entry["description"]
    for match, numbers in _mentions(entry):
        values = _values(entry, numbers)
        window = text[: match.end("motion")][max(0, match.start() - 40) :]
        words = list(re.finditer(rf"\b(?:{'|'.join([*_WEAK, *_FIRM])})\b(?= |$)", window, re.IGNORECASE))
        if not words:
            continue
        word, shift = words[-1], max(0, match.start() - 40)
        between = text[shift + word.end() : max(match.start(), shift + word.end())]
        if re.fullmatch(r" (?:(?:left|right|upper) )?", between) is None and shift + word.end() < match.start():
            continue  # it belongs to something else
        adverb = word[0].lower().endswith("ly")
        if min(values) >= 0.55 and word[0].lower() not in _WEAK:
            new = rng.choice(("slightly", "minimally", "subtly") if adverb else ("slight", "minimal", "subtle"))
        elif max(values) <= 0.25 and word[0].lower() in _WEAK and min(values) > 0.02:
            new = rng.choice(("strongly", "intensely") if adverb else ("strong", "intense"))
        else:
            continue
        new = new.capitalize() if word[0][0].isupper() else new
        yield _edit(entry, "wrong-intensity", shift + word.start(), shift + word.end(), new)


def _wrong_label(entry: dict, rng: random.Random) -> Iterator[Corruption]:
    nouns, adjectives = _LABELS[entry["emo"]]
    other = rng.choice([label for label in _LABELS if label != entry["emo"]])
    start, end = _paragraphs(entry["description"])[-1]

    def exchanged(match: re.Match[str]) -> str:
        new = _LABELS[other][0 if match[0].lower() in nouns else 1][0]
        return new.capitalize() if match[0][0].isupper() else new

    old = entry["description"][start:end]
    new = re.sub(rf"\b(?:{'|'.join([*nouns, *adjectives])})\b", exchanged, old, flags=re.IGNORECASE)
    if new != old:
        yield _edit(entry, "wrong-label", start, end, new)


def _invented_unit(entry: dict, rng: random.Random) -> Iterator[Corruption]:
    _, end = _paragraphs(entry["description"])[0]
    for sentence, numbers in _INVENTED:
        if max(_values(entry, numbers)) < 0.005:
            yield _edit(entry, "invented-unit", end, end, f" {sentence}")


def _missing_part(entry: dict, rng: random.Random) -> Iterator[Corruption]:
    bounds = _paragraphs(entry["description"])
    for position, (start, end) in enumerate(bounds):
        if position + 1 < len(bounds):
            yield _edit(entry, "missing-part", start, bounds[position + 1][0], "")
        else:
            yield _edit(entry, "missing-part", bounds[position - 1][1], end, "")


def _swapped_order(entry: dict, rng: random.Random) -> Iterator[Corruption]:
    text = entry["description"]
    bounds = _paragraphs(text)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        (a, b), (c, d) = bounds[first], bounds[second]
        yield _edit(entry, "swapped-order", a, d, text[c:d] + text[b:c] + text[a:b])


def _negation(entry: dict, rng: random.Random) -> Iterator[Corruption]:
    text = entry["description"]
    for match, numbers in _mentions(entry):
        if min(_values(entry, numbers)) < 0.3:
            continue
        verb = re.search(r" (?:is|are) ", match[0])
        if verb and re.search(rf"\b(?:{'|'.join(_FIRM)})\b", match[0]) and min(_values(entry, numbers)) < 0.55:
            continue  # "is not significantly raised" is true of what is moderately raised
        if verb:
            place = match.start() + verb.end()
            yield _edit(entry, "negation", place, place, "not ")
        elif before := re.search(
            r"\b(?:shows?|displays?|features|reveals|exhibits?|with|and) $", text[: match.start()]
        ):
            if " the " not in match[0]:
                yield _edit(entry, "negation", before.end(), before.end(), "no ")


_MAKERS: dict[str, Callable[[dict, random.Random], Iterator[Corruption]]] = {
    "wrong-side": _wrong_side,
    "wrong-intensity": _wrong_intensity,
    "wrong-label": _wrong_label,
    "invented-unit": _invented_unit,
    "missing-part": _missing_part,
    "swapped-order": _swapped_order,
    "negation": _negation,
}
_RARITY = ("wrong-side", "negation", "wrong-intensity", "invented-unit", "wrong-label", "swapped-order", "missing-part")


def main() -> None:
    """Writes the corruptions as a JSON list."""
    parser = argparse.ArgumentParser(description="Make texts with one mistake each.")
    parser.add_argument("file", help="texts in the released JSON format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    with open(options.file, encoding="utf-8") as file:
        entries = json.load(file)
    json.dump([asdict(each) for each in corrupted(entries, options.seed, options.count)], sys.stdout, indent=1)


if __name__ == "__main__":
    main()
