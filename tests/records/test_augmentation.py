"""What is drawn: the odds and ranges of the reference, a record at a time. What is done with it: Pillow, bit by bit."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from expllm_jax.errors import ExpllmError
from expllm_jax.records import normalise, picture_kernels
from expllm_jax.records.augment_draws import philox, uniforms
from expllm_jax.records.augmentation import (
    AUGMENTATIONS,
    COLOUR_ORDERS,
    NO_HUE,
    AugmentConfig,
    Column,
    augmented,
    draws,
    flipped,
    neutral_rows,
)
from tests.records import pillow_augmentation as pillow

REFERENCE = AUGMENTATIONS["reference"]
MANY = 20_000
SPATIAL = [column for column in Column if Column.ROTATION <= column <= Column.AFFINE_SCALE]
GOLDEN_KEY = 72
GOLDEN = {
    "SIZE": 224.0,
    "FLIP": 1.0,
    "GREY": 0.0,
    "COLOUR_ORDER": 9.0,
    "BRIGHTNESS": 1.2419,
    "CONTRAST": 0.9292,
    "SATURATION": 1.0442,
    "HUE": -11.0,
    "ROTATION": -3.0024,
    "CROP_TOP": 1.0,
    "CROP_LEFT": 2.0,
    "CROP_HEIGHT": 223.0,
    "CROP_WIDTH": 217.0,
    "WINDOW_DOWN": 0.0,
    "WINDOW_RIGHT": 0.0,
    "AFFINE_ANGLE": -9.4132,
    "AFFINE_DOWN": 9.0,
    "AFFINE_RIGHT": -13.0,
    "AFFINE_SCALE": 0.9735,
    "BLUR": 1.9175,
    "ERASE_TOP": 173.0,
    "ERASE_LEFT": 17.0,
    "ERASE_HEIGHT": 35.0,
    "ERASE_WIDTH": 113.0,
}
LEVEL = 1 / (255 * 0.26)  # what one level of 8 bits is after normalisation, about


def drawn(config=REFERENCE, count=MANY, *, seed=0, epoch=0, located=False):
    return draws(config, seed, epoch, np.arange(count), np.full(count, located))


@pytest.fixture(scope="module")
def reference():
    return drawn()


def neutral():
    return neutral_rows(224, 1)[0]


# The generator


@pytest.mark.parametrize("key", [(0, 0), (1, 2), (2**64 - 1, 2**63 + 5), (0xDEADBEEF, 7)])
def test_the_generator_is_numpys_philox(key):
    for place, record in ((1, 0), (6, 12345), (40, 2**64 - 1)):
        theirs = np.random.Philox(key=np.array(key, np.uint64), counter=np.array([place - 1, record, 0, 0], np.uint64))
        ours = philox(*(np.uint64(number) for number in (place, record, *key)))
        assert [int(number) for number in ours] == theirs.random_raw(4).tolist()


def test_uniform_numbers_are_uniform_and_independent():
    zero = np.uint64(0)
    numbers = np.array([uniforms(np.uint64(1), np.uint64(key), zero, zero) for key in range(MANY)])
    for column in numbers.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    pairs = [(numbers[:, i], numbers[:, j]) for i in range(4) for j in range(i)]
    pairs += [(column[:-1], column[1:]) for column in numbers.T]  # neighbouring records
    for one, other in pairs:
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(MANY)
    assert 0 <= numbers.min() and numbers.max() < 1


# What is drawn


def rate(marks):
    return np.mean(marks)


def test_operations_come_as_often_as_in_the_reference(reference):
    rows = reference
    jittered, rotated = rows[:, Column.HUE] != NO_HUE, rows[:, Column.ROTATION] != 0
    resized = rotated & (rows[:, Column.CROP_HEIGHT] * rows[:, Column.CROP_WIDTH] != 224**2)
    windowed = (rows[:, Column.WINDOW_DOWN] != 0) | (rows[:, Column.WINDOW_RIGHT] != 0)
    expected = {
        "flip": (flipped(rows), 0.5),
        "jitter": (jittered, 0.5),
        "grey": (rows[:, Column.GREY] == 1, 0.5 * 0.2),
        "rotation": (rotated, 0.5),
        "padded crop": (windowed, 0.25 * (1 - 1 / 25**2)),
        "affine": (rows[:, Column.AFFINE_ANGLE] != 0, 0.5),
        "blur": (rows[:, Column.BLUR] > 0, 0.5),
        "erasing": (rows[:, Column.ERASE_HEIGHT] > 0, 0.5),
    }
    for name, (marks, probability) in expected.items():
        assert stats.binomtest(int(marks.sum()), MANY, probability).pvalue > 1e-4, name
    assert not (jittered & (rows[:, Column.GREY] == 1)).any()
    assert not (resized & windowed).any()
    assert (rotated[windowed]).all()
    assert ((rows[:, Column.BLUR] > 0) == (rows[:, Column.AFFINE_ANGLE] != 0)).all()
    independent = [flipped(rows), jittered, rotated, rows[:, Column.BLUR] > 0, rows[:, Column.ERASE_HEIGHT] > 0]
    assert (np.abs(np.corrcoef(independent) - np.eye(5)) < 5 / math.sqrt(MANY)).all()


def test_numbers_are_spread_as_in_the_reference(reference):
    rows = reference
    jittered, rotated, blurred = (
        rows[:, Column.HUE] != NO_HUE,
        rows[:, Column.ROTATION] != 0,
        rows[:, Column.BLUR] > 0,
    )
    for column, marks, low, high in (
        (Column.BRIGHTNESS, jittered, 0.75, 1.25),
        (Column.CONTRAST, jittered, 0.75, 1.25),
        (Column.SATURATION, jittered, 0.75, 1.25),
        (Column.ROTATION, rotated, -5, 5),
        (Column.AFFINE_ANGLE, blurred, -15, 15),
        (Column.AFFINE_SCALE, blurred, 0.9, 1.1),
        (Column.BLUR, blurred, 0.1, 2.0),
    ):
        assert stats.kstest(rows[marks, column], "uniform", (low, high - low)).pvalue > 1e-4, column

    order = np.bincount(rows[jittered, Column.COLOUR_ORDER].astype(int), minlength=24)
    assert len(order) == len(COLOUR_ORDERS) == 24 and stats.chisquare(order).pvalue > 1e-4
    hues = np.trunc(np.random.default_rng(0).uniform(-0.1, 0.1, MANY) * 255)  # torchvision: int(hue_factor * 255)
    edges = np.arange(-25.5, 26.5)
    assert same_spread(rows[jittered, Column.HUE], hues, edges)
    windowed = (rows[:, Column.WINDOW_DOWN] != 0) | (rows[:, Column.WINDOW_RIGHT] != 0)
    for column in (Column.WINDOW_DOWN, Column.WINDOW_RIGHT):
        values = rows[windowed, column]
        assert set(values) == set(range(-12, 13))
        assert stats.chisquare(np.unique(values[values != 0], return_counts=True)[1]).pvalue > 1e-4
    shifts = np.rint(np.random.default_rng(1).uniform(-22.4, 22.4, MANY))
    for column in (Column.AFFINE_DOWN, Column.AFFINE_RIGHT):
        assert same_spread(rows[blurred, column], shifts, np.arange(-22.5, 23.5))


def same_spread(one, other, edges):
    counts = np.array([np.histogram(values, edges)[0] for values in (one, other)])
    assert counts.sum() == len(one) + len(other)
    return stats.chi2_contingency(counts).pvalue > 1e-4


def rectangles(area, ratio, count, *, fits, first):
    """torchvision's rule for random rectangles, over again: (top, left, height, width) of `count` of them."""
    generator, found = np.random.default_rng(5), []
    while len(found) < count:
        for _ in range(10):
            pixels = 224 * 224 * generator.uniform(*area)
            aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
            sides = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            height, width = sides if first == "height" else sides[::-1]
            if fits(height) and fits(width):
                top, left = generator.integers(0, 224 - height + 1), generator.integers(0, 224 - width + 1)
                found.append((top, left, height, width))
                break
        else:
            found.append((0, 0, 224, 224))
    return np.array(found)


