"""Pictures answered a second, one question each, beside the torch peer's batches of four, in one sitting.

    python launch/bench/eval.py --preset small --json

Three questions for a label to one for a text, as the published recipe mixes them. Texts are as long as the released
ones (quantiles below), labels as their names; both sides write the same number of tokens to the same questions and
include tower and prompt. Ours keeps its rows busy: one that has ended gets the next question. The peer answers four
pictures at a time until the longest of the four answers ends, with transformers' own loop and adapters folded in. Every
measurement is a process of its own, ours and the peer's in turn; medians are compared.

The weights are random, so our answers are held to their form (else they would not end), within the drawn lengths; what
they came to is then what the peer is given. `unparsable` counts those that do not parse all the same. Model shapes,
random pictures, large pages and the peer's interpreter are those of launch/bench/model.py.

What there is to compute (printed as `flop` and `bytes_per_turn`): every picture goes through the tower, and its image
tokens and question through the decoder; a turn of the loop reads the decoder's weights once whatever the rows, and a
row's answer costs one pass of one token a turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from model import PICTURE_SIZE, ROOT, preset

from expllm_jax.cot import EXPRESSION_WORDS, UnparsableAnswer, parse_cot, parse_label, write_parts
from expllm_jax.infer import ModelFiles, PictureConfig, PredictConfig, Predictor, Request
from expllm_jax.models import ExpLLMConfig, abstract, init
from expllm_jax.records import (
    ConversationTemplate,
    EncodeConfig,
    RecordEncoder,
    Round,
    train_sentencepiece,
    training_texts,
)

TEXT_TOKENS = (109, 131, 135, 138, 140, 142, 144, 146, 148, 150, 151, 153, 155, 157, 159, 161, 165, 169, 177, 190, 231)
"""Tokens of the 1,534 released texts with SmolLM2's tokenizer, end token included: quantiles 0, .05, …, 1."""

LABEL_TOKENS = (2, 2, 2, 2, 3, 3, 4)
"""Likewise of the seven labels."""

LABELS_PER_TEXT = 3
AT_ONCE = 16  # pictures in one pass of the tower


def questions(pictures: int, seed: int) -> list[tuple[str, int]]:
    """(task, room) of the question about each picture, in random order."""
    rng = np.random.default_rng(seed)
    texts = round(pictures / (1 + LABELS_PER_TEXT))
    shares = (np.arange(texts) + 0.5) / max(texts, 1)
    lengths = np.interp(shares, np.linspace(0, 1, len(TEXT_TOKENS)), TEXT_TOKENS).round().astype(int)
    asked = [("cot", int(length)) for length in lengths]
    asked += [("label", int(length)) for length in rng.choice(LABEL_TOKENS, pictures - texts)]
    return [asked[place] for place in rng.permutation(pictures)]


