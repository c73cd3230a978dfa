"""Which rows to pack into: the packer's table of row lengths, picture slots and what they cost, and its choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.records.index import Lengths
from expllm_jax.records.order import Order
from expllm_jax.records.packing import TOKENS_STEP, PackingConfig, Plan, Shape

_SUPERVISED_STEP = 32  # S is a multiple of it
_SAMPLE = 48  # updates that candidates are judged by, before the winner is checked on all
_TRIES = 6  # row counts that are tried for one row length, from what the tokens would need if they were a liquid
_ABOUT = 0.03  # costs that differ by less are the same: the model of costs is no better than that
_GROWTHS = 4  # times that each candidate may grow before the search gives up


class Candidate(NamedTuple):
    """One line of the packer's table."""

    row_length: int
    pictures: int
    rows: int
    token_fill: float  # share of the row's tokens that records stand on
    picture_fill: float  # share of the picture slots that are used
    cost: float  # of an update, in tokens that cost as much; see `choose`


def choose(
    order: Order,
    lengths: Lengths,
    records_per_update: int,
    updates: int,
    config: PackingConfig,
    *,
    multiple: int = 1,
) -> tuple[Plan, list[Candidate]]:
    """The plan of a run of `updates` updates, and the table it was chosen from, cheapest first.

    The cost of an update is R (T + M picture_cost + T²/attention_length): what is computed whether it is used or not.
    For every T, R and M are the smallest that a sample of updates fits into. Of the cheapest and those that cost about
    as much, the one with the best use of tokens is checked on all updates of the run, and grows or gives way if it has
    to. S is what the run needs, rounded up to a multiple of 32.

    Args:
      order, lengths: of the mixture.
      records_per_update: N.
      updates: of the whole run.
      config: see PackingConfig; its costs must be above 0.
      multiple: R is a multiple of it: the devices' shards times the parts of an update.

    Raises:
      ExpllmError: a record is longer than the longest row, or what was asked for has no room.
    """
    if not (config.picture_cost > 0 and config.attention_length > 0):
        raise ExpllmError("the packer does not know what pictures and attention cost",
                          "set packing.picture_cost and packing.attention_length")  # fmt: skip
    if config.rows % multiple:
        raise ExpllmError(f"packing.rows is {config.rows}", f"use a multiple of {multiple}")
    longest = int(np.max(lengths.tokens))
    if longest > (limit := config.row_length or config.longest):
        raise ExpllmError(
            f"record {int(np.argmax(lengths.tokens))} has {longest} tokens, more than the rows of {limit}",
            f"set packing.{'row_length' if config.row_length else 'longest'} to {_up(longest, TOKENS_STEP)} or more",
        )
    plan = Plan(order, lengths, records_per_update, updates, Shape(0, 0, 0, 0), config.window)
    sample = np.unique(np.linspace(0, updates - 1, min(_SAMPLE, updates)).astype(int)).tolist()
    search = _Search(plan, config, multiple)
    lengths_tried = [config.row_length] if config.row_length else range(
        _up(longest, TOKENS_STEP), config.longest + 1, TOKENS_STEP)  # fmt: skip
    found = [line for row_length in lengths_tried for line in search.candidates(row_length, sample)]
    if not found:
        raise ExpllmError(
            f"{records_per_update} records do not fit into packing.rows {config.rows or 'any'}, "
            f"packing.row_length {config.row_length or 'any'} and packing.pictures {config.pictures or 'any'}",
            "set one of them to 0, so that it is chosen",
        )
    for _ in range(_GROWTHS * len(found)):
        found.sort(key=lambda line: (line.cost, line.row_length, line.pictures))
        close = [line for line in found if line.cost <= (1 + _ABOUT) * found[0].cost]
        best = max(close, key=lambda line: line.token_fill)
        most = [plan.fullest(number, best.rows, best.pictures) for number in range(updates)]
        needed = max(tokens for tokens, _ in most)
        if needed <= best.row_length:
            supervised = _up(max(count for _, count in most), _SUPERVISED_STEP)
            shape = Shape(best.rows, best.row_length, best.pictures, supervised)
            return Plan(order, lengths, records_per_update, updates, shape, config.window), found
        # An update outside the sample needs more: the candidate becomes a costlier one, and another has its turn.
        found[found.index(best)] = search.grown(best, needed)
    raise ExpllmError("no rows hold every update of this run", "set packing.longest or packing.row_length higher")


def render_table(table: Sequence[Candidate], chosen: Shape, *, lines: int = 12) -> str:
    """The packer's table for people, cheapest first."""
    rows = ["row length  pictures  rows  tokens used  slots used     cost"]
    for line in table[:lines]:
        mark = "  <- chosen" if line[:3] == (chosen.row_length, chosen.pictures, chosen.rows) else ""
        rows.append(
            f"{line.row_length:>10,}  {line.pictures:>8}  {line.rows:>4}  {line.token_fill:>11.1%}  "
            f"{line.picture_fill:>10.1%}  {line.cost:>7,.0f}{mark}"
        )
    if len(table) > lines:
        rows.append(f"… and {len(table) - lines} more")
    return "\n".join(rows)


class _Search:
    """Finds rows and slots for a row length."""

    def __init__(self, plan: Plan, config: PackingConfig, multiple: int) -> None:
        self._plan, self._config, self._multiple = plan, config, multiple
        self._shortest = max(1, int(plan.tokens.min()))
        self._tokens = plan.total_tokens(plan.updates) / plan.updates  # of an update, on average

    def candidates(self, row_length: int, sample: Sequence[int]) -> list[Candidate]:
        """The fewest rows of this length that the updates of the sample fit into, if there are any."""
        count, config = self._plan.records_per_update, self._config
        most = max(1, row_length // self._shortest)  # records that a row can hold
        least = _up(max(int(self._tokens // row_length), -(-count // most), 1), self._multiple)
        tried = [config.rows] if config.rows else range(least, least + _TRIES * self._multiple, self._multiple)
        for rows in tried:
            fewest = -(-count // rows)
            for pictures in [config.pictures] if config.pictures else range(fewest, fewest + 2):
                if rows * pictures < count:
                    continue
                needed = max(self._plan.fullest(number, rows, pictures)[0] for number in sample)
                if needed <= row_length:
                    return [self._candidate(row_length, pictures, rows)]
        return []

    def grown(self, candidate: Candidate, needed: int) -> Candidate:
        """The candidate with a row more for every shard, or with longer rows, whichever is allowed and cheaper."""
        ways = []
        if not self._config.rows:
            ways.append(self._candidate(candidate.row_length, candidate.pictures, candidate.rows + self._multiple))
        if not self._config.row_length and (longer := _up(needed, TOKENS_STEP)) <= self._config.longest:
            ways.append(self._candidate(longer, candidate.pictures, candidate.rows))
        if not ways:
            raise ExpllmError(
                f"an update of this run needs rows of {needed} tokens, more than {candidate.row_length}",
                "set packing.rows or packing.row_length higher, or to 0",
            )
        return min(ways, key=lambda way: way.cost)

    def _candidate(self, row_length: int, pictures: int, rows: int) -> Candidate:
        config = self._config
        one = row_length * (1 + row_length / config.attention_length) + pictures * config.picture_cost
        used = self._plan.records_per_update / (rows * pictures)
        return Candidate(row_length, pictures, rows, self._tokens / (rows * row_length), used, rows * one)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
