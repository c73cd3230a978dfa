"""Which checks the verifier makes, and how much they forgive."""

from __future__ import annotations

from dataclasses import dataclass

from expllm_jax.cot.bands import BANDS


@dataclass(frozen=True)
class VerifierRules:
    """The defaults suit texts that are made to pass, such as the engine's; see ``FREE_TEXT`` for others."""

    exact_headings: bool = True
    """Headings are bold and called as in ``HEADINGS`` (the colon may stand before or after the bold ends), and nothing
    else is bold."""

    units: bool = True
    """Stated, denied and omitted units, their sides and their intensities are held against the values."""

    shown_from: float = BANDS[1].low
    """A unit below this value may not be stated, unless the text says that it is minimal."""

    denied_below: float = BANDS[2].low
    """A unit of this value or more may not be denied."""

    omitted_from: float | None = 0.4
    """A unit of this value or more must be mentioned; None asks for none."""

    intensity_slack: float = 0.0
    """How far outside the band of its intensity word a value may lie. 0 is the writer's own table of bands."""

    unsided_units_may_have_sides: bool = False
    """Whether a side may be named that the vocabulary does not tell (FACS values have none)."""

    associations: bool = True
    """A unit may be tied only to expressions that a source ties it to (``faces.ASSOCIATIONS``)."""

    label_in_observations: bool = True
    """Whether the observations may name the label."""

    one_label: bool = True
    """The conclusion names exactly one label, by its noun or adjective. Otherwise it may weigh several, must name the
    right one, and may do so with a near synonym ("joy")."""

    numbers: bool = True
    """Quoted numbers must be values of the units they stand by."""

    number_tolerance: float = 0.006
    """How far a quoted number may be from the value: half of the last of two digits, and rounding."""

    personal_words: bool = False
    """Whether the text may speak of age, sex, ethnicity or identity."""


STRICT = VerifierRules()
"""For texts that are made to pass: what the writer's own tables say, without slack."""

FREE_TEXT = VerifierRules(
    shown_from=0.02,
    denied_below=0.3,
    omitted_from=None,
    intensity_slack=0.2,
    unsided_units_may_have_sides=True,
    associations=False,
    one_label=False,
)
"""For texts that people or language models wrote in words of their own. The slack is what the released texts need: of
the values quoted beside a word for "slight", a tenth lies above 0.385, and of those beside "significant" a tenth below
0.123."""
