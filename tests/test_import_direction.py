"""Who may import whom: a room sees only the rooms named here, so that data flows one way and no cycle can form."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = "expllm_jax"
ROOT = Path(__file__).parent.parent
ANYWHERE = {"errors", "assets", "files"}  # importable by all
MAY_IMPORT = {
    "errors": set(),
    "assets": set(),
    "files": set(),
    "faces": set(),
    "cot": {"faces"},
    "sources": {"faces"},
    "parallel": set(),
    "models": {"parallel"},
    "weights": {"models"},
    "checkpoints": {"parallel"},
    "records": {"faces", "cot"},
    "infer": {"faces", "cot", "parallel", "models", "weights", "checkpoints", "records"},
    "engine": {"faces", "cot", "sources", "parallel", "models", "weights", "checkpoints", "records", "infer"},
    "train": {"faces", "parallel", "models", "weights", "checkpoints", "records"},
    "fit": {"train", "infer", "records", "parallel", "models"},
    "evaluate": {"faces", "cot", "sources", "records", "checkpoints", "infer"},
    "sweep": {"fit"},
    "serve": {"faces", "cot", "infer", "evaluate"},
}
# These compose the rooms and may import all of them. No room imports one of these.
OUTER = {
    "assessment",
    "cli",
    "config",
    "data_commands",
    "demo",
    "doctor",
    "endpoint_answers",
    "endpoint_questions",
    "faithfulness",
    "initial_weights",
    "judging",
    "reporting",
    "run_exports",
    "scoring",
    "stages",
    "unit_experiment",
    "unit_regression",
    "weight_sources",
    "weights_commands",
}
# Rooms that keep to these packages beside the standard library.
ONLY_THIRD_PARTY = {"errors": set(), "assets": set(), "files": set(), "faces": {"numpy"}, "parallel": {"jax", "numpy"}}
# Nothing imports these at run time, wherever it stands: see launch/lock/base.txt.
NEVER = {"tensorflow", "pickle", "dill"}


def imported_modules(source: str, module: str) -> set[str]:
    """Full names of all that a module imports, also inside functions; relative imports are resolved against `module`.

    `from a import b` counts as `a.b`, since b may be a module. `module` is "a.b" for a/b.py and "a.b.__init__" for
    a package.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level] if node.level else [])
            base = ".".join(part for part in (base, node.module) if part)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def violations(source: str, module: str) -> list[str]:
    """What is wrong with the imports of the file that is `module`; empty if nothing."""
    room = module.split(".")[1]
    found = []
    for name in sorted(imported_modules(source, module)):
        top, _, inside = name.partition(".")
        target = inside.split(".")[0]
        if top != PACKAGE:
            if top in NEVER or (
                room in ONLY_THIRD_PARTY and top not in ONLY_THIRD_PARTY[room] | sys.stdlib_module_names
            ):
                found.append(f"{module} imports {name}: {room} may not use {top}")
        elif target in OUTER and room not in OUTER:
            found.append(f"{module} imports {name}: no room imports {target}")
        elif target in MAY_IMPORT and room in MAY_IMPORT and target not in MAY_IMPORT[room] | ANYWHERE | {room}:
            allowed = ", ".join(sorted(MAY_IMPORT[room] | ANYWHERE))
            found.append(f"{module} imports {name}: {room} may import only {allowed}")
    return found


def modules() -> list[tuple[str, Path]]:
    """All modules of the package, as (dotted name, file)."""
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    return [(".".join(file.relative_to(ROOT).with_suffix("").parts), file) for file in files]


def test_no_import_goes_against_the_table():
    found = [line for name, file in modules() for line in violations(file.read_text(), name)]
    assert not found, "\n" + "\n".join(found)


def test_every_part_of_the_package_stands_in_the_table():
    known = set(MAY_IMPORT) | OUTER | {"__init__"}
    assert {name.split(".")[1] for name, _ in modules()} <= known


def test_every_room_says_what_it_is_for():
    rooms = {name: ast.parse(file.read_text()) for name, file in modules() if name.endswith("__init__")}
    assert [name for name, tree in rooms.items() if not ast.get_docstring(tree)] == []


def test_the_table_has_no_cycle():
    done: set[str] = set()
    while ready := {room for room in set(MAY_IMPORT) - done if MAY_IMPORT[room] <= done}:
        done |= ready
    assert done == set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("expllm_jax.cot.parser", "from expllm_jax.faces import EXPRESSIONS", True),
        ("expllm_jax.cot.parser", "from expllm_jax.errors import ExpllmError", True),
        ("expllm_jax.cot.parser", "from expllm_jax import faces, errors", True),
        ("expllm_jax.cot.parser", "from .lexicon import BANDS", True),
        ("expllm_jax.cot.parser", "from ..faces import EXPRESSIONS", True),
        ("expllm_jax.cot.__init__", "from .parser import parse", True),
        ("expllm_jax.demo", "from expllm_jax import config, train", True),
        ("expllm_jax.train.loop", "import orbax.checkpoint", True),
        ("expllm_jax.faces.units", "import numpy as np", True),
        ("expllm_jax.faces.units", "import expllm_jax.cot", False),
        ("expllm_jax.faces.units", "from ..cot import parser", False),
        ("expllm_jax.faces.__init__", "from .. import cot", False),
        ("expllm_jax.faces.units", "def late():\n    from expllm_jax import cot", False),
        ("expllm_jax.faces.units", "import jax", False),
        ("expllm_jax.models.layers.norm", "from expllm_jax.weights import names", False),
        ("expllm_jax.models.vit", "from expllm_jax.config import Experiment", False),
        ("expllm_jax.errors", "from expllm_jax.faces import EXPRESSIONS", False),
        ("expllm_jax.records.dataset", "import tensorflow as tf", False),
        ("expllm_jax.weights.gguf", "import pickle", False),
    ],
)
def test_the_check_itself(module, line, allowed):
    assert (violations(line, module) == []) == allowed


def test_importing_the_package_starts_no_accelerator():
    subprocess.run([sys.executable, "-c", "import expllm_jax, sys; assert 'jax' not in sys.modules"], check=True)
