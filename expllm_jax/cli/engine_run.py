"""`expllm engine run`: the Exp-CoT loop over a file of annotations, resumable."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expllm_jax.cli.engine_llm_options import add_llm_options, llm_config, refuse_llm_options
from expllm_jax.cli.parsing import Outcome, add_verb, natural, one_or_more, say, show
from expllm_jax.errors import ExpllmError

if TYPE_CHECKING:
    from expllm_jax.cot import VerifierRules
    from expllm_jax.engine.narration import Narrator
    from expllm_jax.engine.run import EngineRun


def _run(options: argparse.Namespace) -> Outcome:
    from expllm_jax.engine.loop import EngineConfig, ExpCotLoop
    from expllm_jax.engine.run import run_engine
    from expllm_jax.faces import BASIC_7, EXPRESSIONS
    from expllm_jax.train import Progress

    source, folder = Path(options.annotations), Path(options.out)
    config = EngineConfig(
        rounds=options.rounds,
        refinements=options.refinements,
        vocabulary=options.vocabulary,
        allowed=EXPRESSIONS if options.contempt else BASIC_7,
        seed=options.seed,
        rules=_rules(options),
    )
    narrator, concurrency = _narrator(options, folder)
    loop = ExpCotLoop(narrator, config, source.parent)
    progress: Progress | None = None

    def report(done: int, count: int, ended: Counter[Any]) -> None:
        nonlocal progress
        if progress is None:
            progress = Progress(count, "faces", "faces", done=done)
        judged = ended["accepted"] + ended["rejected"]
        share = f"{ended['accepted'] / judged:.1%} accepted" if judged else ""
        progress.update(done, share + (f", {ended['failed']} failed" if ended["failed"] else ""))

    say(f"checking {source}")
    try:
        run = run_engine(
            source,
            folder,
            loop,
            concurrency=concurrency,
            retry_rejected=options.retry_rejected,
            form=options.format,
            report=report,
        )
    finally:
        if progress is not None:
            progress.close()
    _show(options, run)
    return Outcome(run.summary | {"folder": str(folder), "stopped": run.stopped}, 0 if run.complete else 1)


def _rules(options: argparse.Namespace) -> VerifierRules:
    """What a text must keep to: the offline narrator's to its own tables, a language model's to the values with the
    freedom that the released texts take.
    """
    from dataclasses import replace

    from expllm_jax.cot import FREE_TEXT, STRICT
    from expllm_jax.engine.narrator import STYLE_WORDS

    words = STYLE_WORDS[options.style]
    if options.narrator == "llm":
        rules = replace(FREE_TEXT, words=words, one_label=True, omitted_from=STRICT.omitted_from)
    else:
        rules = replace(STRICT, words=words)
    return replace(rules, personal_words=options.personal_words)


def _narrator(options: argparse.Namespace, folder: Path) -> tuple[Narrator, int]:
    """The narrator that the options ask for, and how many faces it is told about at once."""
    if options.narrator == "llm":
        from expllm_jax.engine.llm import LlmNarrator

        if options.style != "full":
            raise ExpllmError("a language model writes in the full style only", "leave out --style")
        asked = llm_config(options)
        return LlmNarrator(asked, folder / "replies.sqlite"), asked.concurrency

    refuse_llm_options(options)
    from expllm_jax.engine.narrator import NarratorConfig
    from expllm_jax.engine.offline_narrator import OfflineNarrator

    return OfflineNarrator(NarratorConfig(vocabulary=options.vocabulary, style=options.style)), 1


def _show(options: argparse.Namespace, run: EngineRun) -> None:
    summary = run.summary
    show(options, f"{'class':<12}{'accepted':>10}{'rejected':>10}{'failed':>8}{'share':>8}")
    for label, ended in [*summary["by_class"].items(), ("all", summary)]:
        accepted, rejected, failed = (ended.get(name, 0) for name in ("accepted", "rejected", "failed"))
        share = f"{accepted / (accepted + rejected):.1%}" if accepted + rejected else "-"
        show(options, f"{label:<12}{accepted:>10,}{rejected:>10,}{failed:>8,}{share:>8}")
    rounds = ", ".join(f"{count:,} in round {number}" for number, count in summary["accepted_by_round"].items())
    show(options, f"accepted: {rounds or 'none'}")
    if spent := summary.get("narrator_report", {}).get("spent"):
        tokens = f"{spent['tokens_in']:,} tokens in and {spent['tokens_out']:,} out"
        show(options, f"spent, over all runs into this folder: {tokens}, {spent['cost']:.4f} in money")
    show(options, f"texts in {run.texts}; the others, with reasons, in {run.dead_letters}")
    if run.stopped:
        show(options, f"stopped: {run.stopped}; {summary['pending']:,} faces are left. The same command goes on")
    elif summary["failed"]:
        show(options, f"the narrator did not answer for {summary['failed']:,} faces: the same command tries them again")
    else:
        show(options, f"next: expllm engine report {run.texts.parent}")


def add(engine: Any) -> None:
    """Adds the verb to the group."""
    verb = add_verb(engine, "run", _run, "describe, infer, verify, reflect: texts that a verifier agrees with",
                    "expllm engine run faces/annotations.jsonl --out texts")  # fmt: skip
    verb.add_argument("annotations", help="faces with units, labelled or not: JSON Lines, or Parquet (.parquet)")
    verb.add_argument("--out", required=True, metavar="FOLDER",
                      help="of the run; give it again and the run goes on where it was")  # fmt: skip
    verb.add_argument("--narrator", choices=("offline", "llm"), default="offline",
                      help="who writes: rules and tables, or a language model (default: offline)")  # fmt: skip
    verb.add_argument("--vocabulary", choices=("facs", "feafa"), default="facs",
                      help="which units are told (default: facs)")  # fmt: skip
    verb.add_argument("--style", choices=("full", "brief"), default="full",
                      help="84-146 or 30-60 words (default: full)")  # fmt: skip
    verb.add_argument("--rounds", type=one_or_more, default=3, metavar="N",
                      help="descriptions a face gets before it is rejected (default: 3)")  # fmt: skip
    verb.add_argument("--refinements", type=one_or_more, default=2, metavar="N",
                      help="versions of the final text in a round (default: 2)")  # fmt: skip
    verb.add_argument("--contempt", action="store_true", help="allow contempt beside the seven basic expressions")
    verb.add_argument("--personal-words", action="store_true", help="let texts speak of age, sex and the like")
    verb.add_argument("--seed", type=natural, default=0, help="of the wording (default: 0)")
    verb.add_argument("--retry-rejected", action="store_true",
                      help="try rejected faces again, not only those that failed")  # fmt: skip
    verb.add_argument("--format", choices=("jsonl", "parquet"), default=None,
                      help="of the accepted annotations (default: as the input)")  # fmt: skip
    add_llm_options(verb)
