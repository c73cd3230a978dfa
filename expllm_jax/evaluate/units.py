"""Does the text describe the face it is given? Stated action units against exact ones.

Three readings of each (picture, unit) pair are told apart by the true intensity:

- *present*: at or above a threshold (`CLEARLY_PRESENT` for the gaps, `STATED_FROM` for F1, the value from which the
  narrator of the training texts names a unit),
- *absent*: below `STATED_FROM`,
- in between (only for the gaps): neither; a reader may rightly say either, so the pair is set aside.

A pair whose truth is unknown is neither present nor absent, so no score has it: what a text states of such units is
only counted (`UnitScores.stated_unknown`), and the label-only oracle gets neither credit nor blame for them.

A model that has learnt the label's textbook units by heart gets a high F1 without looking. The label-only oracle shows
how high, and the two gaps cannot be had without looking: `added_gap` asks about units that do not belong to the
expression, `dropped_gap` about units that do but are missing from some faces.

Shape letters: P pictures, U units, S strata, K counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expllm_jax.cot import BANDS, STATED_FROM, band_of
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.evaluate.scores import ratio
from expllm_jax.evaluate.unit_values import icc_3_1
from expllm_jax.faces import FACS, PROTOTYPES, Vocabulary

CLEARLY_PRESENT = 0.2  # true intensity from which a unit is visible enough to be asked for (the gaps' threshold)

# Bands from weakest to strongest. Asking the one definition for every thousandth keeps its cut points out of this file.
BAND_ORDER: tuple[str, ...] = tuple(dict.fromkeys(band_of(thousandth / 1000) for thousandth in range(1001)))


@dataclass(frozen=True, eq=False)
class UnitTable:
    """Stated and true units of a set of pictures as arrays."""

    codes: tuple[str, ...]
    intensity_PU: np.ndarray  # float64, true intensity 0–1, nan where unknown: then it is neither ≥ nor < anything
    stated_PU: np.ndarray  # bool; all False where the reasoning does not parse
    band_PU: np.ndarray  # int, position in BAND_ORDER of the stated intensity; -1 where none is stated
    prototype_PU: np.ndarray  # bool, whether the unit belongs to the true expression's prototype
    expression_P: np.ndarray  # int, an index per true expression


def unit_table(faces: Sequence[EvaluatedFace], vocabulary: Vocabulary = FACS) -> UnitTable:
    """Lines the faces' units up as arrays. Raises ExpllmError for a unit, band or expression nothing is known about."""
    column = {code: position for position, code in enumerate(vocabulary.codes)}
    shape = (len(faces), len(column))
    intensity_PU, stated_PU = np.full(shape, np.nan), np.zeros(shape, bool)
    band_PU, prototype_PU = np.full(shape, -1), np.zeros(shape, bool)
    expressions = sorted({face.expression for face in faces})
    # Where no reasoning was asked for, nothing could be stated, and no score says anything. One that is missing among
    # others states nothing.
    asked = any(face.cot is not None for face in faces)
    for row, face in enumerate(faces):
        for code in (*face.units, *face.stated):
            if code not in column:
                raise ExpllmError(
                    f"record {face.record!r}: unit {code!r} is not in the vocabulary {vocabulary.name!r}",
                    f"give units of one vocabulary; this one has {', '.join(column)}",
                )
        if face.expression not in PROTOTYPES:
            raise ExpllmError(
                f"record {face.record!r}: no prototype for the expression {face.expression!r}",
                f"unit metrics know {', '.join(PROTOTYPES)}",
            )
        for code, intensity in face.units.items() if asked else ():
            intensity_PU[row, column[code]] = intensity
        for code, band in face.credited.items():
            stated_PU[row, column[code]] = True
            if band is not None:
                if band not in BAND_ORDER:
                    raise ExpllmError(
                        f"record {face.record!r}: unknown intensity band {band!r} for {code}",
                        f"the bands are {', '.join(BAND_ORDER)}",
                    )
                band_PU[row, column[code]] = BAND_ORDER.index(band)
        for code in PROTOTYPES[face.expression]:
            if code in column:
                prototype_PU[row, column[code]] = True
    expression_P = np.array([expressions.index(face.expression) for face in faces], int)
    return UnitTable(vocabulary.codes, intensity_PU, stated_PU, band_PU, prototype_PU, expression_P)