def test_rectangles_are_spread_as_in_the_reference(reference):
    crops = reference[(reference[:, Column.ROTATION] != 0)][:, Column.CROP_TOP : Column.CROP_WIDTH + 1]
    crops = crops[crops[:, 2] * crops[:, 3] != 224**2]
    theirs = rectangles((0.8, 1.0), (0.75, 1.3333), 5000, fits=lambda side: 0 < side <= 224, first="width")
    theirs = theirs[theirs[:, 2] * theirs[:, 3] != 224**2]
    for ours, column in zip(crops.T, theirs.T, strict=True):
        assert stats.ks_2samp(ours, column).pvalue > 1e-4
    assert stats.ks_2samp(crops[:, 3] / crops[:, 2], theirs[:, 3] / theirs[:, 2]).pvalue > 1e-4
    assert (crops[:, 0] + crops[:, 2] <= 224).all() and (crops[:, 1] + crops[:, 3] <= 224).all()

    holes = reference[reference[:, Column.ERASE_HEIGHT] > 0][:, Column.ERASE_TOP :]
    theirs = rectangles((0.05, 0.12), (0.3, 3.3), 5000, fits=lambda side: side < 224, first="height")
    for ours, column in zip(holes.T, theirs.T, strict=True):
        assert stats.ks_2samp(ours, column).pvalue > 1e-4
    assert stats.ks_2samp(holes[:, 2] / holes[:, 3], theirs[:, 2] / theirs[:, 3]).pvalue > 1e-4


