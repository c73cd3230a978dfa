"""`expllm ask | judge`: models behind an endpoint, asked about pictures or let judge explanations."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from expllm_jax.cli.engine_llm_options import add_llm_options, llm_config
from expllm_jax.cli.parsing import Outcome, add_verb, natural, one_line, show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from expllm_jax.engine.llm import LlmConfig

_PICTURE_BYTES = 20_000_000  # what the common endpoints take
_SHOWN = 5  # pictures without an answer that are named


def _ask(options: argparse.Namespace) -> Outcome:
    from expllm_jax.endpoint_answers import ask_faces
    from expllm_jax.evaluate.predictions import read_truth
    from expllm_jax.train import Progress

    config = dataclasses.replace(_config(options), picture_bytes=_PICTURE_BYTES)
    faces = len(read_truth(options.annotations, split=options.split).faces)
    progress = Progress(faces, "asking", "faces")
    asked = ask_faces(
        options.annotations, options.out, config, pictures=options.pictures, split=options.split, task=options.task,
        report=progress.update,
    )  # fmt: skip
    progress.close()
    show(options, f"{asked.answered:,} of {asked.faces:,} faces answered by {config.model}")
    for what, places in (("refused by the endpoint", asked.refused), ("without an answer", asked.failed)):
        if places:
            show(options, f"{len(places):,} {what}:")
            for picture, why in list(places.items())[:_SHOWN]:
                show(options, f"  {one_line(f'{picture}: {why}')}")
    _show_spent(options, asked.report)
    if asked.stopped:
        show(options, f"stopped: {asked.stopped}; the same command goes on")
    show(options, f"answers  {asked.out}\nnext: expllm score {asked.out} --truth {options.annotations}")
    told = dataclasses.asdict(asked) | {"out": str(asked.out)}
    return Outcome(told, 1 if asked.failed or asked.stopped else 0)


def _judge(options: argparse.Namespace) -> Outcome:
    from expllm_jax.evaluate.answer_files import read_answers
    from expllm_jax.judging import judge_answers
    from expllm_jax.train import Progress

    config = _config(options)
    texts = sum(face.cot is not None and options.split in (None, face.split) for face in read_answers(options.answers))
    progress = Progress(texts, "judging", "explanations")
    judged = judge_answers(
        options.answers, options.out, config, split=options.split, seed=options.seed, report=progress.update
    )
    progress.close()
    values = judged.values
    show(options, f"judge    {judged.scores.verifier}")
    for key, what in (
        ("eea", "EEA, explanation leads to the truth"),
        ("epc", "EPC, explanation fits own label"),
        ("fcr", "FCR, both are right"),
    ):
        numbers = [values[key + end] for end in ("", "_low", "_high")]
        value, low, high = ("undefined" if number is None else f"{number:.1%}" for number in numbers)
        show(options, f"{what:<38}{value:>8}  [{low}, {high}]")
    show(options, f"{judged.failed:,} calls failed, {values['explanations_unread']:,} of {values['n']:,} faces are "
                  "without a reading; they count as wrong")  # fmt: skip
    _show_spent(options, values)
    if judged.stopped:
        show(options, f"stopped: {judged.stopped}; the same command goes on")
    show(options, f"every reply  {judged.folder / 'judge_replies.jsonl'}\n"
                  f"metrics      {judged.folder / 'judge_metrics.json'}")  # fmt: skip
    return Outcome(values | {"stopped": judged.stopped}, 1 if judged.failed else 0)


def _config(options: argparse.Namespace) -> LlmConfig:
    if not hasattr(options, "temperature"):
        options.temperature = 0.0
    return llm_config(options)


def _show_spent(options: argparse.Namespace, report: Mapping[str, Any]) -> None:
    spent = report["spent"]
    show(options, f"spent, over all runs on the same cache: {spent['tokens_in']:,} tokens in and "
                  f"{spent['tokens_out']:,} out, {spent['cost']:.4f} in money")  # fmt: skip


def add(verbs: Any) -> None:
    """Adds the verbs to the parser."""
    ask = add_verb(
        verbs, "ask", _ask, "ask a vision model at an OpenAI-compatible endpoint about annotated pictures",
        "expllm ask faces/annotations.jsonl --endpoint http://localhost:8000/v1 --model NAME --out gpt.jsonl",
    )  # fmt: skip
    ask.add_argument("annotations", help="annotations.jsonl; its labels are not told, only which ones there are")
    ask.add_argument("--pictures", metavar="FOLDER", help="of the pictures (default: that of the annotations)")
    ask.add_argument("--split", help="ask only about this split (default: all)")
    ask.add_argument("--task", choices=("cot", "label"), default="cot",
                     help="three parts with a conclusion, or one word (default: cot)")  # fmt: skip
    ask.add_argument("--out", required=True, metavar="FILE", help="answers as JSON Lines, for `expllm score`")
    add_llm_options(ask, narrator=False)

    judge = add_verb(
        verbs, "judge", _judge, "let a language model say what explanations, read alone, speak for",
        "expllm judge runs/demo/answers.jsonl --endpoint URL --model NAME --out runs/demo/judge",
    )  # fmt: skip
    judge.add_argument("answers", help="answers.jsonl of `expllm eval` or `expllm score --out`")
    judge.add_argument("--split", help="judge only this split (default: all)")
    judge.add_argument("--seed", type=natural, default=0, help="of the intervals' resampling (default: 0)")
    judge.add_argument("--out", required=True, metavar="FOLDER", help="of this judge alone: replies and metrics")
    add_llm_options(judge, narrator=False)
