"""What the released ExpLLM code makes of conversations: token ids and what is learnt, by the tokenizer it was built on.

    python -m venv V && V/bin/pip install -r launch/lock/legacy_tokenizer.txt
    PYTHONPATH=. V/bin/python tests/golden/make_reference_tokens.py TOKENIZER_MODEL OUT.npz [--released TEXTS.json]
    PYTHONPATH=. V/bin/python tests/golden/make_reference_tokens.py TOKENIZER_MODEL FILE.npz --check

The first makes conversations, has the slow LlamaTokenizer of transformers 4.31.0 read them, masks as the released code
does, and writes all of it to OUT.npz; reference_tokens.npz is made so. The conversations hold texts by our narrator and
a few dozen awkward ones or, with --released, texts of a released annotation file. The second reads the conversations of
an existing file again and fails if anything in it would come out differently. TOKENIZER_MODEL is the asset
"llama-tokenizer" (`expllm_jax.assets`).

A file holds `conversations`, a JSON text as bytes, and per mode ("legacy", "current": the tokenizer's own `legacy`
true and false) `…_ids`, `…_lengths` and `…_supervised`, of all samples joined, and `…_prompt_ids`, `…_prompt_lengths`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizer, __version__

IMAGE_TOKENS, IMAGE = 256, "<im_patch>"
TEMPLATE = Path(__file__).parents[2] / "expllm_jax" / "records" / "templates" / "released_form.json"
MODES = {"legacy": True, "current": False}
NARRATED, RELEASED = 320, 300

# Which units the narrated faces show depends on this list, so that it is written out here: `faces.FACS` may grow.
CODES = tuple(
    """AU1 AU2 AU4 AU5 AU7 AU43 AU9 AU6 AU33 AU34 AU10 AU12 AU14 AU15 AU16 AU18 AU20 AU22 AU23 AU24 AU25 AU28 AU17 AU26
    AU27""".split()
)

# Each stands once as a text before a label and once as one behind it.
AWKWARD = (
    "two  spaces and   three", "a line\nand another\n\nand a third", "\nbegins with a line end",
    "\n\n  begins with more", "  begins with spaces", "\tbegins with a tab", "ends with a space ",
    "ends with spaces   ", "ends with a line end\n", "ends with both \n ", "**bold**", "** not bold **",
    "**Key Observations:**\n\n**Conclusion:** **x**", "*", "…", "—", "1234567890", "AU12 (0.37), AU4 (.05)",
    "0.5%-1,000.25", "12 12  12   12", "</s", "/s>", "< /s>", "</S>", "<s", "<s >", "<unk", "<UNK>",
    "<im_patch", "im_patch>", "<", ">", "<<>>", "<0x0A>", "[INST] hi [/INST]", "TASK: no new round",
    "ASSISTANT: no answer", "USER:\nASSISTANT:", "Image:", "naïve café, Łódź", "ｆｕｌｌ　ｗｉｄｔｈ", "①²½ ﬁ",
    "不安と喜び", "радость и печаль", "الفرح", "😀😃👩🏽‍🔬", "e\u0301 against \u00e9",
    "\u00a0no-break\u00a0space\u00a0", "zero\u200bwidth \ufeffmark", "\u2028line\u2029paragraph",
    "tab\tand\rreturn\r\n",
    "a\x0bb\x0cc\x1c\x1d d\x85", "\x01\x7f", "a▁b ▁ c▁", "▁", "x" * 300, "ha " * 120,
    "ALL CAPS AND camelCase and snake_case", "f(x) = {y: [z]}; // \\n", "'quoted' “quoted” ‘quoted’",
    "I'm it's don't 'tis .", "end.</", "a:b: c :d", ":", " : ",
)  # fmt: skip


def conversations() -> dict:
    """Narrated and awkward conversations, and the prompts that are asked for."""
    from expllm_jax.engine import NarratorConfig, narrate
    from expllm_jax.faces import EXPRESSIONS

    rng, samples = np.random.default_rng(0), []
    for number in range(NARRATED):
        expression = EXPRESSIONS[number % len(EXPRESSIONS)]
        shown = rng.choice(CODES, rng.integers(0, 9), replace=False)
        units = {str(code): float(value) for code, value in zip(shown, rng.random(len(shown)), strict=True)}
        text = narrate(expression, units, NarratorConfig("facs", "full"), rng)
        samples.append(_two_rounds(text, expression, text_first=number % 4 != 3))
    samples += [_two_rounds(text, "Fear", text_first=first) for text in AWKWARD for first in (True, False)]
    samples += [[["label", expression]] for expression in EXPRESSIONS]
    samples += [[["cot", samples[0][0][1]]]]
    prompts = [["label", []], ["cot", []], *(["cot", [["label", expression]]] for expression in EXPRESSIONS)]
    return _described(samples, prompts)


def released_conversations(file: Path) -> dict:
    """Conversations with the first texts of a released annotation file, in the order that the released code trains."""
    records = json.loads(file.read_text(encoding="utf-8"))[:RELEASED]
    samples = [_two_rounds(record["description"], record["emo"], text_first=True) for record in records]
    return _described(samples, [["cot", [["label", record["emo"]]]] for record in records[:10]])


def _described(samples: list, prompts: list) -> dict:
    template = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    template["tasks"] = {task: template["tasks"][task] for task in ("label", "cot")}  # a template may learn more tasks
    return {"image_tokens": IMAGE_TOKENS, "template": template, "samples": samples, "prompts": prompts}


def _two_rounds(text: str, expression: str, *, text_first: bool) -> list:
    rounds = [["cot", text], ["label", expression]]
    return rounds if text_first else rounds[::-1]


def open_tokenizer(model: Path, *, legacy: bool) -> PreTrainedTokenizer:
    """The model as the released code opens a Vicuna checkpoint: slow, padded with unk, `<im_patch>` added."""
    described = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": legacy,
                 "clean_up_tokenization_spaces": False, "model_max_length": 1 << 30}  # fmt: skip
    for role, text in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")):
        described[role] = {"__type": "AddedToken", "content": text, "lstrip": False, "rstrip": False,
                           "normalized": False, "single_word": False}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(model, Path(folder, "tokenizer.model"))
        Path(folder, "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=False, padding_side="right")
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    return tokenizer


def conversation_text(template: dict, image_tokens: int, rounds: list, asked: str = "") -> str:
    """The one string for a conversation; with `asked`, it ends where that task's answer is to begin."""
    roles, text = template["roles"], ""
    for task, answer in rounds:
        text += f"{_question(template, task)} {answer}</s>"
    if asked:
        text += _question(template, asked)
    return f"{template['system']}\n{roles['image']} {IMAGE * image_tokens}\n{text}"


