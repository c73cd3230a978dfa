"""The one error that users see: what is wrong, and how to mend it."""

from __future__ import annotations


class ExpllmError(Exception):
    """Bad input or configuration, told so that the reader can act on it.

    ``problem`` names the thing (file, line, key, value); ``remedy`` says what to do. ``exit_status`` is what a command
    returns for it: 2, bad input.
    """

    exit_status = 2

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}".rstrip()