def test_a_rectangle_that_never_fits_is_left_out():
    always = dict(spatial=1.0, resized_crop=1.0, erasing=1.0)
    rows = drawn(AugmentConfig(crop_area=(1.0, 1.0), crop_ratio=(1.2, 1.3), **always), 100)
    assert (rows[:, Column.CROP_HEIGHT] == 224).all() and (rows[:, Column.CROP_WIDTH] == 224).all()
    for area, ratio in (((0.9, 1.0), (2.0, 3.0)), ((1.0, 1.0), (1.0, 1.0))):  # a hole may not be the whole picture
        rows = drawn(AugmentConfig(erase_area=area, erase_ratio=ratio, **always), 100)
        assert (rows[:, Column.ERASE_TOP :] == 0).all()
    seldom = drawn(AugmentConfig(crop_area=(0.9, 1.0), crop_ratio=(0.5, 2.0), **always), 5000)
    kept = rate(seldom[:, Column.CROP_HEIGHT] * seldom[:, Column.CROP_WIDTH] == 224**2)
    theirs = rectangles((0.9, 1.0), (0.5, 2.0), 5000, fits=lambda side: 0 < side <= 224, first="width")
    assert abs(kept - rate(theirs[:, 2] * theirs[:, 3] == 224**2)) < 0.05 and kept > 0.1


def test_a_row_depends_on_nothing_but_seed_epoch_and_key(reference):
    keys = np.random.default_rng(0).permutation(MANY)[:64]
    rows = draws(REFERENCE, 0, 0, keys, np.zeros(64, bool))
    np.testing.assert_array_equal(rows, reference[keys])
    alone = [draws(REFERENCE, 0, 0, keys[i : i + 1], np.zeros(1, bool))[0] for i in range(64)]
    np.testing.assert_array_equal(alone, rows)
    for other in (drawn(seed=1), drawn(epoch=1), drawn(seed=2**63)):
        # Neither the same numbers nor related ones.
        both = (other[:, Column.BLUR] > 0) & (reference[:, Column.BLUR] > 0)
        assert abs(np.corrcoef(other[both, Column.BLUR], reference[both, Column.BLUR])[0, 1]) < 0.06
        assert abs(np.corrcoef(flipped(other), flipped(reference))[0, 1]) < 0.04


