"""`expllm engine report`: what a set of reasoning texts is like, as a page and as numbers."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expllm_jax.cli.parsing import add_verb, natural, show
from expllm_jax.errors import ExpllmError

if TYPE_CHECKING:
    from expllm_jax.evaluate.text_page import SampleText
    from expllm_jax.faces import Annotation, Vocabulary


def _report(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.cot import FREE_TEXT, STRICT
    from expllm_jax.evaluate.text_page import SampleText, TextPage, write_text_page
    from expllm_jax.evaluate.text_statistics import findings_of, text_statistics
    from expllm_jax.faces import EXPRESSIONS

    source, out = Path(options.what), Path(options.out)
    if out.exists():
        raise ExpllmError(f"{out} exists already", "name another file with --out; nothing is overwritten")
    summary, letters = (_summary(source), _dead_letters(source)) if source.is_dir() else (None, [])
    annotations = _annotations(source)
    vocab = _vocabulary(annotations, options.vocabulary or (summary or {}).get("config", {}).get("vocabulary", ""))
    rules = FREE_TEXT if options.free_text else STRICT
    counted = text_statistics(annotations, vocab, rules=rules, sample=options.self_bleu, seed=options.seed)
    reference = None
    if options.reference:
        others = _annotations(Path(options.reference))
        # A reference is what people or language models wrote, whatever the texts themselves are.
        reference = text_statistics(
            others, _vocabulary(others, ""), rules=FREE_TEXT, sample=options.self_bleu, seed=options.seed
        )
    told_of = [face for face in annotations if face.cot is not None]
    flagged = set(counted.flagged)

    def samples(faces: list[Annotation]) -> list[SampleText]:
        return [
            SampleText(
                face.picture, face.expression or "", face.cot or "", findings_of(face, vocab, EXPRESSIONS, rules)
            )
            for face in _drawn(faces, options)
        ]

    page = TextPage(
        title=f"Reasoning texts: {source.name}",
        source=str(source),
        statistics=counted,
        samples=samples(told_of),
        flagged=samples([face for face in told_of if face.picture in flagged]),
        reference=reference,
        reference_source=options.reference or "",
        summary=summary,
        dead_letters=[_dead_letter(letter) for letter in _drawn(letters, options)],
        dead=len(letters),
    )
    write_text_page(out, page)
    told = counted.to_json()
    show(options, _in_words(told, reference.to_json() if reference else None))
    show(options, f"\npage  {out}")
    return {
        "page": str(out),
        **told,
        "reference": reference.to_json() if reference else None,
        "summary": dict(summary) if summary is not None else None,
        "dead_letters": len(letters),
    }


def _in_words(told: Mapping[str, Any], reference: Mapping[str, Any] | None) -> str:
    rows = [("", "texts", "words", "distinct-3", "self-BLEU", "no finding")]
    for name, numbers in (("these texts", told), ("reference", reference)):
        if numbers is not None:
            bleu = numbers["self_bleu"]
            rows.append(
                (name, f"{numbers['texts']:,}", f"{numbers['words']['median']:g}", f"{numbers['distinct_3']:.3f}",
                 "–" if bleu is None else f"{bleu:.3f}", f"{numbers['without_findings']:,}")
            )  # fmt: skip
    lines = ["".join(f"{cell:>12}" for cell in row) for row in rows]
    lines += [f"{count:>8,} texts  {code}" for code, count in told["findings"].items()]
    return "\n".join(lines)


def _annotations(source: Path) -> list[Annotation]:
    """The annotations of a file (JSON Lines, Parquet or released JSON) or of an engine's run."""
    from expllm_jax.engine.annotation_streams import stream_annotations
    from expllm_jax.engine.run import TEXTS
    from expllm_jax.sources.interchange import read_released

    if source.is_dir():
        files = [source / name for name in TEXTS.values() if (source / name).exists()]
        if not files:
            raise ExpllmError(
                f"{source} holds no annotations.jsonl or .parquet", "give the folder of a finished `expllm engine run`"
            )
        source = files[0]
    if source.suffix == ".json":
        return list(read_released(source))
    return [annotation for _, annotation in stream_annotations(source)]


def _vocabulary(annotations: Sequence[Annotation], wanted: str) -> Vocabulary:
    """The one that is asked for, or of those with words the one that most faces have units of."""
    from expllm_jax.faces import FACS, FEAFA_24, vocabulary

    if wanted:
        return vocabulary(wanted)
    return max((FACS, FEAFA_24), key=lambda each: sum(each.name in face.units for face in annotations))


def _summary(folder: Path) -> Mapping[str, Any] | None:
    from expllm_jax.engine.run import SUMMARY

    file = folder / SUMMARY
    return _json(file.read_text(encoding="utf-8"), str(file)) if file.exists() else None


def _dead_letters(folder: Path) -> list[Mapping[str, Any]]:
    from expllm_jax.engine.run import DEAD_LETTERS

    file = folder / DEAD_LETTERS
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return [_json(line, f"{file}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _json(content: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise ExpllmError(
            f"{where}: not JSON ({error})", "let `expllm engine run` finish, which writes it anew"
        ) from error
    if not isinstance(value, dict):
        raise ExpllmError(f"{where}: not a JSON object", "let `expllm engine run` finish, which writes it anew")
    return value


def _dead_letter(letter: Mapping[str, Any]) -> SampleText:
    from expllm_jax.cot import Finding
    from expllm_jax.evaluate.text_page import SampleText

    face, history = letter["annotation"], letter["history"]
    last = history[-1] if history else {}
    findings = tuple(Finding(**finding) for finding in letter["findings"])
    written = last.get("text", "")  # what the findings are about; a description is no three-part text yet
    return SampleText(
        picture=face["picture"],
        expression=face["expression"] or "",
        text=written or last.get("description", ""),
        findings=findings if written else (),
        reason=f"{letter['status']} after {letter['rounds']} round(s): {letter['reason']}",
        remarks=() if written else tuple(f"{finding.code}: {finding.reason}" for finding in findings),
    )


def _drawn(items: Sequence[Any], options: argparse.Namespace) -> list[Any]:
    """As many as the page shows, by the seed, in their order."""
    positions = random.Random(options.seed).sample(range(len(items)), min(options.samples, len(items)))
    return [items[position] for position in sorted(positions)]


def add(engine: Any) -> None:
    """Adds the verb to the group."""
    verb = add_verb(
        engine,
        "report",
        _report,
        "what texts are like: length, variety, units and words against values, findings, samples",
        "expllm engine report runs/engine --reference released.json --out report.html",
    )
    verb.add_argument(
        "what", metavar="FOLDER_OR_FILE", help="of `engine run`, or annotations (.jsonl, .parquet, .json)"
    )
    verb.add_argument("--out", required=True, metavar="FILE", help="the page to write; it must not exist")
    verb.add_argument("--reference", metavar="FILE", help="texts to compare with: annotations, or released JSON")
    verb.add_argument("--free-text", action="store_true", help="verify as texts in words of the writer's own choice")
    verb.add_argument(
        "--vocabulary", choices=("facs", "feafa"), default="", help="of the texts (default: as the units)"
    )
    verb.add_argument("--samples", type=natural, default=8, help="texts, and dead letters, on the page (default: 8)")
    verb.add_argument(
        "--self-bleu", type=natural, default=200, help="texts that self-BLEU is taken over (default: 200)"
    )
    verb.add_argument("--seed", type=natural, default=0, help="of what is drawn (default: 0)")
