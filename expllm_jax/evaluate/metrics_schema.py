"""What a metrics.json may hold, as a JSON Schema beside this file, and the check of a file's numbers against it.

Only the keywords that the schema uses are understood; an interval's ends must also lie on the right sides of its value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from expllm_jax.errors import ExpllmError

_REMEDY = "evaluate the run anew with this version"
_KEYWORDS = {"type", "minimum", "maximum"}


def metrics_schema() -> dict[str, Any]:
    """The JSON Schema of metrics.json."""
    return json.loads(resources.files(__package__).joinpath("metrics_schema.json").read_text(encoding="utf-8"))


def check_metrics(values: Mapping[str, Any]) -> None:
    """Raises ExpllmError naming the first key that is missing or has no fitting value."""
    schema = metrics_schema()
    for key in schema["required"]:
        if key not in values:
            raise ExpllmError(f"the metrics lack {key!r}", _REMEDY)
    for key, value in values.items():
        for rule in _rules(schema, key):
            if told := _broken(rule, value):
                raise ExpllmError(f"the metric {key!r} is {value!r}, and {told}", _REMEDY)
    for key, value in values.items():
        low, high = (values.get(key + end) for end in ("_low", "_high"))
        if value is not None and low is not None and high is not None and not low - 1e-9 <= value <= high + 1e-9:
            raise ExpllmError(f"the metric {key!r} is {value}, outside its interval {low} to {high}", _REMEDY)


def _rules(schema: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """What the schema asks of a key's value: its own rule and those of all patterns, or else the common one."""
    rules = [schema["properties"][key]] if key in schema["properties"] else []
    rules += [rule for pattern, rule in schema["patternProperties"].items() if re.search(pattern, key)]
    rules = rules or [schema["additionalProperties"]]
    for rule in rules:
        if unknown := set(rule) - _KEYWORDS:
            raise ExpllmError(
                f"metrics_schema.json uses {', '.join(sorted(unknown))}", "teach `check_metrics` the word"
            )
    return rules


def _broken(rule: Mapping[str, Any], value: object) -> str:
    """Why a value does not fit; empty if it does."""
    kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    kind = _kind(value)
    if kind not in kinds and not (kind == "integer" and "number" in kinds):
        return f"should be {' or '.join(kinds)}"
    if isinstance(value, int | float):
        if "minimum" in rule and value < rule["minimum"]:
            return f"should be at least {rule['minimum']}"
        if "maximum" in rule and value > rule["maximum"]:
            return f"should be at most {rule['maximum']}"
    return ""


def _kind(value: object) -> str:
    """The JSON type of a value; what JSON cannot hold, such as nan, has none."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, float):
        return "number" if math.isfinite(value) else "no JSON number"
    return {int: "integer", str: "string", list: "array", dict: "object"}.get(type(value), type(value).__name__)
