"""The flags of language models at endpoints, for every verb that can ask one."""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING

from expllm_jax.cli.parsing import natural, one_or_more, positive
from expllm_jax.errors import ExpllmError

if TYPE_CHECKING:
    from expllm_jax.engine.llm import LlmConfig

_KEYS = (
    "base_url", "model", "api_key_env", "temperature", "max_tokens", "length_key", "timeout", "retries", "backoff",
    "concurrency", "requests_per_minute", "picture_mode", "budget_tokens", "budget", "price_in", "price_out", "prompts",
    "draw",
)  # fmt: skip
"""Keys of LlmConfig that there is a flag for, of the same name but for those in _FLAGS."""
_FLAGS = {"base_url": "endpoint"}


def add_llm_options(parser: argparse.ArgumentParser, *, narrator: bool = True) -> None:
    """Adds the flags, in a group of their own. Those left out are not in the parsed options at all: the defaults stand
    in LlmConfig alone, and the helps repeat them.

    Args:
      narrator: for a verb that narrates; others have no versions of the narrator's prompts, and decide themselves
        whether pictures go along and at which temperature is asked.
    """
    group = parser.add_argument_group(
        "language model (--narrator llm)" if narrator else "language model",
        "Any endpoint that speaks OpenAI's chat completions: vLLM, JetStream, a hosted model. Needs the package "
        "openai: pip install 'expllm_jax[llm]'. Every answer is kept in an SQLite file beside the output, so that the "
        "same command goes on after a stop and pays for nothing twice.",
    )
    flag = functools.partial(group.add_argument, default=argparse.SUPPRESS)
    if narrator:
        flag("--picture-mode", choices=("text", "picture"),
             help="'picture': the model sees the face too; no file above 1 MB is sent (default: text)")  # fmt: skip
        flag("--prompts", metavar="VERSION", help="which prompts are used (default: v1)")
    flag("--endpoint", dest="base_url", metavar="URL", help="where the model is, such as http://localhost:8000/v1")
    flag("--model", metavar="NAME", help="what the endpoint calls it")
    flag("--api-key-env", metavar="VARIABLE",
         help="the environment variable that holds the key, such as OPENAI_API_KEY (default: no key)")  # fmt: skip
    flag("--temperature", type=_temperature, metavar="T",
         help="of what is written; judgements are made at 0; 'none' sends none (default: 0.7)" if narrator
         else "'none' sends none (default: 0)")  # fmt: skip
    flag("--max-tokens", type=one_or_more, metavar="N", help="of one answer; thinking counts too (default: 700)")
    flag("--length-key", choices=("max_tokens", "max_completion_tokens"),
         help="what the endpoint calls that limit (default: max_tokens)")  # fmt: skip
    flag("--timeout", type=positive, metavar="SECONDS", help="for one answer (default: 120)")
    flag("--retries", type=natural, metavar="N",
         help="of a call that met 429, 5xx, a time-out or a broken connection (default: 5)")  # fmt: skip
    flag("--backoff", type=positive, metavar="SECONDS", help="before the first retry, doubling up to 60 (default: 1)")
    flag("--concurrency", type=one_or_more, metavar="N", help="calls and faces under way at once (default: 16)")
    flag("--requests-per-minute", type=positive, metavar="N", help="begin no more (default: no limit)")
    flag("--budget-tokens", type=natural, metavar="N",
         help="stop before more are spent, in and out together, over all runs into the same folder")  # fmt: skip
    flag("--budget", type=positive, metavar="MONEY", help="the same in money; needs the prices")
    flag("--price-in", type=positive, metavar="MONEY", help="of a million tokens of questions")
    flag("--price-out", type=positive, metavar="MONEY", help="of a million tokens of answers")
    flag("--draw", type=natural, metavar="N",
         help="another number asks anew instead of using kept answers, for --retry-rejected (default: 0)"
         if narrator else "another number asks anew instead of using kept answers (default: 0)")  # fmt: skip


def llm_config(options: argparse.Namespace) -> LlmConfig:
    """What the flags say.

    Raises:
      ExpllmError: there is no endpoint or no model, or a value cannot be used.
    """
    from expllm_jax.engine.llm import LlmConfig

    given = {key: getattr(options, key) for key in _KEYS if hasattr(options, key)}
    if "base_url" not in given or "model" not in given:
        raise ExpllmError("a language model needs an endpoint and a name", "give --endpoint and --model")
    return LlmConfig(**given)


def refuse_llm_options(options: argparse.Namespace) -> None:
    """Raises ExpllmError if any of the flags is given, for a narrator that would not look at it."""
    given = [_FLAGS.get(key, key).replace("_", "-") for key in _KEYS if hasattr(options, key)]
    if given:
        raise ExpllmError(f"--{given[0]} is for a language model", "add --narrator llm, or leave it out")


def _temperature(text: str) -> float | None:
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor 'none'") from None
