"""How good the verifier is: mistakes it finds, false alarms, and its speed.

    python launch/bench/verifier.py $EXPLLM_FIXTURES/rafdb_val_cot_half.json

Four measurements, each printed as a table (`--json`: one object):

- *released texts, corrupted*: `tests/golden/corrupt_texts.py` makes one mistake in each of 300 released texts; it
  counts as found when a finding of a fitting code, that was not there before, lies on the sentences that were changed.
- *released texts, judged one by one*: of the findings in 100 released texts (50 of all, 50 of those with findings), the
  share that `tests/golden/judged_findings.json` calls true. Findings that it does not know are counted apart.
- *narrated texts*: the offline narrator's, with and without a mistake, under the strict rules.
- *speed*: texts a second on one core, in processor time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from expllm_jax.cot import FREE_TEXT, STRICT, Finding, VerifierRules, verify
from expllm_jax.engine import NarratorConfig, narrate
from expllm_jax.faces import BASIC_7, FACS, FEAFA_24, RENDERED_UNITS, Vocabulary

TESTS = Path(__file__).parents[2] / "tests"

FITTING = {
    "wrong-side": {"wrong-side", "unsupported-unit", "wrong-intensity"},
    "wrong-intensity": {"wrong-intensity", "unsupported-unit", "wrong-side"},
    "wrong-label": {"wrong-conclusion", "no-conclusion", "several-conclusions"},
    "invented-unit": {"unsupported-unit"},
    "missing-part": {"missing-part"},
    "swapped-order": {"parts-out-of-order"},
    "negation": {"denied-unit"},
}
"""Kind of mistake -> codes of findings that tell of it."""

_AT_THE_EDIT = {"wrong-side", "wrong-intensity", "invented-unit", "negation"}
"""Kinds whose finding must lie in the sentence that was changed; the others are about a whole part."""


def module(path: Path) -> ModuleType:
    """A file of the tests as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded  # dataclasses look their module up by its name
    spec.loader.exec_module(loaded)
    return loaded


def found_in(entry: dict[str, Any], text: str, rules: VerifierRules = FREE_TEXT) -> tuple[Finding, ...]:
    """The findings in a text about a released face."""
    units = dict(zip(FEAFA_24.codes, entry["au"], strict=True))
    return verify(text, units=units, vocabulary=FEAFA_24, expression=entry["emo"], rules=rules)


def is_found(entry: dict[str, Any], corruption: Any) -> bool:
    """Whether the verifier tells of a corruption, and would not have told so of the original."""
    before = Counter((finding.code, finding.reason) for finding in found_in(entry, entry["description"]))
    start, end = sentence_of(corruption.text, corruption.start, corruption.end)
    for finding in found_in(entry, corruption.text):
        if before[finding.code, finding.reason]:
            before[finding.code, finding.reason] -= 1
        elif finding.code in FITTING[corruption.kind] and (
            corruption.kind not in _AT_THE_EDIT or (finding.start < end and finding.end > start)
        ):
            return True
    return False


def sentence_of(text: str, start: int, end: int) -> tuple[int, int]:
    """The sentences that hold ``text[start:end]``."""
    first = max(text.rfind(". ", 0, start), text.rfind("\n", 0, start)) + 1
    stops = [place for place in (text.find(". ", end), text.find("\n", end)) if place >= 0]
    return first, min(stops, default=len(text))


def corrupted_texts(entries: Sequence[dict[str, Any]], seed: int, count: int) -> dict[str, Any]:
    """Detection of corruptions of released texts, by kind."""
    by_name = {entry["file_name"]: entry for entry in entries}
    made, found = Counter[str](), Counter[str]()
    for corruption in module(TESTS / "golden" / "corrupt_texts.py").corrupted(entries, seed, count):
        made[corruption.kind] += 1
        found[corruption.kind] += is_found(by_name[corruption.file_name], corruption)
    return _detection(made, found)