def speaking(config: ExpLLMConfig) -> ModelFiles:
    """The model with a small tokenizer, whose ids are the first of its vocabulary."""
    template = ConversationTemplate.load("face_v1")
    rounds = [
        (Round("label", name), Round("cot", write_parts("The brow is raised.", "It fits.", f"The face shows {noun}.")))
        for name, (noun, _) in EXPRESSION_WORDS.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_sentencepiece(training_texts(rounds * 9, template), Path(folder) / "tokenizer.model", 512)
    image_tokens = config.image_tokens(PICTURE_SIZE, PICTURE_SIZE)
    encoder = RecordEncoder(template, tokenizer, EncodeConfig(image_tokens=image_tokens))
    changed = ExpLLMConfig(**{**vars(config), "image_token": tokenizer.image})
    return ModelFiles(changed, encoder, PictureConfig(PICTURE_SIZE))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every time all questions are answered, and what was written."""
    files = speaking(preset(options.preset))
    predictor = Predictor(files, init(files.config)[1], PredictConfig(batch=options.rows, constrained=True))
    asked = questions(options.pictures, options.seed)
    requests = [Request(number, task, room=room, stream=number) for number, (task, room) in enumerate(asked)]
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((options.pictures, PICTURE_SIZE, PICTURE_SIZE, 3), np.float32)
    times = []
    for _ in range(options.warmup + options.steps):
        began = time.perf_counter()
        parts = [predictor.encode(pixels[first : first + AT_ONCE]) for first in range(0, len(pixels), AT_ONCE)]
        replies = predictor.generate(requests, np.concatenate(parts))
        times.append(time.perf_counter() - began)
    unparsable = 0
    for (task, _), reply in zip(asked, replies, strict=True):
        try:
            if task == "label":
                parse_label(reply.text, files.labels)
            else:
                parse_cot(reply.text, allowed=files.labels)
            unparsable += reply.truncated
        except UnparsableAnswer:
            unparsable += 1
    text_tokens = max(reply.prompt_tokens for reply in replies) - files.encoder.config.image_tokens
    return {
        "times_s": times[options.warmup :],
        "lengths": [reply.new_tokens for reply in replies],
        "question_tokens": text_tokens,
        "unparsable": unparsable,
    }


def arithmetic(config: ExpLLMConfig, prompt: int, lengths: list[int]) -> dict[str, float]:
    """Operations of the matrix products with the weights, two per multiplication and addition, over all pictures, and
    the bytes of the weights that one turn of the loop reads."""
    shapes = abstract(config)[1]

    def kernels(prefix: str) -> int:
        return sum(
            int(np.prod(leaf.shape))
            for path, leaf in shapes.items()
            if path.startswith(prefix) and path.endswith("/kernel")
        )

    down, across = config.vision.grid(PICTURE_SIZE, PICTURE_SIZE)
    decoder, head = kernels("decoder/blocks"), config.decoder.vocab * config.decoder.width
    image = config.image_tokens(PICTURE_SIZE, PICTURE_SIZE)
    read = kernels("vision/") * down * across + kernels("projector/") * image + decoder * prompt + head
    width = np.dtype(config.decoder.param_dtype if config.decoder.param_dtype != "bfloat16" else "float16").itemsize
    return {
        "flop": 2.0 * (read * len(lengths) + (decoder + head) * sum(lengths)),
        "flop_read": 2.0 * read * len(lengths),
        "bytes_per_turn": float(width * (decoder + head)),
    }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Ours and the peer's in turn, `rounds` times."""
    shared = [f"--preset={options.preset}", f"--steps={options.steps}", f"--warmup={options.warmup}"]
    ours_options = [*shared, "--only-ours", f"--pictures={options.pictures}", f"--rows={options.rows}",
                    f"--seed={options.seed}"]  # fmt: skip
    ours: list[dict[str, Any]] = []
    peer: list[dict[str, Any]] = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}: ours ...", file=sys.stderr, flush=True)
        ours.append(_child(sys.executable, "eval.py", ours_options))
        lengths = ",".join(map(str, ours[0]["lengths"]))
        print(f"round {number + 1} of {options.rounds}: peer ...", file=sys.stderr, flush=True)
        peer_options = ["evaluate", *shared, f"--batch={options.peer_batch}", f"--lengths={lengths}",
                        f"--text-len={ours[0]['question_tokens']}"]  # fmt: skip
        peer.append(_child(options.peer_python, "torch_expllm.py", peer_options))
    times = {"ours": [t for found in ours for t in found["times_s"]],
             "peer": [t for found in peer for t in found["times_s"]]}  # fmt: skip
    seconds = {who: statistics.median(each) for who, each in times.items()}
    lengths = ours[0]["lengths"]
    config = preset(options.preset)
    image = config.image_tokens(PICTURE_SIZE, PICTURE_SIZE)
    return {
        "preset": options.preset,
        "pictures": options.pictures,
        "rows": options.rows,
        "peer_batch": options.peer_batch,
        "device": jax.devices()[0].device_kind,
        "pictures_ratio": seconds["peer"] / seconds["ours"],
        "pictures_per_s": {who: options.pictures / each for who, each in seconds.items()},
        "unparsable": max(found["unparsable"] for found in ours),
        "new_tokens": sum(lengths),
        "prompt_tokens": image + ours[0]["question_tokens"],
        **arithmetic(config, image + ours[0]["question_tokens"], lengths),
        "seconds": seconds,
        "times_s": times,
        "lengths": lengths,
    }


def _child(python: str, script: str, arguments: list[str]) -> dict[str, Any]:
    """Runs one measurement and reads the JSON of its last line."""
    environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", **os.environ}
    command = [python, str(ROOT / "launch" / "bench" / script), *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="example: python launch/bench/eval.py --preset small --json"
    )
    parser.add_argument("--preset", default="small", choices=["tiny", "small", "7b"], help="7b needs a GPU")
    parser.add_argument("--pictures", type=int, default=64, help="questions, one per picture (default: 64)")
    parser.add_argument("--rows", type=int, default=16, help="answers that ours writes at a time (default: 16)")
    parser.add_argument("--peer-batch", type=int, default=4, help="pictures of a batch of the peer's (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="how often both are started in turn (default: 3)")
    parser.add_argument("--steps", type=int, default=1, help="times that count in each (default: 1)")
    parser.add_argument("--warmup", type=int, default=1, help="times before those (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of questions (default: 0)")
    parser.add_argument("--peer-python", default=str(ROOT / ".venv-parity" / "bin" / "python"),
                        help="an interpreter with torch, transformers and peft (default: .venv-parity's)")  # fmt: skip
    parser.add_argument("--only-ours", action="store_true", help="measure ours alone")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    if min(options.pictures, options.rows, options.peer_batch, options.rounds, options.steps) < 1 or options.warmup < 0:
        parser.error("all numbers are 1 or more, --warmup and --seed 0 or more")
    if options.only_ours:
        print(json.dumps(measure(options)))
        return
    if not os.access(options.peer_python, os.X_OK):
        parser.error(f"there is no interpreter {options.peer_python}; see --peer-python and launch/bench/model.py")
    result = compare(options)
    if not options.json:
        rate = result["pictures_per_s"]
        print(f"{rate['ours']:.3f} pictures/s, peer {rate['peer']:.3f}: {result['pictures_ratio']:.2f}x; "
              f"{result['unparsable']} unparsable of {options.pictures}")  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
