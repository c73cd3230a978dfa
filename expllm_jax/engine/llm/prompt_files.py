"""The prompts: text files in `prompts/VERSION/`, one for each step, and one for each part that several steps share.

A published version is never edited: another wording is another folder. ``$name`` stands for what is filled in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

from expllm_jax.errors import ExpllmError

FIELDS: dict[str, frozenset[str]] = {
    "system": frozenset(),
    "describe": frozenset({"units", "picture", "earlier"}),
    "infer": frozenset({"description", "allowed"}),
    "confirm": frozenset({"units", "picture", "description", "expression"}),
    "reflect": frozenset({"units", "description", "inferred", "label", "problem", "earlier"}),
    "refine": frozenset({"units", "description", "expression", "others", "findings"}),
    "picture": frozenset(),  # said where a picture goes along
    "earlier": frozenset({"attempts"}),  # said where there were attempts before
    "attempt": frozenset({"number", "description", "feedback"}),  # each of these
    "findings": frozenset({"findings"}),  # said where the last text had faults
}
"""Prompt -> what it is filled with."""


@dataclass(frozen=True)
class Prompts:
    """All prompts of a version."""

    version: str
    texts: dict[str, str]  # by the names of FIELDS

    @property
    def digest(self) -> str:
        """SHA-256 of all texts, 64 hex digits."""
        return hashlib.sha256("\0".join(f"{name}\0{self.texts[name]}" for name in sorted(FIELDS)).encode()).hexdigest()

    def fill(self, name: str, **fields: Any) -> str:
        """A prompt with its fields filled in; lines that are left empty by that are drawn together."""
        text = Template(self.texts[name]).substitute(fields)
        while "\n\n\n" in text:
            text = text.replace("\n\n\n", "\n\n")
        return text.strip()


def load_prompts(version: str) -> Prompts:
    """The prompts of a version.

    Raises:
      ExpllmError: there is no such version.
    """
    folder = resources.files("expllm_jax.engine.llm") / "prompts"
    versions = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if version not in versions:
        raise ExpllmError(f"there are no prompts {version!r}", f"use one of {', '.join(versions)}")
    texts = {name: (folder / version / f"{name}.txt").read_text(encoding="utf-8") for name in FIELDS}
    return Prompts(version, texts)
