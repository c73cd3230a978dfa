"""Faithfulness by intervention: change what an answer claims to rest on, and see whether the answer follows.

- `masking`: the region of a stated unit is covered, or one of the same shape elsewhere on the face.
- `text_edits`: an observation of the model's own text is taken out or exchanged, and the rest is written anew.
- Counterfactual renders (`sources.rendered.counterfactual_face`): one unit of the face is changed and nothing else.

`outcomes` says how what comes of it is kept, `rates` how it is counted, `page` and `plots` how it is shown. Asking the
model is the caller's (`expllm_jax.faithfulness`).
"""

from __future__ import annotations

from expllm_jax.evaluate.interventions.masking import FILLS, Fill, covered, elsewhere, region_mask
from expllm_jax.evaluate.interventions.outcomes import (
    KINDS,
    Base,
    Intervention,
    Kind,
    Outcome,
    Said,
    base_line,
    outcome_line,
    read_outcomes,
    settings_line,
)
from expllm_jax.evaluate.interventions.page import faithfulness_lines, faithfulness_section
from expllm_jax.evaluate.interventions.plots import plot_counterfactuals, plot_masks
from expllm_jax.evaluate.interventions.rates import (
    F1_BAR,
    RIGHT_BAR,
    UnitF1,
    counterfactual_rates,
    mask_rates,
    text_rates,
    unit_f1,
)
from expllm_jax.evaluate.interventions.text_edits import (
    TEXT_EDITS,
    EditedText,
    TextEdit,
    TextEditor,
    named_units,
    observation_items,
)

__all__ = [
    "F1_BAR",
    "FILLS",
    "KINDS",
    "RIGHT_BAR",
    "TEXT_EDITS",
    "Base",
    "EditedText",
    "Fill",
    "Intervention",
    "Kind",
    "Outcome",
    "Said",
    "TextEdit",
    "TextEditor",
    "UnitF1",
    "base_line",
    "counterfactual_rates",
    "covered",
    "elsewhere",
    "faithfulness_lines",
    "faithfulness_section",
    "mask_rates",
    "named_units",
    "observation_items",
    "outcome_line",
    "plot_counterfactuals",
    "plot_masks",
    "read_outcomes",
    "region_mask",
    "settings_line",
    "text_rates",
    "unit_f1",
]
