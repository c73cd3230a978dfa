"""Pictures that look the same although their files differ: found by a perceptual hash, confirmed by a thumbnail.

The hash is the 64-bit DCT hash ("pHash"): the picture in grey at 32 x 32, the 8 x 8 lowest frequencies of its cosine
transform, one bit each for above or below their median. On 400 photographs of 40 people before one background (the ORL
faces, as alike as aligned faces get), copies saved as JPEG of quality 20 to 90, halved, enlarged, brightened or made
grey stay within 4 bits of their original, and so do 33 pairs of *different* photographs of one person. Hence the second
look: the correlation of 16 x 16 thumbnails is at least 0.9989 for those copies and at most 0.9954 for any two different
photographs. ``DISTANCE`` leaves room for worse copies; ``CORRELATION`` lies in the gap. A copy that is cropped, turned
or mirrored is not found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

DISTANCE = 6
"""Bits by which the hashes of two look-alikes may differ; the search is exact up to 7."""

CORRELATION = 0.998
"""What the thumbnails of two look-alikes correlate with at least."""

THUMBNAIL = 16
_GREY = 32
_FLAT = 2.0  # standard deviation of grey values below which a picture shows nothing, and hash and correlation are noise
_BANDS, _BAND_BITS = 4, 16
_TRIED = (4, 64)  # entries under a key that are tried before the rest of them
_CHUNK = 1 << 21  # candidate pairs whose hashes are compared together: 16 MB an array
_COMPARED = 1 << 15  # pairs whose thumbnails are compared together: 32 MB an array

_INDEX = np.arange(_GREY)
_COSINES = np.cos(np.pi * (2 * _INDEX[None] + 1) * np.arange(8)[:, None] / (2 * _GREY))  # DCT-II, rows 0 to 7


@dataclass(frozen=True)
class Look:
    """What a picture looks like."""

    hash: int  # 64 bits
    thumbnail: bytes  # THUMBNAIL x THUMBNAIL grey values, row by row
    flat: bool  # of one colour, more or less: it is like no other picture


def look_of(pixels: np.ndarray) -> Look:
    """The look of a picture, uint8 [height, width, 3] RGB."""
    grey = Image.fromarray(pixels).convert("L")
    small = np.asarray(grey.resize((_GREY, _GREY), Image.Resampling.BILINEAR), np.float64)
    frequencies = (_COSINES @ small @ _COSINES.T).ravel()
    bits = frequencies > np.median(frequencies[1:])  # the mean brightness does not take part in the median
    thumbnail = np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR), np.uint8)
    return Look(int.from_bytes(np.packbits(bits).tobytes(), "big"), thumbnail.tobytes(), bool(small.std() < _FLAT))


@dataclass(frozen=True)
class LookAlikes:
    """For every picture another one that looks the same, as arrays int64 [N]; -1 where there is none."""

    within: np.ndarray  # an earlier picture of the same group
    across: np.ndarray  # a picture of another group, earlier or later


def look_alikes(hashes: np.ndarray, thumbnails: np.ndarray, groups: np.ndarray) -> LookAlikes:
    """Finds look-alikes without comparing all with all.

    Two hashes that differ in at most 7 of 64 bits differ in at most 1 of 16 in one of four bands, so that every
    candidate stands under one of 17 keys in one of four tables (multi-index hashing). A picture is done with when one
    look-alike is found, and the first entries under a key are tried first, so that thousands of frames of one film cost
    no more than as many strangers. 300,000 hashes with bits as uneven as those of real faces take half a minute on one
    core.

    Args:
        hashes: uint64 [N].
        thumbnails: uint8 [N, THUMBNAIL * THUMBNAIL].
        groups: int [N], the split of each.
    """
    within = np.full(len(hashes), -1, np.int64)
    across = np.full(len(hashes), -1, np.int64)
    for group in np.unique(groups):
        own, others = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
        within[own] = _found_among(own, own, hashes, thumbnails, earlier=True)
        across[own] = _found_among(own, others, hashes, thumbnails, earlier=False)
    return LookAlikes(within, across)


def _found_among(
    asked: np.ndarray, among: np.ndarray, hashes: np.ndarray, thumbnails: np.ndarray, *, earlier: bool
) -> np.ndarray:
    """For each picture `asked` one of `among` that looks the same (with a lower number, if `earlier`), or -1."""
    found = np.full(len(asked), -1, np.int64)
    for band in range(_BANDS):
        wanted, keys = _band(hashes[asked], band), _band(hashes[among], band)
        entries = among[np.argsort(keys, kind="stable")]
        sizes = np.bincount(keys, minlength=1 << _BAND_BITS)
        starts = np.cumsum(sizes) - sizes
        for flipped in (0, *(1 << bit for bit in range(_BAND_BITS))):
            begin, number = starts[wanted ^ flipped], sizes[wanted ^ flipped]
            for skipped, tried in zip((0, *_TRIED), (*_TRIED, _TRIED[-1] + len(among)), strict=True):
                left = np.clip(number - skipped, 0, tried - skipped)
                left[found >= 0] = 0
                for rows, places in _spread(begin + skipped, left):
                    candidates = entries[places]
                    keep = np.bitwise_count(hashes[asked[rows]] ^ hashes[candidates]) <= DISTANCE
                    if earlier:
                        keep &= candidates < asked[rows]
                    _confirm(found, rows[keep], candidates[keep], asked, thumbnails)
    return found


def _band(hashes: np.ndarray, band: int) -> np.ndarray:
    return ((hashes >> np.uint64(_BAND_BITS * band)) & np.uint64((1 << _BAND_BITS) - 1)).astype(np.int64)


def _spread(begin: np.ndarray, number: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row, begin[row]), (row, begin[row] + 1), … for every row, `number[row]` of them, in pieces of about _CHUNK."""
    rows = np.flatnonzero(number)
    ends = np.cumsum(number[rows])
    first = 0
    while first < len(rows):
        done = ends[first - 1] if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, done + _CHUNK, "right")))
        counts = number[rows[first:stop]]
        offsets = np.arange(ends[stop - 1] - done) - np.repeat(np.cumsum(counts) - counts, counts)
        yield np.repeat(rows[first:stop], counts), np.repeat(begin[rows[first:stop]], counts) + offsets
        first = stop


def _confirm(
    found: np.ndarray, rows: np.ndarray, candidates: np.ndarray, asked: np.ndarray, thumbnails: np.ndarray
) -> None:
    """Writes into `found` those candidates whose thumbnails agree, for rows that have none yet."""
    for start in range(0, len(rows), _COMPARED):
        row, candidate = rows[start : start + _COMPARED], candidates[start : start + _COMPARED]
        row, candidate = row[found[row] < 0], candidate[found[row] < 0]
        alike = _correlation(thumbnails[asked[row]], thumbnails[candidate]) >= CORRELATION
        found[row[alike][::-1]] = candidate[alike][::-1]  # of several the first


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of rows of uint8 [P, D], float32 [P]."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    a -= a.mean(1, keepdims=True)
    b -= b.mean(1, keepdims=True)
    return (a * b).sum(1) / np.maximum(1e-6, np.sqrt((a * a).sum(1) * (b * b).sum(1)))
