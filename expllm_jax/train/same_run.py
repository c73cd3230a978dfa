"""Whether a run folder's checkpoints are of the run that is asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.models import ModelDef
from expllm_jax.train.train_config import FREE_FIELDS, TrainConfig

FORMAT = 1
"""Version of what a checkpoint's `meta` says."""


def run_facts(config: TrainConfig, graphdef: ModelDef, total: int, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a run's result depends on, to be compared when it goes on."""
    fixed = {key: value for key, value in dataclasses.asdict(config).items() if key not in FREE_FIELDS}
    fixed["packing.window"] = config.packing.window if config.packing.on else 1  # of packing, it alone moves records
    model = hashlib.sha256("\n".join(graphdef.paths).encode()).hexdigest()
    facts = {"config": fixed, "model": model, "total_steps": total, "identity": dict(identity)}
    return json.loads(json.dumps(facts))  # tuples become lists, as they will be when read back


def check_same_run(run_dir: Path, meta: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raises ExpllmError unless a checkpoint's `meta` is of the run with these `run_facts`, naming what differs."""
    if meta.get("format") != FORMAT:
        raise ExpllmError(f"the checkpoints in {run_dir} are of format {meta.get('format')}", "use another run folder")
    before, now = dict(_flat(meta["run"])), dict(_flat(facts))
    ours = [[key for key in keys if not key.startswith("identity.")] for keys in (before, now)]
    check_same_keys(f"the checkpoints in {run_dir}", *ours)
    changed = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ExpllmError(
            f"{run_dir} holds a run with other settings: {'; '.join(changed)}",
            "repeat the settings to go on with it, or choose another run folder",
        )


def check_same_keys(what: str, before: Collection[str], now: Collection[str]) -> None:
    """Raises ExpllmError if a run was written down with other keys than there are now: another version did that.

    Args:
      what: of the run, for the message; plural.
      before, now: the keys that decide what it learns.
    """
    lacking, unknown = (sorted(set(a) - set(b)) for a, b in ((now, before), (before, now)))
    if not lacking and not unknown:
        return
    told = [f"{verb} {', '.join(keys[:4])}" + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
            for verb, keys in (("lack", lacking), ("have", unknown)) if keys]  # fmt: skip
    raise ExpllmError(
        f"{what} are of a run that another version of expllm_jax began: they {', and they '.join(told)}",
        "go on with that version (the run's environment.json names it), or choose another run folder",
    )


def _flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for key, value in tree.items():
        yield from _flat(value, f"{path}.{key}" if path else key)
