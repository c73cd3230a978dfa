"""How probable whole answers are, weighed against each other in one pass.

Shape letters: B rows, A tokens that are weighed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.infer.passes import rounded
from expllm_jax.infer.reading import weigh_branches
from expllm_jax.infer.requests import Weighing, continued
from expllm_jax.models import SEGMENTS, KVCache, ModelDef, Params
from expllm_jax.records import EncodedRow, RecordEncoder, pad_row


class WeighingRow(NamedTuple):
    """One weighing as a row: all that the answers share, which every one of them sees, and behind it the rest of each
    as a branch, so that the shared part is computed once."""

    row: EncodedRow
    shared: int  # tokens before the first branch
    branches: tuple[tuple[int, int], ...]  # of every answer: where its branch starts and ends in the row


def weighing_row(encoder: RecordEncoder, weighing: Weighing) -> WeighingRow:
    """The row of a weighing. Raises ExpllmError for more answers than a row has branches."""
    if len(weighing.answers) >= SEGMENTS:
        raise ExpllmError(f"{len(weighing.answers)} answers to weigh", f"give at most {SEGMENTS - 1}")
    answers = [
        [*encoder.answer_tokens(weighing.task, answer, history=weighing.history), encoder.tokenizer.eos]
        for answer in weighing.answers
    ]
    same = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, zip(*answers, strict=False)))
    shared = continued(encoder.prompt(weighing.task, history=weighing.history), answers[0][:same])
    rests = [answer[same:] for answer in answers]
    ends = [len(shared) + length for length in itertools.accumulate(map(len, rests))]
    behind = int(shared.positions[-1]) + 1
    added = sum(map(len, rests))
    row = EncodedRow(
        np.concatenate([shared.tokens, *(np.asarray(rest, np.int32) for rest in rests)]),
        np.concatenate([shared.positions, *(behind + np.arange(len(rest), dtype=np.int32) for rest in rests)]),
        np.concatenate([np.ones_like(shared.segments),
                        *(np.full(len(rest), 2 + number, np.int32) for number, rest in enumerate(rests))]),
        np.concatenate([shared.loss_weights, np.zeros(added, np.float32)]),
    )  # fmt: skip
    return WeighingRow(row, len(shared), tuple((end - len(rest), end) for end, rest in zip(ends, rests, strict=True)))


def branch_likelihoods(
    graphdef: ModelDef,
    params: Params,
    store: KVCache,
    slots: Sequence[int],
    rows: Sequence[WeighingRow],
    prefix: int,
    pad: int,
) -> list[tuple[float, ...]]:
    """The log-likelihood of every row's answers, end token included, less what they share at their beginning.

    Args:
      graphdef, params: of an ExpLLM without adapters.
      store: the prefixes of pictures (see `reading`).
      slots: where in it each row's picture lies.
      rows: of `weighing_row`; they are weighed together.
      prefix: how many of their tokens are those of the prefix.
      pad: fills up shorter rows.
    """
    behind = [EncodedRow(*(getattr(found.row, field.name)[prefix:] for field in dataclasses.fields(EncodedRow)))
              for found in rows]  # fmt: skip
    longest = rounded(max(map(len, behind)))
    padded = [pad_row(row, longest, pad) for row in behind]
    arrays = (np.stack([getattr(row, name) for row in padded]) for name in ("tokens", "positions", "segments"))
    most = rounded(max(len(found.row) - found.shared for found in rows))
    targets_BA, before_BA = (np.zeros((len(rows), most), np.int32) for _ in range(2))
    for number, found in enumerate(rows):
        places = np.arange(found.shared, len(found.row))
        targets_BA[number, : len(places)] = found.row.tokens[places]
        before_BA[number, : len(places)] = places - 1 - prefix
        for start, _ in found.branches:
            before_BA[number, start - found.shared] = found.shared - 1 - prefix
    slots_B = np.asarray(slots, np.int32)
    nll_BA = weigh_branches(graphdef, params, store, slots_B, *arrays, before_BA, targets_BA)
    return [
        tuple(-math.fsum(nll_A[start - found.shared : end - found.shared]) for start, end in found.branches)
        for nll_A, found in zip(np.asarray(nll_BA, np.float64), rows, strict=True)
    ]
