"""What Orbax says: its notices are silenced, and its many kinds of exceptions become one `ExpllmError`."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator

import jax
from absl import logging

from expllm_jax.errors import ExpllmError

# How TensorStore and the coordination service word what is no damage: waiting or asking again may help.
_NO_DAMAGE = ("PERMISSION_DENIED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED")


@functools.cache
def silence_orbax() -> None:
    """Keeps Orbax's progress notices and warnings off the terminal (process-wide); its errors still reach it."""
    logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"orbax\..*")


@contextlib.contextmanager
def explained(problem: str, remedy: str) -> Iterator[None]:
    """Turns whatever Orbax and TensorStore raise inside into an ExpllmError with this problem and remedy.

    They raise OSError, ValueError, KeyError, TypeError and classes of their own for one and the same damaged file, so
    everything but an ExpllmError is caught; the original stays attached as the cause. Where a time-out is the cause,
    the remedy is to look at the process or the storage that was waited for.
    """
    try:
        yield
    except ExpllmError:
        raise
    except Exception as error:
        if _is_timeout(error):
            remedy = "see what the process or the storage that it waited for says; the same command goes on"
        raise ExpllmError(f"{problem} ({reason_of(error)})", remedy) from error


def reason_of(error: BaseException) -> str:
    """One line of at most 300 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def may_be_damage(error: BaseException) -> bool:
    """Whether files that are not what was written can have raised `error`; a lack of memory, rights or network did not.

    Files are judged by this before they are moved aside.
    """
    if isinstance(error, MemoryError | PermissionError | jax.errors.JaxRuntimeError) or _is_timeout(error):
        return False
    return not any(word in str(error) for word in _NO_DAMAGE)


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or "DEADLINE_EXCEEDED" in str(error)