def _question(template: dict, task: str) -> str:
    roles, words = template["roles"], template["tasks"][task]
    return f"{roles['task']} {words['description']}\n{roles['user']} {words['question']}\n{roles['assistant']}"


def supervised(tokenizer: PreTrainedTokenizer, template: dict, text: str, length: int) -> np.ndarray:
    """Which of a conversation's `length` tokens are learnt, bool, by the released code's counting.

    Each round's text is tokenised once more by itself, up to the end token, and so is its part up to the space behind
    "ASSISTANT:". Both counts include a begin token: in the first it makes up for the end token, which is not in the
    text; the second has the space as its last token as well, which belongs to the answer.
    """
    learnt, position = np.ones(length, bool), 1
    learnt[0] = False
    opens = f"\n{template['roles']['assistant']} "
    *rounds, rest = text.split("</s>")
    if rest:
        raise ValueError(f"the conversation ends in {rest!r} and not in an end token")
    for part in rounds:
        question, opened, _ = part.partition(opens)
        learnt[position : position + len(tokenizer(question + opened).input_ids) - 2] = False
        position += len(tokenizer(part).input_ids)
    if position != length:
        raise ValueError(f"the rounds have {position} tokens and the conversation {length}: {text!r}")
    return learnt


def tokens(model: Path, described: dict) -> dict[str, np.ndarray]:
    """All arrays of a golden file."""
    template, image_tokens = described["template"], described["image_tokens"]
    content = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    arrays = {"conversations": np.frombuffer(content, np.uint8)}
    for mode, legacy in MODES.items():
        tokenizer = open_tokenizer(model, legacy=legacy)
        texts = [conversation_text(template, image_tokens, rounds) for rounds in described["samples"]]
        ids = [tokenizer(text).input_ids for text in texts]
        learnt = [supervised(tokenizer, template, text, len(row)) for text, row in zip(texts, ids, strict=True)]
        asked = [conversation_text(template, image_tokens, rounds, task) for task, rounds in described["prompts"]]
        prompt_ids = [tokenizer(text).input_ids for text in asked]
        arrays[f"{mode}_ids"] = np.concatenate(ids).astype(np.uint16)
        arrays[f"{mode}_lengths"] = np.asarray([len(row) for row in ids], np.uint16)
        arrays[f"{mode}_supervised"] = np.packbits(np.concatenate(learnt))
        arrays[f"{mode}_prompt_ids"] = np.concatenate(prompt_ids).astype(np.uint16)
        arrays[f"{mode}_prompt_lengths"] = np.asarray([len(row) for row in prompt_ids], np.uint16)
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--released", type=Path)
    chosen = parser.parse_args()
    if __version__ != "4.31.0":
        sys.exit(f"transformers is {__version__}, the released code was built on 4.31.0")
    if chosen.check:
        with np.load(chosen.file) as stored:
            before = dict(stored)
        described = json.loads(before["conversations"].tobytes())
    else:
        described = released_conversations(chosen.released) if chosen.released else conversations()
    arrays = tokens(chosen.model, described)
    if chosen.check:
        wrong = [
            name for name in arrays.keys() | before.keys() if not np.array_equal(arrays.get(name), before.get(name))
        ]
        if wrong:
            sys.exit(f"{chosen.file} differs from what transformers {__version__} gives: {', '.join(sorted(wrong))}")
    else:
        np.savez_compressed(chosen.file, **arrays)
    print(f"{chosen.file}: {len(described['samples'])} conversations, {len(arrays['legacy_ids']):,} tokens, "
          f"{len(described['prompts'])} prompts, transformers {__version__}")  # fmt: skip


if __name__ == "__main__":
    main()
