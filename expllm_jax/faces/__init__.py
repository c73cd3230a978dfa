"""What a face says: expressions, action units, their intensities, and the ``Annotation`` that carries them.

Start with ``EXPRESSIONS`` and ``FACS``; ``PROTOTYPES`` ties the two together, ``facs_from_arkit`` and its relatives
translate between vocabularies, and ``read_annotations`` opens a file of annotated pictures. Nothing here
knows of models or needs more than the standard library.
"""

from expllm_jax.faces.annotation import Annotation, read_annotations, write_annotations
from expllm_jax.faces.expressions import BASIC_7, EXPRESSIONS, LABEL_ORDERS, expression_of
from expllm_jax.faces.intensity import grade_of, is_active, letter_of, value_of_grade, value_of_letter
from expllm_jax.faces.mappings import (
    JAW_DROP_LIMIT,
    arkit_from_facs,
    check_intensities,
    facs_from_arkit,
    feafa_from_arkit,
)
from expllm_jax.faces.prototypes import (
    ONE_SIDED,
    PROTOTYPES,
    SOURCED_UNITS,
    associated_expressions,
    prototype_units,
)
from expllm_jax.faces.units import (
    ARKIT_52,
    FACS,
    FEAFA_24,
    REGIONS,
    RENDERED_UNITS,
    VOCABULARIES,
    ActionUnit,
    Side,
    Vocabulary,
    vocabulary,
)

__all__ = [
    "ARKIT_52",
    "BASIC_7",
    "EXPRESSIONS",
    "FACS",
    "FEAFA_24",
    "JAW_DROP_LIMIT",
    "LABEL_ORDERS",
    "ONE_SIDED",
    "PROTOTYPES",
    "REGIONS",
    "RENDERED_UNITS",
    "SOURCED_UNITS",
    "VOCABULARIES",
    "ActionUnit",
    "Annotation",
    "Side",
    "Vocabulary",
    "arkit_from_facs",
    "associated_expressions",
    "check_intensities",
    "expression_of",
    "facs_from_arkit",
    "feafa_from_arkit",
    "grade_of",
    "is_active",
    "letter_of",
    "prototype_units",
    "read_annotations",
    "value_of_grade",
    "value_of_letter",
    "vocabulary",
    "write_annotations",
]
