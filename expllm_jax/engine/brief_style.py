"""The brief style: 30 to 60 words that a very small decoder learns within minutes.

Every slot has one wording, or two where one would make all texts alike, and what fills it follows from the face. So
almost all that the decoder has to learn is what it sees.
"""

from __future__ import annotations

import numpy as np

from expllm_jax.cot import band
from expllm_jax.engine.reading import Reading, ShownMovement
from expllm_jax.engine.wording import be, count_words, strongest, text_of

MIN_WORDS, MAX_WORDS = 30, 60
_FITTING_NAMED, _UNUSUAL_NAMED, _MISSING_NAMED = 4, 2, 3


def write_brief(reading: Reading, rng: np.random.Generator, *, quote_codes: bool) -> str:
    """The brief text of a face: at most MAX_WORDS for up to nine findings; all of them are stated, however many.

    Args:
        quote_codes: whether units carry their code, which then stands for them in the interpretation.
    """
    variant = int(rng.integers(2))
    label = reading.expression.lower()
    conclusion = f"The expression is {label}." if variant else f"This face shows {label}."
    if reading.expression == "Neutral":
        conclusion = "The expression is neutral." if variant else "This face is neutral."
    fitting = [_mark(finding, quote_codes) for finding in strongest(reading.fitting, _FITTING_NAMED)]
    unusual = [_mark(finding, quote_codes) for finding in strongest(reading.unusual, _UNUSUAL_NAMED)]
    observations = [_observations(reading, quote_codes)]
    while True:
        interpretation = _interpretation(reading, fitting, unusual)
        text = text_of((observations, interpretation, [conclusion]))
        if count_words(text) <= MAX_WORDS or len(fitting) + len(unusual) <= 1:
            break
        (unusual or fitting).pop()
    for part, sentence in _fillers(reading, quote_codes):
        if count_words(text) >= MIN_WORDS:
            break
        (observations, interpretation)[part].append(sentence)
        text = text_of((observations, interpretation, [conclusion]))
    return text


def _mark(finding: ShownMovement, quote_codes: bool) -> str:
    return finding.codes[0] if quote_codes else finding.name


def _observations(reading: Reading, quote_codes: bool) -> str:
    if not reading.findings:
        return "no clear movement; brows, eyes, nose, cheeks, mouth, chin and jaw stay close to rest."
    return ", ".join(_stated(finding, quote_codes) for finding in reading.findings) + "."


def _stated(finding: ShownMovement, quote_codes: bool) -> str:
    side = "" if finding.side == "both" else f"{finding.side} "
    code = f" ({finding.codes[0]})" if quote_codes else ""
    return f"{band(finding.band).adjectives[0]} {side}{finding.name}{code}"


def _interpretation(reading: Reading, fitting: list[str], unusual: list[str]) -> list[str]:
    neutral = reading.expression == "Neutral"
    label = reading.expression.lower()
    if not reading.findings:
        if neutral:
            return ["Nothing points to a particular emotion, as expected of a resting face."]
        return [f"No movement is clear enough to support {label}; the impression is faint."]
    sentences = []
    if fitting:
        sentences.append(f"Typical of {label}: {', '.join(fitting)}.")
    elif not neutral:
        sentences.append(f"Nothing typical of {label}.")
    if unusual:
        sentences.append(f"Unusual{' at rest' if neutral else ''}: {', '.join(unusual)}.")
    return sentences


def _fillers(reading: Reading, quote_codes: bool) -> list[tuple[int, str]]:
    """Further true sentences (part, sentence) for faces that show little, in the order they are used."""
    fillers = [(0, "No other clear movement.")]
    missing = [code if quote_codes else name for name, code in reading.missing][:_MISSING_NAMED]
    if missing:
        fillers.append((1, f"Missing: {', '.join(missing)}."))
    if reading.findings:
        region = strongest(reading.findings, 1)[0].region
        fillers.append((1, f"The {region} {be(region)} the main source of evidence."))
    fillers.append((1, "Single movements are ambiguous, so all were weighed together."))
    return fillers
