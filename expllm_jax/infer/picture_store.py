"""The pictures that are being asked about, read once for all their questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.infer.passes import passes
from expllm_jax.infer.reading import empty_store, read_opening, read_pictures
from expllm_jax.models import KVCache, ModelDef, Params
from expllm_jax.records import EncodedRow

FeaturesOf = Callable[[Sequence[int]], Any]
"""Numbers of pictures -> their tower features [B, N, D]."""


class PictureStore:
    """Keys and values of the prefixes (opening and image tokens) of some pictures.

    Args:
      graphdef, params: of an ExpLLM without adapters.
      prompt: of any task; its first segment is the prefix of them all.
      image: the id of the image token.
      slots: how many pictures it holds.
      unit: a pass reads a multiple of this many.
      features_of: gives the features of pictures.
    """

    def __init__(
        self,
        graphdef: ModelDef,
        params: Params,
        prompt: EncodedRow,
        *,
        image: int,
        slots: int,
        unit: int,
        features_of: FeaturesOf,
    ) -> None:
        self._graphdef, self._params, self._features_of, self._unit = graphdef, params, features_of, unit
        self._prefix = prompt.tokens[prompt.segments == 1]
        first = int(np.argmax(self._prefix == image))
        self._image = self._prefix[first:]
        self._opening = read_opening(graphdef, params, np.tile(self._prefix[:first], (unit, 1)))
        self.caches: KVCache = empty_store(graphdef, params, slots=slots, length=len(self._prefix))
        self._slot_of: dict[int, int] = {}  # every picture that lies here, those no longer used first
        self._users: dict[int, int] = {}
        self._free, self._slots = list(range(slots)), slots
        self._unread: list[int] = []

    @property
    def length(self) -> int:
        """Tokens of a prefix."""
        return len(self._prefix)

    def has_room(self, picture: int) -> bool:
        """Whether `take` may be called."""
        return picture in self._slot_of or bool(self._free) or any(not users for users in self._users.values())

    def take(self, picture: int) -> int:
        """The slot of a picture from now until as many calls of `give_back`; it has to be read before it is used."""
        if picture in self._slot_of:
            self._users[picture] += 1
            return self._slot_of[picture]
        if not self._free:
            unused = next(other for other, users in self._users.items() if not users)
            self._free.append(self._slot_of.pop(unused))
            del self._users[unused]
        self._users[picture] = 1
        self._slot_of[picture] = self._free.pop()
        self._unread.append(picture)
        return self._slot_of[picture]

    def give_back(self, picture: int) -> None:
        """One user less."""
        self._users[picture] -= 1

    def read(self) -> None:
        """Reads the pictures that were taken since."""
        for some, size in passes(self._unread, self._unit):
            filled = [*some, *some[-1:] * (size - len(some))]
            slots = [self._slot_of[picture] for picture in some] + [self._slots] * (size - len(some))
            self.caches = read_pictures(
                self._graphdef,
                self._params,
                self.caches,
                self._opening,
                self._image,
                self._features_of(filled),
                np.asarray(slots, np.int32),
            )
        self._unread = []

    def behind_prefix(self, row: EncodedRow) -> np.ndarray:
        """The tokens of a prompt that are not in the prefix. Raises ExpllmError if it begins otherwise."""
        if not np.array_equal(row.tokens[: self.length], self._prefix):
            raise ExpllmError("a prompt does not begin like the others", "ask with one encoder at a time")
        return row.tokens[self.length :]
