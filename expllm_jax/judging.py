"""`expllm judge`: EEA, EPC and FCR by a language model that reads only the explanation, every reply kept.

The judge is pinned: a folder belongs to one model and one wording of the question, both recorded, and replies of
another are refused. A judge's call that fails is counted as such, and as an explanation that leads nowhere; the same
command asks it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from expllm_jax.cot import UnparsableAnswer, read_label
from expllm_jax.endpoint_questions import Prompt, ask_all, load_prompt
from expllm_jax.engine.llm.config import LlmConfig
from expllm_jax.engine.llm.request import ChatRequest
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import EvaluatedFace
from expllm_jax.evaluate.answer_files import read_answers
from expllm_jax.evaluate.explanations import BLANK, ExplanationScores, explanation_of, explanation_scores
from expllm_jax.evaluate.metric_values import undefined_as_none
from expllm_jax.faces import BASIC_7, EXPRESSIONS
from expllm_jax.files import write_whole
from expllm_jax.scoring import explanation_values
from expllm_jax.sources.interchange.json_objects import write_json_lines

PROMPTS = "judge-v1"
REPLIES, METRICS, CACHE = "judge_replies.jsonl", "judge_metrics.json", "replies.sqlite"


@dataclass(frozen=True)
class Judged:
    """What the judge made of a file of answers."""

    folder: Path
    scores: ExplanationScores
    values: dict[str, Any]  # as judge_metrics.json has them
    failed: int  # calls without an answer
    stopped: str  # why the rest was not asked; "": all was


def judge_answers(
    answers: str | Path,
    folder: str | Path,
    config: LlmConfig,
    *,
    split: str | None = None,
    seed: int = 0,
    report: Callable[[int], None] = lambda done: None,
) -> Judged:
    """Lets the judge read every explanation of answers.jsonl, and keeps its replies and the scores in a folder.

    Args:
      answers: as `expllm eval` and `expllm score --out` write them.
      folder: of this judge alone.
      config: which judge, and what it may cost.
      split: judge only this one.
      seed: of the intervals' resampling.
      report: is told how many explanations are done.

    Raises:
      ExpllmError: the answers cannot be read or have no explanations, the folder is another judge's, or as `ask_all`.
    """
    faces = [face for face in read_answers(answers) if split in (None, face.split)]
    read = {number: text for number, face in enumerate(faces) if (text := _explanation(face)).strip()}
    if not read:
        raise ExpllmError(f"{answers} has no explanations{f' of the split {split!r}' if split else ''}",
                          "judge answers that have reasoning texts")  # fmt: skip
    folder, prompt = Path(folder), load_prompt(PROMPTS, "judge")
    pinned = {"judge": config.model, "prompt": prompt.version, "prompt_sha256": prompt.digest,
              "temperature": config.temperature}  # fmt: skip
    _check_pinned(folder / METRICS, pinned)
    allowed = BASIC_7 if {face.expression for face in faces} <= set(BASIC_7) else EXPRESSIONS
    questions = [partial(_question, prompt, config, explanation, allowed) for explanation in read.values()]
    replies = ask_all(questions, config, folder / CACHE, report=report)
    named: list[str | None] = [None] * len(faces)
    lines = []
    for position, (number, explanation) in enumerate(read.items()):
        line: dict[str, Any] = {
            "record": faces[number].record, "split": faces[number].split, "named": None, "reply": None,
            "explanation_sha256": hashlib.sha256(explanation.encode()).hexdigest(),
        }  # fmt: skip
        if position in replies.answered:
            line["reply"] = replies.answered[position].content
            named[number] = line["named"] = _named(line["reply"] or "", allowed)
        else:
            line["problem"] = replies.failed.get(position) or replies.refused.get(position) or replies.stopped
        lines.append(line)
    name = f"{config.model}, prompt {prompt.version} {prompt.digest[:12]}"
    scores = explanation_scores(faces, named, name, seed=seed)
    values = pinned | {
        "answers": str(answers), "n": scores.n, "explanations": len(read),
        "judge_failed": len(read) - len(replies.answered),
        **undefined_as_none(explanation_values(scores)), **replies.report,
    }  # fmt: skip
    write_json_lines(folder / REPLIES, lines)
    write_whole(folder / METRICS, json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    return Judged(folder, scores, values, values["judge_failed"], replies.stopped)


def _explanation(face: EvaluatedFace) -> str:
    """What the judge may read, without halves of characters, which cannot be sent; "" if there is no text."""
    return explanation_of(face.cot or "").encode("utf-8", "replace").decode()


def _question(prompt: Prompt, config: LlmConfig, explanation: str, allowed: Sequence[str]) -> ChatRequest:
    return prompt.request(config, explanation=explanation, blank=BLANK, allowed=", ".join(allowed))


def _named(reply: str, allowed: Sequence[str]) -> str | None:
    """The label of a judge's reply: one word, in any case and with marks around it, and nothing else."""
    try:
        return read_label(reply.rpartition("</think>")[2], "expllm", allowed, corrected=True)
    except UnparsableAnswer:
        return None


def _check_pinned(metrics: Path, pinned: dict[str, Any]) -> None:
    """Raises ExpllmError if the folder holds the replies of another judge."""
    if not metrics.exists():
        return
    try:
        before = json.loads(metrics.read_text(encoding="utf-8"))
        differs = [key for key in pinned if before[key] != pinned[key]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExpllmError(f"{metrics} is damaged ({error})", "choose another folder for this judge") from error
    if differs:
        raise ExpllmError(
            f"{metrics.parent} belongs to another judge: {differs[0]} was {before[differs[0]]!r} "
            f"and is {pinned[differs[0]]!r}",
            "choose another folder, so that numbers of two judges do not mix",
        )
