"""A source of records in memory, small enough for thousands of batches."""

from __future__ import annotations

import numpy as np

from expllm_jax.records import EncodedRow, Lengths


class FakeSource:
    """Records of random lengths; the tokens of record k of set `number` are all 10,000 x number + k + 1, those of its
    mirrored twin negative. The first four are its picture's, and of the others some are supervised."""

    pad_token, mirrors, resize, on_error = 0, True, "antialiased", "raise"
    IMAGE_TOKENS = 4

    def __init__(
        self, records: int, *, number: int = 0, seed: int = 0, shortest: int = 6, longest: int = 40, located: float = 0
    ) -> None:
        rng = np.random.default_rng([seed, number])
        tokens = rng.integers(shortest, longest + 1, records).astype(np.int32)
        supervised = rng.integers(1, tokens - self.IMAGE_TOKENS).astype(np.int32)
        self.number, self.lengths = number, Lengths(tokens, supervised, rng.random(records) < located)
        most = int(np.argmax(tokens))
        self.longest_row = (int(tokens[most]), self.id(most))

    def __len__(self) -> int:
        return len(self.lengths.tokens)

    def id(self, index: int) -> str:
        return f"{self.number}/{index}"

    def row(self, index: int, mirrored: bool = False) -> EncodedRow:
        length, learnt = int(self.lengths.tokens[index]), int(self.lengths.supervised[index])
        token = 10_000 * self.number + index + 1
        segments = np.where(np.arange(length) < self.IMAGE_TOKENS, 1, 2)
        weights = np.where(np.arange(length) >= length - learnt, 1 / learnt, 0)
        return EncodedRow(
            np.full(length, -token if mirrored else token, np.int32), np.arange(length, dtype=np.int32),
            segments.astype(np.int32), weights.astype(np.float32),
        )  # fmt: skip

    def picture(self, index: int) -> bytes:
        raise AssertionError("the tests with this source read features")

    @property
    def features(self) -> np.ndarray:
        """[R, 1, 2]: one token a picture, which says whose it is."""
        first = 10_000 * self.number + 1
        return np.arange(first, first + len(self), dtype=np.float32)[:, None, None].repeat(2, 2)
