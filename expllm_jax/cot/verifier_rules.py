"""Which checks the verifier makes, and how much they forgive."""

from __future__ import annotations

from dataclasses import dataclass

from expllm_jax.cot.bands import BANDS


@dataclass(frozen=True)
class VerifierRules:
    """The defaults suit texts that are made to pass, such as the engine's; see ``FREE_TEXT`` for others.

    That the three parts are there, in order and not empty, is always checked.
    """

    exact_headings: bool = True
    """Headings are bold and called as in ``HEADINGS`` (the colon may stand before or after the bold ends), and nothing
    else is bold."""

    words: tuple[int, int] | None = None
    """The fewest and most words, counted as runs of characters without a space; None asks for no length."""

    free_english: bool = False
    """Units are read from words in any order (:func:`find_free_statements`), not from the lexicon's phrases alone."""

    units: bool = True
    """Stated, denied and omitted units, their sides and their intensities are held against the values."""

    interpretation_states_units: bool = False
    """What the interpretation says of units is held against the values too."""

    shown_from: float = BANDS[1].low
    """A unit below this value may not be stated, unless the text says that it is minimal."""

    denied_below: float = BANDS[1].low
    """A unit of this value or more may not be denied; one denied with a word of intensity ("no strong jaw drop") may,
    up to where that word's band begins."""

    omitted_from: float | None = 0.4
    """A unit of this value or more must be mentioned; None asks for none."""

    intensity_slack: float = 0.0
    """How far outside the band of its intensity word a value may lie. 0 is the writer's own table of bands."""

    high_words_are_open: bool = False
    """Whether "significant" and its like may be said of the strongest movements too."""

    unsided_means_both: bool = True
    """A unit that has sides and is stated without one must hold on both. Otherwise one of them is enough."""

    unsided_units_may_have_sides: bool = False
    """Whether a side may be named that the vocabulary does not tell (FACS values have none)."""

    associations: bool = True
    """A unit may be tied only to expressions that a source ties it to (``faces.ASSOCIATIONS``)."""

    label_in_observations: bool = True
    """Whether the observations may name the label."""

    conclusion: bool = True
    """The conclusion names the right label."""

    one_label: bool = True
    """It names no other label, and names it by noun or adjective. Otherwise it may weigh several, and may name the
    right one by a near synonym ("joy")."""

    numbers: bool = True
    """Quoted numbers and codes must be those of the units."""

    number_tolerance: float = 0.006
    """How far a quoted number may be from the value: half of the last of two digits, and rounding."""

    personal_words: bool = False
    """Whether the text may speak of age, sex, ethnicity or identity."""


STRICT = VerifierRules()
"""For texts that are made to pass: what the writer's own tables say, without slack."""

FREE_TEXT = VerifierRules(
    free_english=True,
    interpretation_states_units=True,
    shown_from=0.01,
    denied_below=0.15,
    omitted_from=None,
    intensity_slack=0.2,
    high_words_are_open=True,
    unsided_means_both=False,
    unsided_units_may_have_sides=True,
    associations=False,
    one_label=False,
)
"""For texts that people or language models wrote in words of their own. The slack is what the released texts need: of
the values quoted there beside a word for "slight" a tenth lies above 0.385, of those beside one for "moderate" a tenth
above 0.535, and of those beside one for "significant" a tenth below 0.123."""
