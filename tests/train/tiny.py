"""A tiny ExpLLM and a source of short rows, for the tests of training and inference."""

from __future__ import annotations

import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from expllm_jax.models import DecoderConfig, ExpLLMConfig, LoRAConfig, ModelDef, Params, ViTConfig, abstract
from expllm_jax.records import EncodedRow, Lengths

VOCABULARY, IMAGE_TOKEN, PICTURE_SIZE, IMAGE_TOKENS, TOWER_WIDTH = 48, 47, 28, 4, 16


def tiny_config(*, rank: int = 0, tied: bool = False, unroll: int = 1) -> ExpLLMConfig:
    lora = LoRAConfig(rank=rank, alpha=8.0, dropout=0.0, targets=("q", "v"))
    return ExpLLMConfig(
        vision=ViTConfig(width=TOWER_WIDTH, depth=2, heads=2, patch=14, native_grid=2),
        decoder=DecoderConfig(
            vocab=VOCABULARY, width=32, depth=2, heads=4, kv_heads=2, head_dim=8, mlp_width=64, tied=tied, unroll=unroll
        ),
        vision_lora=lora,
        decoder_lora=lora,
        image_token=IMAGE_TOKEN,
    )


def tiny_model(config: ExpLLMConfig | None = None, seed: int = 1) -> tuple[ModelDef, Params]:
    """Random parameters made by NumPy: `models.init` would compile for seconds."""
    rng = np.random.default_rng(seed)
    graphdef, shapes = abstract(config or tiny_config())

    def leaf(path: str, shape: tuple[int, ...]) -> jax.Array:
        if path.endswith("scale") or path.endswith(("scale1", "scale2")):
            return jnp.ones(shape)
        if path.endswith(("bias", "lora_b")):
            return jnp.zeros(shape)
        return jnp.asarray(rng.normal(0, shape[-2] ** -0.5 if len(shape) > 1 else 1.0, shape), jnp.float32)

    return graphdef, {path: leaf(path, shape.shape) for path, shape in shapes.items()}


def branched_row(prefix: list[int], branches: list[tuple[list[int], list[int], float]]) -> EncodedRow:
    """A row by hand: the prefix with the image tokens, then (prompt, answer, weight) branches."""
    tokens = [*prefix, *[IMAGE_TOKEN] * IMAGE_TOKENS]
    base = len(tokens)
    positions, segments, weights = list(range(base)), [1] * base, [0.0] * base
    for number, (prompt, answer, weight) in enumerate(branches, 2):
        count = len(prompt) + len(answer)
        tokens += prompt + answer
        positions += range(base, base + count)
        segments += [number] * count
        weights += [0.0] * len(prompt) + [weight / len(answer) for _ in answer]
    return EncodedRow(
        np.array(tokens, np.int32), np.array(positions, np.int32), np.array(segments, np.int32), np.float32(weights)
    )


class TinySource:
    """What `records.RecordSource` offers, in memory: answers, of different lengths, that only the picture tells."""

    pad_token, mirrors, resize, on_error = 0, True, "antialiased", "raise"

    def __init__(self, records: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.rows = [
            branched_row(
                [1, 2],
                [
                    ([3, 4], [int(rng.integers(20, 40)), 5], 0.75),
                    ([6, 7], [*rng.integers(20, 40, rng.integers(2, 6)).tolist(), 5], 0.25),
                ],
            )
            for _ in range(records)
        ]
        self.pictures = rng.integers(0, 256, (records, PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
        self.features = rng.normal(size=(records, IMAGE_TOKENS, TOWER_WIDTH)).astype(np.float16)
        longest = max(range(records), key=lambda index: len(self.rows[index]))
        self.longest_row = (len(self.rows[longest]), f"record-{longest}")
        learnt = [np.count_nonzero(row.loss_weights) for row in self.rows]
        self.lengths = Lengths(np.array([*map(len, self.rows)]), np.array(learnt), np.zeros(records, bool))

    def __len__(self) -> int:
        return len(self.rows)

    def id(self, index: int) -> str:
        return f"record-{index}"

    def row(self, index: int, mirrored: bool = False) -> EncodedRow:
        return self.rows[index]

    def picture(self, index: int) -> bytes:
        encoded = io.BytesIO()
        Image.fromarray(self.pictures[index]).save(encoded, "PNG")
        return encoded.getvalue()