def test_other_processes_draw_the_same():
    code = (
        "import numpy as np; from expllm_jax.records.augmentation import *;"
        "print(draws(AUGMENTATIONS['reference'], 3, 5, np.arange(-9, 9), np.zeros(18, bool)).tobytes().hex())"
    )
    theirs = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    ours = draws(REFERENCE, 3, 5, np.arange(-9, 9), np.zeros(18, bool))
    assert ours.tobytes().hex() == theirs


def test_drawn_numbers_stay_what_they_were():
    """A run that resumes on another release goes on with the same augmentations."""
    row = draws(REFERENCE, 1, 2, np.array([GOLDEN_KEY]), np.zeros(1, bool))[0]
    assert {column.name: round(float(row[column]), 4) for column in Column} == GOLDEN


def test_records_with_coordinates_keep_their_geometry(reference):
    rows = drawn(located=True)
    unmoved = neutral()
    assert (rows[:, SPATIAL] == unmoved[SPATIAL]).all()
    others = [column for column in Column if column not in SPATIAL]
    np.testing.assert_array_equal(rows[:, others], reference[:, others])
    mixed = draws(REFERENCE, 0, 0, np.arange(10), np.arange(10) % 2 == 0)
    np.testing.assert_array_equal(mixed, np.where((np.arange(10) % 2 == 0)[:, None], rows[:10], reference[:10]))


def test_recipes_that_differ_in_one_operation_agree_on_the_others(reference):
    rows = drawn(dataclasses.replace(REFERENCE, jitter=0.0, grey=0.0))
    colours = [column for column in Column if Column.GREY <= column <= Column.HUE]
    others = [column for column in Column if column not in colours]
    np.testing.assert_array_equal(rows[:, others], reference[:, others])
    assert (rows[:, colours] == neutral()[colours]).all()


@pytest.mark.parametrize(
    "field, value",
    [
        ("flip", 1.5), ("jitter", -0.1), ("erasing", math.nan), ("brightness", 2.0), ("hue", 0.6), ("rotation", -1.0),
        ("affine_shift", 1.1), ("crop_area", (0.9, 0.8)), ("crop_area", (0.5, 1.5)), ("crop_ratio", (0.0, 1.0)),
        ("affine_scale", (0.9, math.inf)), ("erase_area", (-0.1, 0.1)), ("blur", (0.0, 1.0)), ("blur", (1.0,)),
        ("size", 8), ("padding", 224),
    ],
)  # fmt: skip
def test_senseless_recipes_are_refused_by_name(field, value):
    with pytest.raises(ExpllmError, match=rf"augmentation: {field} = "):
        AugmentConfig(**{field: value})


@pytest.mark.parametrize(
    "arguments, named",
    [
        ((-1, 0, np.zeros(2, np.int64), np.zeros(2, bool)), "seed = -1"),
        ((0, 2**64, np.zeros(2, np.int64), np.zeros(2, bool)), "epoch = "),
        ((0, 0, np.zeros(2, np.int64), np.zeros(3, bool)), r"\(2,\) keys"),
    ],
)
def test_senseless_draws_are_refused(arguments, named):
    with pytest.raises(ExpllmError, match=named):
        draws(REFERENCE, *arguments)


# What is done


def single(operation, *arguments, side=64, seed=3):
    """(ours, Pillow's picture to start from) of one kernel that works in place."""
    pixels = pillow.face_like(side, seed)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    operation(planes, *arguments)
    return planes.transpose(1, 2, 0), Image.fromarray(pixels)


