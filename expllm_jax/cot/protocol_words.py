"""The word lists by which published evaluators find a label in an answer.

They belong to the protocols: another list gives other numbers. Found in the evaluation scripts of the projects named,
and repeated here word for word, with the order that decides between words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

FABA_WORDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        label: frozenset(words.split())
        for label, words in {
            "Happiness": "happiness happy smiling smile pleasant content contentment relaxed relaxation cheerful joy "
            "amusement amused positivity positive lightheartedness joyful friendly warmth bright",
            "Sadness": "sadness crying distress concern discomfort anguish somber",
            "Surprise": "surprise surprised startled puzzled astonishment disbelief wonder curiosity curious confusion "
            "bewilderment skepticism excitement uncertainty",
            "Anger": "anger mad irate outraged agitation irritated enraged annoyed incensed serious frustration "
            "displeased stern",
            "Neutral": "neutral neutrality calm contemplative concerned thoughtful focused solemn mild",
            "Disgust": "disgust distaste disgusted discomfort displeasure displeased disapproval disdain contempt",
            "Fear": "fear shock anxiety apprehension tension panic alertness focus worry alarm curiosity contemplation",
        }.items()
    }
)
"""FABA-Bench (EmoLA, eval_FABA.py): label -> words, in the order that decides. "sad", "angry" and "fearful" are not in
it; "discomfort", "curiosity" and "displeased" stand under two labels."""

FABA_DENIALS: tuple[str, ...] = (
    "not", "no", "isn't ", "nothing", "cannot", "won't", "shouldn't", "neither", "nor",
)  # fmt: skip
"""A sentence of FABA-Bench that holds one of these, anywhere in it, is dropped: "no" is in "nose" and "known"."""


@dataclass(frozen=True)
class CandidateWords:
    """How a data set of FERBench names its labels."""

    candidates: tuple[str, ...]  # in the order that decides
    alternatives: Mapping[str, tuple[str, ...]]  # candidate -> words that stand for it, in the order that decides


def _candidates(candidates: str, alternatives: str) -> CandidateWords:
    """From blanks between candidates, and "word: other other; word: other"."""
    pairs = (entry.split(":") for entry in alternatives.split(";"))
    return CandidateWords(
        tuple(candidates.split()), MappingProxyType({word.strip(): tuple(others.split()) for word, others in pairs})
    )


FERBENCH_WORDS: Mapping[str, CandidateWords] = MappingProxyType(
    {
        "raf-db": _candidates(
            "surprise fear disgust happiness sadness anger neutral",
            "anger: angry; disgust: revulsion repulsion; fear: terror fright; happiness: joy happy; sadness: sad; "
            "neutral: normal calm blank; surprise: shock astonishment",
        ),
        "affectnet": _candidates(
            "neutral happiness sadness surprise fear disgust anger contempt",
            "anger: angry mad; contempt: scorn disdain; disgust: revulsion repulsion; fear: terror fright; "
            "happiness: joy happy; sadness: sad; neutral: normal calm blank; surprise: shock astonishment",
        ),
        "ferplus": _candidates(
            "angry contempt disgust fear happy neutral sad surprise",
            "angry: anger; contempt: scorn disdain; disgust: revulsion repulsion; fear: terror fright; "
            "happy: joy happiness; sad: sorrow unhappy; neutral: normal calm blank; surprise: shock astonishment",
        ),
        "sfew": _candidates(
            "angry disgust fear happy neutral sad surprise",
            "angry: anger mad; disgust: revulsion repulsion; fear: terror fright; happy: joy happiness; "
            "sad: sorrow unhappy; neutral: normal calm blank; surprise: shock astonishment",
        ),
    }
)
"""FERBench (UniFER, eval_*/code/eval_unifer.py and eval_*/data/*_qa.json): data set -> its words."""
