"""Pre-training at scale: a 7B model with no weights at all, made straight onto the mesh, on ten million captions.

Everything trains. Batch and learning rate are LLaMA-2-7B's (Touvron et al., 2023: 4M tokens a batch, 3e-4, AdamW with
0.9 and 0.95, decay 0.1), with a caption's 256 image and about 40 text tokens a record. Records may lie in many shards
in a mounted bucket: opening them takes as long for 10,000 files as for ten.
"""

import dataclasses

from expllm_jax.config import Experiment, TokenizerConfig, WeightsConfig, load_experiment
from expllm_jax.train import OptimizerConfig


def experiment() -> Experiment:
    align = load_experiment("expllm_7b_align")
    model = align.model
    return dataclasses.replace(
        align,
        name="expllm_7b_pretrain",
        about="a fresh 7B model on ten million captions: tower, projector and decoder train from random values",
        mixture=("records/captions_10m:train",),
        weights=WeightsConfig(vision="random", decoder="random"),
        tokenizer=TokenizerConfig(kind="weights/tokenizer.model"),
        model=dataclasses.replace(
            model,
            vision=dataclasses.replace(model.vision, param_dtype="float32"),
            decoder=dataclasses.replace(model.decoder, param_dtype="float32"),
        ),
        train=dataclasses.replace(
            align.train,
            batch=14336,
            trainable=(".*",),
            optimizer=OptimizerConfig(lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, warmup_ratio=0.03),
        ),
    )
