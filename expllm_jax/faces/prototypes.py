"""Which action units go with which expression, and where that is written.

Faces differ, and the sources disagree (on disgust most), so a unit is *associated with* an expression, never proof of
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from expllm_jax.errors import ExpllmError
from expllm_jax.faces.expressions import EXPRESSIONS
from expllm_jax.faces.mappings import arkit_from_facs, feafa_from_arkit
from expllm_jax.faces.units import FACS, FEAFA_24, Vocabulary

PROTOTYPES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        # The sets are EMFACS's, with the changes noted; the intensities are ours, for a clear but not theatrical face.
        "Neutral": {},
        "Happiness": {"AU6": 0.7, "AU12": 0.8},
        "Sadness": {"AU1": 0.8, "AU4": 0.5, "AU15": 0.8, "AU17": 0.5},  # AU17: 67 % of Du et al.'s subjects
        "Surprise": {"AU1": 0.8, "AU2": 0.8, "AU5": 0.7, "AU27": 0.7},  # AU27 for AU26: the strong form
        "Fear": {"AU1": 0.8, "AU2": 0.5, "AU4": 0.5, "AU5": 0.8, "AU20": 0.8, "AU26": 0.6},
        "Disgust": {"AU9": 0.9, "AU10": 0.7, "AU15": 0.4, "AU17": 0.5},  # AU10, AU17: Du et al. and FACS table 11-1
        "Anger": {"AU4": 0.9, "AU5": 0.4, "AU7": 0.7, "AU24": 0.8},  # AU24 for AU23: FACS table 11-1
        "Contempt": {"AU14": 0.6},  # one side of the face only: see ONE_SIDED
    }
)
"""Expression -> FACS unit -> typical intensity, 0 to 1."""

ONE_SIDED: Mapping[str, Mapping[str, str]] = MappingProxyType({"Contempt": {"AU14": "left"}})
"""Expression -> unit -> the side that shows it; contempt is the one expression that one side of the face tells."""

# Expression -> source -> units. EMFACS: the core sets; FACS 11-1: its table of the most intense forms; Du 2014: Du, Tao
# & Martinez, PNAS 2014, units shown by half of the subjects or more.
SOURCED_UNITS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Happiness": {
            "EMFACS": ("AU6", "AU12"),
            "FACS 11-1": ("AU6", "AU12", "AU25"),
            "Du 2014": ("AU12", "AU25", "AU6"),
        },
        "Sadness": {
            "EMFACS": ("AU1", "AU4", "AU15"),
            "FACS 11-1": ("AU1", "AU4", "AU15"),
            "Du 2014": ("AU4", "AU15", "AU1", "AU6", "AU17"),
        },
        "Surprise": {
            "EMFACS": ("AU1", "AU2", "AU5", "AU26", "AU27"),
            "FACS 11-1": ("AU1", "AU2", "AU5", "AU26"),
            "Du 2014": ("AU1", "AU2", "AU25", "AU26", "AU5"),
        },
        "Fear": {
            "EMFACS": ("AU1", "AU2", "AU4", "AU5", "AU7", "AU20", "AU26"),
            "FACS 11-1": ("AU1", "AU2", "AU4", "AU5", "AU20", "AU25"),
            "Du 2014": ("AU1", "AU4", "AU20", "AU25", "AU2", "AU5"),
        },
        "Disgust": {
            "EMFACS": ("AU9", "AU15", "AU16"),
            "FACS 11-1": ("AU10", "AU17", "AU4"),
            "Du 2014": ("AU9", "AU10", "AU17"),
        },
        "Anger": {
            "EMFACS": ("AU4", "AU5", "AU7", "AU23"),
            "FACS 11-1": ("AU4", "AU5", "AU7", "AU24"),
            "Du 2014": ("AU4", "AU7", "AU24", "AU17"),
        },
        "Contempt": {"EMFACS": ("AU12", "AU14")},
    }
)

# FEAFA unit -> the FACS units that say the same. Jaw slides and thrust have none among ours.
_FACS_OF_FEAFA: dict[str, tuple[str, ...]] = {
    "FEAFA1": ("AU43",),
    "FEAFA2": ("AU43",),
    "FEAFA3": ("AU5",),
    "FEAFA4": ("AU5",),
    "FEAFA5": ("AU4",),
    "FEAFA6": ("AU4",),
    "FEAFA7": ("AU1", "AU2"),
    "FEAFA8": ("AU1", "AU2"),
    "FEAFA9": ("AU26", "AU27"),
    "FEAFA12": ("AU12",),
    "FEAFA13": ("AU12",),
    "FEAFA14": ("AU20",),
    "FEAFA15": ("AU20",),
    "FEAFA16": ("AU28",),
    "FEAFA17": ("AU28",),
    "FEAFA19": ("AU10",),
    "FEAFA20": ("AU16",),
    "FEAFA21": ("AU17",),
    "FEAFA22": ("AU18",),
    "FEAFA23": ("AU33", "AU34"),
    "FEAFA24": ("AU9",),
}


def associated_expressions(code: str, vocabulary: Vocabulary = FACS) -> tuple[str, ...]:
    """The expressions a unit is associated with by any source, most widely attested first; () where none says so.

    Raises:
        ExpllmError: the vocabulary is neither FACS nor FEAFA, or has no such unit.
    """
    vocabulary.index(code)
    if vocabulary == FACS:
        facs: tuple[str, ...] = (code,)
    elif vocabulary == FEAFA_24:
        facs = _FACS_OF_FEAFA.get(code, ())
    else:
        raise ExpllmError(f"No associations are known for the vocabulary {vocabulary.name!r}.", "Use FACS or FEAFA_24.")
    attested = {
        expression: sum(bool(set(facs) & set(units)) for units in sources.values())
        + sum(unit in PROTOTYPES[expression] for unit in facs) / 2
        for expression, sources in SOURCED_UNITS.items()
    }
    ranked = sorted(attested, key=lambda expression: (-attested[expression], EXPRESSIONS.index(expression)))
    return tuple(expression for expression in ranked if attested[expression] > 0)


def prototype_units(expression: str, vocabulary: Vocabulary = FACS) -> dict[str, float]:
    """A prototype in a vocabulary: code -> typical intensity above 0.

    In FEAFA's it is what the FACS prototype shows there, so units FEAFA has no name for (such as AU6) fall away.

    Raises:
        ExpllmError: the expression is unknown, or the vocabulary is neither FACS nor FEAFA.
    """
    if expression not in PROTOTYPES:
        raise ExpllmError(f"{expression!r} is no expression.", f"Use one of {', '.join(EXPRESSIONS)}.")
    if vocabulary == FACS:
        return dict(PROTOTYPES[expression])
    if vocabulary != FEAFA_24:
        raise ExpllmError(f"No prototypes are known for the vocabulary {vocabulary.name!r}.", "Use FACS or FEAFA_24.")
    coefficients = arkit_from_facs(PROTOTYPES[expression], one_sided=ONE_SIDED.get(expression))
    return {code: value for code, value in feafa_from_arkit(coefficients).items() if value > 0}