def labelled_texts(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Precision by code on the texts whose findings were judged one by one; the file says how."""
    labels = json.loads((TESTS / "golden" / "judged_findings.json").read_text())
    verdicts = {
        (each["file_name"], each["code"], each["start"], each["end"]): each["true"] for each in labels["findings"]
    }
    by_name = {entry["file_name"]: entry for entry in entries}
    sets = {}
    for name, texts in labels["texts"].items():
        true, known, unknown = Counter[str](), Counter[str](), Counter[str]()
        for file_name in texts:
            for finding in found_in(by_name[file_name], by_name[file_name]["description"]):
                verdict = verdicts.get((file_name, finding.code, finding.start, finding.end))
                (unknown if verdict is None else known)[finding.code] += 1
                true[finding.code] += bool(verdict)
        sets[name] = {
            "texts": len(texts),
            "findings": known.total(),
            "true": true.total(),
            "precision": true.total() / known.total() if known else None,
            "not_labelled": unknown.total(),
            "by_code": {code: {"findings": count, "true": true[code]} for code, count in sorted(known.items())},
        }
    return sets


def narrated_texts(seed: int, count: int) -> dict[str, Any]:
    """False alarms on the narrator's texts, and detection of mistakes in them, under the strict rules."""
    corruptions = module(TESTS / "cot" / "narrated_corruptions.py")
    rng, chance = np.random.default_rng(seed), random.Random(seed)
    made, found, alarms = Counter[str](), Counter[str](), 0
    for number in range(count):
        vocabulary = (FACS, FEAFA_24)[number % 2]
        units, expression = _face(vocabulary, rng), str(rng.choice(BASIC_7))
        config = NarratorConfig(vocabulary=vocabulary.name, style=("brief", "full")[number // 2 % 2])
        text = narrate(expression, units, config, rng)
        known: dict[str, Any] = {"units": units, "vocabulary": vocabulary, "expression": expression, "rules": STRICT}
        alarms += bool(verify(text, **known))
        for each in corruptions.corruptions(corruptions.Narrated(text, units, vocabulary, expression), chance):
            made[each.kind] += 1
            found[each.kind] += any(finding.code in each.codes for finding in verify(each.text, **known))
    return {"texts": count, "false_alarms": alarms / count, **_detection(made, found)}


def _face(vocabulary: Vocabulary, rng: np.random.Generator) -> dict[str, float]:
    """Independent units as rendered faces have them: few or many, weak or strong."""
    codes = RENDERED_UNITS if vocabulary == FACS else vocabulary.codes
    share = rng.choice([0.1, 0.3, 0.5])
    return {code: float(rng.beta(0.6, 1.2)) for code in codes if rng.random() < share}


def speed(entries: Sequence[dict[str, Any]], seed: int) -> dict[str, float]:
    """Texts a second of processor time: released ones under FREE_TEXT, narrated ones under STRICT."""
    started = time.process_time()
    for entry in entries:
        found_in(entry, entry["description"])
    free = len(entries) / (time.process_time() - started)
    rng = np.random.default_rng(seed)
    faces = [_face(FACS, rng) for _ in range(500)]
    told = [(narrate("Anger", units, NarratorConfig(style="full"), rng), units) for units in faces]
    started = time.process_time()
    for text, units in told:
        verify(text, units=units, expression="Anger")
    return {"released_free": free, "narrated_strict": len(told) / (time.process_time() - started)}


def _detection(made: Counter[str], found: Counter[str]) -> dict[str, Any]:
    return {
        "corruptions": made.total(),
        "found": found.total(),
        "detection": found.total() / made.total(),
        "by_kind": {kind: {"made": count, "found": found[kind]} for kind, count in sorted(made.items())},
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="How good the verifier is.")
    parser.add_argument("file", type=Path, help="the released texts (rafdb_val_cot_half.json)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=300, help="corruptions of released texts")
    parser.add_argument("--narrated", type=int, default=600, help="narrated texts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    entries = json.loads(options.file.read_text())
    measured = {
        "released_corrupted": corrupted_texts(entries, options.seed, options.count),
        "released_labelled": labelled_texts(entries),
        "narrated": narrated_texts(options.seed, options.narrated),
        "texts_a_second": speed(entries, options.seed),
    }
    if options.json:
        print(json.dumps(measured))
        return
    for name in ("released_corrupted", "narrated"):
        told = measured[name]
        print(f"{name}: {told['found']} of {told['corruptions']} found ({told['detection']:.1%})")
        for kind, counts in told["by_kind"].items():
            print(f"  {kind:<18}{counts['found']:>5} of {counts['made']}")
    print(f"  false alarms      {measured['narrated']['false_alarms']:.1%} of {measured['narrated']['texts']} texts")
    for name, told in measured["released_labelled"].items():
        print(f"{name}: {told['true']} of {told['findings']} findings true, {told['not_labelled']} not labelled")
        for code, counts in told["by_code"].items():
            print(f"  {code:<18}{counts['true']:>5} of {counts['findings']}")
    for name, rate in measured["texts_a_second"].items():
        print(f"{name}: {rate:,.0f} texts/s")


if __name__ == "__main__":
    main()