# --- F1 -----------------------------------------------------------------------------------------------------------


def detection_counts(table: UnitTable, *, present_from: float = STATED_FROM, label_only: bool = False) -> np.ndarray:
    """True positives, false positives and misses per picture, int [P, 3].

    With `label_only`, scores not the model but the oracle that knows the true label and states exactly its prototype.
    """
    present_PU, absent_PU = table.intensity_PU >= present_from, table.intensity_PU < present_from
    stated_PU = table.prototype_PU if label_only else table.stated_PU
    cells = (stated_PU & present_PU, stated_PU & absent_PU, ~stated_PU & present_PU)
    return np.stack([cell.sum(1) for cell in cells], axis=1)


def micro_f1(counts: np.ndarray) -> np.ndarray:
    """2·TP / (2·TP + FP + misses) of summed counts [..., 3]; nan when there was nothing to state and nothing was."""
    hits, false, missed = np.moveaxis(counts, -1, 0)
    return ratio(2.0 * hits, 2.0 * hits + false + missed)


# --- gaps ---------------------------------------------------------------------------------------------------------


def _gap_cells(table: UnitTable, asked_PU: np.ndarray, present_from: float) -> np.ndarray:
    """The four cells of a gap as booleans [4, P, U]: stated and present, present, stated and absent, absent."""
    present_PU = asked_PU & (table.intensity_PU >= present_from)
    absent_PU = asked_PU & (table.intensity_PU < STATED_FROM)
    return np.stack([table.stated_PU & present_PU, present_PU, table.stated_PU & absent_PU, absent_PU])


def _ever_added(table: UnitTable, present_from: float) -> np.ndarray:
    """Pairs [P, U] off the expression's prototype, of units that are present off-prototype in at least one picture.

    Units that never occur would only pad the absent side with easy pairs and so flatter the gap.
    """
    added_PU = ~table.prototype_PU & (table.intensity_PU >= present_from)
    return ~table.prototype_PU & added_PU.any(0)


def added_counts(table: UnitTable, *, present_from: float = CLEARLY_PRESENT) -> np.ndarray:
    """Counts [P, 4] for `added_gap`: pairs whose unit is not in the true expression's prototype.

    Columns: stated among present, present, stated among absent, absent; see `gap`.
    """
    return _gap_cells(table, _ever_added(table, present_from), present_from).sum(2).T


def dropped_counts(table: UnitTable, *, present_from: float = CLEARLY_PRESENT) -> np.ndarray:
    """Counts [P, 4] for `dropped_gap`: pairs whose unit is in the true expression's prototype; absent = dropped."""
    return _gap_cells(table, table.prototype_PU, present_from).sum(2).T


def gap(counts: np.ndarray) -> np.ndarray:
    """P(stated | present) − P(stated | absent) of summed counts [..., 4]; nan where a side has no pairs."""
    stated_present, present, stated_absent, absent = np.moveaxis(counts, -1, 0)
    return ratio(stated_present, present) - ratio(stated_absent, absent)


def stratified_counts(table: UnitTable, *, prototype: bool, present_from: float = CLEARLY_PRESENT) -> np.ndarray:
    """A gap's counts kept apart by (expression, unit), int [P, S·4], for `stratified_gap`.

    Strata that lack present or absent pairs altogether compare nothing and are left out.
    """
    asked_PU = table.prototype_PU if prototype else _ever_added(table, present_from)
    cells_4PU = _gap_cells(table, asked_PU, present_from)
    blocks = []
    for expression in range(table.expression_P.max() + 1):
        of_expression_P1 = (table.expression_P == expression)[:, None]
        cells_PU4 = np.moveaxis(cells_4PU & of_expression_P1, 0, -1).astype(np.uint8)
        totals_U4 = cells_PU4.sum(0, dtype=np.int64)
        blocks.append(cells_PU4[:, (totals_U4[:, 1] > 0) & (totals_U4[:, 3] > 0)])
    return np.concatenate(blocks, axis=1).reshape(len(table.expression_P), -1)


