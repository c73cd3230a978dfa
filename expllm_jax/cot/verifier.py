"""The verifier: whether a text keeps to the form and says what the values of its face say.

``verify`` is the whole of it. What it looks for is in ``FINDING_CODES``; which checks are on and how much they forgive
is in ``VerifierRules``. Its defaults are for texts that are made to pass (the engine's own); ``FREE_TEXT`` is for texts
that people or language models wrote in words of their own choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expllm_jax.cot.check_form import check_form
from expllm_jax.cot.finding import FINDING_CODES, Finding
from expllm_jax.cot.verifier_rules import STRICT, VerifierRules
from expllm_jax.faces import BASIC_7, FACS, Vocabulary

_ORDER = {code: position for position, code in enumerate(FINDING_CODES)}


def verify(
    text: str,
    *,
    units: Mapping[str, float] | None = None,
    vocabulary: Vocabulary = FACS,
    expression: str | None = None,
    allowed: Sequence[str] = BASIC_7,
    rules: VerifierRules = STRICT,
) -> tuple[Finding, ...]:
    """What is wrong with a three-part text, in the order of the text; empty if nothing is.

    Args:
        text: any string.
        units: code -> 0 to 1; a code that is left out counts as 0. None: only what can be told without values.
        vocabulary: what the codes and names in the text mean.
        expression: the right label. None: the conclusion must name exactly one of ``allowed``, whichever.
        allowed: the labels to choose from.
        rules: which checks are on, and their thresholds.

    Raises:
        ExpllmError: the vocabulary has no words, or a value or code is none of its.
    """
    found, _ = check_form(text, rules)
    return tuple(sorted(found, key=lambda finding: (finding.start, finding.end, _ORDER[finding.code])))
