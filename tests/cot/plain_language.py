"""The language of three-part answers once more, in plain Python and without any automaton."""

from __future__ import annotations

import re
from collections.abc import Sequence

from expllm_jax.cot import EXPRESSION_WORDS, HEADINGS, named_expressions
from expllm_jax.cot.words import NEGATORS

_SEEN = r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff]"
_LINE = rf"({_SEEN}(?:(?:{_SEEN}| )*{_SEEN})?)"
_FORM = re.compile("\n\n".join(rf"{re.escape(heading)} {_LINE}" for heading in HEADINGS))
_CLAUSE_END = re.compile(r"[;:!?,—]|(?<!\d)\.")
_DENIES = re.compile(rf"(?:{'|'.join(NEGATORS)})\b", re.IGNORECASE)


def belongs(text: str, allowed: Sequence[str]) -> bool:
    """Whether a text has the form, and its conclusion names one expression and does not deny it."""
    match = _FORM.fullmatch(text)
    return match is not None and _concludes(match[3], allowed)


def _concludes(conclusion: str, allowed: Sequence[str]) -> bool:
    if re.search("[^ -~‘’“”–—…]", conclusion) or len(named := named_expressions(conclusion, allowed)) != 1:
        return False
    names = rf"\b(?:{'|'.join(EXPRESSION_WORDS[named[0]])})\b"
    for match in re.finditer(names, conclusion, re.IGNORECASE):
        before = conclusion[: match.start()]
        clause = before[max((end.end() for end in _CLAUSE_END.finditer(before)), default=0) :]
        if _DENIES.search(clause):
            return False
    return True
