"""Constrained decoding: whether anything comes out that does not parse, and what a token costs more.

    python launch/bench/constrained.py [--generations 10000] [--preset tiny] [--json]

`unparsable` counts, of so many answers that are drawn at temperature 1 from a small model with random weights (half of
them labels, half texts, each with its own draws and room), those that the strict parsers refuse or that do not end in
their room: held to their form, and for comparison a tenth as many in free mode (`unparsable_free`).

`overhead` is the time of a token held to its form over that of a free one, less 1. Both models have the shapes of a
preset of launch/bench/model.py and as many tokens as its vocabulary; they write greedily, all rows side by side, in
turn and in one process. The prompts' share, which answers of one token show, is taken off; medians are compared. Such a
model never ends by itself, so the last tokens of each answer, when the room gets scarce and the costlier of the two
ways to find the allowed tokens is taken, are in it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tokenizers
from model import PICTURE_SIZE, preset

from expllm_jax.cot import UnparsableAnswer, parse_cot, parse_label
from expllm_jax.infer import ModelFiles, PictureConfig, PredictConfig, Predictor, Reply, Request, SamplingConfig
from expllm_jax.models import DecoderConfig, ExpLLMConfig, LoRAConfig, Params, ViTConfig, init
from expllm_jax.records import ByteBPETokenizer, ConversationTemplate, EncodeConfig, RecordEncoder, load_tokenizer

TEXT_ROOMS = (150, 300)  # tokens of a text: from, below
LABEL_ROOM = 12
PICTURES = 16
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")


def synthetic_tokenizer(tokens: int) -> ByteBPETokenizer:
    """A byte BPE of so many tokens: the bytes, and letters in threes and fours, with and without a space in front."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    letters = "etaoinshrdlucmfwygpbvkxqjz"
    words = (
        space + "".join(word)
        for length in (3, 4)
        for word in itertools.product(letters, repeat=length)
        for space in ("", "Ġ")
    )
    pieces = [*alphabet, *itertools.islice(words, max(0, tokens - len(SPECIAL) - len(alphabet)))]
    numbers = {piece: number for number, piece in enumerate((*SPECIAL, *pieces))}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=numbers, merges=[]))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    model.add_special_tokens(list(SPECIAL))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        model.save(str(path))
        return ByteBPETokenizer(path)


def small_config(vocabulary: int) -> ExpLLMConfig:
    """A model of which thousands of answers can be had in a minute."""
    return ExpLLMConfig(
        vision=ViTConfig(width=32, depth=1, heads=2),
        decoder=DecoderConfig(vocab=vocabulary, width=64, depth=2, heads=2, kv_heads=2, head_dim=32, mlp_width=128),
        vision_lora=LoRAConfig(rank=0),
        decoder_lora=LoRAConfig(rank=0),
    )


def files_of(config: ExpLLMConfig, tokenizer: Any) -> ModelFiles:
    """The model with a tokenizer, whose ids are the first of its vocabulary."""
    image_tokens = config.image_tokens(PICTURE_SIZE, PICTURE_SIZE)
    encoder = RecordEncoder(ConversationTemplate.load("face_v1"), tokenizer, EncodeConfig(image_tokens=image_tokens))
    return ModelFiles(
        ExpLLMConfig(**{**vars(config), "image_token": tokenizer.image}), encoder, PictureConfig(PICTURE_SIZE)
    )


def predictor_of(files: ModelFiles, params: Params, rows: int, *, constrained: bool) -> Predictor:
    """A predictor that writes greedily where a request does not say otherwise."""
    return Predictor(files, params, PredictConfig(batch=rows, constrained=constrained, cot_tokens=TEXT_ROOMS[1]))


def pictures(files: ModelFiles, count: int) -> np.ndarray:
    """Random tower features [count, N, D]."""
    down, across = files.config.vision.grid(PICTURE_SIZE, PICTURE_SIZE)
    width = files.config.vision.width * max(1, len(files.config.vision_layers))
    return np.random.default_rng(0).standard_normal((count, down * across, width), np.float32)


