"""A compiler without a compiler: memory grows by a line, and what does not fit is refused."""

from __future__ import annotations

import dataclasses

from expllm_jax.fit.request import GIB, Answer, Compiled, FitRequest
from expllm_jax.fit.topology import Topology
from tests.models.sizes import WHOLE

LIMIT = int(15.75 * GIB)
REQUEST = FitRequest(WHOLE, Topology("v5e", (2, 4)), (1, 8, 1), row_length=64, pictures=1, supervised=16,
                     picture_size=16)  # fmt: skip


def answer(request: FitRequest, fixed: float, each: float, *, limit: int = LIMIT) -> Answer:
    """The answer for a program of `fixed` + `each` GiB a row."""
    weights, rest = int(fixed * GIB), int(each * request.rows * GIB)
    categories = {"frozen weights": weights, "batch": 0, "activations and temporaries": rest}
    return Answer(
        request, (Compiled("update", weights + rest <= limit, weights + rest, limit, categories, 1.5, 2**20),)
    )


class FakeCompiler:
    """Counts what it is asked."""

    def __init__(self, fixed: float, each: float) -> None:
        self.asked: list[FitRequest] = []
        self._fixed, self._each = fixed, each

    def compile(self, request: FitRequest) -> Answer:
        self.asked.append(request)
        return answer(request, self._fixed, self._each)

    def rows(self, rows: int) -> Answer:
        return self.compile(dataclasses.replace(REQUEST, rows=rows))
