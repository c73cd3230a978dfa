"""Small pieces of English that both styles of the narrator use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from expllm_jax.cot import write_parts
from expllm_jax.engine.reading import ShownMovement


def listed(items: Sequence[str], conjunction: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {conjunction} {items[-1]}"


def be(part: str) -> str:
    """The form of "to be" that goes with a part of the face."""
    return "are" if part.endswith("s") else "is"


def an(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[:1] in 'aeiou' else 'a'} {phrase}"


def capitalised(sentence: str) -> str:
    """The sentence with its first letter in upper case."""
    return sentence[:1].upper() + sentence[1:]


def count_words(text: str) -> int:
    """Words as the released texts' statistics count them: runs of characters without a space."""
    return len(text.split())


def text_of(parts: Sequence[Sequence[str]]) -> str:
    """The three-part text made of three lists of sentences."""
    observations, interpretation, conclusion = (" ".join(sentences) for sentences in parts)
    return write_parts(observations, interpretation, conclusion)


def strongest(findings: Iterable[ShownMovement], count: int) -> list[ShownMovement]:
    """The ``count`` strongest findings, in the order they came; one finding for each name."""
    by_name: dict[str, ShownMovement] = {}
    ordered = list(findings)
    for finding in ordered:
        if finding.name not in by_name or finding.value > by_name[finding.name].value:
            by_name[finding.name] = finding
    chosen = sorted(by_name.values(), key=lambda finding: -finding.value)[:count]
    return sorted(chosen, key=ordered.index)
