"""The model card: what a model is for, what it must not be used for, what it learnt from, how well it does; Markdown.

Source of the sections: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019; the template quotes the law.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template

from expllm_jax.files import write_whole

Row = tuple[str, ...]


@dataclass(frozen=True)
class ModelCard:
    """Everything a card shows. Texts are plain text; what would be Markdown in them is escaped here."""

    title: str
    summary: str  # one paragraph
    intended: str
    prohibited: str
    model: Sequence[Row]  # part → what it is
    labels: Sequence[str]  # in the order that the model knows them in
    data: Sequence[Row]  # set → what, and under which terms
    scores: Sequence[Row]  # metric, value, 95 % interval
    protocol: str  # who was asked what, and how the numbers came about
    per_class: Sequence[Row]  # expression, recall, interval, n
    strata: Sequence[Row]  # strongest unit, accuracy, interval, n
    groups: Sequence[Row] = ()  # attribute, group, accuracy, interval, n
    groups_note: str = "No attribute of the people shown is known for these faces, so nothing can be said about groups."
    failures: Sequence[Row] = ()  # what goes wrong → how often
    limits: Sequence[str] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)  # what → its hash
    compute: Sequence[Row] = ()  # what → how much


def render_model_card(card: ModelCard) -> str:
    """The card as Markdown."""
    template = Template(resources.files(__package__).joinpath("model_card_template.md").read_text(encoding="utf-8"))
    measured = ("", "value", "95 % interval")
    return template.substitute(
        title=plain(card.title),
        summary=plain(card.summary),
        intended=plain(card.intended),
        prohibited=plain(card.prohibited),
        model=_table(("part", "what it is"), card.model),
        labels=", ".join(map(plain, card.labels)),
        data=_table(("data", "what", "terms"), card.data),
        scores=_table(measured, card.scores),
        protocol=plain(card.protocol),
        per_class=_table(("expression", "recall", "95 % interval", "n"), card.per_class),
        strata=_table(("strongest unit of the face", "accuracy", "95 % interval", "n"), card.strata)
        if card.strata
        else "No action unit is known for these faces.",
        groups=(
            _table(("attribute", "group", "accuracy", "95 % interval", "n"), card.groups) + "\n\n"
            if card.groups
            else ""
        )
        + plain(card.groups_note),
        failures=_table(("what", "how often"), card.failures),
        limits="\n".join(f"- {plain(limit)}" for limit in card.limits),
        hashes=_table(("of", "hash"), list(card.hashes.items())),
        compute=_table(("what", "how much"), card.compute),
    )


def write_model_card(path: str | Path, card: ModelCard) -> Path:
    """Writes the card, all or nothing."""
    return write_whole(path, render_model_card(card))


def plain(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would read as a sign."""
    flat = " ".join(str(text).split())
    for sign in "\\`*_[]<>|#":
        flat = flat.replace(sign, f"\\{sign}" if sign != "<" else "&lt;")
    return flat


def _table(header: Row, rows: Sequence[Row]) -> str:
    lines = [header, tuple("---" for _ in header), *(tuple(map(plain, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
