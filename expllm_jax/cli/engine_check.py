"""`expllm engine check`: whether texts keep to the form and say what the values of their faces say."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expllm_jax.cli.parsing import Outcome, add_verb, one_line, show
from expllm_jax.errors import ExpllmError

if TYPE_CHECKING:
    from expllm_jax.cot import Finding, VerifierRules
    from expllm_jax.faces import Annotation, Vocabulary

_VOCABULARIES = ("facs", "feafa")
_CONTEXT = 40  # characters on either side of an example's span
_SLOW_FROM = 10_000  # texts from which progress is told: some ten seconds

# Flag -> rule it switches.
_SWITCHES = {
    "exact-headings": ("exact_headings", "headings to the letter, nothing else bold"),
    "values": ("units", "units, sides and intensities held against the values"),
    "associations": ("associations", "units tied only to expressions that a source ties them to"),
    "label-in-observations": ("label_in_observations", "the observations may name the label"),
    "conclusion": ("conclusion", "the conclusion names the right label"),
    "one-label": ("one_label", "and no other, by its noun or adjective"),
    "numbers": ("numbers", "quoted numbers and codes are those of the face"),
    "personal-words": ("personal_words", "words for age, sex, ethnicity and identity are allowed"),
}


def _check(options: argparse.Namespace) -> Outcome:
    from expllm_jax.cot import VerifiedTexts, verify
    from expllm_jax.faces import BASIC_7, EXPRESSIONS

    rules = _rules(options)
    faces = _faces(options)
    without_text = sum(face.cot is None for face in faces)
    if without_text == len(faces):
        raise ExpllmError(
            f"{options.file} holds no text", "give annotations with a `cot`, the released JSON, or a text"
        )
    target = Path(options.findings) if options.findings else None
    if target is not None and target.exists():
        raise ExpllmError(f"{target} exists already", "name another file with --findings; nothing is overwritten")
    tally, without_values = VerifiedTexts(), 0
    examples: dict[str, tuple[str, str]] = {}  # code -> where, marked text
    with _lines(target) as write:
        for face in _told(faces):
            text = face.cot or ""
            vocabulary, units = _values(face, options.units)
            without_values += units is None
            # Most data sets have seven labels; a face of contempt comes from one that has eight.
            allowed = BASIC_7 if face.expression in (None, *BASIC_7) else EXPRESSIONS
            known: Any = {"units": units, "vocabulary": vocabulary, "expression": face.expression}
            found = verify(text, **known, allowed=allowed, rules=rules)
            tally.add(text, found, **known)
            for finding in found:
                examples.setdefault(finding.code, (face.picture, _marked(text, finding)))
                if write is not None:
                    line = {"picture": face.picture, **dataclasses.asdict(finding)}
                    write.write(json.dumps(line, ensure_ascii=False) + "\n")
    summary = tally.summary()
    summary |= {"without_text": without_text, "without_values": without_values}
    if target is not None:
        summary["findings_file"] = str(target)
    _show(options, tally, summary, examples, target)
    return Outcome(summary, 1 if tally.with_findings else 0)


def _rules(options: argparse.Namespace) -> VerifierRules:
    from expllm_jax.cot import FREE_TEXT, STRICT

    changed: dict[str, Any] = {
        rule: value for rule, _ in _SWITCHES.values() if (value := getattr(options, f"rule_{rule}")) is not None
    }
    if options.omitted_from is not None:
        changed["omitted_from"] = options.omitted_from
    if options.slack is not None:
        changed["intensity_slack"] = options.slack
    if options.words is not None:
        changed["words"] = options.words
    return dataclasses.replace(STRICT if options.strict else FREE_TEXT, **changed)


def _faces(options: argparse.Namespace) -> list[Annotation]:
    """The file as annotations; a text of its own becomes one without values."""
    from expllm_jax.faces import Annotation, expression_word, read_annotations
    from expllm_jax.sources.interchange.released import read_released

    path = Path(options.file)
    if path.suffix.lower() in (".jsonl", ".json") and options.label is not None:
        raise ExpllmError("--label is for a text alone", "annotations have labels of their own: leave it out")
    if path.suffix.lower() == ".jsonl":
        faces = read_annotations(path)
    elif path.suffix.lower() == ".json":
        faces = list(read_released(path))
    else:
        label = None if options.label is None else expression_word(options.label)
        faces = [Annotation(picture=options.file, expression=label, cot=_text(options.file))]
    if not faces:
        raise ExpllmError(f"{options.file} is empty", "give annotations with a `cot`, the released JSON, or a text")
    return faces


def _text(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise ExpllmError(f"{name} cannot be read ({error.strerror or error})", "check the path") from error
    except UnicodeDecodeError as error:
        raise ExpllmError(
            f"{name} is no UTF-8 text", "give annotations (.jsonl), the released .json, or a text"
        ) from error


def _values(face: Annotation, wanted: str | None) -> tuple[Vocabulary, dict[str, float] | None]:
    """The vocabulary that a text is in, and the values of its face if they are known."""
    from expllm_jax.engine.loop import VOCABULARY_KEY
    from expllm_jax.faces import vocabulary

    wanted = wanted or face.provenance.get(VOCABULARY_KEY)
    known = [name for name in _VOCABULARIES if face.units.get(name)]
    if wanted is None and len(known) > 1:
        raise ExpllmError(
            f"{face.picture} has FACS and FEAFA units", "say with --units which of them the texts speak of"
        )
    name = wanted or (known[0] if known else _VOCABULARIES[0])
    return vocabulary(name), dict(face.units[name]) if name in known else None


def _told(faces: list[Annotation]) -> Iterator[Annotation]:
    """The faces with a text; for many of them, how far it is goes to stderr."""
    if len(faces) < _SLOW_FROM:
        yield from (face for face in faces if face.cot is not None)
        return
    from expllm_jax.train import Progress  # brings JAX along, which takes longer than a small file

    progress = Progress(len(faces), "checking", "texts")
    for number, face in enumerate(faces, start=1):
        if face.cot is not None:
            yield face
        progress.update(number)
    progress.close()


def _lines(target: Path | None) -> Any:
    from expllm_jax.files import text_file

    return nullcontext() if target is None else text_file(target)


def _marked(text: str, finding: Finding) -> str:
    """The span in its surroundings, on one line."""
    start, end = finding.start, finding.end
    inside = text[start:end] if end - start <= 2 * _CONTEXT else f"{text[start : start + 2 * _CONTEXT]}…"
    before, after = text[max(0, start - _CONTEXT) : start], text[end : end + _CONTEXT]
    return one_line(" ".join(f"{before}[[{inside}]]{after}".split()))


def _show(
    options: argparse.Namespace,
    tally: Any,
    summary: dict[str, Any],
    examples: dict[str, tuple[str, str]],
    target: Path | None,
) -> None:
    from expllm_jax.cot import FINDING_CODES

    n = tally.n
    lines = [
        f"{n:,} text{'s' if n != 1 else ''}, {tally.with_findings:,} with findings",
        f"  three parts         {summary['three_parts']:7.1%}",
        f"  exact headings      {summary['exact_headings']:7.1%}",
    ]
    if tally.quoted_numbers:
        lines.append(f"  quoted numbers that match  {tally.quoted_numbers_matching:,} of {tally.quoted_numbers:,}")
    for label, share in summary["conclusion_names_label"].items():
        lines.append(f"  conclusion names    {share:7.1%}  of {tally.of_label[label]:,} {label}")
    for what in ("without_text", "without_values"):
        if summary[what]:
            lines.append(f"  {what.replace('_', ' '):<19} {summary[what]:,}")
    if examples:
        lines.append(f"\n{'finding':<24}{'count':>7}{'texts':>8}  example")
    for code in FINDING_CODES:
        if code in examples:
            share = tally.texts_found[code] / n
            lines.append(f"{code:<24}{tally.found[code]:>7,}{share:>8.1%}  {examples[code][1]}")
            lines.append(f"{'':<41}{FINDING_CODES[code]}; {one_line(examples[code][0])}")
    if target is not None:
        lines.append(f"\nfindings  {target}")
    elif examples:
        lines.append("\nnext: the same with --findings FILE.jsonl lists every finding with its reason")
    show(options, "\n".join(lines))


def _share(text: str) -> float:
    """An argument from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to 1")
    return value


