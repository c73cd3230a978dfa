"""The rows of the loop over tokens, from the host: which are busy, with what, and what they wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.infer.constraint import Constraint, fewest_tokens, start
from expllm_jax.infer.generate import weights_by_slot
from expllm_jax.infer.passes import passes, rounded
from expllm_jax.infer.reading import admit, idle_rows, widen
from expllm_jax.infer.sampling import SamplingConfig
from expllm_jax.infer.token_loop import advance, form_behind
from expllm_jax.models import KVCache, ModelDef, Params
from expllm_jax.parallel import batch_sharding

_FOR_EVER = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Start:
    """How an answer begins."""

    source: int  # which of the prompts that were read
    task: str
    begun: Sequence[int]  # tokens of the answer that are given, in the prompt
    room: int
    sampling: SamplingConfig
    stream: int


@dataclasses.dataclass(frozen=True)
class Written:
    """What a row wrote until it stopped."""

    tokens: tuple[int, ...]
    ended: bool  # with the end token


class LoopModel:
    """What the loop needs of a model, laid out once.

    Args:
      graphdef, params: of an ExpLLM without adapters.
      eos, pad: the end token, and what fills up.
      constraints: task -> the form that its answers are held to.
    """

    def __init__(
        self, graphdef: ModelDef, params: Params, *, eos: int, pad: int, constraints: Mapping[str, Constraint]
    ) -> None:
        self.graphdef, self.params, self.eos, self.pad = graphdef, params, eos, pad
        self.by_slot = jax.default_backend() == "cpu"
        self.weights = weights_by_slot(graphdef, params) if self.by_slot else None
        self.constraints = tuple(constraints.values())
        self.forms = {task: number + 1 for number, task in enumerate(constraints)}


class RowPool:
    """R rows.

    Args:
      model: see LoopModel.
      rows: R.
      ring: G, most tokens of an answer.
      unit: as of `passes`.
    """

    def __init__(self, model: LoopModel, *, rows: int, ring: int, unit: int) -> None:
        self._model, self._unit, self._ring, self.rows = model, unit, ring, rows
        self._prompt = 0
        self._busy = np.zeros(rows, bool)
        self._state: Any = None

    @property
    def idle(self) -> list[int]:
        """The rows that have nothing to write."""
        return np.flatnonzero(~self._busy).tolist()

    def begin(self, found: KVCache, logits_BV: jax.Array, lengths: Sequence[int], starts: Sequence[Start]) -> list[int]:
        """Answers to prompts that were read (see `reading.read_questions`), in idle rows, which are returned.

        Raises ExpllmError if what is begun cannot be continued in its form, or not in its room.
        """
        self._make_room(found.k_LBSKh.shape[2])
        targets = self.idle[: len(starts)]
        for some, size in passes(list(zip(starts, targets, strict=True)), self._unit):
            missing = size - len(some)
            chosen = [begin for begin, _ in some] + [some[-1][0]] * missing
            target = [row for _, row in some] + [self.rows] * missing

            def column(name: str, dtype: Any, chosen: list[Start] = chosen) -> np.ndarray:
                return np.asarray([getattr(begin, name) for begin in chosen], dtype)

            def drawn(name: str, dtype: Any, chosen: list[Start] = chosen) -> np.ndarray:
                return np.asarray([getattr(begin.sampling, name) for begin in chosen], dtype)

            self._state = admit(
                *self._state,
                found,
                logits_BV,
                np.asarray(lengths, np.int32),
                column("source", np.int32),
                np.asarray(target, np.int32),
                column("room", np.int32),
                (drawn("temperature", np.float32), drawn("top_p", np.float32), drawn("seed", np.uint32),
                 column("stream", np.uint32)),
                np.asarray([self._model.forms.get(begin.task, 0) for begin in chosen], np.int32),
                self._forms(chosen),
            )  # fmt: skip
        self._busy[targets] = True
        return targets

    def advance(self) -> dict[int, Written]:
        """Writes until some rows have stopped, an eighth of all or those still busy, and returns what they wrote."""
        model, idle = self._model, self.rows - int(self._busy.sum())
        rows, turn = self._state
        turn = advance(
            model.graphdef, model.params, model.weights, model.constraints, rows, turn,
            until=_FOR_EVER, idle=idle + max(1, self.rows // 8), eos=model.eos, pad=model.pad,
        )  # fmt: skip
        self._state = rows, turn
        stopped = np.flatnonzero(self._busy & ~np.asarray(turn.running_B)).tolist()
        tokens, made, ended = map(np.asarray, (turn.out_BG, turn.made_B, turn.ended_B))
        self._busy[stopped] = False
        return {row: Written(tuple(tokens[row, : made[row]].tolist()), bool(ended[row])) for row in stopped}

    def _make_room(self, prompt: int) -> None:
        if self._state is None:
            self._prompt = rounded(prompt)
            model = self._model
            self._state = _spread(
                idle_rows(
                    model.graphdef, model.params, model.constraints,
                    count=self.rows, prompt=self._prompt, ring=self._ring, pad=model.pad, by_slot=model.by_slot,
                )
            )  # fmt: skip
        elif prompt > self._prompt:
            more = rounded(prompt) - self._prompt
            self._state = widen(*self._state, more)
            self._prompt += more

    def _forms(self, starts: Sequence[Start]) -> tuple[Any, ...]:
        """Where each answer begins in every constraint."""
        forms = []
        for task, constraint in zip(self._model.forms, self._model.constraints, strict=True):
            begun = [list(begin.begun) if begin.task == task else [] for begin in starts]
            form = start(constraint, len(starts))
            if any(begun):
                longest = rounded(max(map(len, begun)))
                tokens = np.asarray([ids + [0] * (longest - len(ids)) for ids in begun], np.int32)
                form = form_behind(constraint, tokens, np.asarray([len(ids) for ids in begun], np.int32))
            for needed, begin in zip(np.asarray(fewest_tokens(constraint, form)), starts, strict=True):
                if begin.task == task and needed > begin.room:
                    what = "what is begun cannot be continued in that form" if begin.begun else f"needs {needed}"
                    raise ExpllmError(
                        f"a constrained answer of the task {task!r} has room for {begin.room} tokens: {what}",
                        "give it more room, or ask without constraint",
                    )
            forms.append(form)
        return tuple(forms)


def _spread(state: Any) -> Any:
    """Rows over the devices of the entered mesh."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty or mesh.size == 1:
        return state
    axis = batch_sharding(mesh).spec[0]

    def laid(path: Any, leaf: jax.Array) -> jax.Array:
        stacked = leaf.ndim == 5  # a KVCache has its layers first
        spec = () if not leaf.ndim else (None, axis) if stacked else (axis,)
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)))

    return jax.tree_util.tree_map_with_path(laid, state)
