"""Whether the units that a text states or denies are those that the values show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from expllm_jax.cot.bands import BANDS, band, band_of
from expllm_jax.cot.finding import Finding
from expllm_jax.cot.lexicon import movement_of
from expllm_jax.cot.statements import Statement
from expllm_jax.cot.verifier_rules import VerifierRules
from expllm_jax.faces import Side, Vocabulary

_MINIMAL, _SIGNIFICANT = BANDS[0].name, BANDS[3].name


def check_units(
    statements: Sequence[Statement], units: Mapping[str, float], vocabulary: Vocabulary, rules: VerifierRules
) -> Iterator[Finding]:
    """Findings about statements, in their order. All statements of one mention stand together in the text."""
    for (start, end), mention in groupby(statements, lambda statement: (statement.start, statement.end)):
        problem = _problem(tuple(mention), units, vocabulary, rules)
        if problem is not None:
            yield Finding(problem[0], start, end, problem[1])


def check_omissions(
    statements: Sequence[Statement], units: Mapping[str, float], vocabulary: Vocabulary, place: int, at_least: float
) -> Iterator[Finding]:
    """Findings about strong units that the statements pass over, at a place where they could be told."""
    told = {statement.code for statement in statements}
    for code in vocabulary.codes:
        value = units.get(code, 0.0)
        if value >= at_least and code not in told:
            yield Finding("omitted-unit", place, place, f"Not mentioned: {_shown(code, units, vocabulary)}.")


def _problem(
    mention: tuple[Statement, ...], units: Mapping[str, float], vocabulary: Vocabulary, rules: VerifierRules
) -> tuple[str, str] | None:
    """The code and reason of what is wrong with one mention, which may stand for several units."""
    first = mention[0]
    if first.negated:
        return _denied_wrongly(mention, units, vocabulary, rules)
    sided_units = vocabulary.unit(first.code).side != "both"
    if first.side != "both" and not sided_units and not rules.unsided_units_may_have_sides:
        return "wrong-side", f"The values tell no sides here: leave out {first.side!r}."
    wrong = [found for s in mention if (found := _stated_wrongly(s, units, vocabulary, rules)) is not None]
    if not wrong or (len(wrong) < len(mention) and not (sided_units and rules.unsided_means_both)):
        return None  # a name for several units holds if one of them is as it says
    return wrong[0]


def _denied_wrongly(
    mention: tuple[Statement, ...], units: Mapping[str, float], vocabulary: Vocabulary, rules: VerifierRules
) -> tuple[str, str] | None:
    for statement in mention:
        # "no strong jaw drop" denies a strong one only
        limit = max(rules.denied_below, band(statement.band).low if statement.band else 0.0)
        if units.get(statement.code, 0.0) >= limit:
            return "denied-unit", f"The values show it: {_shown(statement.code, units, vocabulary)}."
    return None


def _stated_wrongly(
    statement: Statement, units: Mapping[str, float], vocabulary: Vocabulary, rules: VerifierRules
) -> tuple[str, str] | None:
    value = units.get(statement.code, 0.0)
    if _fits(value, statement.band, rules):
        return None
    unit = vocabulary.unit(statement.code)
    name, mirrored = unit.name, vocabulary.unit(unit.mirror)
    other = units.get(unit.mirror, 0.0)
    told_of_sides = statement.side != "both" or rules.unsided_means_both
    if (
        unit.mirror != unit.code
        and told_of_sides
        and other >= rules.shown_from
        and _fits(other, statement.band, rules)
        and abs(other - value) > _TELLING
    ):
        return "wrong-side", f"It is the other side: {mirrored.name} is {other:.2f}, {name} is {value:.2f}."
    if not _is_shown(value, statement.band, rules):
        return "unsupported-unit", f"The values do not show it: {name} is {value:.2f}. Leave it out."
    return "wrong-intensity", f"{_capitalised(name)} is {value:.2f}: {_adjectives(value)}, not {statement.band}."


_TELLING = 0.1
"""Sides whose values are closer than this are not mistaken for each other."""


def _fits(value: float, band_name: str | None, rules: VerifierRules) -> bool:
    if not _is_shown(value, band_name, rules):
        return False
    if band_name is None:
        return True
    low, high = _RANGES[band_name]
    if rules.high_words_are_open and band_name == _SIGNIFICANT:
        high = 1.0
    slack = rules.intensity_slack + 1e-9  # for what decimals lose in binary
    return low - slack <= value <= high + slack


def _is_shown(value: float, band_name: str | None, rules: VerifierRules) -> bool:
    """Whether a value is enough to speak of; as "minimal" any value may be called."""
    return value >= rules.shown_from or band_name == _MINIMAL


_RANGES = {each.name: (each.low, high) for each, high in zip(BANDS, [*(b.low for b in BANDS[1:]), 1.0], strict=True)}


def _shown(code: str, units: Mapping[str, float], vocabulary: Vocabulary) -> str:
    """A unit with the words for it: "strong jaw drop (0.72)"."""
    value = units.get(code, 0.0)
    unit = vocabulary.unit(code)
    side: Side = unit.side
    name = movement_of(code, vocabulary).name
    return f"{band_of(value)} {'' if side == 'both' else f'{side} '}{name} ({code}, {value:.2f})"


def _adjectives(value: float) -> str:
    return " or ".join(band(band_of(value)).adjectives[:2])


def _capitalised(name: str) -> str:
    return name[:1].upper() + name[1:]
