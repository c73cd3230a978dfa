"""Names of slices: what they mean, and what is said about those that do not exist."""

from __future__ import annotations

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.fit.topology import Topology, larger, parse_topology


@pytest.mark.parametrize(
    ("text", "name", "slices", "chips", "devices"),
    [
        ("v5e:2x4", "v5e:2x4", 1, 8, 8),
        ("v5e-4", "v5e:2x2", 1, 4, 4),
        ("v5litepod-16", "v5e:4x4", 1, 16, 16),
        ("V5E-256", "v5e:16x16", 1, 256, 256),
        ("2xv5e-256", "v5e:16x16", 2, 512, 512),
        ("v5p-8", "v5p:2x2x1", 1, 4, 4),  # of these the number counts TensorCores, two a chip
        ("v5p-64", "v5p:2x4x4", 1, 32, 32),
        ("v5p-512", "v5p:4x8x8", 1, 256, 256),
        ("v4-8", "v4:2x2x1", 1, 4, 4),
        ("v6e-8", "v6e:2x4", 1, 8, 8),
        ("tpu7x-128", "tpu7x:4x4x4", 1, 64, 128),
        ("v5p:4x4x12", "v5p:4x4x12", 1, 192, 192),
    ],
)
def test_a_name_means_chips_in_a_shape(text, name, slices, chips, devices):
    topology = parse_topology(text)
    found = (topology.name, topology.slices, topology.chips, topology.devices)
    assert found == (name, slices, chips, devices)
    assert parse_topology(topology.name, slices) == topology


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        ("v5e:2x5", "v5e:2x2, v5e:2x4 or v5e:4x4"),
        ("v5e:4x2", "v5e:2x4"),
        ("v5e-9", "v5e-8"),
        ("v5p-5", "v5p-8"),
        ("v5p:2x4", "v5p:2x2x2"),
        ("v5x:2x4", "v5e:2x4"),
        ("tpu8x-16", "tpu7x:2x2x4"),
        ("", "v5e:2x4"),
        ("v5e", "v5e:2x4"),
        ("v5e:0x0", "v5e:1x1"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(text, mentioned):
    with pytest.raises(ExpllmError) as caught:
        parse_topology(text)
    assert f"'{text}'" in caught.value.problem and mentioned in caught.value.remedy


def test_slices_are_named_once():
    with pytest.raises(ExpllmError, match="as well"):
        parse_topology("2xv5e-256", 4)
    with pytest.raises(ExpllmError, match="0 slices"):
        parse_topology("v5e-8", 0)


def test_what_is_printed_is_the_shape():
    assert str(parse_topology("2xv5e-256")) == "2 x v5e:16x16 (512 chips)"
    assert str(parse_topology("tpu7x-8")) == "tpu7x:2x2x1 (4 chips, 8 devices)"


def test_the_next_larger_slice_is_a_multiple():
    assert larger(Topology("v5e", (2, 4))) == Topology("v5e", (4, 4))
    assert larger(Topology("v5p", (2, 2, 1), 2)) == Topology("v5p", (2, 2, 2), 2)
    assert larger(Topology("v5e", (16, 16))) is None
