"""What an intervention came to: what the model said before it and after it, and how that is kept in a file.

A file has one JSON object a line. The first says what was asked for; then every unchanged face has a line ("base"), and
every intervention one of its own, which names the face that it changes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from expllm_jax.errors import ExpllmError

Kind = Literal["mask", "text", "counterfactual"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Said:
    """What the model said about one picture, or wrote behind one beginning."""

    label: str | None  # its answer to the label question; None = unparsable, or not asked
    concluded: str | None  # what its text concludes; None = unparsable
    stated: Mapping[str, str | None] = field(default_factory=dict)  # code → intensity band; empty if unparsable
    named: tuple[str, ...] = ()  # the units that its interpretation argues with
    probability: float = math.nan  # of what the unchanged face was answered: see `Outcome`
    text: str | None = None


@dataclass(frozen=True)
class Base:
    """An unchanged face and what was said about it."""

    record: str
    identity: str
    said: Said  # `probability`: of its label, by the label question
    concluded_probability: float = math.nan  # of what its text concludes, in the place where it does


@dataclass(frozen=True)
class Intervention:
    """What is done to one face."""

    kind: Kind
    edit: str  # mask: "unit" or "elsewhere"; text: one of TEXT_EDITS; counterfactual: "added" or "removed"
    record: str
    unit: str  # the unit that it is about; "" for a transplant
    instead: str = ""  # a swap: the unit named instead; a transplant: the expression that its donor concludes

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from all others of a run."""
        return (self.kind, self.edit, self.record, self.unit)


@dataclass(frozen=True)
class Outcome:
    """An intervention with what was said after it.

    The probability in `said` is that of the unchanged face's label after a mask or a counterfactual, and that of its
    conclusion after an edit of the text.
    """

    done: Intervention
    base: Base
    said: Said

    @property
    def probability_before(self) -> float:
        """What `said.probability` is compared with."""
        return self.base.concluded_probability if self.done.kind == "text" else self.base.said.probability

    @property
    def label_flipped(self) -> bool:
        """The label is another one, or none."""
        return self.said.label != self.base.said.label

    @property
    def conclusion_flipped(self) -> bool:
        """The text concludes another expression, or none."""
        return self.said.concluded != self.base.said.concluded


def base_line(base: Base) -> str:
    """The line of an unchanged face."""
    return _line({"base": asdict(base)})


def outcome_line(outcome: Outcome) -> str:
    """The line of an intervention; its face's own line stands before it."""
    return _line({**asdict(outcome.done), "said": asdict(outcome.said)})


def settings_line(settings: Mapping[str, Any]) -> str:
    """The first line."""
    return _line({"settings": dict(settings)})


def read_outcomes(
    content: str, settings: Mapping[str, Any], where: str
) -> tuple[dict[str, Base], list[Outcome]] | None:
    """The faces and outcomes that a file holds; None if it was made with other settings.

    What stands behind the last line end is a line that a killed process did not finish, and is left out.

    Raises:
      ExpllmError: a line is no such object, naming it as a line of `where`.
    """
    bases: dict[str, Base] = {}
    outcomes: list[Outcome] = []
    for number, line in enumerate(content.split("\n")[:-1], 1):
        try:
            told = json.loads(line)
            if number == 1:
                if told["settings"] != json.loads(_line(dict(settings))):
                    return None
            elif "base" in told:
                base = told["base"]
                base = Base(
                    base["record"], base["identity"], _said(base["said"]), _number(base["concluded_probability"])
                )
                bases[base.record] = base
            else:
                said = _said(told.pop("said"))
                done = Intervention(**told)
                outcomes.append(Outcome(done, bases[done.record], said))
        except (ValueError, KeyError, TypeError) as error:
            raise ExpllmError(
                f"{where}, line {number}: no outcome of an intervention ({error!r})",
                "remove the file, and it is made anew",
            ) from error
    return bases, outcomes


def _said(told: Mapping[str, Any]) -> Said:
    return Said(**{**told, "named": tuple(told["named"]), "probability": _number(told["probability"])})


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _line(told: Any) -> str:
    return json.dumps(_strict(told), ensure_ascii=False, allow_nan=False)


def _strict(value: Any) -> Any:
    """Without nan, which is no JSON."""
    if isinstance(value, dict):
        return {key: _strict(part) for key, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