def stratified_gap(counts: np.ndarray) -> np.ndarray:
    """The gap within (expression, unit), averaged over strata by their number of present pairs. [..., S·4] → [...].

    The pooled gap could be raised by naming, for each expression, the units most often added to it; here present and
    absent faces of the same expression are compared for the same unit, where no such habit helps.
    """
    cells = counts.reshape(*counts.shape[:-1], -1, 4)
    difference = gap(cells)
    weight = np.where(np.isnan(difference), 0.0, cells[..., 1])
    return ratio((weight * np.where(np.isnan(difference), 0.0, difference)).sum(-1), weight.sum(-1))


# --- the table of a report ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnitRow:
    """How often one unit is stated where it is and where it is not; over all pictures, prototype or not."""

    code: str
    present: int  # pictures with intensity ≥ CLEARLY_PRESENT
    absent: int  # pictures with intensity < STATED_FROM; unknown ones are in neither
    stated_present: float  # share stated among the present, nan without any
    stated_absent: float  # share stated among the absent, nan without any


@dataclass(frozen=True)
class UnitScores:
    """How truly a set of texts describes its faces; fractions, nan where there is nothing to divide by."""

    f1: float  # micro-F1 over (picture, unit) pairs, present from STATED_FROM
    precision: float
    recall: float
    f1_label_only: float  # the same for the oracle that recites the true label's prototype
    added_gap: float
    dropped_gap: float
    hallucinated: float  # share of stated units, where the truth is known, that are absent from the face
    hallucinated_per_picture: float  # how many absent units the average text states, where any unit is known
    stated_unknown: int  # stated units of which nobody knows whether the face shows them; in no other score
    omitted: float  # share of clearly present units that are not stated
    band_exact: float  # share of rightly stated units whose intensity word fits the true intensity
    band_within_one: float  # … or is one band off; a unit stated without any word counts as a miss in both
    rows: tuple[UnitRow, ...]  # units that occur, in the vocabulary's order


def _band_hits(table: UnitTable) -> tuple[int, int, int]:
    """(exact, within one band, rightly stated units)."""
    right = np.argwhere(table.stated_PU & (table.intensity_PU >= STATED_FROM))
    distances = []
    for picture, unit in right:
        band = table.band_PU[picture, unit]
        true_band = BAND_ORDER.index(band_of(float(table.intensity_PU[picture, unit])))
        distances.append(abs(band - true_band) if band >= 0 else len(BAND_ORDER))
    return sum(d == 0 for d in distances), sum(d <= 1 for d in distances), len(distances)


def hallucination_counts(table: UnitTable) -> np.ndarray:
    """(stated units that are not there, stated units whose truth is known) of each picture, int [P, 2]."""
    judged_PU = table.stated_PU & ~np.isnan(table.intensity_PU)
    return np.stack([(judged_PU & (table.intensity_PU < STATED_FROM)).sum(1), judged_PU.sum(1)], 1)


def omission_counts(table: UnitTable) -> np.ndarray:
    """(clearly present units that are not stated, clearly present units) of each picture, int [P, 2]."""
    clear_PU = table.intensity_PU >= CLEARLY_PRESENT
    return np.stack([(clear_PU & ~table.stated_PU).sum(1), clear_PU.sum(1)], 1)


