"""Whether the conclusion names the right label and the observations none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from expllm_jax.cot.check_form import Part
from expllm_jax.cot.finding import Finding
from expllm_jax.cot.label_words import namings
from expllm_jax.cot.verifier_rules import VerifierRules


def check_conclusion(
    text: str, part: Part, expression: str | None, allowed: Sequence[str], rules: VerifierRules
) -> Iterator[Finding]:
    """Findings about the label that a conclusion names."""
    found = namings(text, part.start, part.end, allowed, loose=not rules.one_label)
    asserted = [naming for naming in found if not naming.denied]
    right = expression or f"one of {', '.join(allowed)}"
    if not asserted:
        reason = f"The conclusion names no label{' but to deny it' if found else ''}: it has to name {right}."
        yield Finding("no-conclusion", part.start, part.end, reason)
    elif expression is not None and expression not in {naming.label for naming in asserted}:
        first = asserted[0]
        reason = f"The conclusion names {first.label}, but the label is {expression}."
        yield Finding("wrong-conclusion", first.start, first.end, reason)
    elif rules.one_label and len({naming.label for naming in found}) > 1:
        kept = expression or asserted[0].label
        other = next(naming for naming in found if naming.label != kept)
        reason = f"The conclusion names {other.label} beside {kept}: it has to name {right} alone."
        yield Finding("several-conclusions", other.start, other.end, reason)


def check_observations_name_no_label(
    text: str, part: Part, expression: str | None, allowed: Sequence[str]
) -> Iterator[Finding]:
    """The label (or, where it is unknown, any label) does not belong into the observations."""
    for naming in namings(text, part.start, part.end, allowed, loose=True):
        if expression in (None, naming.label):
            reason = f"The observations speak of {naming.label} before it is concluded: say what moves."
            yield Finding("label-in-observations", naming.start, naming.end, reason)