def _range(text: str) -> tuple[int, int]:
    """An argument such as 84-146."""
    low, _, high = text.partition("-")
    if not (low.isascii() and low.isdigit() and high.isascii() and high.isdigit() and int(low) <= int(high)):
        raise argparse.ArgumentTypeError(f"'{text}' is not the fewest and most words, as in 84-146")
    return int(low), int(high)


def add(engine: Any) -> None:
    """Adds the verb to the group."""
    check = add_verb(engine, "check", _check, "check texts against their form and the values of their faces",
                     "expllm engine check rafdb_val.json --findings findings.jsonl")  # fmt: skip
    check.description = f"{check.description} Status 0: no finding; 1: there are findings; 2: bad input."
    check.add_argument("file", help="annotations (.jsonl), the released JSON (.json), a text, or - for one on stdin")
    check.add_argument("--findings", metavar="FILE", help="list every finding in this JSON Lines file")
    check.add_argument("--units", choices=_VOCABULARIES, help="which units the texts speak of (default: those known)")
    check.add_argument("--label", help="the right label of a text alone")
    rules = check.add_argument_group("rules")
    rules.add_argument(
        "--strict",
        action="store_true",
        help="as for the engine's own texts: the lexicon's phrases, every intensity within its band, associations, "
        "strong units mentioned, one label (default: as for texts in words of their own)",
    )
    for flag, (rule, what) in _SWITCHES.items():
        rules.add_argument(
            f"--{flag}", dest=f"rule_{rule}", action=argparse.BooleanOptionalAction, default=None, help=what
        )
    rules.add_argument("--omitted-from", type=_share, metavar="X", help="units from X on must be mentioned")
    rules.add_argument("--slack", type=_share, metavar="X", help="how far a value may lie outside its word's band")
    rules.add_argument("--words", type=_range, metavar="LOW-HIGH", help="how many words a text must have")