def count_unparsable(generations: int, rows: int) -> dict[str, Any]:
    """Answers of a model that has learnt nothing, held and free."""
    files = files_of(small_config(1024), synthetic_tokenizer(1024))
    params = init(files.config)[1]
    rng = np.random.default_rng(0)
    requests = [
        Request(
            number % PICTURES,
            ("label", "cot")[number % 2],
            room=int(rng.integers(*TEXT_ROOMS)) if number % 2 else LABEL_ROOM,
            sampling=SamplingConfig(temperature=1.0, seed=1),
            stream=number,
        )
        for number in range(generations)
    ]
    features, found = pictures(files, PICTURES), {}
    for name, asked in (("unparsable", requests), ("unparsable_free", requests[: max(2, generations // 10)])):
        print(f"{len(asked)} answers, {'free' if name.endswith('free') else 'held to their form'} ...", file=sys.stderr)
        predictor = predictor_of(files, params, rows, constrained=name == "unparsable")
        replies = predictor.generate(asked, features)
        failed = sum(refused(request, reply, files) for request, reply in zip(asked, replies, strict=True))
        found |= {name: failed, f"{name}_of": len(asked), f"{name}_tokens": sum(reply.new_tokens for reply in replies)}
    return found


def refused(request: Request, reply: Reply, files: ModelFiles) -> bool:
    """Whether an answer is cut off or is none."""
    try:
        if request.task == "label":
            parse_label(reply.text, files.labels)
        else:
            parse_cot(reply.text, allowed=files.labels)
    except UnparsableAnswer:
        return True
    return reply.truncated


def measure_overhead(name: str, tokenizer_file: str, rows: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a turn of the loop, held and free."""
    config = preset(name)
    tokenizer = load_tokenizer(tokenizer_file) if tokenizer_file else synthetic_tokenizer(config.decoder.vocab)
    files = files_of(config, tokenizer)
    params, features = init(files.config)[1], pictures(files, rows)
    began = time.perf_counter()
    held = predictor_of(files, params, rows, constrained=True)
    compiling = time.perf_counter() - began
    predictors = {"free": predictor_of(files, params, rows, constrained=False), "held": held}

    def seconds_and_turns(who: str, room: int) -> tuple[float, int]:
        began = time.perf_counter()
        replies = predictors[who].generate([Request(row, "cot", room=room) for row in range(rows)], features)
        return time.perf_counter() - began, max(reply.new_tokens for reply in replies)

    times: dict[str, list[float]] = {"free": [], "held": []}
    made = dict.fromkeys(times, 0)
    for number in range(rounds + 1):  # the first compiles
        print(f"round {number} of {rounds} ...", file=sys.stderr)
        prompts, _ = seconds_and_turns("free", 1)
        for who in ("free", "held") if number % 2 else ("held", "free"):
            seconds, made[who] = seconds_and_turns(who, TEXT_ROOMS[1])
            if number > 0:
                times[who].append(1000 * (seconds - prompts) / made[who])
    medians = {who: statistics.median(each) for who, each in times.items()}
    return {
        "preset": name,
        "vocabulary": tokenizer.vocab_size,
        "rows": rows,
        "overhead": medians["held"] / medians["free"] - 1,
        "ms_per_token": medians,
        "ms_per_token_rounds": times,
        "tokens": made,
        "seconds_to_make_tables": compiling,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python launch/bench/constrained.py --preset small --rows 4",
    )
    parser.add_argument("--generations", type=int, default=10_000, help="answers to draw (default: 10000)")
    parser.add_argument("--draw-rows", type=int, default=128, help="of those side by side (default: 128)")
    parser.add_argument("--preset", default="tiny", choices=["tiny", "small", "7b"], help="7b needs a GPU")
    parser.add_argument("--tokenizer", default="", help="a tokenizer file for the overhead (default: a synthetic one)")
    parser.add_argument("--rows", type=int, default=4, help="answers side by side for the overhead (default: 4)")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each mode, 0 for none (default: 7)")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    if min(options.draw_rows, options.rows) < 1 or min(options.generations, options.rounds) < 0:
        parser.error("rows are 1 or more, --generations and --rounds 0 or more")
    result: dict[str, Any] = {"device": jax.devices()[0].device_kind}
    if options.generations:
        result |= count_unparsable(options.generations, options.draw_rows)
        if not options.json:
            print(f"{result['unparsable']} unparsable of {result['unparsable_of']} held to their form; "
                  f"free: {result['unparsable_free']} of {result['unparsable_free_of']}")  # fmt: skip
    if options.rounds:
        result |= measure_overhead(options.preset, options.tokenizer, options.rows, options.rounds)
        if not options.json:
            print(f"{100 * result['overhead']:+.1f} % per token: {result['ms_per_token']['held']:.3f} ms for "
                  f"{result['ms_per_token']['free']:.3f} ms")  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
