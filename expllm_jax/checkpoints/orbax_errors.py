"""What Orbax says: its notices are silenced, and its many kinds of exceptions become one `ExpllmError`."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator

from absl import logging

from expllm_jax.errors import ExpllmError


@functools.cache
def silence_orbax() -> None:
    """Keeps Orbax's progress notices and warnings off the terminal (process-wide); its errors still reach it."""
    logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"orbax\..*")


@contextlib.contextmanager
def explained(problem: str, remedy: str) -> Iterator[None]:
    """Turns whatever Orbax and TensorStore raise inside into an ExpllmError with this problem and remedy.

    They raise OSError, ValueError, KeyError, TypeError and classes of their own for one and the same damaged file, so
    everything but an ExpllmError is caught; the original stays attached as the cause.
    """
    try:
        yield
    except ExpllmError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ExpllmError(f"{problem} ({reason[:300]})", remedy) from error
