"""The chips that a run may meet, and what they can do: what utilisation and estimated step times are measured against.

A *device* is what JAX calls one: a whole chip, but for TPU7x, whose chips are two devices each. All numbers are of one
device. Peaks are dense bfloat16 products as published by the makers (cloud.google.com/tpu/docs, NVIDIA's data sheets;
Austin et al., "How to Scale Your Model", 2025, for links and the data-centre network). Of TPUs, the memory is what the
compiler of libtpu 0.0.42 lets a program use, found by asking it for more.
"""

from __future__ import annotations

import dataclasses

import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One kind of device."""

    name: str  # as in topology names: "v5e"
    kinds: tuple[str, ...]  # `jax.Device.device_kind` of it, in lower case; a kind that begins so is meant, too
    peak_flops: float  # bfloat16 multiplications and additions a second
    memory: float  # bytes that a program may use
    memory_bandwidth: float  # bytes a second
    link_bandwidth: float  # bytes a second that it sends to its neighbours (ICI, NVLink), over all links together
    network_bandwidth: float  # bytes a second that it sends to other slices or hosts (DCN), its share of the host's


_ACCELERATORS = (
    Accelerator("v4", ("tpu v4",), 275e12, 30.75 * GIB, 1.2e12, 6 * 45e9, 6.25e9),
    Accelerator("v5e", ("tpu v5 lite", "tpu v5e"), 197e12, 15.75 * GIB, 8.1e11, 4 * 45e9, 3.125e9),
    Accelerator("v5p", ("tpu v5p", "tpu v5"), 459e12, 95.74 * GIB, 2.8e12, 6 * 90e9, 6.25e9),
    Accelerator("v6e", ("tpu v6 lite", "tpu v6e"), 918e12, 31.25 * GIB, 1.6e12, 4 * 90e9, 12.5e9),
    Accelerator("tpu7x", ("tpu7x", "tpu v7x", "tpu7"), 1153.5e12, 94.75 * GIB, 3.69e12, 3 * 100e9, 6.25e9),
    Accelerator("h100", ("nvidia h100",), 989e12, 80e9, 3.35e12, 450e9, 50e9),
    Accelerator("h200", ("nvidia h200",), 989e12, 141e9, 4.8e12, 450e9, 50e9),
)
ACCELERATORS = {accelerator.name: accelerator for accelerator in _ACCELERATORS}


def accelerator_of(device: jax.Device) -> Accelerator | None:
    """What is known of this device; None for one that is not in the table, such as a CPU."""
    kind = device.device_kind.lower()
    fitting = [(len(name), one) for one in _ACCELERATORS for name in one.kinds if kind.startswith(name)]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None
