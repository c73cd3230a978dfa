"""Codebooks of attributes and the signs of head poses."""

from __future__ import annotations

import math

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import CELEBA_40, CODEBOOKS, decoded, head_pose


def test_celeba_has_the_columns_that_tfds_reads():
    from tensorflow_datasets.datasets.celeb_a import celeb_a_dataset_builder as celeb_a

    assert CELEBA_40 == tuple(celeb_a.ATTR_HEADINGS)


@pytest.mark.parametrize(
    ("codebook", "entry", "word"),
    [
        ("raf-db gender", 0, "male"),
        ("raf-db gender", "2", "unsure"),
        ("raf-db race", 1, "African-American"),
        ("raf-db age group", 3, "40-69"),
        ("fairface gender", "Female", "female"),
        ("fairface race", "Latino_Hispanic", "Latino_Hispanic"),
        ("fairface race", 6, "Middle Eastern"),
        ("fairface age group", "more than 70", "70+"),
        ("fairface age group", 0, "0-2"),
        ("utkface gender", 1, "female"),
        ("utkface race", 4, "Others"),
        ("utkface race", " asian ", "Asian"),
    ],
)
def test_numbers_and_words_are_decoded(codebook, entry, word):
    assert decoded(codebook, entry) == word


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_every_number_has_a_word_and_every_word_itself(codebook):
    book = CODEBOOKS[codebook]
    numbers = [key for key in book if key.isdecimal()]
    assert numbers == [str(number) for number in range(len(numbers))]
    assert {decoded(codebook, number) for number in numbers} == set(book.values())
    assert all(decoded(codebook, word) == word for word in book.values())
    with pytest.raises(ExpllmError, match=f"{len(numbers)} is no {codebook}.*0 "):
        decoded(codebook, len(numbers))


def test_age_groups_of_fairface_leave_no_gap():
    groups = [key.split("-") for key in CODEBOOKS["fairface age group"] if "-" in key]
    assert all(int(low) == int(high) + 1 for (_, high), (low, _) in zip(groups, groups[1:], strict=False))


def test_head_poses_are_degrees_with_the_signs_of_the_files():
    pose = head_pose([0.1, -math.pi / 2, 0.25, 12.0, 13.0, 0.0, 0.001])
    assert pose == pytest.approx({"pitch": math.degrees(0.1), "yaw": -90.0, "roll": math.degrees(0.25)})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decoded("celeba race", 0), "'celeba race'.*raf-db race"),
        (lambda: head_pose([0.1, 0.2]), "Pose_Para"),
        (lambda: head_pose([0.1, float("nan"), 0.2]), "Pose_Para"),
    ],
)
def test_what_no_file_should_hold_is_refused(call, message):
    with pytest.raises(ExpllmError, match=message):
        call()
