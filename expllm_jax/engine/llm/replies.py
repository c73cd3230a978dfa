"""Reads what the model answered, strictly: what is not what was asked is unusable, and says why.

Two habits of models are looked through, because they change nothing in what is said: a fence of backticks around the
whole answer, and what stands before it up to a </think>.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from expllm_jax.cot import UnparsableAnswer, named_expressions, split_parts
from expllm_jax.engine.llm.request import Completion
from expllm_jax.engine.narration import Inference, UnusableReply, Verdict

_THINKING = re.compile(r"\A.*?</think>", re.DOTALL)  # chat templates may open the block themselves
_FENCED = re.compile(r"```[a-z]*\n(.*?)\n?```", re.DOTALL)
_YES_OR_NO = re.compile(r"(yes|no)\b[\s.,:;–—-]*(.*)", re.IGNORECASE | re.DOTALL)
_SHOWN = 80  # characters of an answer that a reason quotes


def text_of(reply: Completion) -> str:
    """The whole text of an answer, without what stands around it.

    Raises:
      UnusableReply: it was cut off, held back, or is empty.
    """
    if reply.finish_reason == "length":
        raise UnusableReply("the answer was cut off at the limit of its length")
    if reply.finish_reason == "content_filter":
        raise UnusableReply("the endpoint's filter held the answer back")
    text = _THINKING.sub("", reply.content or "").strip()
    fenced = _FENCED.fullmatch(text)
    text = fenced[1].strip() if fenced else text
    if not text:
        raise UnusableReply("the answer is empty")
    return text


def read_description(reply: Completion, allowed: Sequence[str]) -> str:
    """A description of what is seen. One that names an expression would decide the next step, which is told from the
    description alone; "neutral" is let through, since it is also said of the position of a lip.

    Raises:
      UnusableReply: as `text_of`, or it names an expression.
    """
    text = text_of(reply)
    named = named_expressions(text, [name for name in allowed if name != "Neutral"])
    if named:
        raise UnusableReply(f"the description names {' and '.join(named)}; it may only say what is seen")
    return text


def read_inference(reply: Completion, allowed: Sequence[str]) -> Inference:
    """One allowed expression: {"expression": "…", "reason": "…"}, or the bare word.

    Raises:
      UnusableReply: as `text_of`, or it is anything else.
    """
    text = text_of(reply)
    reason = ""
    word: Any = text.strip("\"'*.` ")
    if text.startswith("{"):
        told = _json_object(text)
        word, reason = told.get("expression"), told.get("reason", "")
    label = {name.lower(): name for name in allowed}.get(word.strip().lower()) if isinstance(word, str) else None
    if label is None or not isinstance(reason, str):
        raise UnusableReply(f"{_quoted(text)} does not name exactly one of {', '.join(allowed)}")
    return Inference(label, reason.strip())


def read_verdict(reply: Completion) -> Verdict:
    """Yes or no with a reason: {"agrees": true, "reason": "…"}, or "yes: …".

    Raises:
      UnusableReply: as `text_of`, or it is anything else.
    """
    text = text_of(reply)
    if text.startswith("{"):
        told = _json_object(text)
        agrees, reason = told.get("agrees"), told.get("reason")
        if isinstance(agrees, str):
            agrees = {"yes": True, "no": False}.get(agrees.strip().lower())
    else:
        match = _YES_OR_NO.fullmatch(text)
        agrees, reason = (match[1].lower() == "yes", match[2]) if match else (None, None)
    if not isinstance(agrees, bool) or not isinstance(reason, str) or not reason.strip():
        raise UnusableReply(f"{_quoted(text)} is not a yes or no with a reason")
    return Verdict(agrees, reason.strip())


def read_parts(reply: Completion) -> str:
    """A text of the three headed parts.

    Raises:
      UnusableReply: as `text_of`, or the text does not have them.
    """
    text = text_of(reply)
    try:
        split_parts(text)
    except UnparsableAnswer as error:
        raise UnusableReply(f"the text does not have its three parts: {error.reason}") from error
    return text


def _json_object(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text, object_pairs_hook=_without_twins)
    except ValueError as error:
        raise UnusableReply(f"{_quoted(text)} is no JSON object ({error})") from error
    return told  # type: ignore[no-any-return]  # it begins with a brace


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("it has a key twice")
    return dict(pairs)


def _quoted(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
