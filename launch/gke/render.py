"""Fills in a template of a Kubernetes manifest; needs Python 3 and nothing else.

    python3 render.py jobset.yaml name=expllm-a slices:int=2 args+=train args+=tiny labels.team=faces env@=A=1

`KEY=TEXT` and `KEY:int=NUMBER` give a value, `KEY+=TEXT` adds to a list, `KEY.FIELD=TEXT` to a mapping, and
`KEY@=NAME=TEXT` to a list of Kubernetes' environment variables. `KEY+`, `KEY.` and `KEY@` alone make an empty one.
Kubernetes reads $(NAME) in arguments and variables as another variable, and $$ as $: there each $ is written twice.
`{KEY}` in the template becomes the value as JSON.
A line that ends in `# only with KEY` stands only where KEY has a value that is not empty; other comments are left out.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def read_values(arguments: list[str]) -> dict[str, object]:
    """The values of the command line, by key."""
    values: dict = {}
    for argument in arguments:
        match = re.fullmatch(r"(\w+)(\+|@|\.([^=]*)|:int)?(?:=(.*))?", argument, re.DOTALL)
        if not match:
            raise SystemExit(f"render.py: {argument} is no KEY=VALUE")
        key, kind, field, text = match.groups()
        if kind is None:
            values[key] = text or ""
        elif kind == ":int":
            values[key] = int(text)
        elif kind.startswith("."):
            values.setdefault(key, {})
            if field:
                values[key][field] = text
        else:
            values.setdefault(key, [])
            if text is not None:
                text = text.replace("$", "$$")
                name, _, value = text.partition("=")
                values[key].append({"name": name, "value": value} if kind == "@" else text)
    return values


def render(template: str, values: dict[str, object]) -> str:
    """The manifest. A key that the template names and nobody gave is a KeyError."""
    lines = []
    for line in template.splitlines():
        body, _, comment = line.partition("# ")
        condition = comment.removeprefix("only with ") if comment.startswith("only with ") else None
        if not body.strip() or (condition and not values[condition]):
            continue
        lines.append(
            re.sub(r"\{(\w+)\}", lambda found: json.dumps(values[found[1]], ensure_ascii=False), body.rstrip())
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render(Path(sys.argv[1]).read_text(encoding="utf-8"), read_values(sys.argv[2:])))