@pytest.mark.parametrize("factor", [0.75, 0.9999, 1.1234, 1.25])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colours_are_pillows(name, factor):
    kernel = {"brightness": "brighten", "contrast": "contrast", "saturation": "saturate"}[name]
    ours, image = single(getattr(picture_kernels, kernel), np.float32(factor))
    np.testing.assert_array_equal(ours, getattr(pillow, name)(image, float(np.float32(factor))))


def test_grey_and_hue_are_pillows_on_a_grid_of_all_colours():
    levels = np.array([*range(0, 256, 5), 1, 2, 127, 128, 254], np.uint8)
    pixels = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
    image = Image.fromarray(pixels)
    for shift in (0, 1, -1, 25, -25, 200):
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        picture_kernels.shift_hue(planes, shift)
        np.testing.assert_array_equal(planes.transpose(1, 2, 0), pillow.hue(image, shift))
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    picture_kernels.greyscale(planes)
    np.testing.assert_array_equal(planes.transpose(1, 2, 0), pillow.grey(image))


@pytest.mark.parametrize("seed", range(8))
def test_whole_pictures_are_pillows(seed):
    """Every operation on, or half of them; without blur to the last bit, with it within one level."""
    always = AugmentConfig(
        flip=0.5, jitter=0.8, grey=1.0, spatial=1.0, soften=seed % 2, erasing=1.0, size=(224, 97)[seed % 2]
    )
    for config in (REFERENCE, always):
        for key in range(6):
            row = draws(config, seed, 0, np.array([key]), np.zeros(1, bool))[0]
            pixels = pillow.face_like(config.size, key)
            expected = pillow.erased(normalise(pillow.picture(pixels, row)), row)
            difference = np.abs(augmented(pixels, row) - expected)
            assert difference.max() <= (1.1 * LEVEL if row[Column.BLUR] else 0)
            assert rate(difference > 0) < 0.01


def test_the_recipe_of_nothing_draws_neutral_rows():
    np.testing.assert_array_equal(drawn(AUGMENTATIONS["none"], 50), neutral_rows(224, 50))


def test_a_neutral_row_is_only_normalised():
    pixels = pillow.face_like(224, 0)
    for statistics in ("clip", "imagenet"):
        np.testing.assert_array_equal(augmented(pixels, neutral(), statistics), normalise(pixels, statistics))


def test_erased_pixels_have_the_mean_colour():
    row = neutral()
    row[Column.ERASE_TOP :] = (10, 20, 30, 40)
    result = augmented(pillow.face_like(224, 0), row)
    hole = np.zeros((224, 224), bool)
    hole[10:40, 20:60] = True
    assert (result[hole] == 0).all() and (result[~hole] != 0).any(-1).mean() > 0.99


def test_threads_make_the_same_pictures(reference):
    pixels, rows = pillow.face_like(224, 1), reference[:16]
    before = pixels.copy()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda row: augmented(pixels, row), rows))
    np.testing.assert_array_equal(together, [augmented(pixels, row) for row in rows])
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize(
    "picture", [np.zeros((112, 112, 3), np.uint8), np.zeros((224, 224, 3)), np.zeros((224, 224), np.uint8)]
)
def test_pictures_of_another_kind_are_refused(picture):
    with pytest.raises(ExpllmError, match="for draws of size 224"):
        augmented(picture, neutral())


def test_a_place_in_a_batch_is_filled(reference):
    pixels, batch = pillow.face_like(224, 2), np.full((3, 224, 224, 3), 9, np.float32)
    result = augmented(pixels, reference[0], out=batch[1])
    assert result.base is batch
    np.testing.assert_array_equal(batch[1], augmented(pixels, reference[0]))
    assert (batch[[0, 2]] == 9).all()
    for other in (batch[1].astype(np.float64), batch[0, :100], np.zeros((3, 224, 224), np.float32).transpose(1, 2, 0)):
        with pytest.raises(ExpllmError, match="contiguous float32"):
            augmented(pixels, reference[0], out=other)
