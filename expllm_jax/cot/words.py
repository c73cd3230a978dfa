"""Clauses and denials: how far a "no" or a "slight" reaches."""

from __future__ import annotations

import re

from expllm_jax.cot.bands import BAND_WORDS

# Where a clause ends for good. A full stop inside a number, such as 0.36, ends nothing.
_CLAUSE_END = re.compile(
    r"(?<!\d)\.|\.(?!\d)|[;:!?,\n—]|\b(?:but|while|whereas|although|though|yet|however|despite|except)\b", re.IGNORECASE
)
NEGATORS: tuple[str, ...] = (
    *("no", "not", "without", "lack", "lacks", "lacking", "lack of", "absence of", "absent", "free of"),
    *("neither", "nor", "never", "cannot"),
    *(f"{verb}n{mark}t" for verb in ("is", "are", "was", "were", "do", "does", "did") for mark in "'’"),
    *("rather than", "instead of", "fail to", "fails to"),
)
"""Words that deny what follows them in their clause, but for the "not" of "not only"."""

_NEGATOR = re.compile(
    r"\b(?:" + "|".join(word + r"(?! only\b)" * (word == "not") for word in NEGATORS) + r")\b", re.IGNORECASE
)
BAND_WORD = re.compile(rf"\b(?:{'|'.join(BAND_WORDS)})\b", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"\s*(?:\([^()]*\)\s*)?(?:of\s+no\s+(?:intensity|strength)|(?:is|are|was|were|remains?|stays?|appears?|seems?)\s+(?:\w+ly\s+)?"
    r"(?:not\s+(?:clearly\s+)?(?:visible|present|seen|active|evident|observed|detected|there)|absent|missing|lacking|inactive))",
    re.IGNORECASE,
)


_LONGEST_CLAUSE = 400
"""Characters. A text of one endless clause would otherwise be read from its start for every word of it."""


def clause_before(text: str, position: int, since: int = 0) -> str:
    """The words between ``position`` and the start of its clause, at most back to ``since``."""
    start = since = max(since, position - _LONGEST_CLAUSE)
    for match in _CLAUSE_END.finditer(text, since, position):
        start = match.end()
    return text[start:position]


def is_denied(text: str, start: int, *, since: int = 0, until: int | None = None) -> bool:
    """Whether the clause before ``start``, read from ``since`` on, denies what stands at ``start`` up to ``until``.

    "no cheek raise or lip press" denies both; "no cheek raise and strong lip press" only the first, because a word of
    intensity after an "and" opens a statement of its own.
    """
    clause = clause_before(text, start, since)
    negators = list(_NEGATOR.finditer(clause))
    if not negators:
        return False
    denied = clause[negators[-1].end() :] + text[start : start if until is None else until]
    conjunction = re.search(r"\band\b", denied, re.IGNORECASE)
    return conjunction is None or BAND_WORD.search(denied, conjunction.end()) is None


def has_negator(text: str) -> bool:
    """Whether a stretch of text holds a word of denial."""
    return _NEGATOR.search(text) is not None


def is_denied_after(text: str, end: int) -> bool:
    """Whether what ends at ``end`` is then said to be missing, as in "a smile (AU12) is not visible"."""
    return _DENIED_AFTER.match(text, end) is not None
