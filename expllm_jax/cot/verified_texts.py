"""What is true of many texts: how many keep to the form, quote right numbers, name their label; and what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from expllm_jax.cot.check_form import check_form, parts_of
from expllm_jax.cot.check_numbers import matches_a_value, quoted_numbers
from expllm_jax.cot.finding import FINDING_CODES, Finding
from expllm_jax.cot.label_words import namings
from expllm_jax.cot.verifier_rules import STRICT
from expllm_jax.faces import Vocabulary

_NOT_EXACT = frozenset({"missing-part", "inexact-heading", "extra-bold"})


@dataclass
class VerifiedTexts:
    """Counts over texts that were verified; :meth:`add` takes them one by one."""

    n: int = 0
    three_parts: int = 0  # exactly three paragraphs, separated by blank lines
    exact_headings: int = 0  # they have the three headings, in bold, and nothing else is bold
    quoted_numbers: int = 0  # numbers with a decimal point, in texts whose values are known
    quoted_numbers_matching: int = 0  # those that are the value of any unit of their face
    with_findings: int = 0
    found: Counter[str] = field(default_factory=Counter)  # finding code -> how often
    texts_found: Counter[str] = field(default_factory=Counter)  # finding code -> in how many texts
    of_label: Counter[str] = field(default_factory=Counter)  # label -> texts
    naming_label: Counter[str] = field(default_factory=Counter)  # label -> texts whose last part holds a word for it

    def add(
        self,
        text: str,
        findings: Sequence[Finding],
        *,
        units: Mapping[str, float] | None,
        vocabulary: Vocabulary,
        expression: str | None,
        number_tolerance: float = STRICT.number_tolerance,
    ) -> None:
        """Counts one text with what :func:`verify` found in it, given the same values."""
        self.n += 1
        paragraphs = parts_of(text)
        self.three_parts += len(paragraphs) == 3
        self.exact_headings += not any(finding.code in _NOT_EXACT for finding in check_form(text, STRICT)[0])
        if units is not None:
            quoted = quoted_numbers(text, vocabulary)
            self.quoted_numbers += len(quoted)
            self.quoted_numbers_matching += sum(matches_a_value(each, units, number_tolerance) for each in quoted)
        if expression is not None:
            self.of_label[expression] += 1
            last = paragraphs[-1:]
            named = [namings(text, part.start, part.end, (expression,), loose=True) for part in last]
            self.naming_label[expression] += any(named)
        self.with_findings += bool(findings)
        self.found.update(finding.code for finding in findings)
        self.texts_found.update({finding.code for finding in findings})

    def summary(self) -> dict[str, object]:
        """The counts as JSON has them. Shares are of all texts, or of those with the label."""
        return {
            "n": self.n,
            "three_parts": self.three_parts / self.n if self.n else 0.0,
            "exact_headings": self.exact_headings / self.n if self.n else 0.0,
            "quoted_numbers": self.quoted_numbers,
            "quoted_numbers_matching": self.quoted_numbers_matching,
            "conclusion_names_label": {
                label: self.naming_label[label] / count for label, count in sorted(self.of_label.items())
            },
            "texts_with_findings": self.with_findings,
            "findings": {code: self.found[code] for code in FINDING_CODES if code in self.found},
            "texts_with": {code: self.texts_found[code] for code in FINDING_CODES if code in self.texts_found},
        }
