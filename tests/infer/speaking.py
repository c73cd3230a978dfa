"""A tiny model with random weights that reads and writes words, for tests of how questions are asked and answered."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from expllm_jax.cot import write_parts
from expllm_jax.infer import ModelFiles, PictureConfig
from expllm_jax.models import DecoderConfig, Params
from expllm_jax.records import (
    ConversationTemplate,
    EncodeConfig,
    RecordEncoder,
    Round,
    load_tokenizer,
    train_sentencepiece,
    training_texts,
)
from tests.train.tiny import IMAGE_TOKENS, TOWER_WIDTH, tiny_config, tiny_model

LABELS = ("Anger", "Happiness", "Surprise")


def text_of(label: str) -> str:
    return write_parts("A strong brow raise.", "It fits.", f"The face shows {label.lower()}.")


def speaking_model(folder: Path, layout: str = "branched") -> tuple[ModelFiles, Params]:
    """(files, parameters whose choices are far from ties)."""
    template = ConversationTemplate.load("face_v1")
    rounds = [(Round("label", label), Round("cot", text_of(label))) for label in LABELS]
    path = folder / "tokenizer.model"
    if not path.exists():
        train_sentencepiece(training_texts(rounds * 9, template), path, 512)
    tokenizer = load_tokenizer(path)
    encoder = RecordEncoder(template, tokenizer, EncodeConfig(image_tokens=IMAGE_TOKENS, layout=layout))
    decoder = DecoderConfig(
        vocab=tokenizer.vocab_size, width=32, depth=2, heads=4, kv_heads=2, head_dim=8, mlp_width=64
    )
    config = dataclasses.replace(tiny_config(), decoder=decoder, image_token=tokenizer.image)
    params = tiny_model(config, seed=4)[1]
    params["decoder/lm_head/kernel"] = params["decoder/lm_head/kernel"] * 4
    return ModelFiles(config, encoder, PictureConfig(28), LABELS), params


def random_features(pictures: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(pictures, IMAGE_TOKENS, TOWER_WIDTH)).astype(np.float32)
