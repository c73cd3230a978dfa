"""`expllm score`: any model's predictions against annotations."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from expllm_jax.cli.parsing import add_verb, natural, one_line, show

if TYPE_CHECKING:
    from expllm_jax.scoring import Scored

_PROTOCOLS = (
    "strict", "expllm", "faba", "unifer", "unifer-affectnet", "unifer-ferplus", "unifer-sfew", "facial-r1",
)  # fmt: skip
_ROWS = (
    ("accuracy", "accuracy (WAR)"),
    ("uar", "mean recall (UAR)"),
    ("macro_f1", "macro-F1"),
    ("unparsable_share", "unparsable"),
    ("truncated_share", "truncated"),
    ("eea", "EEA, explanation leads to the truth"),
    ("epc", "EPC, explanation fits own label"),
    ("fcr", "FCR, both are right"),
)
_PLAIN = (
    ("verifier_on_references", "verifier right about the references"),
    ("unit_f1", "unit F1, denials understood"),
    ("unit_f1_label_only", "  of who knows the label alone"),
    ("unit_f1_codes_faba", "unit F1, codes as FABA counts them"),
    ("hallucinated", "hallucinated units"),
    ("omitted", "omitted units"),
    ("rouge_l", "ROUGE-L"),
    ("rouge_l_recited", "  against other faces of the label"),
)


def _score(options: argparse.Namespace) -> dict[str, Any]:
    from expllm_jax.faces import vocabulary
    from expllm_jax.scoring import score_file, write_scored

    scored = score_file(
        options.predictions,
        options.truth,
        protocol=options.parser,
        corrected=options.corrected,
        split=options.split,
        vocabulary=vocabulary(options.vocabulary),
        verifier_texts=options.verifier_texts,
        seed=options.seed,
    )
    _show(options, scored)
    if options.out:
        folder = write_scored(scored, options.out)
        show(options, f"\nanswers  {folder / 'answers.jsonl'}\nmetrics  {folder / 'metrics.json'}\n"
                      f"next: expllm compare {folder} ANOTHER_RUN")  # fmt: skip
    else:
        show(options, "\nnext: give --out FOLDER to keep the answers and compare them with `expllm compare`")
    return {**scored.values, "misfits": scored.unfit.told(), "out": options.out}


def _show(options: argparse.Namespace, scored: Scored) -> None:
    values = scored.values
    about = f"read as by {values['reader']}"
    if options.parser != "strict":
        about += f", {values['reading']} reading"
    show(options, f"{values['n']:,} faces of {values['identities']:,} people, {about}")
    for key, what in _ROWS:
        if key in values:
            show(options, f"{what:<38}{_percent(values[key]):>8}  [{_percent(values[f'{key}_low'])}, "
                          f"{_percent(values[f'{key}_high'])}]")  # fmt: skip
    for key, what in _PLAIN:
        if key in values:
            show(options, f"{what:<38}{_percent(values[key]):>8}")
    for form in ("published", "corrected"):
        if f"rege_{form}" in values:
            parts = [_number(values[f"rege_{form}{part}"]) for part in ("", "_recognition", "_generation")]
            show(options, f"{f'REGE, {form}':<38}{parts[0]:>8}  = {parts[1]} + {parts[2]}")
    for name, stratum in (("weak", "below .2"), ("middle", ".2 to .5"), ("strong", "above .5")):
        if f"n_{name}" in values:
            show(options, f"{f'accuracy, strongest unit {stratum}':<38}{_percent(values[f'accuracy_{name}']):>8}  "
                          f"[{_percent(values[f'accuracy_{name}_low'])}, {_percent(values[f'accuracy_{name}_high'])}]  "
                          f"{values[f'n_{name}']:,} faces")  # fmt: skip
    if values["label_order_warning"]:
        show(options, f"warning: {values['label_order_warning']}")
    if options.parser != "strict":
        show(options, f"accuracy {_percent(values['accuracy_as_published'])} as published, "
                      f"{_percent(values['accuracy_corrected'])} as meant: {values['read_otherwise']:,} answers are "
                      "read otherwise")  # fmt: skip
    show(options, f"\n{'class':<12}{'recall':>8}{'precision':>11}{'F1':>8}{'faces':>8}")
    for row in scored.labels.per_class:
        show(options, f"{row.name:<12}{row.recall:>8.3f}{row.precision:>11.3f}{row.f1:>8.3f}{row.n:>8,}")
    misfits = scored.unfit.told()
    if values["truth_without_label"]:
        misfits.append(
            f"{'no label':<14}{values['truth_without_label']:>8,}  annotations that nothing can be held against"
        )
    if misfits:
        show(options, "\nwhat did not fit; faces without a usable prediction count as unparsable:")
        for line in misfits:
            show(options, f"  {one_line(line)}")


def _percent(value: Any) -> str:
    return "undefined" if value is None else f"{value:.1%}"


def _number(value: Any) -> str:
    return "undefined" if value is None else f"{value:.1f}"


def add(verbs: Any) -> None:
    """Adds the verb to the parser."""
    verb = add_verb(
        verbs, "score", _score, "score any model's predictions against annotations",
        "expllm score gpt.jsonl --truth faces/annotations.jsonl --parser strict --out runs/gpt",
    )  # fmt: skip
    verb.add_argument("predictions", help="JSON Lines with `picture`, `id` or `record`, and `label`, `cot` or `text`")
    verb.add_argument("--truth", required=True, metavar="FILE", help="annotations.jsonl with the true labels")
    verb.add_argument("--parser", choices=_PROTOCOLS, default="strict",
                      help="how labels are read; all but strict misread as published (default: strict)")  # fmt: skip
    verb.add_argument("--corrected", action="store_true", help="the parser's idea without its published faults")
    verb.add_argument("--split", help="score only the faces of this split (default: all)")
    verb.add_argument("--vocabulary", choices=("facs", "feafa"), default="facs",
                      help="which units texts and truth speak of (default: facs)")  # fmt: skip
    verb.add_argument("--verifier-texts", metavar="FILE",
                      help="annotations with the texts the model learnt from: a verifier learns to tell a label from "
                           "stated units (default: it goes by the labels' prototypes)")  # fmt: skip
    verb.add_argument("--seed", type=natural, default=0, help="of the intervals' resampling (default: 0)")
    verb.add_argument("--out", metavar="FOLDER", help="keeps answers.jsonl and metrics.json, for `expllm compare`")
