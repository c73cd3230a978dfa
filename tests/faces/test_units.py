"""Vocabularies and the mappings between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import (
    ARKIT_52,
    BP4D_12,
    DISFA_8,
    DISFA_12,
    FABA_12,
    FABA_20,
    FACS,
    FACS_OF_FEAFA,
    FEAFA_24,
    ONE_SIDED,
    OPENGRAPHAU_41,
    PROTOTYPES,
    REGIONS,
    RENDERED_UNITS,
    UNIT_SETS,
    VOCABULARIES,
    arkit_from_facs,
    facs_from_arkit,
    facs_from_feafa,
    facs_from_opengraphau,
    feafa_from_arkit,
    mirrored_units,
    unit_vector,
    units_of_vector,
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


def test_opengraphau_has_its_networks_outputs_in_order():
    numbers = [n for n in range(1, 28) if n not in (3, 8, 21)] + [32, 38, 39]
    sided = [f"AU{side}{n}" for n in (1, 2, 4, 6, 10, 12, 14) for side in "LR"]
    assert OPENGRAPHAU_41.codes == (*(f"AU{n}" for n in numbers), *sided) and len(OPENGRAPHAU_41) == 41
    left = OPENGRAPHAU_41.unit("AUL12")
    assert (left.name, left.side, left.mirror, left.region) == ("left lip corner puller", "left", "AUR12", "mouth")
    assert FACS.unit("AU13").name == "sharp lip puller"  # not a cheek puffer


def test_sets_of_data_sets():
    sizes = {name: len(codes) for name, codes in UNIT_SETS.items()}
    assert all(name.endswith(f"-{size}") for name, size in sizes.items())
    assert all(set(codes) <= set(FACS.codes) and len(set(codes)) == len(codes) for codes in UNIT_SETS.values())
    assert set(DISFA_8) < set(DISFA_12) and set(FABA_12) < set(FABA_20)
    assert set(BP4D_12) <= set(UNIT_SETS["opengraphau-27"]) and "AU43" not in OPENGRAPHAU_41
    for codes in (DISFA_12, DISFA_8, BP4D_12, FABA_20, FABA_12):
        numbers = [int(code[2:]) for code in codes]
        assert numbers == sorted(numbers)


@given(st.dictionaries(st.sampled_from(FACS.codes), st.floats(0, 1, width=32)), st.sampled_from(list(UNIT_SETS)))
def test_vectors_tell_unknown_from_absent(units, name):
    codes = UNIT_SETS[name]
    values, known = unit_vector(units, codes)
    assert values.dtype == np.float32 and known.dtype == bool and values.shape == known.shape == (len(codes),)
    assert units_of_vector(values, known, codes) == {code: units[code] for code in codes if code in units}
    assert not values[~known].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unit_vector({"AU12": 2}, DISFA_8), "AU12 is 2"),
        (lambda: unit_vector({}, ("AU1", "AU99")), "'AU99'"),
        (lambda: unit_vector({}, ("AU1", "AU2", "AU1")), "twice in AU1, AU2, AU1"),
        (lambda: units_of_vector(np.zeros(3), np.zeros(3, bool), DISFA_8), "3 intensities.*8 units"),
    ],
)
def test_bad_vectors_are_refused(call, message):
    with pytest.raises(ExpllmError, match=message):
        call()


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
    with pytest.raises(ExpllmError, match="emfacs.*facs, feafa, arkit, opengraphau"):
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


@given(st.dictionaries(st.sampled_from(ARKIT_52.codes), INTENSITY))
def test_feafa_gives_the_facs_units_that_arkit_gives(coefficients):
    direct, by_feafa = facs_from_arkit(coefficients), facs_from_feafa(feafa_from_arkit(coefficients))
    # FEAFA lifts a brow as a whole, and slides and thrusts the jaw, which FACS units from ARKit leave out.
    told_alike = set(by_feafa) - {"AU1", "AU2", "AU29", "AU30"}
    assert {code: by_feafa[code] for code in told_alike} == {code: direct.get(code, 0.0) for code in told_alike}
    assert by_feafa["AU1"] == by_feafa["AU2"] == max(direct.get("AU1", 0.0), direct.get("AU2", 0.0))
    assert by_feafa["AU29"] == coefficients.get("jawForward", 0.0)


def test_feafa_to_facs_covers_every_unit_of_feafa_and_keeps_unknowns():
    for code in FEAFA_24.codes:
        shown = facs_from_feafa({**dict.fromkeys(FEAFA_24.codes, 0.0), code: 0.4})
        assert {facs for facs, value in shown.items() if value} <= set(FACS_OF_FEAFA[code])
        assert any(shown[facs] for facs in FACS_OF_FEAFA[code])
    assert facs_from_feafa({"FEAFA12": 0.5}) == {}  # the other corner is unknown
    assert facs_from_feafa({"FEAFA12": 0.5, "FEAFA13": 0.0}) == {"AU12": 0.5}
    assert facs_from_feafa({"FEAFA24": 0.0}) == {"AU9": 0.0}


def test_opengraphau_folds_its_sides():
    units = {"AU12": 0.2, "AUL12": 0.7, "AUR1": 0.4, "AUL1": 0.1, "AUL2": 0.9, "AU39": 0.0}
    assert facs_from_opengraphau(units) == {"AU1": 0.4, "AU39": 0.0, "AU12": 0.7}  # AU2's other side is unknown
    assert set(facs_from_opengraphau(dict.fromkeys(OPENGRAPHAU_41.codes, 0.5))) == set(UNIT_SETS["opengraphau-27"])


FOLDS = {ARKIT_52: facs_from_arkit, FEAFA_24: facs_from_feafa, OPENGRAPHAU_41: facs_from_opengraphau}


@pytest.mark.parametrize("vocab", FOLDS, ids=lambda v: v.name)
@given(data=st.data())
def test_facs_units_are_the_same_in_a_mirror(vocab, data):
    units = data.draw(st.dictionaries(st.sampled_from(vocab.codes), st.floats(0, 1)))
    assert FOLDS[vocab](mirrored_units(units, vocab)) == FOLDS[vocab](units)


@given(st.dictionaries(st.sampled_from(ARKIT_52.codes), st.floats(0, 1)))
def test_feafa_mirrors_as_arkit_does(coefficients):
    assert feafa_from_arkit(mirrored_units(coefficients, ARKIT_52)) == mirrored_units(
        feafa_from_arkit(coefficients), FEAFA_24
    )


@pytest.mark.parametrize(
    ("function", "units", "message"),
    [
        (facs_from_feafa, {"AU12": 0.5}, "'AU12'"),
        (facs_from_opengraphau, {"AUL5": 0.5}, "'AUL5'"),
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
