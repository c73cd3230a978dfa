"""Vocabularies and the mappings between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import (
    ARKIT_52,
    FACS,
    FEAFA_24,
    ONE_SIDED,
    PROTOTYPES,
    REGIONS,
    RENDERED_UNITS,
    VOCABULARIES,
    arkit_from_facs,
    facs_from_arkit,
    feafa_from_arkit,
    vocabulary,
)

INTENSITY = st.floats(1e-4, 1.0)


def test_sizes_and_orders():
    assert (len(FEAFA_24), len(ARKIT_52)) == (24, 52)
    assert {f"AU{n}" for n in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 18, 20, 22, 23, 24, 25, 26)} <= set(
        FACS.codes
    )
    assert FEAFA_24.codes == tuple(f"FEAFA{n}" for n in range(1, 25))
    positions = [REGIONS.index(unit.region) for unit in FACS.units]
    assert positions == sorted(positions)
    assert RENDERED_UNITS == tuple(code for code in FACS.codes if code in RENDERED_UNITS) and len(RENDERED_UNITS) == 22


@pytest.mark.parametrize("vocab", VOCABULARIES.values(), ids=lambda v: v.name)
def test_vocabulary_is_well_formed(vocab):
    assert len(set(vocab.codes)) == len(vocab)
    for position, unit in enumerate(vocab.units):
        assert vocab.index(unit.code) == position and vocab.unit(unit.code) is unit and unit.code in vocab
        mirror = vocab.unit(unit.mirror)
        assert mirror.mirror == unit.code
        assert {unit.side, mirror.side} in ({"both"}, {"left", "right"})
        assert (unit.side == "both") == (unit.mirror == unit.code)
        assert unit.region == mirror.region and unit.region in REGIONS
    assert vocabulary(vocab.name) is vocab


def test_unknown_names_are_told():
    with pytest.raises(ExpllmError, match="AU99.*AU12"):
        FACS.index("AU99")
    with pytest.raises(ExpllmError, match="emfacs.*facs, feafa, arkit"):
        vocabulary("emfacs")


@given(st.sampled_from(RENDERED_UNITS), INTENSITY)
def test_one_unit_comes_back(code, value):
    assert facs_from_arkit(arkit_from_facs({code: value})) == pytest.approx({code: value}, abs=1e-6)


@given(st.dictionaries(st.sampled_from(RENDERED_UNITS), INTENSITY))
def test_any_combination_comes_back_unless_the_jaw_is_told_twice(units):
    if "AU27" in units:
        units.pop("AU26", None)
    assert facs_from_arkit(arkit_from_facs(units)) == pytest.approx(units, abs=1e-6)


@pytest.mark.parametrize("expression", PROTOTYPES)
def test_prototypes_come_back(expression):
    units = PROTOTYPES[expression]
    coefficients = arkit_from_facs(units, one_sided=ONE_SIDED.get(expression))
    assert facs_from_arkit(coefficients) == pytest.approx(dict(units), abs=1e-6)


def test_the_jaw_is_split_at_its_limit():
    assert facs_from_arkit({"jawOpen": 0.45}) == pytest.approx({"AU26": 1.0})
    assert facs_from_arkit({"jawOpen": 0.725}) == pytest.approx({"AU27": 0.5})
    assert arkit_from_facs({"AU26": 1.0, "AU27": 0.5}) == pytest.approx({"jawOpen": 0.725})


def test_a_one_sided_unit_moves_one_side():
    assert arkit_from_facs({"AU14": 0.6}, one_sided={"AU14": "left"}) == {"mouthDimpleLeft": 0.6}
    with pytest.raises(ExpllmError, match="AU17.*left"):
        arkit_from_facs({"AU17": 0.6}, one_sided={"AU17": "left"})


def test_feafa_keeps_sides_and_order():
    units = feafa_from_arkit({"eyeBlinkLeft": 0.3, "mouthSmileRight": 0.7, "noseSneerLeft": 0.2, "browInnerUp": 0.4})
    assert tuple(units) == FEAFA_24.codes
    assert {code: value for code, value in units.items() if value} == {
        "FEAFA1": 0.3,
        "FEAFA7": 0.4,
        "FEAFA8": 0.4,
        "FEAFA13": 0.7,
        "FEAFA24": 0.2,
    }


@pytest.mark.parametrize(
    ("function", "units", "message"),
    [
        (arkit_from_facs, {"AU25": 0.5}, "AU25.*no counterpart"),
        (arkit_from_facs, {"AU12": 1.5}, "AU12 is 1.5"),
        (arkit_from_facs, {"AU12": float("nan")}, "AU12 is nan"),
        (facs_from_arkit, {"mouthSmile": 0.5}, "'mouthSmile'"),
        (feafa_from_arkit, {"jawOpen": -0.1}, "jawOpen is -0.1"),
    ],
)
def test_bad_units_are_refused(function, units, message):
    with pytest.raises(ExpllmError, match=message):
        function(units)
