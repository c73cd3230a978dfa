"""Intensity in words: five bands of the 0-to-1 scale, and the words that name each.

The released texts quote 1,455 values beside such words; the cut points lie between the medians of their word groups.
"""

from __future__ import annotations

from dataclasses import dataclass

from expllm_jax.errors import ExpllmError

STATED_FROM = 0.1
"""Texts state every unit of at least this intensity and none below it."""


@dataclass(frozen=True)
class Band:
    """A range of intensities and its words; the first word of each kind is the plainest."""

    name: str
    low: float  # 0 to 1; the band starts here (see band_of for the one exception)
    adjectives: tuple[str, ...]  # used in writing, before a noun
    adverbs: tuple[str, ...]  # used in writing, before a participle
    read_only: tuple[str, ...] = ()  # understood, but never written


BANDS: tuple[Band, ...] = (
    Band("minimal", 0.0, ("minimal", "negligible"), ("minimally", "barely"), ("negligibly", "hardly")),
    Band(
        "slight",
        0.06,
        ("slight", "subtle", "mild"),
        ("slightly", "subtly", "mildly"),
        ("minor", "modest", "modestly", "low"),
    ),
    Band("moderate", 0.2, ("moderate", "noticeable"), ("moderately", "noticeably")),
    Band(
        "significant",
        0.4,
        ("significant", "notable", "pronounced"),
        ("significantly", "notably"),
    ),
    Band("strong", 0.55, ("strong", "marked", "intense"), ("strongly", "markedly", "intensely"), ("high", "highly")),
)
"""Weakest first."""

_BY_NAME = {band.name: band for band in BANDS}
_BAND_OF_WORD = {word: band.name for band in BANDS for word in (*band.adjectives, *band.adverbs, *band.read_only)}

BAND_WORDS: tuple[str, ...] = tuple(_BAND_OF_WORD)
"""Every word that names a band."""


def band_of(value: float) -> str:
    """The name of the band an intensity lies in. Bands start at their lower bound, but "strong" starts just above 0.55.

    Raises:
        ExpllmError: the value is outside 0 to 1.
    """
    if not 0.0 <= value <= 1.0:
        raise ExpllmError(f"{value} is no intensity.", "Intensities run from 0 (absent) to 1 (maximal).")
    if value == BANDS[-1].low:
        return BANDS[-2].name
    return next(band.name for band in reversed(BANDS) if value >= band.low)


def band_of_word(word: str) -> str | None:
    """The name of the band a word stands for, whatever its case; None if it is no intensity word."""
    return _BAND_OF_WORD.get(word.lower())


def band(name: str) -> Band:
    """The band of a name; raises KeyError if there is none."""
    return _BY_NAME[name]
