"""Texts about a mirrored face: whatever was left is right now.

Swapped are the words left and right (in lower, upper or title case), their compounds (right-sided, leftward, lefthand)
and codes that hold a side: L12, AUL12, AU12L, eyeBlink_L, "L: 0.3", and the sided codes of FEAFA and ARKit (FEAFA12,
mouthSmileLeft). A plain "AU12" has no side in FACS and stays. So does a word that only looks like a side, such as
"right away" or "left open": the short list ``_NO_SIDE`` tells which.

Mirroring twice gives the text back, whatever the text: for that, every entry of the list holds for both words alike.
"""

from __future__ import annotations

import re

from expllm_jax.faces import ARKIT_52, FEAFA_24

_OTHER_WORD = {"left": "right", "Left": "Right", "LEFT": "RIGHT"}
_OTHER_WORD |= {right: left for left, right in _OTHER_WORD.items()}
_OTHER_LETTER = {"L": "R", "R": "L"}
_SIDED_ARKIT = {unit.code: unit.mirror for unit in ARKIT_52.units if unit.mirror != unit.code}

_LETTER = r"[^\W\d_]"

# "bright", "rightly" and "leftover" are other words.
_WORD = rf"(?<!{_LETTER})(?P<word>{'|'.join(_OTHER_WORD)})(?=(?:wards?|most|hand(?:ed)?|side[ds]?)?(?!{_LETTER}))"

_SIDED = re.compile(
    "|".join(
        (
            _WORD,
            rf"(?<![A-Za-z0-9])(?P<arkit>{'|'.join(_SIDED_ARKIT)})(?![A-Za-z0-9])",
            r"(?<![A-Za-z0-9])FEAFA(?P<gap>\s?)(?P<feafa>\d+)",
            # L12, R12C (side, unit, intensity), AUL12; but not R2-D2.
            r"(?<![A-Za-z0-9_-])(?P<au>(?:AU ?)?)(?P<before>[LR])(?=\d{1,2}[A-E]?(?![A-Za-z0-9]|-[A-Za-z]))",
            # AU12L, AU12_L, AU12 (L), browDown_L; but not OpenFace's AU12_r and AU12_c, which are no sides.
            r"(?<![A-Za-z0-9])(?P<unit>AU ?\d{1,2}(?:_| ?\()?)(?P<after>[LR])(?=[A-E]?(?![A-Za-z0-9]))",
            r"(?<=[a-z]_)(?P<suffix>[LR])(?![A-Za-z0-9])",
            # Values of two sides: "(L)", "L: 0.3, R: 0.2".
            r"(?<=\()(?P<enclosed>[LR])(?=\))",
            r"(?<![\w.'’-])(?P<valued>[LR])(?=\s*[:=]\s*[\d.])",
        )
    )
)

# Most texts hold no side, or none but in words, and trying every form at every letter takes long. Whatever _SIDED finds
# holds one of these:
_SIDED_WORD = re.compile(_WORD)
_ANY_WORD = re.compile("left|right", re.IGNORECASE)
_ANY_CODE = re.compile(r"[LR](?:(?![a-z])|(?<=[a-z].)(?:eft|ight))|FEAFA")

_EITHER = "(?P<word>left|right)"

# Where left and right are no sides. No entry holds another mention of a side, so mirroring leaves them entries.
_NO_SIDE = tuple(
    re.compile(pattern.replace("LR", _EITHER), re.IGNORECASE)
    for pattern in (
        r"\ball\s+LR(?=\s*(?:[.,;:!?]|$))",
        r"\bown\s+LR\b",  # "in its own right"
        r"\bat\s+(?:an?\s+)?LR\s+angles?\b",  # but "the right angle of the mouth" is a corner
        r"\bthe\s+LR\s+(?:amount|answer|balance|choice|moment|thing|words?)\b",
        r"\b(?:mouth|lips|jaw|eyes|lids|eyelids)\s+LR\s+(?:\w+\s+)?(?:open|ajar|parted|closed)\b",
        r"\b(?:is|are|was|were|be|been|being)\s+LR\s+(?:alone|behind|open|out|to|unsaid|with)\b",
        r"\b(?:doubt|nothing|room)\s+LR\b",
        r"\bLR-(?:minded|over|overs)\b",
    )
)

# "right away" and "a bag left behind", but "looks right now and then", "the right behind it".
_ADVERB = re.compile(rf"\b{_EITHER}\s+(?:alone|away|behind|beside|now|out|in\s+front|next\s+to)\b", re.IGNORECASE)
_DIRECTED = re.compile(
    r"(?:\b(?:the|an?|its|his|her|their|and|or|to|far)|['’]s"
    r"|\b(?:fac|gaz|glanc|lean|look|mov|point|pull|shift|slid|tilt|turn)\w*)\s+$",
    re.IGNORECASE,
)
_LONGEST_DIRECTED = 40  # characters before a word that are looked at


def mirror_text(text: str) -> str:
    """The text with left and right swapped, as the module says; ``mirror_text(mirror_text(text)) == text``."""
    worded, coded = _ANY_WORD.search(text), _ANY_CODE.search(text)
    if not worded and not coded:
        return text
    kept = _no_sides(text) if worded else set()
    sided = _SIDED if coded else _SIDED_WORD
    return sided.sub(lambda match: match[0] if match.start() in kept else _swapped(match), text)


def _no_sides(text: str) -> set[int]:
    """Where "left" and "right" stand that are no sides."""
    found = {match.start("word") for pattern in _NO_SIDE for match in pattern.finditer(text)}
    for match in _ADVERB.finditer(text):
        start = match.start("word")
        if not _DIRECTED.search(text, max(0, start - _LONGEST_DIRECTED), start):
            found.add(start)
    return found


def _swapped(match: re.Match[str]) -> str:
    kind = match.lastgroup
    if kind == "word":
        return _OTHER_WORD[match[0]]
    if kind == "arkit":
        return _SIDED_ARKIT[match[0]]
    if kind == "feafa":
        code = f"FEAFA{match['feafa']}"
        if code not in FEAFA_24:
            return match[0]
        return match[0].removesuffix(match["feafa"]) + FEAFA_24.unit(code).mirror.removeprefix("FEAFA")
    side = match[kind or 0]
    return match[0].removesuffix(side) + _OTHER_LETTER[side]
