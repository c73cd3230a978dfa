"""Whether units are tied only to expressions that a source ties them to."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from expllm_jax.cot.check_form import Part
from expllm_jax.cot.finding import Finding
from expllm_jax.cot.label_words import namings
from expllm_jax.cot.statements import Statement
from expllm_jax.cot.words import is_denied
from expllm_jax.faces import Vocabulary, associated_expressions

# What stands between a movement and the expression it is tied to.
_TIE = re.compile(
    r"\b(?:associated with|signs? of|points? to|pointing to|seen in|typical of|characteristic of|linked (?:to|with)"
    r"|in keeping with|consistent with|indicative of|belongs? to|fits?|speaks? for|suggest(?:s|ing)?"
    r"|indicat(?:es?|ing)|signals?)\b",
    re.IGNORECASE,
)
_REACH = 200  # characters after a tie in which the expressions stand
_SENTENCE_END = re.compile(r"(?<!\d)\.|\.(?!\d)|[;!?\n]")


def check_associations(
    text: str, part: Part, statements: Sequence[Statement], vocabulary: Vocabulary, allowed: Sequence[str]
) -> Iterator[Finding]:
    """Findings about "this movement is associated with that expression", told in one sentence and in this order.

    Of several movements before the tie each must go with the expression.
    """
    since, starts = part.start, [statement.start for statement in statements]
    for tie in _TIE.finditer(text, part.start, part.end):
        for sentence_end in _SENTENCE_END.finditer(text, since, tie.start()):
            since = sentence_end.end()
        before = statements[bisect_left(starts, since) : bisect_left(starts, tie.start())]
        tied = [statement for statement in before if statement.end <= tie.start() and not statement.negated]
        since = tie.end()
        if not tied or is_denied(text, tie.start(), since=tied[-1].end):
            continue
        following = bisect_left(starts, tie.end())
        end = min(part.end, tie.end() + _REACH, *starts[following : following + 1])
        stop = _SENTENCE_END.search(text, tie.end(), end)
        end = stop.start() if stop else end
        for naming in namings(text, tie.end(), end, allowed, loose=False):
            stranger = None if naming.denied else _stranger(tied, naming.label, vocabulary)
            if stranger is not None:
                yield Finding(
                    "unsupported-association", naming.start, naming.end, _reason(stranger, naming.label, vocabulary)
                )


def _stranger(tied: Sequence[Statement], label: str, vocabulary: Vocabulary) -> str | None:
    """A unit none of whose mention's codes goes with the label."""
    fits: dict[tuple[int, int], bool] = {}
    for statement in tied:
        mention = (statement.start, statement.end)
        fits[mention] = fits.get(mention, False) or label in associated_expressions(statement.code, vocabulary)
    return next((s.code for s in tied if not fits[s.start, s.end]), None)


def _reason(code: str, label: str, vocabulary: Vocabulary) -> str:
    fitting = [expression.lower() for expression in associated_expressions(code, vocabulary)]
    known = f"it goes with {' and '.join(fitting)}" if fitting else "no source ties it to any expression"
    return f"No source ties {vocabulary.unit(code).name} to {label.lower()}; {known}."
