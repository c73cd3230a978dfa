"""The verifier: whether a text keeps to the form and says what the values of its face say.

``verify`` is the whole of it. What it looks for is in ``FINDING_CODES``; which checks are on and how much they forgive
is in ``VerifierRules``. Its defaults are for texts that are made to pass (the engine's own); ``FREE_TEXT`` is for texts
that people or language models wrote in words of their own choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from expllm_jax.cot.check_associations import check_associations
from expllm_jax.cot.check_form import Part, check_form
from expllm_jax.cot.check_labels import check_conclusion, check_observations_name_no_label
from expllm_jax.cot.check_numbers import check_codes, check_quoted
from expllm_jax.cot.check_personal import check_personal_words
from expllm_jax.cot.check_sides import check_doubled_sides, check_sided_numbers, check_stronger_side
from expllm_jax.cot.check_units import check_omissions, check_units
from expllm_jax.cot.finding import FINDING_CODES, Finding
from expllm_jax.cot.free_statements import find_free_statements
from expllm_jax.cot.statements import Statement, find_statements
from expllm_jax.cot.verifier_rules import STRICT, VerifierRules
from expllm_jax.faces import BASIC_7, FACS, Vocabulary, check_intensities

_ORDER = {code: position for position, code in enumerate(FINDING_CODES)}
_OBSERVATIONS, _INTERPRETATION, _CONCLUSION = range(3)


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
    if units is not None:
        check_intensities(units, vocabulary)
    found, parts = check_form(text, rules)
    found += _about_units(text, parts, units, vocabulary, allowed, rules)
    if rules.numbers:
        found += check_codes(text, vocabulary)
        if units is not None:
            found += check_quoted(text, units, vocabulary, rules.number_tolerance)
    if not rules.label_in_observations and _OBSERVATIONS in parts:
        found += check_observations_name_no_label(text, parts[_OBSERVATIONS], expression, allowed)
    if rules.conclusion and _CONCLUSION in parts:
        found += check_conclusion(text, parts[_CONCLUSION], expression, allowed, rules)
    if not rules.personal_words:
        found += check_personal_words(text)
    return tuple(sorted(found, key=lambda finding: (finding.start, finding.end, _ORDER[finding.code])))


def _statements(text: str, part: Part, vocabulary: Vocabulary, rules: VerifierRules) -> tuple[Statement, ...]:
    """What a part says of units. In free observations codes count too, where words do not tell their unit."""
    if not rules.free_english:
        return find_statements(text, vocabulary, part.start, part.end)
    statements = find_free_statements(text, vocabulary, part.start, part.end)
    if part.kind == _OBSERVATIONS and ("AU" in text or "FEAFA" in text):
        told = {statement.code for statement in statements}
        coded = [
            statement
            for statement in find_statements(text, vocabulary, part.start, part.end)
            if statement.code not in told and text[statement.start : statement.end].rstrip(")")[-1:].isdigit()
        ]
        statements = tuple(sorted((*statements, *coded), key=lambda statement: statement.start))
    return statements


def _about_units(
    text: str,
    parts: Mapping[int, Part],
    units: Mapping[str, float] | None,
    vocabulary: Vocabulary,
    allowed: Sequence[str],
    rules: VerifierRules,
) -> Iterator[Finding]:
    for kind in (_OBSERVATIONS, _INTERPRETATION):
        checks_units = (
            rules.units and units is not None and (kind == _OBSERVATIONS or rules.interpretation_states_units)
        )
        if kind not in parts or not (rules.units or rules.associations):
            continue
        part = parts[kind]
        statements = _statements(text, part, vocabulary, rules)
        if rules.units:
            yield from check_doubled_sides(text, part)
        if checks_units and units is not None:
            yield from check_stronger_side(text, part, statements, units, vocabulary)
            yield from check_sided_numbers(text, part, statements, units, vocabulary, rules.number_tolerance)
            yield from check_units(statements, units, vocabulary, rules)
            if kind == _OBSERVATIONS and rules.omitted_from is not None:
                told = statements
                if rules.free_english:  # whichever reading knows it: a unit is mentioned
                    told = (*told, *find_statements(text, vocabulary, part.start, part.end))
                yield from check_omissions(told, units, vocabulary, part.end, rules.omitted_from)
        if rules.associations:
            yield from check_associations(text, part, statements, vocabulary, allowed)
