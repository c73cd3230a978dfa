"""How probable whole answers are, weighed against each other in one pass.

Shape letters: B rows, T tokens, M pictures of a row, N vision tokens, D vision width, A tokens that are weighed.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.infer.requests import Weighing, continued
from expllm_jax.models import SEGMENTS, ExpLLM, ModelDef, Params, attention_mask, merge
from expllm_jax.records import EncodedRow, RecordEncoder, pad_row

_STEP = 32  # row lengths are multiples of this, so that few shapes are compiled


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


def log_likelihoods(
    graphdef: ModelDef, params: Params, rows: Sequence[WeighingRow], features_BND: np.ndarray | jax.Array, pad: int
) -> list[tuple[float, ...]]:
    """The log-likelihood of every row's answers, end token included, less what they share at their beginning.

    Args:
      graphdef, params: of an ExpLLM without adapters.
      rows: of `weighing_row`; they are weighed together.
      features_BND: tower features of each row's picture.
      pad: fills up shorter rows.
    """
    longest = -(-max(len(found.row) for found in rows) // _STEP) * _STEP
    padded = [pad_row(found.row, longest, pad) for found in rows]
    tokens, positions, segments = (
        np.stack([getattr(row, name) for row in padded]) for name in ("tokens", "positions", "segments")
    )
    most = max(len(found.row) - found.shared for found in rows)
    most = -(-most // _STEP) * _STEP
    targets_BA, before_BA = (np.zeros((len(rows), most), np.int32) for _ in range(2))
    for number, found in enumerate(rows):
        places = np.arange(found.shared, len(found.row))
        targets_BA[number, : len(places)] = found.row.tokens[places]
        before_BA[number, : len(places)] = places - 1
        for start, _ in found.branches:
            before_BA[number, start - found.shared] = found.shared - 1
    nll_BA = np.asarray(
        _losses(graphdef, params, tokens, positions, segments, features_BND[:, None], before_BA, targets_BA), np.float64
    )
    return [
        tuple(-math.fsum(nll_A[start - found.shared : end - found.shared]) for start, end in found.branches)
        for nll_A, found in zip(nll_BA, rows, strict=True)
    ]


@functools.partial(jax.jit, static_argnames="graphdef")
def _losses(
    graphdef: ModelDef,
    params: Params,
    tokens_BT: jax.Array,
    positions_BT: jax.Array,
    segments_BT: jax.Array,
    features_BMND: jax.Array,
    before_BA: jax.Array,
    targets_BA: jax.Array,
) -> jax.Array:
    """-log probability of each target behind the token at that place, float32 [B, A]."""
    model: ExpLLM = merge(graphdef, params)
    x_BTE = model.embed(tokens_BT, features_BMND.astype(jnp.float32))
    h_BTE = model.decoder(x_BTE, positions_BT, attention_mask(segments_BT))[0]
    h_BAE = jnp.take_along_axis(h_BTE, before_BA[..., None], 1)
    return model.token_losses(h_BAE, targets_BA).nll