def score_units(faces: Sequence[EvaluatedFace], vocabulary: Vocabulary = FACS) -> UnitScores:
    """All unit scores of a set of evaluated faces."""
    table = unit_table(faces, vocabulary)
    hits, false, missed = detection_counts(table).sum(0)
    absent_PU = table.intensity_PU < STATED_FROM
    clear_PU = table.intensity_PU >= CLEARLY_PRESENT
    known_PU = ~np.isnan(table.intensity_PU)
    judged = int((table.stated_PU & known_PU).sum())
    invented = int((table.stated_PU & absent_PU).sum())
    exact, within_one, rightly_stated = _band_hits(table)
    stated_present_U = ratio((table.stated_PU & clear_PU).sum(0), clear_PU.sum(0))
    stated_absent_U = ratio((table.stated_PU & absent_PU).sum(0), absent_PU.sum(0))
    occurs_U = clear_PU.any(0) | table.stated_PU.any(0)
    return UnitScores(
        f1=float(micro_f1(np.array([hits, false, missed]))),
        precision=float(ratio(hits, hits + false)),
        recall=float(ratio(hits, hits + missed)),
        f1_label_only=float(micro_f1(detection_counts(table, label_only=True).sum(0))),
        added_gap=float(gap(added_counts(table).sum(0))),
        dropped_gap=float(gap(dropped_counts(table).sum(0))),
        hallucinated=float(ratio(invented, judged)),
        hallucinated_per_picture=float(ratio(invented, known_PU.any(1).sum())),
        stated_unknown=int(table.stated_PU.sum()) - judged,
        omitted=float(ratio((clear_PU & ~table.stated_PU).sum(), clear_PU.sum())),
        band_exact=float(ratio(exact, rightly_stated)),
        band_within_one=float(ratio(within_one, rightly_stated)),
        rows=tuple(
            UnitRow(
                table.codes[u],
                int(clear_PU[:, u].sum()),
                int(absent_PU[:, u].sum()),
                float(stated_present_U[u]),
                float(stated_absent_U[u]),
            )
            for u in np.flatnonzero(occurs_U)
        ),
    )


# --- how strong ---------------------------------------------------------------------------------------------------

# A word tells a range; its middle is the value it stands for with the least largest error.
BAND_MIDDLES: tuple[float, ...] = tuple(
    (low + high) / 2 for low, high in zip([b.low for b in BANDS], [*(b.low for b in BANDS[1:]), 1.0], strict=True)
)


@dataclass(frozen=True)
class IntensityScores:
    """How well the intensity words follow the true intensities, each word read as its band's middle; nan if undefined.

    The mean absolute errors are over stated units whose truth is known and whose intensity is in words; the ICCs over
    every picture in which the unit is known, one not stated being 0, as annotators' tables have it.
    """

    n: int  # stated units with a word and a known truth
    wordless: int  # stated units with a known truth but no word; in no number but the ICCs' pictures, which lack them
    mae: float
    mae_of_true_words: float  # the error of the right words themselves: what no text with five words can beat
    icc: float  # mean ICC(3,1) of the units that vary
    icc_per_unit: dict[str, float]  # code → ICC(3,1); only units that vary


def score_intensities(faces: Sequence[EvaluatedFace], vocabulary: Vocabulary = FACS) -> IntensityScores:
    """Intensity error and agreement of a set of evaluated faces."""
    table = unit_table(faces, vocabulary)
    known_PU = ~np.isnan(table.intensity_PU)
    judged_PU = table.stated_PU & known_PU
    worded_PU = judged_PU & (table.band_PU >= 0)
    middles = np.array(BAND_MIDDLES)
    value_PU = np.where(table.stated_PU, middles[np.maximum(table.band_PU, 0)], 0.0)
    truth = table.intensity_PU[worded_PU]
    true_middle = middles[[BAND_ORDER.index(band_of(float(value))) for value in truth]] if len(truth) else truth
    per_unit = {}
    for unit, code in enumerate(table.codes):
        rated = known_PU[:, unit] & (~judged_PU[:, unit] | worded_PU[:, unit])
        true, value = table.intensity_PU[rated, unit], value_PU[rated, unit]
        # Where a unit is never shown, an ICC would be 0 whatever is stated.
        if len(true) > 1 and np.ptp(true) > 0:
            per_unit[code] = icc_3_1(true, value)
    return IntensityScores(
        n=int(worded_PU.sum()),
        wordless=int(judged_PU.sum() - worded_PU.sum()),
        mae=float(np.abs(value_PU[worded_PU] - truth).mean()) if len(truth) else math.nan,
        mae_of_true_words=float(np.abs(true_middle - truth).mean()) if len(truth) else math.nan,
        icc=float(np.mean(list(per_unit.values()))) if per_unit else math.nan,
        icc_per_unit=per_unit,
    )
