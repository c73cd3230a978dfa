"""`expllm ask`: what any vision model behind an OpenAI-compatible endpoint says of annotated pictures.

The file it writes is what `expllm score` reads, so that the model is scored as ours are. The question names the labels
and the three parts; it never says which label is right, nor the picture's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from expllm_jax.endpoint_questions import Prompt, ask_all, load_prompt
from expllm_jax.engine.llm.config import LlmConfig
from expllm_jax.engine.llm.pictures import read_picture
from expllm_jax.engine.llm.request import ChatRequest
from expllm_jax.evaluate.predictions import read_truth
from expllm_jax.sources.interchange.json_objects import write_json_lines

PROMPTS = "ask-v1"


@dataclass(frozen=True)
class AskedFaces:
    """What became of the pictures of one command."""

    out: Path
    faces: int
    answered: int
    refused: Mapping[str, str]  # picture -> why the endpoint will not answer: an empty answer, which is scored as such
    failed: Mapping[str, str]  # picture -> why there is no answer; the same command tries it again
    stopped: str  # why the rest was not asked; "": all was
    report: Mapping[str, Any]  # calls, tokens and cost


def ask_faces(
    annotations: str | Path,
    out: str | Path,
    config: LlmConfig,
    *,
    pictures: str | Path | None = None,
    split: str | None = None,
    task: Literal["cot", "label"] = "cot",
    report: Callable[[int], None] = lambda done: None,
) -> AskedFaces:
    """Asks about every labelled picture and writes one line for each answer, in the order of the annotations.

    A line has `picture`, `text`, `finish_reason`, `prompt_tokens`, `new_tokens`, `model`, `prompt` and `prompt_sha256`;
    that of a question the endpoint refuses has an empty text and `refused`.

    Args:
      annotations: JSON Lines; their labels decide which ones may be answered, and are not told.
      out: the file to write. Beside it, OUT.sqlite keeps every answer; with it there the same command goes on.
      config: which model, and what it may cost.
      pictures: the folder of the pictures; None: that of the annotations.
      split: ask only about this one.
      task: "cot" for the three parts, "label" for a word.
      report: is told how many pictures are done.

    Raises:
      ExpllmError: as `read_truth` and `ask_all`, or the file cannot be written.
    """
    truth = read_truth(annotations, split=split)
    out, folder = Path(out), truth.folder if pictures is None else Path(pictures)
    prompt, names = load_prompt(PROMPTS, task), list(truth.faces)
    allowed = ", ".join(truth.allowed)
    questions = [partial(_question, prompt, config, folder / name, allowed) for name in names]
    replies = ask_all(questions, config, out.with_name(f"{out.name}.sqlite"), report=report)
    asked_as = {"model": config.model, "prompt": f"{prompt.version}/{task}", "prompt_sha256": prompt.digest}
    lines: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        if number in replies.answered:
            reply = replies.answered[number]
            lines.append(
                {
                    "picture": name,
                    "text": reply.content or "",
                    "finish_reason": reply.finish_reason,
                    "prompt_tokens": reply.tokens_in,
                    "new_tokens": reply.tokens_out,
                    **asked_as,
                }
            )
        elif number in replies.refused:
            lines.append({"picture": name, "text": "", "refused": replies.refused[number], **asked_as})
    write_json_lines(out, lines)
    by_name = {kind: {names[n]: why for n, why in getattr(replies, kind).items()} for kind in ("refused", "failed")}
    return AskedFaces(out, len(names), len(replies.answered), **by_name, stopped=replies.stopped, report=replies.report)


def _question(prompt: Prompt, config: LlmConfig, picture: Path, allowed: str) -> ChatRequest:
    return prompt.request(config, read_picture(picture, config.picture_bytes), allowed=allowed)
